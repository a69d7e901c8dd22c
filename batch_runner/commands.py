"""What each command of the command line does: parsed arguments in, exit code out."""

import argparse
import json
import logging
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from batch_runner import logs
from batch_runner.errors import BatchRunnerError, ExitCode, LockedError, UsageError
from batch_runner.job import JobSpec
from batch_runner.jobfile import KEYS_OF_FLAGS, Overrides, load_job
from batch_runner.journal import Entry, LockPolicy
from batch_runner.plan import Dedupe, Wanted, unfinished
from batch_runner.printable import printable, printable_json
from batch_runner.progress import ProgressStyle
from batch_runner.records import ErrorCode, RowStatus
from batch_runner.signals import Interrupted, raise_on_signals


log = logging.getLogger("batch_runner")

_PATH_FLAGS = ("input", "output")
_READERS = ("status", "export", "reparse", "convert", "report", "verify")
"""Commands that call nobody: they take the flags of a run only to know which job is meant."""


def carry_out(arguments: argparse.Namespace) -> int:
    """The exit code of the command, once it has done what it does; errors are told on stderr."""
    raise_on_signals()
    held = None
    try:
        held = logs.set_up(
            quiet=arguments.quiet,
            verbose=arguments.verbose,
            log_file=arguments.log_file,
            log_format=logs.LogFormat(arguments.log_format),
        )
        code = _COMMANDS[arguments.command](arguments)
    except LockedError as error:
        if getattr(arguments, "if_locked", "fail") == LockPolicy.SKIP:
            log.info("%s", error)
            return ExitCode.DONE
        code = _told(error)
    except BatchRunnerError as error:
        code = _told(error)
    except Interrupted as interruption:
        log.warning("%s", interruption)
        code = 128 + interruption.signal_number
    except BrokenPipeError:
        # Whoever read our output has enough; Python would complain again while closing stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.DONE
    except Exception:  # noqa: BLE001  # the last line of defence: whatever is left is a bug
        log.error("this is a bug in batch_runner:\n%s", traceback.format_exc())  # noqa: TRY400  # HeldHandler keeps one line
        code = ExitCode.BUG
    if held is not None and code != ExitCode.DONE:
        print("\n".join(held.lines), file=sys.stderr)
    return int(code)


def _told(error: BatchRunnerError) -> ExitCode:
    log.error("%s", error, extra={"event": "error"})
    if error.hint:
        log.error("hint: %s", error.hint, extra={"event": "hint"})
    return error.exit_code


@contextmanager
def _job(arguments: argparse.Namespace) -> Iterator[JobSpec]:
    """The job that the arguments describe; with `--local`, while the local endpoint runs."""
    flags: dict[str, Any] = {}
    for flag, key in KEYS_OF_FLAGS.items():
        value = getattr(arguments, flag, None)
        if value is not None:
            flags[key] = _absolute(value) if flag in _PATH_FLAGS else value
    if not getattr(arguments, "local", False) or arguments.command in _READERS:
        yield load_job(arguments.job, Overrides(flags=flags, settings=arguments.settings))
        return
    from batch_runner.local import LocalEndpoint  # noqa: PLC0415  # only `--local` needs it

    # Read once before the model is loaded, so that a mistake in the job shows at once.
    flags |= {"endpoint.base_url": "http://127.0.0.1:9/v1", "endpoint.api_key_env": None}
    load_job(arguments.job, Overrides(flags=flags, settings=arguments.settings))
    with LocalEndpoint() as endpoint:
        flags["endpoint.base_url"] = endpoint.url
        yield load_job(arguments.job, Overrides(flags=flags, settings=arguments.settings))


def _absolute(value: str | list[str]) -> str | list[str]:
    if isinstance(value, list):
        return [str(Path.cwd() / item) for item in value]
    return str(Path.cwd() / value)


def _run(arguments: argparse.Namespace) -> int:
    return _run_rows(arguments, unfinished)


def _retry(arguments: argparse.Namespace) -> int:
    return _run_rows(arguments, _failed_rows(arguments))


