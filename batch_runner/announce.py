"""A run whose beginning and end are told to whoever `[notify]` names, however it ends."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from batch_runner.errors import BatchRunnerError, ExitCode, LockedError
from batch_runner.job import JobSpec
from batch_runner.journal import LockPolicy
from batch_runner.notify import News, Ping, write_textfile
from batch_runner.report import summary_lines
from batch_runner.run_options import RunOptions
from batch_runner.signals import Interrupted
from batch_runner.summary import RunSummary


log = logging.getLogger("batch_runner")


@dataclass(slots=True)
class Announcement:
    """What the run is given, and what it gave."""

    options: RunOptions
    summary: RunSummary | None = None


@contextmanager
def announced(job: JobSpec, options: RunOptions) -> Iterator[Announcement]:
    """The end of the block is announced, an exception too; its beginning, once the run has its lock.

    A dry run is nobody's business, nor is a run that leaves because another one holds the lock and
    `--if-locked skip` says that this is in order.
    """
    notify = job.notify
    if options.dry_run or (notify.ping_url_env is None and notify.prometheus_textfile is None):
        yield Announcement(options)
        return
    ping = None if notify.ping_url_env is None else Ping(notify.ping_url_env, log=log)
    announcement = Announcement(replace(options, on_begin=ping.start if ping else None))
    began = time.monotonic()
    try:
        yield announcement
    except LockedError as error:
        if options.if_locked is not LockPolicy.SKIP:
            _publish(job, ping, _news(job, began, error=error))
        raise
    except BaseException as error:
        _publish(job, ping, _news(job, began, error=error))
        raise
    if announcement.summary is not None:
        _publish(job, ping, _news(job, began, summary=announcement.summary))


def _news(
    job: JobSpec,
    began: float,
    *,
    summary: RunSummary | None = None,
    error: BaseException | None = None,
) -> News:
    elapsed = time.monotonic() - began
    if summary is not None:
        text = "\n".join(summary_lines(summary))
        return News(
            job=job.name, exit_code=summary.exit_code, text=text,
            elapsed_seconds=elapsed, summary=summary,
        )  # fmt: skip
    return News(
        job=job.name, exit_code=_exit_code(error), text=_words(error), elapsed_seconds=elapsed
    )


def _exit_code(error: BaseException | None) -> int:
    if isinstance(error, Interrupted):
        return ExitCode.of_signal(error.signal_number)
    return error.exit_code if isinstance(error, BatchRunnerError) else ExitCode.BUG


def _words(error: BaseException | None) -> str:
    """What was wrong. A bug is named by its kind alone: its text may hold anything."""
    if isinstance(error, BatchRunnerError):
        return "\n".join([str(error), *([f"hint: {error.hint}"] if error.hint else [])])
    return type(error).__name__


def _publish(job: JobSpec, ping: Ping | None, news: News) -> None:
    if (textfile := job.notify.prometheus_textfile) is not None:
        try:
            write_textfile(Path(textfile), news, now=time.time())
        except BatchRunnerError as error:
            log.warning("%s", error, extra={"event": "notify"})
    if ping is not None:
        ping.end(news)
