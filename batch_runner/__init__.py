"""Run a prompt over every row of a file through POST /v1/responses; never pay twice.

    import batch_runner as br

    job = br.load_job("jobs/summarize_articles.toml")
    summary = br.run(job)                       # in a notebook: await br.run_async(job)
    summary = br.run(job, br.RunOptions(limit=10, on_result=print))
    for outcome in br.read_results(job):
        print(outcome.label, outcome.status, outcome.text, outcome.cost)

    frame = br.run_frame(frame, prompt="Summarize: {{ body }}", model="gpt-5-mini", run_dir="out/a.run")

    br.run(job, br.RunOptions(wanted=br.retrying("failed", "incomplete")))  # and run_frame(retry=...)

Importing this costs nothing: a name is loaded when it is first used.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any


__version__ = "0.1.0"

if TYPE_CHECKING:
    from batch_runner.errors import (
        BatchRunnerError,
        ChangedRowsError,
        ExitCode,
        InputError,
        JobError,
        LockedError,
        RunStoppedError,
        StorageError,
        UsageError,
    )
    from batch_runner.estimating import estimate
    from batch_runner.frame import run_frame
    from batch_runner.job import JobSpec
    from batch_runner.jobfile import Overrides
    from batch_runner.journal import LockPolicy
    from batch_runner.progress import ProgressStyle
    from batch_runner.records import (
        Completion,
        ErrorCode,
        Failure,
        Row,
        RowResult,
        RowStatus,
        Usage,
    )
    from batch_runner.results import Outcome, read_results
    from batch_runner.run_options import FailOn, OnChange, RunOptions, retrying
    from batch_runner.runner import run, run_async
    from batch_runner.scripted import load_job
    from batch_runner.summary import RunSummary

__all__ = [
    "BatchRunnerError",
    "ChangedRowsError",
    "Completion",
    "ErrorCode",
    "ExitCode",
    "FailOn",
    "Failure",
    "InputError",
    "JobError",
    "JobSpec",
    "LockPolicy",
    "LockedError",
    "OnChange",
    "Outcome",
    "Overrides",
    "ProgressStyle",
    "Row",
    "RowResult",
    "RowStatus",
    "RunOptions",
    "RunStoppedError",
    "RunSummary",
    "StorageError",
    "Usage",
    "UsageError",
    "__version__",
    "estimate",
    "load_job",
    "read_results",
    "retrying",
    "run",
    "run_async",
    "run_frame",
]

_HOMES = {
    "errors": (
        "BatchRunnerError", "ChangedRowsError", "ExitCode", "InputError", "JobError", "LockedError",
        "RunStoppedError", "StorageError", "UsageError",
    ),
    "estimating": ("estimate",),
    "frame": ("run_frame",),
    "job": ("JobSpec",),
    "jobfile": ("Overrides",),
    "journal": ("LockPolicy",),
    "progress": ("ProgressStyle",),
    "records": (
        "Completion", "ErrorCode", "Failure", "Row", "RowResult", "RowStatus", "Usage",
    ),
    "results": ("Outcome", "read_results"),
    "run_options": ("FailOn", "OnChange", "RunOptions", "retrying"),
    "runner": ("run", "run_async"),
    "scripted": ("load_job",),
    "summary": ("RunSummary",),
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """The public name, its module loaded now."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """A submodule that is imported does not take the place of a public name: `estimate` is both."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _HOME_OF or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
