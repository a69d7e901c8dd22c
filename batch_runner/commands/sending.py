"""Rows sent for money: `run` and `retry`."""

import argparse
import logging
from collections.abc import Iterable

from batch_runner import logs
from batch_runner.commands.described import described_job, local_stays_needed
from batch_runner.commands.stdout import print_json
from batch_runner.errors import UsageError
from batch_runner.invocation import Invocation
from batch_runner.journal import LockPolicy
from batch_runner.plan import Dedupe, Wanted, unfinished
from batch_runner.progress import ProgressStyle
from batch_runner.records import ErrorCode, RowStatus, other
from batch_runner.remedy import remedy
from batch_runner.run_options import FailOn, OnChange, RunOptions
from batch_runner.spelling import did_you_mean


log = logging.getLogger("batch_runner")


def run(arguments: argparse.Namespace) -> int:
    return _run_rows(arguments, unfinished)


def retry(arguments: argparse.Namespace) -> int:
    return _run_rows(arguments, _failed_rows(arguments))


def _failed_rows(arguments: argparse.Namespace) -> Wanted:
    """Which rows `retry` sends: all failed ones, or those with the codes named."""
    only = _codes(arguments.only) if arguments.only else None
    statuses = {RowStatus.FAILED, *map(RowStatus, _words(arguments.include))}
    for code in sorted(only or ()):
        if (status := _NEVER_FAILED.get(code, RowStatus.FAILED)) not in statuses:
            way_out = remedy(code, str(Invocation.of(arguments)), "--only", arguments.only)
            log.warning(
                "note: --only %s names rows that are %s, not failed; --include %s sends them: %s",
                code, status, status, way_out.command, extra={"event": "note"},
            )  # fmt: skip

    def wanted(status: RowStatus, code: str | None) -> bool:
        if status not in statuses:
            return False
        return only is None or code in only or status is not RowStatus.FAILED

    return wanted


_NEVER_FAILED = {
    ErrorCode.MAX_OUTPUT_TOKENS: RowStatus.INCOMPLETE,
    ErrorCode.CONTENT_FILTER: RowStatus.INCOMPLETE,
    other("refusal"): RowStatus.REFUSED,
}
"""Codes of rows with an answer, if not a full one."""


def _words(texts: Iterable[str]) -> list[str]:
    """Of an option that takes several behind commas, and may be repeated."""
    return [word.strip() for text in texts for word in text.split(",")]


def _codes(text: str) -> frozenset[str]:
    codes = frozenset(_words([text]))
    for code in sorted(codes - {*ErrorCode}):
        if not code.startswith("other:"):
            raise UsageError(
                f"--only {code!r}: no such error code{did_you_mean(code, ErrorCode)}",
                hint=f"--include {code} takes such rows, too"
                if code in (RowStatus.INCOMPLETE, RowStatus.REFUSED)
                else f"known: {', '.join(ErrorCode)}, other:...",
            )
    return codes


def _run_rows(arguments: argparse.Namespace, wanted: Wanted) -> int:
    from batch_runner import runner
    from batch_runner.announce import announced
    from batch_runner.report import summary_lines

    quiet = arguments.quiet
    options = RunOptions(
        limit=arguments.limit,
        fresh=arguments.fresh,
        on_change=OnChange(arguments.on_change),
        fail_on=_fail_on(arguments.fail_on),
        dry_run=arguments.dry_run,
        if_locked=LockPolicy(arguments.if_locked),
        progress=ProgressStyle.OFF if quiet else ProgressStyle(arguments.progress),
        wanted=wanted,
        dedupe=_dedupe(arguments),
    )
    with described_job(arguments) as job, announced(job, options) as announcement:
        summary = announcement.summary = runner.run(job, announcement.options)
    extra = {"event": "run_end", "fields": logs.end_fields(summary)}
    log.info("%s", "\n".join(summary_lines(summary)), extra=extra)
    if arguments.json:
        print_json(summary.to_json())
    elif not (quiet or options.dry_run) and local_stays_needed(arguments):
        log.info(
            "note: these are answers of the small local model: status and report show them; run, "
            "check and export take their rows for rows still to send, unless --local is given",
            extra={"event": "note"},
        )
    return summary.exit_code


def _dedupe(arguments: argparse.Namespace) -> Dedupe | None:
    """None when nothing was said: then the job's last run decides."""
    if arguments.force_dedupe:
        return Dedupe.FORCED
    if arguments.dedupe is None:
        return None
    return Dedupe.ON if arguments.dedupe else Dedupe.OFF


def _fail_on(text: str) -> FailOn:
    if text in ("any", "new", "none"):
        return FailOn(never=text == "none", only_new=text == "new")
    number = text.removesuffix("%")
    try:
        share = float(number) / 100
    except ValueError:
        share = -1.0
    if not text.endswith("%") or not 0 <= share <= 1:
        raise UsageError(f"--fail-on {text!r}: must be any, new, none or a share such as 2%")
    return FailOn(share=share)
