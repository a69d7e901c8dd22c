"""The job that wrote an output, where that output or its run folder stands in the place of a job."""

from dataclasses import replace
from pathlib import Path

from batch_runner.errors import UsageError
from batch_runner.invocation import Invocation, last_invocation
from batch_runner.job import Given
from batch_runner.journal import Manifest, RunDirectory, read_manifest
from batch_runner.run_place import output_of, run_folder


READERS = ("status", "export", "reparse", "convert", "report", "verify")
"""Commands that call nobody: they take the flags of a run only to know which job is meant."""


def run_meant(typed: Invocation, *, command: str) -> Path | None:
    """The run folder that is named by its output or itself: in the place of the job, or by `-o` alone.

    Never for `run`: a table behind it is more often meant as data than as the output of another run.
    """
    name = typed.job
    if name is None and typed.flags.keys() <= {"output"}:
        output = typed.flags.get("output")
        name = output if isinstance(output, str) else None
    return None if name is None or command == "run" else run_folder(name)


def given_before(folder: Path) -> Given | None:
    """The job of this run folder, if it has no file and nothing of it had to be left out."""
    manifest = read_manifest(RunDirectory(folder).manifest)
    kept = manifest.job.get("given") if isinstance(manifest, Manifest) else None
    return None if kept is None else Given(folder=Path(kept["folder"]), tables=kept["tables"])


def begun_with(folder: Path, *, command: str) -> Invocation | None:
    """The arguments of the last run in the folder; None where no command line began it."""
    manifest = read_manifest(RunDirectory(folder).manifest)
    before = last_invocation(manifest, output=Path.cwd() / output_of(folder))
    return before.for_readers() if before is not None and command in READERS else before


def taken_up(before: Invocation, typed: Invocation, folder: Path, *, command: str) -> Invocation:
    """The arguments of the last run, and over them what is typed beside the name of its folder.

    Raises UsageError for what was not kept, as it may be a secret, and for a second output.
    """
    other = typed.flags.get("output")
    if isinstance(other, str) and Path(other).resolve() != output_of(folder).resolve():
        raise UsageError(
            f"-o {other!r}: {typed.job!r} says already which run is meant",
            hint="leave one of them out",
        )
    flags = {flag: value for flag, value in typed.flags.items() if flag != "output"}
    named = replace(typed, job=None, flags=flags)
    meant = before.under(named)
    if hidden := {*meant.masked()} - {*named.masked()}:
        names = ", ".join(sorted(hidden))
        raise UsageError(
            f"{typed.job or other!r}: its run was told what may be a secret and is not kept: {names}",
            hint=f"say that again, or name the job that wrote it: batch-runner {command} {before}",
        )
    return meant
