"""Tells the outside how a run went: a ping (healthchecks style) and a Prometheus textfile.

Nothing here changes how a run ends: what goes wrong is a warning. A ping URL is as good as a
password, so no message holds it or any part of it.
"""

import logging
import os
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit, urlunsplit

from batch_runner.atomic import publish
from batch_runner.errors import ExitCode
from batch_runner.hosts import is_loopback
from batch_runner.summary import RunSummary


TRIES = 3
TIMEOUT_SECONDS = 10.0
MOST_BODY_BYTES = 100_000
"""What healthchecks keeps of a ping's body."""

_LAST_SUCCESS = "batch_runner_last_success_timestamp_seconds"


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """How a run ended, for those who were not there."""

    job: str
    exit_code: int
    text: str
    """The lines that a person would have read."""
    elapsed_seconds: float
    summary: RunSummary | None = None
    """None when it ended before there was one."""


class Ping:
    """`POST <url>/start`, then `POST <url>/<exit code>` with the text; each tried three times."""

    def __init__(self, variable: str, *, log: logging.Logger, pause_seconds: float = 1.0) -> None:
        """`variable` names the environment variable that holds the URL; unset, there is no ping.

        One job file serves the machine that is watched and the one that is not.
        """
        self._log = log
        self._variable = variable
        self._pause_seconds = pause_seconds
        self._url = self._read(os.environ.get(variable, "").strip())
        self._starting: threading.Thread | None = None

    def start(self) -> None:
        """The beginning is on its way; the run does not wait for it."""
        self._starting = threading.Thread(target=self._post, args=("start", ""), daemon=True)
        self._starting.start()

    def end(self, news: News) -> None:
        if self._starting is not None:  # a late start would undo the end
            self._starting.join()
        self._post(str(int(news.exit_code)), news.text)

    def _read(self, url: str) -> SplitResult | None:
        if not url:
            self._log.debug("no ping: the environment variable %s is not set", self._variable)
            return None
        if (parts := ping_url(url)) is None:
            self._log.warning(
                "no ping: the environment variable %s holds no http(s) URL (value not shown)",
                self._variable,
            )
        return parts

    def _post(self, step: str, text: str) -> None:
        if self._url is None:
            return
        target = self._url._replace(path=f"{self._url.path.rstrip('/')}/{step}")
        request = urllib.request.Request(  # noqa: S310  # the scheme has been looked at
            urlunsplit(target),
            data=text.encode(errors="replace")[:MOST_BODY_BYTES],
            headers={"Content-Type": "text/plain; charset=utf-8", "User-Agent": "batch-runner"},
        )
        problem = ""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(self._pause_seconds * attempt)
            try:
                with _opener(self._url).open(request, timeout=TIMEOUT_SECONDS) as reply:
                    reply.read(1)
            except urllib.error.HTTPError as error:
                problem = f"status {error.code}"
                error.close()
                if 400 <= error.code < 500 and error.code not in (408, 429):
                    break
            except (OSError, ValueError) as error:
                problem = _nature(error)
            else:
                return
        self._log.warning("the ping %r did not get through: %s", step, problem)


def ping_url(text: str) -> SplitResult | None:
    """The parts of a URL that can be pinged; None for any other text."""
    with suppress(ValueError):
        parts = urlsplit(text.strip())
        if parts.scheme in ("http", "https") and parts.hostname:
            return parts
    return None


def _opener(url: SplitResult) -> urllib.request.OpenerDirector:
    """Honours proxy variables, but for this machine; trusts what the operating system trusts."""
    handlers: list[urllib.request.BaseHandler] = []
    if is_loopback(url.hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))
    if url.scheme == "https":
        import truststore  # noqa: PLC0415  # only https needs certificates

        context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        handlers.append(urllib.request.HTTPSHandler(context=context))
    return urllib.request.build_opener(*handlers)


def _nature(error: Exception) -> str:
    """What kind of error it was. Its text may hold the URL."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return type(reason if isinstance(reason, Exception) else error).__name__


def write_textfile(path: Path, news: News, *, now: float) -> None:
    """`path` holds the run's metrics for node_exporter's textfile collector, readable to all.

    One file a job. Raises StorageError when it cannot be written.
    """
    success = now if news.exit_code == ExitCode.DONE else _earlier_success(path, news.job)
    with publish(path, mode=0o644) as file:
        file.write("\n".join([*_metrics(news, now=now, success=success), ""]).encode())


def _metrics(news: News, *, now: float, success: float | None) -> Iterator[str]:
    job = _label(news.job)

    def gauge(name: str, meaning: str, values: Mapping[str, float | None]) -> Iterator[str]:
        """Values by further labels; what is unknown is left out, for it is not zero."""
        known = {labels: value for labels, value in values.items() if value is not None}
        if known:
            yield f"# HELP {name} {meaning}"
            yield f"# TYPE {name} gauge"
        for labels, value in known.items():
            yield f'{name}{{job="{job}"{labels}}} {value!r}'

    yield from gauge(
        "batch_runner_last_run_timestamp_seconds", "When the last run ended.", {"": now}
    )
    yield from gauge(_LAST_SUCCESS, "When a run last ended with exit code 0.", {"": success})
    yield from gauge(
        "batch_runner_exit_code", "Of the last run; see batch-runner --help.",
        {"": int(news.exit_code)},
    )  # fmt: skip
    yield from gauge(
        "batch_runner_duration_seconds", "Of the last run.", {"": round(news.elapsed_seconds, 3)}
    )
    if (summary := news.summary) is None:
        return
    yield from gauge(
        "batch_runner_rows", "Rows of the input by the state of their answer.",
        {f',status="{status}"': count for status, count in sorted(summary.statuses.items())},
    )  # fmt: skip
    bill = summary.run_bill
    tokens = {"input": bill.tokens.input, "cached": bill.tokens.cached,
              "output": bill.tokens.output, "reasoning": bill.tokens.reasoning}  # fmt: skip
    yield from gauge(
        "batch_runner_tokens", "Reported in the last run; cached lies in input, reasoning in output.",
        {f',type="{kind}"': count for kind, count in tokens.items()},
    )  # fmt: skip
    least = bill.at_least
    yield from gauge(
        "batch_runner_cost_usd", "Certainly spent in the last run; absent when unknown.",
        {"": None if least is None else float(least)},
    )  # fmt: skip


def _label(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _earlier_success(path: Path, job: str) -> float | None:
    """The time of the last success, as the file that is about to be replaced tells it."""
    beginning = f'{_LAST_SUCCESS}{{job="{_label(job)}"}} '
    with suppress(OSError, ValueError):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith(beginning):
                return float(line.removeprefix(beginning))
    return None
