"""A job as Python describes it: its mistakes told in words of Python, its run known by its output."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from batch_runner.invocation import Invocation
from batch_runner.job import OVERRIDES, JobSpec
from batch_runner.jobfile import Overrides
from batch_runner.jobfile import load_job as load


_NONE = Overrides()


def load_job(
    path: str | Path | None,
    overrides: Overrides = _NONE,
    *,
    environment: Mapping[str, str] | None = None,
    origin: str = OVERRIDES,
) -> JobSpec:
    """The job in `path` with environment, settings and flags of `overrides` laid over it.

    No `environment` means that of the process. Without a path the overrides alone must describe the
    job. Commands that are given its output know it, as they know one that was typed. Raises
    JobError, naming file, key and value, when anything is missing, unknown or wrong.
    """
    job = load(path, overrides, environment=environment, origin=origin)
    # Whole: the current folder may be another one by the time of the run.
    file = None if path is None else str(Path(path).absolute())
    typed = Invocation.of_overrides(file, overrides)
    return job if typed is None else replace(job, typed=str(typed))
