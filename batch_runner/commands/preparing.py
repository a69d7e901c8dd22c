"""Before the first call: `init` and `check`."""

import argparse
import logging
import sys
from pathlib import Path

from batch_runner.commands.described import described_job
from batch_runner.commands.stdout import print_json, print_lines
from batch_runner.errors import ExitCode, UsageError


log = logging.getLogger("batch_runner")


def init(arguments: argparse.Namespace) -> int:
    from batch_runner.starter import redirected_to, starter_job

    target = Path(arguments.output) if arguments.output else redirected_to(sys.stdout)
    text = starter_job(Path(arguments.file), folder=target.parent if target else None)
    if arguments.output is None:
        print(text, end="")
        return ExitCode.DONE
    target = Path(arguments.output)
    if target.exists() and not arguments.yes:
        raise UsageError(f"{target} exists", hint="--yes replaces it")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    log.info("wrote %s; next: batch-runner check %s", target, target)
    return ExitCode.DONE


def check(arguments: argparse.Namespace) -> int:
    from batch_runner.check import check as look_over
    from batch_runner.check import probe

    with described_job(arguments) as job:
        report = look_over(job)
        probed = probe(job, report) if arguments.probe and not report.key_problem else None
    if arguments.json:
        print_json(report.to_json() | ({"probe": probed.to_json()} if probed else {}))
    elif probed or report.key_problem or not arguments.quiet:
        print_lines([*report.lines(), *(probed.lines() if probed else ())])
    if report.key_problem is not None:
        raise report.key_problem
    return ExitCode.DONE if probed is None else probed.exit_code