def _failed_rows(arguments: argparse.Namespace) -> Wanted:
    """Which rows `retry` sends: all failed ones, or those with the codes named."""
    only = _codes(arguments.only) if arguments.only else None
    statuses = {RowStatus.FAILED, *(RowStatus(name) for name in arguments.include)}

    def wanted(entry: Entry | None) -> bool:
        if entry is None or entry.status not in statuses:
            return False
        return only is None or entry.code in only or entry.status is not RowStatus.FAILED

    return wanted


def _codes(text: str) -> frozenset[str]:
    codes = frozenset(word.strip() for word in text.split(","))
    for code in sorted(codes - {*ErrorCode}):
        if not code.startswith("other:"):
            raise UsageError(
                f"--only {code!r}: no such error code",
                hint=f"known: {', '.join(ErrorCode)}, other:...",
            )
    return codes


def _run_rows(arguments: argparse.Namespace, wanted: Wanted) -> int:
    from batch_runner.announce import announced  # noqa: PLC0415  # `--help` stays light
    from batch_runner.report import summary_lines  # noqa: PLC0415  # likewise
    from batch_runner.runner import OnChange, RunOptions, run  # noqa: PLC0415  # likewise

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
    with _job(arguments) as job, announced(job, options) as announcement:
        summary = announcement.summary = run(job, announcement.options)
    extra = {"event": "run_end", "fields": logs.end_fields(summary)}
    log.info("%s", "\n".join(summary_lines(summary)), extra=extra)
    if arguments.json:
        _print_json(summary.to_json())
    return summary.exit_code


def _dedupe(arguments: argparse.Namespace) -> Dedupe | None:
    """None when nothing was said: then the job's last run decides."""
    if arguments.force_dedupe:
        return Dedupe.FORCED
    if arguments.dedupe is None:
        return None
    return Dedupe.ON if arguments.dedupe else Dedupe.OFF


def _fail_on(text: str) -> Any:
    from batch_runner.runner import FailOn  # noqa: PLC0415  # `--help` stays light

    if text in ("any", "none"):
        return FailOn(never=text == "none")
    number = text.removesuffix("%")
    try:
        share = float(number) / 100
    except ValueError:
        share = -1.0
    if not text.endswith("%") or not 0 <= share <= 1:
        raise UsageError(f"--fail-on {text!r}: must be any, none or a share such as 2%")
    return FailOn(share=share)


def _print_json(value: Mapping[str, Any]) -> None:
    print(printable_json(json.dumps(value, indent=2, ensure_ascii=False)))


def _print_lines(lines: Iterable[str]) -> None:
    """Lines of the result, on stdout. Nothing that a file or an endpoint said steers the terminal."""
    print(printable("\n".join(lines)))


def _export(arguments: argparse.Namespace) -> int:
    """`export`, and `reparse`, which looks harder for the answers."""
    from batch_runner.export import export  # noqa: PLC0415  # `--help` stays light
    from batch_runner.work import check_target, claim_output, open_work  # noqa: PLC0415  # likewise

    target = _target(arguments)
    with _job(arguments) as job, open_work(job) as work:
        path = target or job.output_path
        check_target(path, work.table, place="-o")
        if path == job.output_path:
            claim_output(work)
        if arguments.command == "reparse":
            from batch_runner.reparse import reparse  # noqa: PLC0415  # likewise

            exported = reparse(work, path)
        else:
            exported = export(work, path, partial=arguments.partial)
    counts = {str(status): n for status, n in exported.statuses.items()}
    log.info("%s: %s", path, ", ".join(f"{n:,} {name}" for name, n in counts.items()) or "no rows")
    if arguments.json:
        _print_json({"output": str(path), "statuses": counts})
    return ExitCode.DONE


