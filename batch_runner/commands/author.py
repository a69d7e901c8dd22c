"""The job that wrote an output, where that output or its run folder stands in the place of a job."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from batch_runner.errors import JobError, UsageError
from batch_runner.invocation import Invocation, is_same_place, last_invocation
from batch_runner.job import Given, JobSpec
from batch_runner.journal import Manifest, RunDirectory, read_manifest
from batch_runner.run_place import SUFFIX, is_of_frame, is_table, output_of, run_folder


READERS = ("status", "export", "reparse", "convert", "report", "costs", "verify")
"""Commands that call nobody: they take the flags of a run only to know which job is meant."""


class MovedOnError(UsageError):
    """No job of today writes the output that is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meant:
    """The job that arguments mean, whether they say it or name what it wrote."""

    invocation: Invocation
    """What to type to mean it again."""
    over: Invocation
    """What is laid over `given`; without it, all that describes the job."""
    given: Given | None = None
    """A job without a file as it was at its last run: relative paths and the environment of then."""
    asked: str | None = None
    """The endpoint of the last run, where nothing typed now says which one is to be asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """The last run of a folder that is named, and the arguments that began it."""

    folder: Path
    manifest: Manifest
    invocation: Invocation

    @property
    def output(self) -> Path:
        return output_of(self.folder)

    @property
    def given(self) -> Given | None:
        kept = self.manifest.job.get("given")
        if kept is None:
            return None
        left_out = tuple(kept.get("left_out", ()))
        return Given(folder=Path(kept["folder"]), tables=kept["tables"], left_out=left_out)

    @property
    def alone(self) -> Meant:
        """Without what is typed now."""
        given = self.given
        over = self.invocation if given is None else Invocation(is_local=self.invocation.is_local)
        return Meant(invocation=self.invocation, over=over, given=given)

    @property
    def _in_words(self) -> str:
        return "a job given by flags" if self.invocation.job is None else repr(self.invocation.job)

    @property
    def _wrote(self) -> Path | None:
        """Where the output lay when it was written, if that is another place than now."""
        wrote = self.manifest.job.get("output")
        return None if wrote is None or is_same_place(Path(wrote), self.output) else Path(wrote)

    @property
    def _since(self) -> str:
        """What became of the output after it was written."""
        if self._wrote is None:
            return ""
        what = "it" if self.output.exists() else f"the folder {str(self.folder)!r}"
        return f"; since then {what} was copied or moved"

    def check_writes(self, job: JobSpec, command: str) -> None:
        """Raise MovedOnError unless `job` writes to the folder: else other rows would take its place."""
        if not is_same_place(job.run_path, self.folder):
            raise MovedOnError(
                f"{str(self.output)!r} was written by {self._in_words}, which writes "
                f"{str(job.output_path)!r} today{self._since}",
                hint=self._ways(command),
            )

    def gone(self, error: JobError, command: str) -> MovedOnError:
        """For a job that is no job any more."""
        return MovedOnError(
            f"{str(self.output)!r} was written by a job that is no longer to be read: {error}{self._since}",
            hint=self._ways(command),
        )

    def _ways(self, command: str) -> str:
        output, back = self.output, ""
        if (wrote := self._wrote) is None:
            back = "put the job file back, or " if self.invocation.job is not None else ""
        elif not output.exists():  # its folder means nothing beside no output
            home = wrote.with_name(wrote.name + SUFFIX)
            if home.parent.is_dir() and not home.exists():
                return f"put the folder back: {_mv(self.folder, home)}"
            if not is_table(output):  # as which `-o` takes it
                output = output.with_name(output.name + "".join(wrote.suffixes))
                new = output.with_name(output.name + SUFFIX)
                back = f"name the folder after an output ({_mv(self.folder, new)}), and "
        elif is_of_frame(self.invocation):
            home, now = wrote.parent, output.parent
            if home.parent.is_dir() and not home.exists():
                return f"put the folder back: {_mv(now, home)}"
            return f"make the same call of run_frame with run_dir={str(now)!r}"
        named = "JOB" if command == "convert" else f"JOB -o {shlex.quote(str(output))}"
        return f"{back}name a job for it: batch-runner {command} {named}"


def _mv(source: Path, target: Path) -> str:
    return f"mv {shlex.quote(str(source))} {shlex.quote(str(target))}"


def author_named(typed: Invocation, *, command: str) -> Author | None:
    """Of the output or run folder that is named: in the place of the job, or by `-o` alone.

    None where none is, and where nobody knows what began its run. Never for `run`: a table behind
    it is more often meant as data than as the output of another run.
    """
    name = typed.job
    if name is None and typed.flags.keys() <= {"output"}:
        output = typed.flags.get("output")
        name = output if isinstance(output, str) else None
    folder = None if name is None or command == "run" else run_folder(name)
    manifest = None if folder is None else read_manifest(RunDirectory(folder).manifest)
    if folder is None or not isinstance(manifest, Manifest):
        return None
    before = last_invocation(manifest)
    if before is not None and command in READERS:
        before = before.for_readers()
    return None if before is None else Author(folder=folder, manifest=manifest, invocation=before)


def taken_up(author: Author, typed: Invocation, *, command: str) -> Meant:
    """The arguments of the last run, and over them what is typed beside the name of its folder.

    Raises UsageError for what was not kept, as it may be a secret, and for a second output.
    """
    other = typed.flags.get("output")
    is_other = isinstance(other, str) and Path(other).resolve() != author.output.resolve()
    if is_other or replace(typed, flags={}).says("output.path"):
        what, name = f"-o {other!r}" if is_other else "--set output.path", typed.job or other
        raise UsageError(
            f"{what}: {name!r} says already which run is meant", hint="leave one of them out"
        )
    flags = {flag: value for flag, value in typed.flags.items() if flag != "output"}
    named = replace(typed, job=None, flags=flags)
    before, given = author.invocation, author.given
    meant = before.under(named)
    if given is None:
        hidden = {*meant.masked()} - {*named.masked()}
    else:
        hidden = {name for name in given.left_out if not named.says(name)}
        hidden = set() if command in READERS else hidden
    if hidden:
        names = ", ".join(sorted(hidden))
        raise UsageError(
            f"{typed.job or other!r}: its run was told what may be a secret and is not kept: {names}",
            hint=f"say that again, or name the job that wrote it: batch-runner {command} {before}",
        )
    is_said = meant.is_local or named.says("endpoint.base_url")
    return Meant(
        invocation=meant,
        over=meant if given is None else replace(named, is_local=meant.is_local),
        given=given,
        asked=None if is_said else author.manifest.extra.get("base_url"),
    )
