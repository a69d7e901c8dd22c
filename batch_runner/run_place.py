"""A run directory and what its journal is read with, by whatever name a person has at hand."""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from batch_runner.bill import Biller, biller_of, possible_tiers
from batch_runner.errors import InputError, UsageError
from batch_runner.invocation import Invocation, last_invocation, meant_by
from batch_runner.job import META_SUFFIX, JobSpec, PriceSpec
from batch_runner.journal import DamagedManifest, Manifest, RunDirectory, read_manifest
from batch_runner.pricing import PriceBook
from batch_runner.tables.formats import format_of


SUFFIX = ".run"
FRAME_INPUT = "frame.jsonl"
FRAME_OUTPUT = "output.jsonl"
"""What `run_frame` writes in its run_dir; nobody else has a job from the one to the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlace:
    """Where a job's runs write to, and what their calls cost."""

    job: str
    """The job's name."""
    path: Path
    """The run directory; there need not be one yet."""
    biller: Biller
    invocation: str | None = None
    """What to type behind a command to mean the last run, else the job; None where nobody knows."""
    today: JobSpec | None = None
    """The job as it is described now, with the flags of its last run, where that is at hand."""
    alone: JobSpec | None = None
    """Likewise, but without those flags."""
    moved_on: str = ""
    """Why there is no such job any more that writes here, in words."""

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory(self.path)


def place_of_job(job: JobSpec) -> RunPlace:
    manifest = read_manifest(RunDirectory(job.run_path).manifest)
    return RunPlace(
        job=job.name,
        path=job.run_path,
        biller=biller_of(job, before=last_prices(manifest)),
        invocation=meant_by(job, manifest),
        today=job,
    )


def last_prices(manifest: Manifest | DamagedManifest | None) -> Mapping[str, PriceSpec]:
    """What the runs were told of prices, as by `--local`, which makes them nothing."""
    if not isinstance(manifest, Manifest):
        return {}
    return {model: _price(fields) for model, fields in manifest.extra.get("prices", {}).items()}


def run_folder(name: str) -> Path | None:
    """The run directory of an output or of `run_frame`, or the one that is named itself; None: none.

    The one rule by which every command finds a run that is named by what it wrote.
    """
    path = Path(name)
    if path.name in ("", ".."):  # a folder's own name is not in these
        path = Path(os.path.realpath(name))
    if is_written(path):
        return path.with_name(path.name + SUFFIX)
    here = RunDirectory(path)
    is_named_so = path.suffix == SUFFIX and here.manifest.exists()
    if is_named_so or _is_folder(here.segments):
        return path
    of_frame = path / FRAME_OUTPUT
    return of_frame.with_name(FRAME_OUTPUT + SUFFIX) if is_written(of_frame) else None


def is_written(output: Path) -> bool:
    """A run wrote there, or was about to: its run directory lies beside."""
    return bool(output.name) and _is_folder(output.with_name(output.name + SUFFIX))


def _is_folder(path: Path) -> bool:
    """Raises PermissionError where nobody may look: that there is none would be a guess."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def place_named(name: str) -> RunPlace | None:
    """The run of an output file or a run directory; None for a name that may be a job file's.

    Raises UsageError for a file or folder that no run has to do with.
    """
    if (folder := run_folder(name)) is not None:
        return remembered(folder)
    path = Path(name)
    hint = f"name the job file, its output, or the output's {SUFFIX} folder"
    if path.is_dir():
        raise UsageError(f"{name!r} is no run directory: it holds no journal", hint=hint)
    if path.suffix == SUFFIX or is_table(path):
        there = "" if path.exists() else "; nor is there a file of that name"
        beside = path.name + SUFFIX
        if path.with_name(path.name + META_SUFFIX).exists():
            raise UsageError(
                f"the journal of {name!r} is gone: there is no {beside!r} beside it",
                hint=f"put {beside!r} back; status of its job file says what a run would do without",
            )
        raise UsageError(
            f"no run has written to {name!r}: there is no {beside!r} beside it{there}",
            hint=f"{hint}; before its first run only the job file will do, also for status --watch",
        )
    return None


def is_of_frame(invocation: Invocation) -> bool:
    """`run_frame` described the job: its input is written anew by each call."""
    output, inputs = invocation.flags.get("output"), invocation.flags.get("input")
    if invocation.job is not None or not isinstance(output, str) or not isinstance(inputs, list):
        return False
    path = Path(output)
    return path.name == FRAME_OUTPUT and [*map(Path, inputs)] == [path.with_name(FRAME_INPUT)]


def output_of(folder: Path) -> Path:
    """Where the output of a run directory lies."""
    return folder.with_name(folder.name.removesuffix(SUFFIX))


def remembered(path: Path) -> RunPlace:
    """A run directory whose job file nobody named: its manifest keeps name and prices."""
    path = Path(os.path.abspath(path))  # noqa: PTH100  # without dots, as the shortcut names segments
    manifest = read_manifest(RunDirectory(path).manifest)
    if not isinstance(manifest, Manifest):
        return RunPlace(job=path.name.removesuffix(SUFFIX), path=path, biller=Biller(PriceBook({})))
    extra = manifest.extra
    prices = last_prices(manifest)
    base_url = extra.get("base_url")
    tiers = possible_tiers(extra.get("service_tier"))
    typed = last_invocation(manifest, output=output_of(path))
    return RunPlace(
        job=manifest.job["name"],
        path=path,
        biller=Biller(PriceBook(prices, base_url=base_url), tiers=tiers),
        invocation=None if typed is None else str(typed),
    )


def _price(fields: Mapping[str, str | None]) -> PriceSpec:
    return PriceSpec(**{name: Decimal(rate) for name, rate in fields.items() if rate is not None})


def is_table(path: Path) -> bool:
    """By its name, which a format goes by."""
    try:
        format_of(path)
    except InputError:
        return False
    return True
