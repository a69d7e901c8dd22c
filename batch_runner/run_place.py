"""A run directory and what its journal is read with, by whatever name a person has at hand."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from batch_runner.bill import Biller, biller_of, possible_tiers
from batch_runner.errors import InputError, UsageError
from batch_runner.job import JobSpec, PriceSpec
from batch_runner.journal import DamagedManifest, Manifest, RunDirectory, read_manifest
from batch_runner.pricing import PriceBook
from batch_runner.tables.formats import format_of


SUFFIX = ".run"


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

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory(self.path)


def place_of_job(job: JobSpec) -> RunPlace:
    manifest = read_manifest(RunDirectory(job.run_path).manifest)
    return RunPlace(
        job=job.name,
        path=job.run_path,
        biller=biller_of(job, before=last_prices(manifest)),
        invocation=last_invocation(manifest, output=job.output_path) or job.invocation,
    )


def last_invocation(
    manifest: Manifest | DamagedManifest | None, *, output: Path | None = None
) -> str | None:
    """What to type behind a command to mean the last run: its endpoint, its model, its output.

    The job file alone may name others, which cost money. Paths are as they were typed where that
    means the same here; `output` is where the output lies now, if it was moved. None where no
    command line began that run.
    """
    typed = manifest.job.get("typed") if isinstance(manifest, Manifest) else None
    if not isinstance(manifest, Manifest) or not typed:
        return None
    folder = Path(manifest.job.get("typed_in") or Path.cwd())
    words = shlex.split(typed)
    for at, word in enumerate(words):
        flag = words[at - 1] if at else "JOB"
        if flag == "--output" and output is not None and output != folder / word:
            words[at] = str(output)
        elif folder == Path.cwd():
            continue
        elif flag in ("--input", "--output") or (not at and not word.startswith("-")):
            words[at] = str(folder / word)
    return shlex.join(words)


def last_prices(manifest: Manifest | DamagedManifest | None) -> Mapping[str, PriceSpec]:
    """What the runs were told of prices, as by `--local`, which makes them nothing."""
    if not isinstance(manifest, Manifest):
        return {}
    return {model: _price(fields) for model, fields in manifest.extra.get("prices", {}).items()}


def place_named(name: str) -> RunPlace | None:
    """The run of an output file or a run directory; None for a name that may be a job file's.

    Raises UsageError for a file or folder that no run has to do with.
    """
    path = Path(name)
    beside = path.with_name(path.name + SUFFIX) if path.name else path
    if beside != path and beside.is_dir():
        return remembered(beside)
    if path.is_dir():
        if not (path / "journal").is_dir():
            raise UsageError(
                f"{name!r} is no run directory: it holds no journal",
                hint=f"name the job file, its output, or the output's {SUFFIX} folder",
            )
        return remembered(path)
    if path.suffix == SUFFIX or _is_table(path):
        there = "" if path.exists() else "; nor is there a file of that name"
        raise UsageError(
            f"no run has written to {name!r}: there is no {beside.name!r} beside it{there}",
            hint=f"name the job file, its output, or the output's {SUFFIX} folder",
        )
    return None


def run_folder(name: str) -> Path | None:
    """The run directory of an output, or the one that is named itself; None where there is none."""
    path = Path(name)
    for folder in ([path.with_name(path.name + SUFFIX)] if path.name else []) + [path]:
        if (folder / "journal").is_dir():
            return folder
    return None


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
    return RunPlace(
        job=manifest.job["name"],
        path=path,
        biller=Biller(PriceBook(prices, base_url=base_url), tiers=tiers),
        invocation=last_invocation(manifest, output=path.with_name(path.name.removesuffix(SUFFIX))),
    )


def _price(fields: Mapping[str, str | None]) -> PriceSpec:
    return PriceSpec(**{name: Decimal(rate) for name, rate in fields.items() if rate is not None})


def _is_table(path: Path) -> bool:
    try:
        format_of(path)
    except InputError:
        return False
    return True