def _convert(arguments: argparse.Namespace) -> int:
    from batch_runner.batch_files import (  # noqa: PLC0415  # likewise
        check_conversion,
        join_answers,
        write_requests,
        write_table,
    )
    from batch_runner.work import check_target, open_work  # noqa: PLC0415  # likewise

    files = [name for name in arguments.sources if _is_batch_output(name)]
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
        with _job(arguments) as job, open_work(job) as work:
            check_target(path, work.table, place="-o")
            written = join_answers(work, files, path) if files else write_requests(work, path)
    log.info("%s: %s %s", path, f"{written:,}", "answers" if files else "requests")
    if arguments.json:
        _print_json({"output": str(path), "answers" if files else "requests": written})
    return ExitCode.DONE


def _is_batch_output(name: str) -> bool:
    """A file of JSON lines where a job could stand, too."""
    return ".jsonl" in Path(name).suffixes


def _target(arguments: argparse.Namespace, *, suffixes: tuple[str, ...] = ()) -> Path | None:
    """Where `-o` points when it does not mean the job's own output, which it then leaves alone.

    Without a job file `-o` says which output the job has, unless it has one of `suffixes`.
    """
    target: str | None = arguments.output
    if target is None or (arguments.job is None and not target.lower().endswith(suffixes)):
        return None
    arguments.output = None
    return Path.cwd() / target


def _verify(arguments: argparse.Namespace) -> int:
    from batch_runner.journal import RunDirectory, verify  # noqa: PLC0415  # `--help` stays light

    with _job(arguments) as job:
        report = verify(RunDirectory(job.run_path))
    if arguments.json:
        _print_json(report.to_json())
    elif not (arguments.quiet and report.is_sound):
        _print_lines(report.lines())
    return ExitCode.DONE if report.is_sound else ExitCode.STORAGE


def _init(arguments: argparse.Namespace) -> int:
    from batch_runner.starter import redirected_to, starter_job  # noqa: PLC0415  # `--help` stays light

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


def _check(arguments: argparse.Namespace) -> int:
    from batch_runner.check import check, probe  # noqa: PLC0415  # `--help` stays light

    with _job(arguments) as job:
        report = check(job)
        probed = probe(job, report) if arguments.probe and not report.key_problem else None
    if arguments.json:
        _print_json(report.to_json() | ({"probe": probed.to_json()} if probed else {}))
    elif probed or report.key_problem or not arguments.quiet:
        _print_lines([*report.lines(), *(probed.lines() if probed else ())])
    if report.key_problem is not None:
        raise report.key_problem
    return ExitCode.DONE if probed is None else probed.exit_code


def _status(arguments: argparse.Namespace) -> int:
    from batch_runner.status import drawn, follow, read_status  # noqa: PLC0415  # `--help` stays light

    with _job(arguments) as job:
        if arguments.watch and not arguments.json:
            columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
            for text in drawn(follow(job), columns=columns):
                print(text, flush=True)
            return ExitCode.DONE
        status = read_status(job)
    if arguments.json:
        _print_json(status.to_json())
    else:
        _print_lines(status.lines())
    return ExitCode.DONE


def _report(arguments: argparse.Namespace) -> int:
    from batch_runner.findings import gather  # noqa: PLC0415  # likewise
    from batch_runner.report import report_lines  # noqa: PLC0415  # `--help` stays light
    from batch_runner.standing import standing  # noqa: PLC0415  # likewise
    from batch_runner.work import open_work  # noqa: PLC0415  # likewise

    if arguments.job is not None and _is_batch_output(arguments.job):
        return _report_batch(arguments)
    target = _target(arguments, suffixes=(".html", ".htm"))
    with _job(arguments) as job, open_work(job) as work:
        findings = gather(work)
        summary = standing(work, findings)
        if target is not None:
            from batch_runner.html_report import write_report  # noqa: PLC0415  # likewise

            write_report(work, summary, findings, target, redact=arguments.redact)
            log.info("wrote %s", target)
    if arguments.json:
        _print_json(summary.to_json())
    elif target is None:
        _print_lines(report_lines(summary, findings, redact=arguments.redact))
    return ExitCode.DONE


