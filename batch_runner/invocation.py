"""The arguments that mean a job: kept with each run, to be typed again or taken up where they mean it."""

import argparse
import json
import os
import re
import shlex
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from batch_runner.job import JobSpec
from batch_runner.jobfile import KEYS_OF_FLAGS, Overrides, flag_of, from_here, steps_of
from batch_runner.jobmapping import PATH_KEYS, placed
from batch_runner.journal import DamagedManifest, Manifest
from batch_runner.logs import here
from batch_runner.redact import MASK, holds_secret_names, names_a_secret, without_passwords


PATH_FLAGS = ("input", "output")
_SECRET_SETTINGS = (("endpoint", "proxy"), ("request", "tools"))
"""Besides those whose names say so."""
_LIMITS = "limits."
_OF_A_CALL = "endpoint"
"""The table whose values matter to nobody who makes no call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """What stands behind a command to say which job is meant."""

    job: str | None = None
    """The job file; None where flags alone describe the job."""
    flags: Mapping[str, str | list[str]] = field(default_factory=dict)
    """Of `KEYS_OF_FLAGS`, those that were typed, or would say what Python said."""
    settings: tuple[str, ...] = ()
    """`--set`, in the order in which they are laid over each other."""
    is_local: bool = False

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "Invocation":
        flags = {flag: getattr(arguments, flag, None) for flag in KEYS_OF_FLAGS}
        return cls(
            job=arguments.job,
            flags={flag: value for flag, value in flags.items() if value is not None},
            settings=tuple(arguments.settings),
            is_local=getattr(arguments, "local", False),
        )

    @classmethod
    def of_overrides(cls, job: str | None, overrides: Overrides) -> "Invocation | None":
        """What to type for a job that Python describes; None where no words say it."""
        flags: dict[str, str | list[str]] = {}
        settings = [*overrides.settings]
        for key, value in overrides.flags.items():
            if value is None and (job is None or key.startswith(_LIMITS)):
                continue  # nothing is taken away; or a limit of the job file is kept
            flag = flag_of(key)
            seen = _plain(from_here(key, value))
            if flag == "input" and isinstance(seen, list):
                flags[flag] = [str(item) for item in seen]
            elif flag is not None and isinstance(seen, str | int | float):
                flags[flag] = str(seen)
            elif (setting := _as_setting(key, seen)) is not None:
                settings.append(setting)
            elif job is not None:  # without a file, `JobSpec.given` keeps what no words say
                return None
        return cls(job=job, flags=flags, settings=tuple(settings))

    @classmethod
    def read(cls, text: str) -> "Invocation | None":
        """The one that `str` made; None for words of another batch_runner."""
        words = iter(shlex.split(text))
        job: str | None = None
        flags: dict[str, str | list[str]] = {}
        settings: list[str] = []
        is_local = False
        for at, word in enumerate(words):
            flag = word.removeprefix("--").replace("-", "_")
            if not at and not word.startswith("-"):
                job = word
            elif word == "--local":
                is_local = True
            elif word == "--set":
                settings.append(next(words, ""))
            elif flag == "input":
                flags[flag] = [*flags.get(flag, ()), next(words, "")]
            elif flag in KEYS_OF_FLAGS:
                flags[flag] = next(words, "")
            else:
                return None
        return cls(job=job, flags=flags, settings=tuple(settings), is_local=is_local)

    def __str__(self) -> str:
        """Ready to be typed, and without secrets: what may be one is masked."""
        words = [self.job] if self.job else []
        for flag in KEYS_OF_FLAGS:
            value = self.flags.get(flag, [])
            for item in value if isinstance(value, list) else [value]:
                words += [f"--{flag.replace('_', '-')}", item]
        words += ["--local"] if self.is_local else []
        words = [*map(without_passwords, words)]
        for setting in self.settings:
            masked = f"{setting.partition('=')[0]}={MASK}"
            is_secret = _may_be_secret(setting)
            words += ["--set", masked if is_secret else without_passwords(setting)]
        return shlex.join(words)

    def seen_here(self, folder: Path) -> "Invocation":
        """As it was typed in `folder`, with paths that mean the same in this one."""
        present = here()

        def seen(path: str) -> str:
            if str(folder) == present and not Path(path).is_absolute():
                return path
            whole = Path(placed(folder, path))
            is_below = present and whole.is_relative_to(present)
            return str(whole.relative_to(present) if is_below else whole)

        flags: dict[str, str | list[str]] = dict(self.flags)
        if isinstance(paths := flags.get("input"), list):
            flags["input"] = [seen(path) for path in paths]
        if isinstance(path := flags.get("output"), str):
            flags["output"] = seen(path)
        if self.job is not None:  # what `--set` says is seen from the folder of that file
            return replace(self, job=seen(self.job), flags=flags)
        settings = (_with_paths(setting, seen) for setting in self.settings)
        return replace(self, flags=flags, settings=tuple(settings))

    def under(self, typed: "Invocation") -> "Invocation":
        """This one with what was typed now laid over it, by whatever flag or `--set` it says it."""
        said = {KEYS_OF_FLAGS[flag] for flag in typed.flags}
        said |= typed.keys_set()
        rest = self.without(said)
        stays_local = self.is_local and "endpoint.base_url" not in said
        return replace(
            rest,
            flags={**rest.flags, **typed.flags},
            settings=(*rest.settings, *typed.settings),
            is_local=typed.is_local or stays_local,
        )

    def without(self, keys: Collection[str]) -> "Invocation":
        """This one, but for the flags and settings that say one of the keys, or part of one."""
        flags = {
            flag: value
            for flag, value in self.flags.items()
            if not _is_under(KEYS_OF_FLAGS[flag], keys)
        }
        settings = [setting for setting in self.settings if not _is_under(_key(setting), keys)]
        return replace(self, flags=flags, settings=tuple(settings))

    @property
    def says_only_where(self) -> bool:
        """Nothing is asked for but, perhaps, another output."""
        return self.flags.keys() <= {"output"} and not (self.settings or self.is_local)

    def keys_set(self) -> set[str]:
        """What `--set` says, whatever way the keys are spelled."""
        return {_key(setting) for setting in self.settings}

    def says(self, key: str) -> bool:
        """A flag or `--set` gives the key, or all of a table that it stands in."""
        return _is_under(key, {*self.keys_set(), *(KEYS_OF_FLAGS[flag] for flag in self.flags)})

    def for_readers(self) -> "Invocation":
        """Without what was masked and only a call would need."""
        kept = [
            setting
            for setting in self.settings
            if MASK not in setting or not _is_under(_key(setting), (_OF_A_CALL,))
        ]
        return replace(self, settings=tuple(kept))

    def masked(self) -> Iterator[str]:
        """The names of what was not kept, as it may be a secret."""
        for flag, value in self.flags.items():
            if any(MASK in item for item in (value if isinstance(value, list) else [value])):
                yield f"--{flag.replace('_', '-')}"
        yield from (setting.partition("=")[0] for setting in self.settings if MASK in setting)


def _with_paths(setting: str, here: Callable[[str], str]) -> str:
    """The setting with its paths made others, if it says some."""
    key = _key(setting)
    if key not in PATH_KEYS:
        return setting
    value = _value(setting)
    paths = [here(str(path)) for path in (value if isinstance(value, list) else [value])]
    return f"{key}={json.dumps(paths if isinstance(value, list) else paths[0])}"


def _may_be_secret(setting: str) -> bool:
    """By the names in it; a table that is no TOML is looked at as text."""
    steps, value = steps_of(setting.partition("=")[0]), _value(setting)
    if tuple(steps[:2]) in _SECRET_SETTINGS or any(map(names_a_secret, steps)):
        return True
    if isinstance(value, str) and value.startswith(("{", "[")):
        return any(map(names_a_secret, re.split(r"[^\w-]+", value)))
    return holds_secret_names(value)


def _plain(value: Any) -> Any:
    """A value of Python as TOML would have given it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [*map(_plain, value)]
    return str(value) if isinstance(value, Path | Decimal) else value


