"""Exceptions for people who call or type; rows that fail are data (`records.Failure`).

    BatchRunnerError                     exit code
      UsageError                           2   command line, environment, credentials
        JobError                           2   the job file: names file, table.key and value
        InputError                         2   the input file: names file and line
        ChangedRowsError                   2   many finished rows would be paid again
      RunStoppedError                      4   a limit, or an endpoint that refuses everyone
      StorageError                         5   journal or output cannot be written
      LockedError                         75   another run holds this job's lock

Every exception carries a `hint`: what to do next.
"""

from enum import IntEnum


GO_ON = "run again to go on"
"""The end of a hint after which whoever knows the job says what to type."""
_BEFORE_SIGNALS = 128


class ExitCode(IntEnum):
    """What the process tells its caller; a promise to cron jobs."""

    DONE = 0
    """All wanted rows are done, or there was nothing to do."""
    BUG = 1
    """An unexpected error: a bug in batch_runner."""
    USAGE = 2
    """Command line, job file, input or credentials are wrong; nothing was sent."""
    ROWS_FAILED = 3
    """Finished, but rows of the output are failed, refused or incomplete, or a file was left out."""
    STOPPED = 4
    """Stopped early by a limit, or by an endpoint that refuses everyone."""
    STORAGE = 5
    """Journal or output could not be written; nothing finished is lost. `verify`: it is damaged."""
    LOCKED = 75
    """Another run holds this job's lock (EX_TEMPFAIL)."""
    HUNG_UP = 129
    """Stopped by SIGHUP after a drain: the terminal went away."""
    INTERRUPTED = 130
    """Stopped by SIGINT after a drain."""
    TERMINATED = 143
    """Stopped by SIGTERM after a drain."""

    @classmethod
    def of_signal(cls, number: int) -> "ExitCode":
        """As shells count."""
        return cls(_BEFORE_SIGNALS + number)

    @property
    def signal_number(self) -> int | None:
        """The signal that it tells of, if it tells of one."""
        return self - _BEFORE_SIGNALS if self > _BEFORE_SIGNALS else None


class BatchRunnerError(Exception):
    """Something the user of batch_runner can act on."""

    exit_code = ExitCode.BUG

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        """One sentence: the way out. Empty when the message already shows it."""
        if hint:
            self.add_note(f"hint: {hint}")  # for tracebacks and notebooks


class UsageError(BatchRunnerError):
    """The command line, the environment or the credentials are wrong."""

    exit_code = ExitCode.USAGE


class JobError(UsageError):
    """The job file is wrong; the message names file, table.key and value."""


class InputError(UsageError):
    """The input cannot be read; the message names file and line."""


class ChangedRowsError(UsageError):
    """More finished rows than allowed would be paid for again."""


class RunStoppedError(BatchRunnerError):
    """The run stopped before its last row: a limit, or an endpoint that refuses everyone."""

    exit_code = ExitCode.STOPPED


class StorageError(BatchRunnerError):
    """The journal or the output cannot be written."""

    exit_code = ExitCode.STORAGE


class LockedError(BatchRunnerError):
    """Another run of this job is in progress."""

    exit_code = ExitCode.LOCKED
