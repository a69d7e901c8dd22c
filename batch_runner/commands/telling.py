"""How a job stands: `status`, `report` and `verify`."""

import argparse
import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from batch_runner.commands.author import MovedOnError
from batch_runner.commands.described import (
    described_job,
    is_batch_output,
    job_alone,
    other_target,
)
from batch_runner.commands.stdout import print_json, print_lines
from batch_runner.errors import ExitCode, UsageError


if TYPE_CHECKING:
    from batch_runner.job import JobSpec
    from batch_runner.run_place import RunPlace
    from batch_runner.work import Work


log = logging.getLogger("batch_runner")

_PAGES = (".html", ".htm")


def status(arguments: argparse.Namespace) -> int:
    from batch_runner.status import read_status
    from batch_runner.watch import drawn, follow

    place = _as_of_today(place_meant(arguments), arguments)
    if arguments.watch and not arguments.json:
        columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        for text in drawn(follow(place, on_wait=_say_waiting), columns=columns):
            print(text, flush=True)
        return ExitCode.DONE
    status = read_status(place)
    if arguments.json:
        print_json(status.to_json())
    else:
        print_lines(status.lines())
    return ExitCode.DONE


def _say_waiting() -> None:
    log.info("no run has begun: waiting for one (Ctrl-C ends this)")


def place_meant(arguments: argparse.Namespace) -> "RunPlace":
    """The run directory of the job that is described, or of the output that stands in its place."""
    from batch_runner.run_place import place_named, place_of_job, remembered, run_folder

    if arguments.job is not None and (place := place_named(arguments.job)) is not None:
        return place
    output = arguments.output if arguments.job is None else None
    if output is not None and (folder := run_folder(output)) is not None:
        return remembered(folder)
    with described_job(arguments) as job:
        return place_of_job(job)


def _as_of_today(place: "RunPlace", arguments: argparse.Namespace) -> "RunPlace":
    """Of a run that is named by what it wrote, the job as well, if that can be told.

    What a job that writes elsewhere today, or is gone, would do here must not be advised.
    """
    if place.today is not None:
        return replace(place, alone=job_alone(arguments))
    try:
        with described_job(arguments) as job:
            return replace(place, today=job)
    except MovedOnError as error:
        return replace(place, invocation=None, moved_on=f"{error}; {error.hint}")
    except UsageError:  # of a secret that is not kept
        return place


def report(arguments: argparse.Namespace) -> int:
    from batch_runner.findings import gather
    from batch_runner.opening import open_work
    from batch_runner.output_place import check_report_replaceable
    from batch_runner.report import report_lines
    from batch_runner.standing import standing

    if arguments.job is not None and is_batch_output(arguments.job):
        return _report_batch(arguments)
    target = other_target(arguments, suffixes=_PAGES)
    if target is not None:
        if target.suffix.lower() not in _PAGES:
            raise UsageError(
                f"report -o: {str(target)!r}: the report is one HTML page",
                hint="end its name in .html or .htm; export -o writes a table",
            )
        check_report_replaceable(target, place="-o")
    with described_job(arguments) as job, open_work(job) as work:
        findings = gather(work)
        summary = standing(work, findings)
        if note := _since_last_run(work, job_alone(arguments)):
            summary.warnings.insert(0, note)
        if target is not None:
            from batch_runner.html_report import write_report

            write_report(work, summary, findings, target, redact=arguments.redact)
            log.info("wrote %s", target)
    if arguments.json:
        print_json(summary.to_json())
    elif target is None:
        print_lines(report_lines(summary, findings, redact=arguments.redact))
    return ExitCode.DONE


def _since_last_run(work: "Work", alone: "JobSpec | None") -> str:
    """What `status` says, too: what the job would ask otherwise than its last run did."""
    from batch_runner.changes import other_model
    from batch_runner.drift import asked_by_flags, request_drift
    from batch_runner.remedy import command

    if work.before is None or alone is None or other_model(work):
        return ""
    if drift := request_drift(work.before, work.job):
        dry_run = command("run", work.job.invocation, "--dry-run")
        return f"since the last run: {drift}; to see what would be sent: {dry_run}"
    flags = asked_by_flags(work.before, alone)
    dry_run = command("run", alone.invocation, "--dry-run")
    return flags and f"asked {flags}; to see what that would send: {dry_run}"


def _report_batch(arguments: argparse.Namespace) -> int:
    """The report of a batch's output file, which has no job."""
    from batch_runner.batch_report import batch_report

    if arguments.output is not None:
        raise UsageError("report -o: what a batch gave is reported in the terminal only")
    report = batch_report(Path(arguments.job))
    if arguments.json:
        print_json(report.to_json())
    else:
        print_lines(report.lines())
    return ExitCode.DONE


def verify(arguments: argparse.Namespace) -> int:
    from batch_runner.soundness import soundness

    found = soundness(place_meant(arguments))
    if arguments.json:
        print_json(found.to_json())
    elif not (arguments.quiet and found.is_well):
        print_lines(found.lines())
    return ExitCode.DONE if found.is_well else ExitCode.STORAGE
