"""The job that arguments describe, and the file that `-o` means beside it."""

import argparse
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from batch_runner.commands.author import READERS, Meant, author_named, taken_up
from batch_runner.concurrency import Concurrency
from batch_runner.errors import JobError, UsageError
from batch_runner.invocation import PATH_FLAGS, Invocation, is_same_place, last_invocation
from batch_runner.job import JobSpec
from batch_runner.jobfile import KEYS_OF_FLAGS, Overrides, load_job
from batch_runner.journal import Manifest, RunDirectory, read_manifest
from batch_runner.run_place import SUFFIX, is_written, run_folder


@contextmanager
def described_job(arguments: argparse.Namespace) -> Iterator[JobSpec]:
    """The job that the arguments describe; with `--local`, while the local endpoint runs."""
    meant = _meant(arguments)
    # Read once before a model is loaded, so that a mistake in the job shows at once.
    job = _loaded(meant, arguments.command)
    if _calls(arguments) and meant.asked not in (None, job.endpoint.base_url):
        raise UsageError(
            f"the last run asked {meant.asked}, and the job asks {job.endpoint.base_url} today",
            hint="--base-url says which of them is meant",
        )
    typed = str(meant.invocation)
    if not meant.over.is_local or arguments.command in READERS:
        yield replace(job, typed=typed)
        return
    from batch_runner.local import LocalEndpoint

    with LocalEndpoint() as endpoint:
        job = _loaded(meant, arguments.command, url=endpoint.url)
        if job.limits.concurrency == Concurrency.parse("auto"):
            # It queues what it cannot serve and never says 429: nothing would stop the growth.
            fixed = Concurrency.parse(endpoint.slots)
            job = replace(job, limits=replace(job.limits, concurrency=fixed))
        yield replace(job, typed=typed)


def _calls(arguments: argparse.Namespace) -> bool:
    """An endpoint gets rows, to answer or to count."""
    command = arguments.command
    return (
        command == "retry"
        or (command == "estimate" and (bool(arguments.sample) or arguments.count == "api"))
        or (command == "check" and bool(arguments.probe))
    )


def _meant(arguments: argparse.Namespace) -> Meant:
    """What was typed, or what an output in the place of a job was last run with, and that over it.

    Raises UsageError where the job that wrote the output writes another one today: neither may that
    one's rows take the place of those, nor be sent under its name.
    """
    typed, command = Invocation.of(arguments), arguments.command
    author = author_named(typed, command=command)
    if author is None:
        over = _of_last_run(typed, command) if command in ("report", "status") else typed
        return Meant(invocation=over, over=over)
    meant = taken_up(author, typed, command=command)
    try:
        job = _loaded(meant, command)
    except JobError:
        try:
            _loaded(author.alone, command)
        except JobError as error:
            raise author.gone(error, command) from None
        raise  # of what is typed now
    author.check_writes(job, command)
    return meant


def _of_last_run(typed: Invocation, command: str) -> Invocation:
    """For a job file named alone: with the flags of its last run, which is what is told of.

    Prices are those of today: what that run was told of them is kept elsewhere.
    """
    if typed.job is None or not typed.says_only_where:
        return typed
    job = _loaded(Meant(invocation=typed, over=typed), command)
    manifest = read_manifest(RunDirectory(job.run_path).manifest)
    before = last_invocation(manifest, output=job.output_path)
    if before is None or before.job is None or not is_same_place(Path(before.job), Path(typed.job)):
        return typed
    before = before.for_readers().without({"prices"})
    if any(before.masked()):
        return typed
    try:
        again = _loaded(Meant(invocation=before, over=before), command)
    except JobError:
        return typed
    return before if is_same_place(again.run_path, job.run_path) else typed


def job_alone(arguments: argparse.Namespace) -> JobSpec | None:
    """The job as it is typed, without what its last run was told; None where no job is named."""
    typed, command = Invocation.of(arguments), arguments.command
    if author_named(typed, command=command) is not None:
        return None
    return replace(_loaded(Meant(invocation=typed, over=typed), command), typed=str(typed))


