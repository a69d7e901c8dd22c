"""Reads a job file, lays environment and flags over it, and reads the files it refers to."""

import difflib
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batch_runner.errors import JobError, UsageError
from batch_runner.job import (
    DEFAULT_BASE_URL,
    DEFAULT_KEY_VARIABLE,
    JobSpec,
    WrongValueError,
    base_url,
    job_from_mapping,
    looks_like_a_key,
)
from batch_runner.transport import is_loopback


ENVIRONMENT_PREFIX = "BATCH_RUNNER_"

KEYS_OF_FLAGS: Mapping[str, str] = {
    "input": "input.path",
    "output": "output.path",
    "model": "request.model",
    "prompt": "prompt.input",
    "base_url": "endpoint.base_url",
    "concurrency": "limits.concurrency",
    "rpm": "limits.rpm",
    "tpm": "limits.tpm",
    "max_cost": "limits.max_cost",
    "max_errors": "limits.max_errors",
    "deadline": "limits.deadline",
    "grace": "limits.grace",
}
"""Flag (with underscores) -> the job key it overrides; the environment has the same names."""

_PATH_KEYS = ("input.path", "output.path")


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What was typed beside the job file."""

    flags: Mapping[str, Any] = field(default_factory=dict)
    """Job key such as `limits.rpm` -> value; relative paths mean the current folder."""
    settings: Sequence[str] = ()
    """`--set table.key=value`, values as in TOML, bare words as text."""


_NONE = Overrides()


def load_job(
    path: str | Path | None,
    overrides: Overrides = _NONE,
    *,
    environment: Mapping[str, str] = os.environ,
) -> JobSpec:
    """The job in `path` with environment, `--set` and flags laid over it, in that order.

    Without a path the flags alone must describe the job. Raises JobError, naming file, key and
    value, when anything is missing, unknown or wrong.
    """
    if path is None:
        tables, origin, folder, name = {}, "command line", Path.cwd(), _flag_name(overrides)
    else:
        file = Path(path)
        tables, origin, folder, name = _toml(file), str(path), file.absolute().parent, file.stem
    _lay(tables, _from_environment(environment))
    for setting in overrides.settings:
        _lay(tables, dict([_setting(setting)]))
    _lay(tables, overrides.flags)
    _default_base_url(tables, environment)
    _read_files(tables, origin=origin, folder=folder)
    return job_from_mapping(tables, origin=origin, folder=folder, default_name=name)


def api_key(job: JobSpec, environment: Mapping[str, str] = os.environ) -> str | None:
    """The key to send: None only for an endpoint on this machine that names no variable.

    Raises UsageError for a key that is missing or cannot be sent. Never repeats it.
    """
    name = job.endpoint.api_key_env
    if name is None:
        name = DEFAULT_KEY_VARIABLE
        if not _may_have_default_key(job, environment):
            if is_loopback_url(job.endpoint.base_url):
                return None
            raise UsageError(
                f"{job.origin}: endpoint.api_key_env: missing: {job.endpoint.base_url} is not the "
                f"default host, so it is not sent {name} unless the job says so",
                hint='name the variable that holds its key: api_key_env = "..." under [endpoint]',
            )
        if name not in environment and is_loopback_url(job.endpoint.base_url):
            return None
    key = environment.get(name, "").strip()
    if not key:
        state = "empty" if name in environment else "not set"
        raise UsageError(
            f"the environment variable {name} is {state}", hint=f"export {name}=..., then run again"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(
            f"the key in {name} holds white space, control or non-ASCII characters (value not shown)",
            hint="was something else pasted with it?",
        )
    return key


def is_loopback_url(url: str) -> bool:
    host = url.split("://", 1)[-1].split("/", 1)[0]
    host = host[1:].split("]")[0] if host.startswith("[") else host.rsplit(":", 1)[0]
    return is_loopback(host)


def _may_have_default_key(job: JobSpec, environment: Mapping[str, str]) -> bool:
    """True when the default key belongs to the host: nobody but its owner chose the URL."""
    chosen = job.endpoint.base_url
    own = environment.get("OPENAI_BASE_URL")
    return chosen == DEFAULT_BASE_URL or (own is not None and _same_url(own, chosen))


def _same_url(raw: str, url: str) -> bool:
    try:
        return base_url(raw) == url
    except WrongValueError:
        return False


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise JobError(f"{file}: not TOML: {error}") from None
    except UnicodeDecodeError as error:
        raise JobError(f"{file}: not UTF-8 text: {error.reason} at byte {error.start}") from None
    except FileNotFoundError:
        near = difflib.get_close_matches(
            file.name,
            [p.name for p in file.parent.glob("*.toml")] if file.parent.is_dir() else [],
            n=1,
        )
        hint = (
            f"did you mean {file.parent / near[0]}?"
            if near
            else "batch-runner init FILE writes one"
        )
        raise JobError(f"{file}: no such job file", hint=hint) from None
    except OSError as error:
        raise JobError(f"{file}: cannot be read: {error.strerror}") from None


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    values = {}
    for flag, key in KEYS_OF_FLAGS.items():
        name = ENVIRONMENT_PREFIX + flag.upper()
        if value := environment.get(name):
            values[key] = str(Path.cwd() / value) if key in _PATH_KEYS else value
    return values


def _setting(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    key = key.strip()
    if not separator or "." not in key:
        raise UsageError(f"--set {text!r}: must look like table.key=value")
    if looks_like_a_key(value.strip().strip("\"'")):
        raise UsageError(
            f"--set {key}: the value looks like a secret (not shown)",
            hint="keys belong in an environment variable named by endpoint.api_key_env",
        )
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def _lay(tables: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Put `table.key` values over what is there; None takes away what is there."""
    for key, value in values.items():
        *path, last = key.split(".")
        table: Any = tables
        for name in path:
            table = table.setdefault(name, {}) if isinstance(table, dict) else None
        if not isinstance(table, dict):
            raise UsageError(f"--set {key}: {'.'.join(path)} is a value, not a table")
        if value is None:
            table.pop(last, None)
            continue
        table[last] = value
        if key == "prompt.input":
            for rival in ("input_file", "messages", "body"):
                table.pop(rival, None)


def _default_base_url(tables: dict[str, Any], environment: Mapping[str, str]) -> None:
    endpoint = tables.setdefault("endpoint", {})
    if isinstance(endpoint, dict) and (url := environment.get("OPENAI_BASE_URL")):
        endpoint.setdefault("base_url", url)


def _read_files(tables: dict[str, Any], *, origin: str, folder: Path) -> None:
    """Put what prompt.input_file and json.schema_file hold into their tables."""
    prompt, schema = tables.get("prompt"), tables.get("json")
    if isinstance(prompt, dict) and isinstance(name := prompt.get("input_file"), str):
        if "input" in prompt:
            raise JobError(f"{origin}: prompt: both input and input_file are given")
        prompt["input"] = _text_of(folder / name, f"{origin}: prompt.input_file")
    if isinstance(schema, dict) and isinstance(name := schema.get("schema_file"), str):
        place = f"{origin}: json.schema_file"
        try:
            schema["schema"] = json.loads(_text_of(folder / name, place))
        except ValueError as error:
            raise JobError(f"{place}: {name!r} is not JSON: {error}") from None


def _text_of(file: Path, place: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise JobError(f"{place}: {str(file)!r} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise JobError(f"{place}: {str(file)!r} is not UTF-8 text") from None


def _flag_name(overrides: Overrides) -> str:
    output = overrides.flags.get("output.path")
    return Path(str(output)).stem if output else "job"
