"""Reads a job file, lays environment and flags over it, and reads the files it refers to."""

import difflib
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batch_runner import hosts
from batch_runner.errors import JobError, UsageError
from batch_runner.job import DEFAULT_BASE_URL, JobSpec
from batch_runner.jobmapping import job_from_mapping
from batch_runner.values import looks_like_a_key


DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"
URL_VARIABLE = "OPENAI_BASE_URL"
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
    """Job key such as `limits.rpm` -> value; None takes the key away. Paths mean the current folder."""
    settings: Sequence[str] = ()
    """`--set table.key=value`, values as in TOML, bare words as text. Paths mean the job's folder."""


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
        tables, origin, folder, name = {}, "command line", Path.cwd(), ""
    else:
        file = Path(path)
        tables, origin, folder, name = _toml(file), str(path), file.absolute().parent, file.stem
    inherited = _from_environment(environment)
    settings = dict(map(_setting, overrides.settings))
    for values in (
        inherited,
        settings,
        {key: _from_here(key, value) for key, value in overrides.flags.items()},
    ):
        _lay(tables, values)
    _default_base_url(tables, environment)
    _read_files(tables, origin=origin, folder=folder)
    return job_from_mapping(
        tables,
        origin=origin,
        folder=folder,
        default_name=name or _output_stem(tables),
        given_by={key: ENVIRONMENT_PREFIX + _flag(key).upper() for key in inherited}
        | dict.fromkeys(settings, "--set")
        | {key: f"--{_flag(key).replace('_', '-')}" for key in overrides.flags},
    )


def _flag(key: str) -> str:
    """The flag that gives a job key, with underscores."""
    return next((flag for flag, its_key in KEYS_OF_FLAGS.items() if its_key == key), key)


def api_key(job: JobSpec, environment: Mapping[str, str] = os.environ) -> str | None:
    """The key to send: None only for an endpoint on this machine that names no variable.

    Raises UsageError for a key that is missing or cannot be sent. Never repeats it.
    """
    name = job.endpoint.api_key_env
    if name is None:
        name = DEFAULT_KEY_VARIABLE
        owned = _owns_default_key(job.endpoint.base_url, environment)
        if job.endpoint.is_local and not (owned and environment.get(name, "").strip()):
            return None
        if not owned:
            raise UsageError(
                f"{job.origin}: endpoint.api_key_env: missing: {job.endpoint.base_url} is not the "
                f"default host, so it is not sent {name} unless the job says so",
                hint='name the variable that holds its key: api_key_env = "..." under [endpoint]',
            )
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


def key_source(job: JobSpec, key: str | None) -> str:
    """Where `key` came from, for people."""
    if key is None:
        return "no key"
    return f"key from {job.endpoint.api_key_env or DEFAULT_KEY_VARIABLE}"


def _owns_default_key(url: str, environment: Mapping[str, str]) -> bool:
    """The default key belongs to this URL: it is the default, or stands in the environment too."""
    if url == DEFAULT_BASE_URL:
        return True
    try:
        return url == hosts.base_url(environment.get(URL_VARIABLE, ""))
    except ValueError:
        return False


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        raise JobError(f"{file}: not TOML: {error}") from None
    except UnicodeDecodeError as error:
        raise JobError(f"{file}: not UTF-8 text: {error.reason} at byte {error.start}") from None
    except FileNotFoundError:
        raise JobError(f"{file}: no such job file", hint=_near_file(file)) from None
    except OSError as error:
        raise JobError(f"{file}: cannot be read: {error.strerror}") from None


def _near_file(missing: Path) -> str:
    there = [file.name for file in missing.parent.glob("*.toml")] if missing.parent.is_dir() else []
    if near := difflib.get_close_matches(missing.name, there, n=1, cutoff=0.8):
        return f"did you mean {missing.parent / near[0]}?"
    return "batch-runner init FILE writes one"


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    values = {}
    for flag, key in KEYS_OF_FLAGS.items():
        if value := environment.get(ENVIRONMENT_PREFIX + flag.upper()):
            values[key] = _from_here(key, value)
    return values


def _from_here(key: str, value: Any) -> Any:
    """Paths that were typed or exported mean the current folder, not the job file's."""
    if key not in _PATH_KEYS or value is None:
        return value
    if isinstance(value, list):
        return [_from_here(key, item) for item in value]
    return str(Path.cwd() / Path(value).expanduser())


def _setting(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not separator or "." not in key or not all(key.split(".")):
        shown = key if separator else "..." if any(map(looks_like_a_key, text.split())) else text
        raise UsageError(f"--set {shown!r}: must look like table.key=value")
    if looks_like_a_key(value.strip("\"'")):
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
        *path, last = _steps(key)
        table: Any = tables
        for name in path:
            table = table.setdefault(name, {}) if isinstance(table, dict) else None
        if not isinstance(table, dict):
            raise JobError(f"{key}: {'.'.join(path)} is a value, not a table")
        if value is None:
            table.pop(last, None)
            continue
        table[last] = value
        if key == "prompt.input":
            for rival in ("input_file", "messages", "body"):
                table.pop(rival, None)


def _steps(key: str) -> list[str]:
    """The parts of a dotted key; a part with dots of its own stands in quotes, as in TOML."""
    table: Any
    try:
        table = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return key.split(".")
    steps: list[str] = []
    while isinstance(table, dict):
        [(name, table)] = table.items()
        steps.append(name)
    return steps


def _default_base_url(tables: dict[str, Any], environment: Mapping[str, str]) -> None:
    endpoint = tables.setdefault("endpoint", {})
    if isinstance(endpoint, dict) and (url := environment.get(URL_VARIABLE)):
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
        if "schema" in schema:
            raise JobError(f"{origin}: json: both schema and schema_file are given")
        try:
            schema["schema"] = json.loads(_text_of(folder / name, place))
        except ValueError as error:
            raise JobError(f"{place}: {name!r} is not JSON: {error}") from None


def _text_of(file: Path, place: str) -> str:
    try:
        return file.expanduser().read_text(encoding="utf-8-sig")
    except OSError as error:
        raise JobError(f"{place}: {str(file)!r} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise JobError(f"{place}: {str(file)!r} is not UTF-8 text") from None


def _output_stem(tables: Mapping[str, Any]) -> str:
    """What a job without a file is called after."""
    output = tables.get("output")
    path = output.get("path") if isinstance(output, Mapping) else None
    return Path(path).stem if isinstance(path, str) else "job"
