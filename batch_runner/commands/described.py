"""The job that arguments describe, and the file that `-o` means beside it."""

import argparse
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from batch_runner.concurrency import Concurrency
from batch_runner.errors import UsageError
from batch_runner.job import JobSpec
from batch_runner.jobfile import KEYS_OF_FLAGS, Overrides, load_job, steps_of
from batch_runner.journal import Manifest, RunDirectory, read_manifest
from batch_runner.redact import MASK, without_passwords
from batch_runner.run_place import SUFFIX, last_invocation, run_folder


_PATH_FLAGS = ("input", "output")
_SECRET_SETTINGS = (("endpoint", "headers"), ("endpoint", "proxy"), ("request", "tools"))
_READERS = ("status", "export", "reparse", "convert", "report", "verify")
"""Commands that call nobody: they take the flags of a run only to know which job is meant."""


@contextmanager
def described_job(arguments: argparse.Namespace) -> Iterator[JobSpec]:
    """The job that the arguments describe; with `--local`, while the local endpoint runs."""
    typed = _typed(arguments)
    flags: dict[str, Any] = {}
    for flag, key in KEYS_OF_FLAGS.items():
        value = getattr(arguments, flag, None)
        if value is not None:
            flags[key] = _absolute(value) if flag in _PATH_FLAGS else value
    is_local = getattr(arguments, "local", False)
    if is_local:
        flags |= _local_model()
    if arguments.command in _READERS and (before := described_before(arguments)) is not None:
        folder, told = before
        output = Path.cwd() / folder.with_name(folder.name.removesuffix(SUFFIX))
        overrides = Overrides(
            flags={**flags, "output.path": str(output)}, settings=arguments.settings
        )
        job = load_job(None, overrides, given=told.job["given"])
        yield replace(job, typed=last_invocation(told, output=output) or "")
        return
    if not is_local or arguments.command in _READERS:
        yield replace(_loaded(arguments, flags), typed=typed)
        return
    from batch_runner.local import LocalEndpoint

    # Read once before the model is loaded, so that a mistake in the job shows at once.
    _loaded(arguments, flags)
    with LocalEndpoint() as endpoint:
        flags["endpoint.base_url"] = endpoint.url
        job = _loaded(arguments, flags)
        if job.limits.concurrency == Concurrency.parse("auto"):
            # It queues what it cannot serve and never says 429: nothing would stop the growth.
            fixed = Concurrency.parse(endpoint.slots)
            job = replace(job, limits=replace(job.limits, concurrency=fixed))
        yield replace(job, typed=typed)


def _loaded(arguments: argparse.Namespace, flags: dict[str, Any]) -> JobSpec:
    if arguments.job is not None:
        _refuse_data(arguments.command, arguments.job)
    return load_job(arguments.job, Overrides(flags=flags, settings=arguments.settings))


def described_before(arguments: argparse.Namespace) -> tuple[Path, Manifest] | None:
    """The run folder of a job that was described by flags, and the manifest that keeps it.

    Named by its output or by that folder: in the place of the job, or by `-o` alone.
    """
    name = arguments.job
    if name is None:
        others = (getattr(arguments, flag, None) for flag in KEYS_OF_FLAGS if flag != "output")
        name = None if any(other is not None for other in others) else arguments.output
    folder = None if name is None else run_folder(name)
    manifest = None if folder is None else read_manifest(RunDirectory(folder).manifest)
    if folder is None or not isinstance(manifest, Manifest) or "given" not in manifest.job:
        return None
    return folder, manifest


