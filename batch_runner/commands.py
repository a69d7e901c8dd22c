"""What each command of the command line does: parsed arguments in, exit code out."""

import argparse
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from batch_runner import logs
from batch_runner.errors import BatchRunnerError, ExitCode, LockedError, UsageError
from batch_runner.job import JobSpec
from batch_runner.jobfile import KEYS_OF_FLAGS, Overrides, load_job
from batch_runner.journal import Entry, LockPolicy
from batch_runner.plan import Wanted, unfinished
from batch_runner.progress import ProgressStyle
from batch_runner.records import RowStatus
from batch_runner.signals import Interrupted, raise_on_signals


log = logging.getLogger("batch_runner")

_PATH_FLAGS = ("input", "output")


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
            context={},
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
    if not getattr(arguments, "local", False):
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
    only = frozenset(arguments.only.split(",")) if arguments.only else None
    statuses = {RowStatus.FAILED, *(RowStatus(name) for name in arguments.include)}

    def wanted(entry: Entry | None) -> bool:
        if entry is None or entry.status not in statuses:
            return False
        return only is None or entry.code in only or entry.status is not RowStatus.FAILED

    return wanted


def _run_rows(arguments: argparse.Namespace, wanted: Wanted) -> int:
    from batch_runner.report import summary_lines  # noqa: PLC0415  # `--help` stays light
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
    )
    with _job(arguments) as job:
        summary = run(job, options)
    for line in summary_lines(summary):
        log.info("%s", line, extra={"event": "summary"})
    if arguments.json:
        _print_json(summary.to_json())
    return summary.exit_code


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
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _export(arguments: argparse.Namespace) -> int:
    from batch_runner.export import export  # noqa: PLC0415  # `--help` stays light
    from batch_runner.work import open_work  # noqa: PLC0415  # likewise

    target = arguments.output
    arguments.output = None
    with _job(arguments) as job, open_work(job) as work:
        path = Path(_absolute(target)) if target else job.output_path  # type: ignore[arg-type]  # one path in, one out
        exported = export(work, path, partial=arguments.partial)
    counts = {str(status): n for status, n in exported.statuses.items()}
    log.info("%s: %s", path, ", ".join(f"{n:,} {name}" for name, n in counts.items()) or "no rows")
    if arguments.json:
        _print_json({"output": str(path), "statuses": counts})
    return ExitCode.DONE


def _verify(arguments: argparse.Namespace) -> int:
    from batch_runner.journal import RunDirectory, verify  # noqa: PLC0415  # `--help` stays light

    with _job(arguments) as job:
        report = verify(RunDirectory(job.run_path))
    if arguments.json:
        _print_json(report.to_json())
    else:
        print("\n".join(report.lines()))
    return ExitCode.DONE if report.is_sound else ExitCode.STORAGE


def _init(arguments: argparse.Namespace) -> int:
    from batch_runner.starter import starter_job  # noqa: PLC0415  # `--help` stays light

    text = starter_job(Path(arguments.file))
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
        if arguments.json:
            _print_json(report.to_json())
        else:
            print("\n".join(report.lines()))
        if arguments.probe:
            print("\n".join(probe(job)))
    return ExitCode.DONE


def _status(arguments: argparse.Namespace) -> int:
    from batch_runner.status import read_status  # noqa: PLC0415  # `--help` stays light

    with _job(arguments) as job:
        status = read_status(job)
    if arguments.json:
        _print_json(status.to_json())
    else:
        print("\n".join(status.lines()))
    return ExitCode.DONE


def _report(arguments: argparse.Namespace) -> int:
    from batch_runner.report import summary_lines  # noqa: PLC0415  # `--help` stays light
    from batch_runner.runner import summarize  # noqa: PLC0415  # likewise

    with _job(arguments) as job:
        summary = summarize(job)
    if arguments.json:
        _print_json(summary.to_json())
    else:
        print("\n".join(summary_lines(summary)))
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
            print(f"{model}: {'no price is known' if match is None else match.describe()}")
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
    "report": _report,
    "prices": _prices,
    "verify": _verify,
    "serve": _serve,
    "faults": _faults,
}
