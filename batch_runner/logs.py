"""Where log lines go and how they look: text for people, one JSON object a line for machines."""

import json
import logging
import sys
from datetime import UTC, datetime
from enum import StrEnum
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

from batch_runner.errors import UsageError


class LogFormat(StrEnum):
    """`--log-format`."""

    TEXT = "text"
    JSON = "json"


class JsonFormatter(logging.Formatter):
    """`ts level event message job run_id` and whatever the line carries besides."""

    def __init__(self, context: dict[str, Any]) -> None:
        super().__init__()
        self._context = context

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {
            "ts": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", "message"),
            "message": record.getMessage(),
            **self._context,
            **getattr(record, "fields", {}),
        }
        return json.dumps(fields, ensure_ascii=False, default=str)


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
    *,
    quiet: bool,
    verbose: int,
    log_file: str | None,
    log_format: LogFormat,
    context: dict[str, Any],
) -> HeldHandler | None:
    """The package's log goes to stderr and, if asked for, to a file that may be rotated away."""
    log = logging.getLogger("batch_runner")
    log.handlers.clear()
    log.propagate = False
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    clock = "" if sys.stderr.isatty() else "%(asctime)s "
    text = logging.Formatter(f"{clock}%(message)s", datefmt="%H:%M:%S")
    formatter = JsonFormatter(context) if log_format is LogFormat.JSON else text
    held = HeldHandler() if quiet else None
    handlers: list[logging.Handler] = [held or StderrHandler()]
    if log_file is not None:
        try:
            Path(log_file).parent.mkdir(parents=True, exist_ok=True)
            handlers.append(WatchedFileHandler(log_file, encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"--log-file {log_file!r}: {error.strerror}") from None
    for handler in handlers:
        handler.setFormatter(formatter)
        log.addHandler(handler)
    return held