def _loaded(meant: Meant, command: str, *, url: str | None = None) -> JobSpec:
    """`url` is the local endpoint's, once it runs."""
    if meant.over.job is not None:
        _refuse_data(command, meant.over.job)
    flags = _values(meant.over)
    if url is not None:
        flags["endpoint.base_url"] = url
    overrides = Overrides(flags=flags, settings=meant.over.settings)
    return load_job(meant.over.job, overrides, given=meant.given)


def _values(invocation: Invocation) -> dict[str, Any]:
    """Job key to value, as the flags say."""
    flags: dict[str, Any] = {
        KEYS_OF_FLAGS[flag]: _absolute(value) if flag in PATH_FLAGS else value
        for flag, value in invocation.flags.items()
    }
    return {**flags, **(_local_model() if invocation.is_local else {})}


def _refuse_data(command: str, name: str) -> None:
    """Raise UsageError for a data file or a run folder where a job file is wanted."""
    from batch_runner.tables.formats import FORMAT_OF_SUFFIX, inner_suffix

    folder = run_folder(name)
    if inner_suffix(Path(name)) not in FORMAT_OF_SUFFIX and folder is None:
        return
    if folder is None and not Path(name).exists():
        raise UsageError(f"{name!r}: no such file", hint="is the name misspelt?")
    quoted = shlex.quote(name)
    ways = f"batch-runner init {quoted} -o job.toml writes a job for it"
    if command in ("run", "check", "estimate"):
        ways += (
            f'; or without a job: batch-runner {command} -i {quoted} -o out.csv -m MODEL -p "..."'
        )
    manifest = None if folder is None else read_manifest(RunDirectory(folder).manifest)
    if folder is not None:
        output = shlex.quote(str(folder).removesuffix(SUFFIX))
        ways = f"name the job that wrote it, with its flags: batch-runner {command} -i INPUT -o {output}"
    if (before := last_invocation(manifest)) is not None:
        ways = f"name the job that wrote it: batch-runner {command} {before}"
    elif isinstance(manifest, Manifest):
        job = manifest.job.get("file")
        if job and Path(job).suffix == ".toml":
            ways = f"name the job that wrote it: batch-runner {command} {shlex.quote(job)}"
    kind = "run folder" if Path(name).is_dir() else "data file"
    output = "" if command == "run" else ", or the output of a run"
    raise UsageError(
        f"{name!r} is a {kind}, and {command} takes a job file (TOML){output}", hint=ways
    )


def _local_model() -> dict[str, Any]:
    """What `--local` lays over a job: where, and which model.

    The model is part of each request, so answers of the small model are never taken for those of
    the model that the job names.
    """
    from batch_runner.local import MODEL

    return {
        "endpoint.base_url": "http://127.0.0.1:9/v1",
        "endpoint.api_key_env": None,
        "request.model": MODEL,
        f"prices.{MODEL}": {"input": 0, "output": 0},  # remembered: it stays free without --local
    }


def local_stays_needed(arguments: argparse.Namespace) -> bool:
    """The run was local and the job asks another model without: its answers are not seen then."""
    from batch_runner.local import MODEL

    meant = _meant(arguments)
    if not meant.over.is_local:
        return False
    elsewhere = replace(meant, over=replace(meant.over, is_local=False))
    try:
        return _loaded(elsewhere, arguments.command).model != MODEL
    except JobError:
        return True  # it names no model


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
    if is_written(Path(target)):
        return None
    arguments.output = None
    return _plain(Path.cwd() / target)


def _plain(path: Path) -> Path:
    """The path without `..`, where that means the same file: a link to a folder can make it another."""
    plain = Path(os.path.normpath(path))
    return plain if plain.parent.resolve() == path.parent.resolve() else path


def is_batch_output(name: str) -> bool:
    """A file of a batch's answers where a job could stand, too; not the rows that a run wrote."""
    from batch_runner.output_place import BATCH_REPLY, names_in
    from batch_runner.tables.formats import inner_suffix

    if inner_suffix(Path(name)) != ".jsonl":
        return False
    if run_folder(name) is None:
        return True
    names = {*names_in(Path(name))}
    return bool(names) and names <= {"id", *BATCH_REPLY}
