"""Files made from what the journal has: `export`, `reparse` and `convert`."""

import argparse
import logging
from pathlib import Path

from batch_runner.changes import (
    TO_LOSE,
    check_journal_is_there,
    check_nothing_vanishes,
    find_changes,
    other_model,
)
from batch_runner.commands.described import described_job, is_batch_output, other_target
from batch_runner.commands.stdout import print_json
from batch_runner.emptied import check_records_are_readable, keep_emptied
from batch_runner.errors import ExitCode, UsageError
from batch_runner.work import Work


log = logging.getLogger("batch_runner")


def export(arguments: argparse.Namespace) -> int:
    """`export`, and `reparse`, which looks harder for the answers."""
    from batch_runner.batch_answers import is_batch
    from batch_runner.export import export as write_output
    from batch_runner.export import notes_on
    from batch_runner.opening import open_work
    from batch_runner.output_place import BATCH_REPLY, check_other_target, check_target
    from batch_runner.work import claim_output

    target = other_target(arguments)
    with described_job(arguments) as job, open_work(job) as work:
        path = target or job.output_path
        if path == job.output_path:
            check_target(path, work.table, place="-o")
        else:
            names = [column.name for column in work.columns.columns]
            batch = is_batch(work.table, path)
            check_other_target(path, work.table, job, BATCH_REPLY if batch else names)
        if note := other_model(work):
            work.warnings.append(note)
        _tell(work)
        if path == job.output_path:
            check_journal_is_there(job, work.replay.index, about_to=TO_LOSE)
            check_records_are_readable(work)
            claim_output(work)
            if emptied := keep_emptied(work):
                log.warning("note: %s", emptied, extra={"event": "note"})
        if arguments.command == "reparse":
            from batch_runner.reparse import reparse

            exported = reparse(work, path)
        else:
            if path == job.output_path and not (arguments.partial or work.may_repay):
                _check_nothing_vanishes(work)
            exported = write_output(work, path, partial=arguments.partial)
        for note in notes_on(exported, work):
            log.warning("note: %s", note, extra={"event": "note"})
    counts = {str(status): n for status, n in exported.statuses.items()}
    log.info("%s: %s", path, ", ".join(f"{n:,} {name}" for name, n in counts.items()) or "no rows")
    if arguments.json:
        print_json({"output": str(path), "statuses": counts})
    return ExitCode.DONE


def _tell(work: Work) -> None:
    """What the file that is about to be written lacks, above all: it looks whole."""
    for note in work.warnings:
        log.warning("note: %s", note, extra={"event": "note"})


def _check_nothing_vanishes(work: Work) -> None:
    changes = find_changes(work, work.plan, same_prompt=work.same_prompt)
    check_nothing_vanishes(changes, origin=work.job.origin)


def convert(arguments: argparse.Namespace) -> int:
    from batch_runner.batch_files import (
        check_conversion,
        join_answers,
        write_requests,
        write_table,
    )
    from batch_runner.opening import open_work
    from batch_runner.output_place import BATCH_REQUEST, check_other_target

    files = [name for name in arguments.sources if is_batch_output(name)]
    jobs = [name for name in arguments.sources if name not in files]
    if len(jobs) > 1 or arguments.output is None or not (jobs or files or arguments.input):
        raise UsageError(
            "convert takes one job, or output files of a batch, or both, and -o says where to",
            hint="batch-runner convert JOB -o batch.jsonl; batch-runner convert output.jsonl -o out.csv",
        )
    path = Path.cwd() / arguments.output
    check_conversion(files, path)
    if not jobs and not arguments.input:
        written = write_table(files, path, arguments.settings)
    else:
        arguments.job = jobs[0] if jobs else None
        if jobs:
            arguments.output = None
        with described_job(arguments) as job, open_work(job) as work:
            _tell(work)
            names = [column.name for column in work.columns.columns] if files else BATCH_REQUEST
            check_other_target(path, work.table, job, names)
            written = join_answers(work, files, path) if files else write_requests(work, path)
    log.info("%s: %s %s", path, f"{written:,}", "answers" if files else "requests")
    if arguments.json:
        print_json({"output": str(path), "answers" if files else "requests": written})
    return ExitCode.DONE
