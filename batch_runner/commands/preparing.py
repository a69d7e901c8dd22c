"""Before the first call: `init` and `check`."""

import argparse
import logging
import shlex
import sys
from pathlib import Path

from batch_runner.commands.described import described_job
from batch_runner.commands.stdout import print_json, print_lines
from batch_runner.errors import ExitCode, StorageError, UsageError


log = logging.getLogger("batch_runner")


def init(arguments: argparse.Namespace) -> int:
    from batch_runner.remedy import command
    from batch_runner.starter import redirected_to, starter_job

    source = Path(arguments.file)
    if arguments.output is not None:
        target = Path(arguments.output)
        text = starter_job(source, folder=target.parent)
        _write_job(target, text, source=source, may_replace=arguments.yes)
        log.info("wrote %s; next: %s", target, command("check", shlex.quote(str(target))))
    else:
        there = None if arguments.json else redirected_to(sys.stdout)
        text = starter_job(source, folder=there.parent if there else None)
        if not arguments.json:
            print(text, end="")
        if there is not None:
            log.info("next: %s", command("check", shlex.quote(_as_typed(there))))
    if arguments.json:
        print_json({"output": arguments.output, "job": text})
    return ExitCode.DONE


def _write_job(target: Path, text: str, *, source: Path, may_replace: bool) -> None:
    from batch_runner.atomic import publish

    if target.is_dir():
        raise UsageError(f"init -o: {str(target)!r} is a directory", hint="name a file in it")
    if target.exists() and source.exists() and target.samefile(source):
        raise UsageError(f"init -o: {str(target)!r} is the data file", hint="name another file")
    if target.exists() and not may_replace:
        raise UsageError(f"init -o: {str(target)!r} exists", hint="--yes replaces it")
    try:
        with publish(target) as file:
            file.write(text.encode())
    except StorageError as error:
        raise UsageError(f"init -o: {error}", hint=error.hint) from None


def _as_typed(file: Path) -> str:
    """Short where the file lies below the current folder, whole elsewhere."""
    here = Path.cwd()
    return str(file.relative_to(here) if file.is_relative_to(here) else file)


def check(arguments: argparse.Namespace) -> int:
    from batch_runner.check import check as look_over
    from batch_runner.check import probe

    with described_job(arguments) as job:
        report = look_over(job, is_at_hand=arguments.local, for_probe=arguments.probe)
        problem = report.key_problem or report.refusal
        probed = probe(job, report) if arguments.probe and problem is None else None
    if arguments.json:
        print_json(report.to_json() | ({"probe": probed.to_json()} if probed else {}))
    elif probed or problem or not arguments.quiet:
        whole = bool(arguments.verbose)
        print_lines([*report.lines(whole=whole), *(probed.lines(whole=whole) if probed else ())])
    if problem is not None:
        raise problem
    return ExitCode.DONE if probed is None else probed.exit_code