def _as_setting(key: str, value: Any) -> str | None:
    """What `--set` takes for it; None where that does not say the same."""
    try:
        setting = f"{key}={_toml(value)}"
    except (TypeError, ValueError):
        return None
    name, _, text = setting.partition("=")
    return setting if name == key and "." in key and _value(f"={text}") == value else None


def _toml(value: Any) -> str:
    """Raises TypeError or ValueError for what it has no word for."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{json.dumps(key)} = {_toml(value[key])}' for key in value)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if value is None:
        raise ValueError("TOML has no null")
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _value(setting: str) -> Any:
    """As a job has it: TOML, else text."""
    text = setting.partition("=")[2].strip()
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _key(setting: str) -> str:
    return ".".join(steps_of(setting.partition("=")[0]))


def _is_under(key: str, others: Iterable[str]) -> bool:
    """It is one of them, or part of one."""
    return any(key == other or key.startswith(f"{other}.") for other in others)


def last_invocation(
    manifest: Manifest | DamagedManifest | None, *, output: Path | None = None
) -> Invocation | None:
    """The one that means the last run: its endpoint, its model, its output.

    The job file alone may name others, which cost money. `output` is where the output lies now.
    None where no command line began that run.
    """
    typed = manifest.job.get("typed") if isinstance(manifest, Manifest) else None
    found = Invocation.read(typed) if typed else None
    if not isinstance(manifest, Manifest) or found is None:
        return None
    found = found.seen_here(Path(manifest.job.get("typed_in") or here()))
    wrote = manifest.job.get("output")
    if output is not None and wrote is not None and not is_same_place(output, Path(wrote)):
        return replace(found, flags={**found.flags, "output": str(output)})
    return found


def meant_by(job: JobSpec, manifest: Manifest | DamagedManifest | None) -> str:
    """What to type to mean the last run of a job that somebody named.

    A run that another job file began, as in the folder that this one was copied from, is not that of
    the job that was named: its input is another, even where the output is the same.
    """
    before = last_invocation(manifest, output=job.output_path)
    named = Invocation.read(job.invocation)
    if before is None:
        return job.invocation
    file = None if named is None else named.job
    is_of_another = file is not None and (
        before.job is None or not is_same_place(Path(before.job), Path(file))
    )
    return job.invocation if is_of_another else str(before)


def is_same_place(one: Path, other: Path) -> bool:
    """Links looked through; neither need be there."""
    return os.path.realpath(one) == os.path.realpath(other)
