"""Where log lines go and how they look: text for people, one JSON object a line for machines.

A record says what it is by `extra={"event": ..., "fields": {...}}`; text shows its message alone.
"""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

from batch_runner.errors import UsageError
from batch_runner.printable import printable, printable_json, seen_from
from batch_runner.records import RowResult
from batch_runner.summary import RunSummary


TRACE = 5
"""Below DEBUG: every row, good ones too (`-vv`)."""


class LogFormat(StrEnum):
    """`--log-format`."""

    TEXT = "text"
    JSON = "json"


class JsonFormatter(logging.Formatter):
    """`ts level event message`, what the line is about, and whatever it carries besides."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {
            "ts": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", "message"),
            "message": record.getMessage(),
            **getattr(record, "about", {}),
            **getattr(record, "fields", {}),
        }
        return printable_json(json.dumps(fields, ensure_ascii=False, default=str))


@contextmanager
def about(log: logging.Logger, **fields: Any) -> Iterator[None]:
    """Every line logged in this block, by any thread, carries `fields`."""

    def add(record: logging.LogRecord) -> bool:
        record.about = fields
        return True

    log.addFilter(add)
    try:
        yield
    finally:
        log.removeFilter(add)


def row_line(result: RowResult) -> str:
    """A row that ended, for people."""
    name = f"row {result.row + 1}" + (f" ({result.label})" if result.label else "")
    took = f", {result.latency_seconds:.1f}s" if result.latency_seconds is not None else ""
    times = f", {result.attempts} attempts" if result.attempts > 1 else ""
    why = f" {result.code}: {result.ending.message}" if result.code is not None else ""
    return f"{name}: {result.status}{why}{took}{times}"


def row_fields(result: RowResult) -> dict[str, Any]:
    """A row that ended, for machines; usage under OpenTelemetry's names. Unknown is left out."""
    usage = result.final_usage
    fields = {
        "row": result.row,
        "label": result.label,
        "status": str(result.status),
        "error.type": result.code,
        "attempts": result.attempts,
        "latency_seconds": result.latency_seconds,
        "gen_ai.request.model": result.asked_model,
        "gen_ai.response.model": result.model,
        "gen_ai.response.id": result.response_id,
        "gen_ai.response.finish_reasons": [result.finish_reason] if result.finish_reason else None,
        "gen_ai.usage.input_tokens": usage and usage.input_tokens,
        "gen_ai.usage.output_tokens": usage and usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage and usage.cached_tokens,
    }
    return {name: value for name, value in fields.items() if value is not None}


def end_fields(summary: RunSummary) -> dict[str, Any]:
    """The end of a run, for machines; tokens and dollars are those of this run."""
    bill = summary.run_bill
    least = bill.at_least
    fields = {
        "exit_code": int(summary.exit_code),
        "stop_reason": summary.stop_reason,
        "rows": summary.rows,
        "rows_sent": summary.sent,
        "statuses": {str(status): count for status, count in summary.statuses.items()},
        "elapsed_seconds": round(summary.elapsed_seconds, 3),
        "cost_usd": None if least is None else float(least),
        "gen_ai.usage.input_tokens": bill.tokens.input,
        "gen_ai.usage.output_tokens": bill.tokens.output,
        "gen_ai.usage.cache_read.input_tokens": bill.tokens.cached,
        "output": summary.output,
        "job": summary.job,
        "run_id": summary.run_id,
    }
    return {name: value for name, value in fields.items() if value is not None}


class TextFormatter(logging.Formatter):
    """Lines for people. Nothing that a file or an endpoint said steers their terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class HereFormatter(logging.Formatter):
    """The same for those who read it in this folder: paths are named from here."""

    def format(self, record: logging.LogRecord) -> str:
        return shown_here(super().format(record))


def shown_here(text: str) -> str:
    """As a terminal in the present folder shows it: printable, and with paths named from there."""
    return seen_from(here(), printable(text))


def here() -> str:
    """The present folder; nothing where it is gone."""
    try:
        return str(Path.cwd())
    except OSError:
        return ""


class StderrHandler(logging.Handler):
    """Writes above the progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        tqdm = sys.modules.get("tqdm")
        if tqdm is not None:
            tqdm.tqdm.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr)  # noqa: T201  # this is what a stderr handler does


class HeldHandler(logging.Handler):
    """Keeps lines back; `-q` shows them only when the exit code is not 0."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))
        del self.lines[:-100]


def set_up(
    *, quiet: bool, verbose: int, log_file: str | None, log_format: LogFormat
) -> HeldHandler | None:
    """The package's log goes to stderr and, if asked for, to a file that may be rotated away."""
    logging.addLevelName(TRACE, "TRACE")
    log = logging.getLogger("batch_runner")
    for handler in log.handlers[:]:
        log.removeHandler(handler)
        handler.close()
    log.propagate = False
    log.setLevel({0: logging.INFO, 1: logging.DEBUG}.get(verbose, TRACE))
    clock = "" if sys.stderr.isatty() else "%(asctime)s "
    text = HereFormatter(f"{clock}%(message)s", datefmt="%H:%M:%S")
    dated = TextFormatter("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    held = HeldHandler() if quiet else None
    handlers: dict[logging.Handler, logging.Formatter] = {held or StderrHandler(): text}
    if log_file is not None:
        handlers[_file_handler(log_file)] = dated  # a file is read on other days too
    for handler, formatter in handlers.items():
        handler.setFormatter(JsonFormatter() if log_format is LogFormat.JSON else formatter)
        log.addHandler(handler)
    return held


def _file_handler(log_file: str) -> logging.Handler:
    """Reopens the file when logrotate has moved it away."""
    try:
        Path(log_file).parent.mkdir(parents=True, exist_ok=True)
        return WatchedFileHandler(log_file, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--log-file {log_file!r}: {error.strerror}") from None
