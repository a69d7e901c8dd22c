"""The job that arguments describe, and the file that `-o` means beside it."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from batch_runner.job import JobSpec
from batch_runner.jobfile import KEYS_OF_FLAGS, Overrides, load_job


_PATH_FLAGS = ("input", "output")
_READERS = ("status", "export", "reparse", "convert", "report", "verify")
"""Commands that call nobody: they take the flags of a run only to know which job is meant."""


@contextmanager
def described_job(arguments: argparse.Namespace) -> Iterator[JobSpec]:
    """The job that the arguments describe; with `--local`, while the local endpoint runs."""
    flags: dict[str, Any] = {}
    for flag, key in KEYS_OF_FLAGS.items():
        value = getattr(arguments, flag, None)
        if value is not None:
            flags[key] = _absolute(value) if flag in _PATH_FLAGS else value
    if not getattr(arguments, "local", False) or arguments.command in _READERS:
        yield load_job(arguments.job, Overrides(flags=flags, settings=arguments.settings))
        return
    from batch_runner.local import LocalEndpoint

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


def other_target(arguments: argparse.Namespace, *, suffixes: tuple[str, ...] = ()) -> Path | None:
    """Where `-o` points when it does not mean the job's own output, which it then leaves alone.

    Without a job file `-o` says which output the job has, unless it has one of `suffixes`.
    """
    target: str | None = arguments.output
    if target is None or (arguments.job is None and not target.lower().endswith(suffixes)):
        return None
    arguments.output = None
    return Path.cwd() / target


def is_batch_output(name: str) -> bool:
    """A file of JSON lines where a job could stand, too."""
    return ".jsonl" in Path(name).suffixes