def _report_batch(arguments: argparse.Namespace) -> int:
    """The report of a batch's output file, which has no job."""
    from batch_runner.batch_report import batch_report  # noqa: PLC0415  # `--help` stays light

    if arguments.output is not None:
        raise UsageError("report -o: what a batch gave is reported in the terminal only")
    report = batch_report(Path(arguments.job))
    if arguments.json:
        _print_json(report.to_json())
    else:
        _print_lines(report.lines())
    return ExitCode.DONE


def _estimate(arguments: argparse.Namespace) -> int:
    from batch_runner.estimate_report import (  # noqa: PLC0415  # `--help` stays light
        estimate_json,
        estimate_lines,
        sample_question,
    )
    from batch_runner.estimating import Estimate, estimate  # noqa: PLC0415  # likewise
    from batch_runner.runner import RunOptions  # noqa: PLC0415  # likewise

    if arguments.sample and not arguments.yes and not sys.stdin.isatty():
        raise UsageError(
            "estimate --sample runs real rows, and there is no terminal to ask whether it may",
            hint="--yes answers for you",
        )

    def confirm(found: Estimate, most: Decimal | None) -> bool:
        if arguments.yes:
            return True
        question = sample_question(found, arguments.sample, most)
        print(question, end=" [y/N] ", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    style = ProgressStyle.OFF if arguments.quiet else ProgressStyle(arguments.progress)
    with _job(arguments) as job:
        found = estimate(
            job,
            sample=arguments.sample,
            seed=arguments.seed,
            count=arguments.count,
            confirm=confirm,
            options=RunOptions(progress=style),
        )
    if arguments.json:
        _print_json(estimate_json(found))
    else:
        _print_lines(estimate_lines(found))
    return ExitCode.DONE


def _costs(arguments: argparse.Namespace) -> int:
    from batch_runner.costs import costs  # noqa: PLC0415  # `--help` stays light
    from batch_runner.costs_report import cost_csv, cost_json, cost_lines  # noqa: PLC0415  # likewise

    by = arguments.by.split(",")
    report = costs(arguments.places, by=by, since=arguments.since, until=arguments.until)
    if arguments.csv:
        print(printable(cost_csv(report)), end="")
    elif arguments.json:
        _print_json(cost_json(report))
    else:
        _print_lines(cost_lines(report))
    return ExitCode.DONE


def _prices(arguments: argparse.Namespace) -> int:
    from batch_runner.pricing import PriceBook  # noqa: PLC0415  # 0.5 s of CPU

    book = PriceBook({})
    found = {model: book.resolve(model, at=None) for model in arguments.models}
    if arguments.json:
        _print_json(
            {model: None if match is None else match.to_json() for model, match in found.items()}
        )
    else:
        for model, match in found.items():
            told = "no price is known" if match is None else match.describe()
            print(f"{printable(model)}: {told}")
    return ExitCode.DONE if all(found.values()) else ExitCode.ROWS_FAILED


def _serve(arguments: argparse.Namespace) -> int:
    from batch_runner.local import serve  # noqa: PLC0415  # `--help` stays light

    return serve(arguments.port, verbose=bool(arguments.verbose))


def _faults(arguments: argparse.Namespace) -> int:
    import asyncio  # noqa: PLC0415  # `--help` stays light

    from batch_runner.faultserver import serve  # noqa: PLC0415  # likewise

    def say(url: str) -> None:
        print(url, flush=True)

    try:
        asyncio.run(
            serve(
                port=arguments.port,
                ledger_path=Path(arguments.ledger) if arguments.ledger else None,
                script=Path(arguments.script) if arguments.script else None,
                latency_seconds=arguments.latency,
                on_ready=say,
            )
        )
    except OSError as error:
        raise UsageError(f"cannot listen on port {arguments.port}: {error.strerror}") from None
    return ExitCode.DONE


_COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "init": _init,
    "check": _check,
    "run": _run,
    "retry": _retry,
    "status": _status,
    "export": _export,
    "reparse": _export,
    "convert": _convert,
    "report": _report,
    "estimate": _estimate,
    "costs": _costs,
    "prices": _prices,
    "verify": _verify,
    "serve": _serve,
    "faults": _faults,
}