def _refuse_data(command: str, name: str) -> None:
    """Raise UsageError for a data file or a run folder where a job file is wanted."""
    from batch_runner.tables.formats import FORMAT_OF_SUFFIX, inner_suffix

    folder = run_folder(name)
    if inner_suffix(Path(name)) not in FORMAT_OF_SUFFIX and folder is None:
        return
    quoted = shlex.quote(name)
    ways = f"batch-runner init {quoted} -o job.toml writes a job for it"
    if command in ("run", "check", "estimate"):
        ways += (
            f'; or without a job: batch-runner {command} -i {quoted} -o out.csv -m MODEL -p "..."'
        )
    manifest = None if folder is None else read_manifest(RunDirectory(folder).manifest)
    if folder is not None:
        output = shlex.quote(str(folder).removesuffix(SUFFIX))
        ways = (
            f"name the job that wrote it, with its flags: batch-runner {command} -i ... -o {output}"
        )
    if (meant := last_invocation(manifest)) is not None:
        ways = f"name the job that wrote it: batch-runner {command} {meant}"
    elif isinstance(manifest, Manifest):
        job = manifest.job.get("file")
        if job and Path(job).suffix == ".toml":
            ways = f"name the job that wrote it: batch-runner {command} {shlex.quote(job)}"
    kind = "run folder" if Path(name).is_dir() else "data file"
    raise UsageError(f"{name!r} is a {kind}, and {command} takes a job file (TOML)", hint=ways)


def _local_model() -> dict[str, Any]:
    """What `--local` lays over a job: where, which model, and that it is free.

    The model is part of each request, so answers of the small model are never taken for those of
    the model that the job names.
    """
    from batch_runner.local import MODEL

    return {
        "endpoint.base_url": "http://127.0.0.1:9/v1",
        "endpoint.api_key_env": None,
        "request.model": MODEL,
        f"prices.{MODEL}": {"input": 0, "output": 0},
    }


def local_stays_needed(arguments: argparse.Namespace) -> bool:
    """`--local` was typed and the job asks another model without it: its answers are not seen then."""
    from batch_runner.errors import JobError
    from batch_runner.local import MODEL

    if not getattr(arguments, "local", False):
        return False
    given = {key: getattr(arguments, flag, None) for flag, key in KEYS_OF_FLAGS.items()}
    flags = {key: value for key, value in given.items() if value is not None}
    try:
        return _loaded(arguments, flags).model != MODEL
    except JobError:
        return True  # it names no model


def _typed(arguments: argparse.Namespace) -> str:
    """The arguments that say which job is meant, ready to be typed again."""
    words = [arguments.job] if arguments.job else []
    for flag in KEYS_OF_FLAGS:
        value = getattr(arguments, flag, None)
        for item in value if isinstance(value, list) else [value]:
            if item is not None:
                words += [f"--{flag.replace('_', '-')}", item]
    words += ["--local"] if getattr(arguments, "local", False) else []
    for setting in arguments.settings:
        key, _, _ = setting.partition("=")
        is_secret = tuple(steps_of(key)[:2]) in _SECRET_SETTINGS
        words += ["--set", f"{key}={MASK}" if is_secret else setting]
    return shlex.join(map(without_passwords, words))


def _absolute(value: str | list[str]) -> str | list[str]:
    if isinstance(value, list):
        return [str(Path.cwd() / item) for item in value]
    return str(Path.cwd() / value)


def other_target(arguments: argparse.Namespace, *, suffixes: tuple[str, ...] = ()) -> Path | None:
    """Where `-o` points when it does not mean the job's own output, which it then leaves alone.

    Without a job file `-o` says which output the job has, unless it has one of `suffixes`. So it
    does where a run wrote to it: another run's rows must not appear under its name.
    """
    target: str | None = arguments.output
    if target is None or (arguments.job is None and not target.lower().endswith(suffixes)):
        return None
    if Path(f"{target}.run").is_dir():
        return None
    arguments.output = None
    return _plain(Path.cwd() / target)


def _plain(path: Path) -> Path:
    """The path without `..`, where that means the same file: a link to a folder can make it another."""
    plain = Path(os.path.normpath(path))
    return plain if plain.parent.resolve() == path.parent.resolve() else path


def is_batch_output(name: str) -> bool:
    """A file of JSON lines where a job could stand, too."""
    from batch_runner.tables.formats import inner_suffix

    return inner_suffix(Path(name)) == ".jsonl"
