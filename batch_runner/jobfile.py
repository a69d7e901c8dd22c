"""Reads a job file, lays environment and flags over it, and reads the files it refers to."""

import copy
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from batch_runner.errors import JobError, UsageError
from batch_runner.job import COMMAND_LINE, URL_VARIABLE, Given, JobSpec, giver
from batch_runner.jobmapping import job_from_mapping, placed
from batch_runner.printable import printable
from batch_runner.redact import holds_secret_names, names_a_secret, without_passwords
from batch_runner.spelling import nearest
from batch_runner.values import looks_like_a_key


ENVIRONMENT_PREFIX = "BATCH_RUNNER_"
SETTINGS_VARIABLE = f"{ENVIRONMENT_PREFIX}SET"
"""Holds what `--set` takes, one setting a line."""

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

_SHOWN_AROUND = 60
"""Characters of a line that is no TOML, before and after the place."""
_TOML_HINTS = {
    "Invalid value": 'text stands in quotes: name = "..."',
    "Unescaped '\\'": "in single quotes a backslash stands for itself: path = 'C:\\data\\in.csv'",
    "Unterminated string": 'a text of several lines stands between """ and """',
    "twice": "put the keys of both under one heading",
}
"""Words of tomllib -> what newcomers to TOML need to know."""
_MAY_BE_SECRET = re.compile(r"(?i)api.?key|authori[sz]ation|passw|secret|://[^/\s]*@")
"""In a line of a job file that is shown: nothing of it, then."""
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
    environment: Mapping[str, str] | None = None,
    given: Given | None = None,
    origin: str = COMMAND_LINE,
) -> JobSpec:
    """The job in `path` with environment, `--set` and flags laid over it, in that order.

    No `environment` means that of the process: as a default, `help()` would print its secrets.
    Without a path the flags alone must describe the job, or lie over `JobSpec.given` of one that
    was described so before. `origin` says whose words the overrides are. Raises JobError, naming
    file, key and value, when anything is missing, unknown or wrong.
    """
    environment = os.environ if environment is None else environment
    if path is None:
        tables, described, folder, name = {}, origin, Path.cwd(), ""
        if given is not None:
            tables, folder = copy.deepcopy(dict(given.tables)), given.folder
    else:
        file = Path(path)
        tables, described, folder, name = _toml(file), str(path), file.absolute().parent, file.stem
    given_by: dict[str, str] = {}
    written = _output(tables)
    # What is given again had been laid over the environment of its time, flags and all.
    environment = environment if given is None else {}
    for key, value, who in _laid_over(overrides, environment, origin=origin):
        _lay(tables, key, value, who=who)
        given_by[_spelled(key)] = who
    _report_beside(tables, written, folder=folder, given_by=given_by)
    _default_base_url(tables, environment, given_by)
    kept = _kept(tables, folder) if path is None else None
    _read_files(tables, origin=described, folder=folder, given_by=given_by)
    job = job_from_mapping(
        tables,
        origin=described,
        folder=folder,
        default_name=name or _output_stem(tables),
        given_by=given_by,
    )
    return replace(job, given=kept)


def _kept(tables: Mapping[str, Any], folder: Path) -> Given | None:
    """The tables without what only a call needs; None if a secret may be in them all the same."""
    endpoint, left_out = tables.get("endpoint"), list[str]()
    if isinstance(endpoint, Mapping):
        public = {
            key: value
            for key, value in endpoint.items()
            if key != "proxy" and not names_a_secret(key)
        }
        for key in endpoint.keys() - public.keys():
            value = endpoint[key]
            parts = [f".{part}" for part in value] if isinstance(value, Mapping) else [""]
            left_out += [f"endpoint.{key}{part}" for part in parts]
        tables = {**tables, "endpoint": public}
    text = json.dumps(tables, default=str)
    if holds_secret_names(tables) or _has_secrets(tables) or without_passwords(text) != text:
        return None
    return Given(folder=folder, tables=json.loads(text), left_out=tuple(sorted(left_out)))


def _has_secrets(value: Any) -> bool:
    """Each text is looked at by itself: the escapes of JSON would hide what it begins with."""
    if isinstance(value, Mapping):
        return any(map(_has_secrets, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_secrets, value))
    text = str(value)
    return without_passwords(text) != text


def _laid_over(
    overrides: Overrides, environment: Mapping[str, str], *, origin: str
) -> Iterator[tuple[str, Any, str]]:
    """Key, value and who gave it, in the order in which they are laid over the job file."""
    for line in environment.get(SETTINGS_VARIABLE, "").splitlines():
        if line.strip():
            yield *_setting(line, who=SETTINGS_VARIABLE), SETTINGS_VARIABLE
    for flag, key in KEYS_OF_FLAGS.items():
        variable = ENVIRONMENT_PREFIX + flag.upper()
        if value := environment.get(variable):
            yield key, from_here(key, value), variable
    is_typed = origin == COMMAND_LINE
    who = "--set" if is_typed else origin
    for text in overrides.settings:
        yield *_setting(text, who=who), who
    for key, value in overrides.flags.items():
        said_by = flag_of(key) if is_typed else None
        giver_of_it = f"--{said_by.replace('_', '-')}" if said_by else origin
        yield key, from_here(key, value), giver_of_it


def flag_of(key: str) -> str | None:
    """Of `KEYS_OF_FLAGS`, the one that says the key."""
    return next((flag for flag, its_key in KEYS_OF_FLAGS.items() if its_key == key), None)


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        hint = next((hint for words, hint in _TOML_HINTS.items() if words in str(error)), "")
        raise JobError(f"{file}: not TOML: {error}{_pointed_at(file, error)}", hint=hint) from None
    except UnicodeDecodeError as error:
        raise JobError(f"{file}: not UTF-8 text: {error.reason} at byte {error.start}") from None
    except FileNotFoundError:
        raise JobError(f"{file}: no such job file", hint=_near_file(file)) from None
    except OSError as error:
        raise JobError(f"{file}: cannot be read: {error.strerror}") from None


def _near_file(missing: Path) -> str:
    there = [file.name for file in missing.parent.glob("*.toml")] if missing.parent.is_dir() else []
    if near := nearest(missing.name, there, cutoff=0.8):
        return f"did you mean {missing.parent / near}?"
    return "batch-runner init FILE writes one"


def _pointed_at(file: Path, error: tomllib.TOMLDecodeError) -> str:
    """The line that is no TOML, and a caret under the place; nothing where it may hold a key."""
    found = re.search(r"at line (\d+), column (\d+)", str(error))
    if found is None:
        return ""
    number, column = int(found[1]), int(found[2])
    # Only a line feed ends a line of TOML, with or without a carriage return before it.
    lines = file.read_text(encoding="utf-8-sig").split("\n")
    line = lines[number - 1].rstrip("\r") if number <= len(lines) else ""
    words = re.split(r"[\s'\"=]+", line)
    if not line.strip() or _MAY_BE_SECRET.search(line) or any(map(looks_like_a_key, words)):
        return ""
    cut = max(0, column - 1 - _SHOWN_AROUND)
    line = line.replace("\t", " ")
    before, after = printable(line[cut : column - 1]), line[column - 1 : column + _SHOWN_AROUND]
    return f"\n  {before}{printable(after)}\n  {' ' * len(before)}^"


def from_here(key: str, value: Any) -> Any:
    """Paths that were typed or exported mean the current folder, not the job file's."""
    if key not in _PATH_KEYS or value is None:
        return value
    if isinstance(value, list):
        return [from_here(key, item) for item in value]
    return placed(Path.cwd(), value)


def _setting(text: str, *, who: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not separator or "." not in key or not all(key.split(".")):
        shown = key if separator else "..." if any(map(looks_like_a_key, text.split())) else text
        raise UsageError(f"{who} {shown!r}: must look like table.key=value")
    if looks_like_a_key(value.strip("\"'")):
        raise UsageError(
            f"{who} {key}: the value looks like a secret (not shown)",
            hint="keys belong in an environment variable named by endpoint.api_key_env",
        )
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def _lay(tables: dict[str, Any], key: str, value: Any, *, who: str) -> None:
    """Put the value of `table.key` over what is there; None takes away what is there."""
    *path, last = steps_of(key)
    table: Any = tables
    for name in path:
        table = table.setdefault(name, {}) if isinstance(table, dict) else None
    if not isinstance(table, dict):
        raise JobError(f"{who}: {key}: {'.'.join(path)} is a value, not a table")
    if value is None:
        table.pop(last, None)
        return
    table[last] = value
    if key == "prompt.input":
        for rival in ("input_file", "messages", "body"):
            table.pop(rival, None)


def _spelled(key: str) -> str:
    """The key as messages about it spell it: the name of a model stands in quotes."""
    steps = steps_of(key)
    if steps[0] == "prices" and len(steps) > 1:
        steps[1] = f'"{steps[1]}"'
    return ".".join(steps)


def steps_of(key: str) -> list[str]:
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


def _default_base_url(
    tables: dict[str, Any], environment: Mapping[str, str], given_by: dict[str, str]
) -> None:
    endpoint = tables.setdefault("endpoint", {})
    url = environment.get(URL_VARIABLE)
    if isinstance(endpoint, dict) and url and "base_url" not in endpoint:
        endpoint["base_url"] = url
        given_by["endpoint.base_url"] = URL_VARIABLE


def _report_beside(
    tables: dict[str, Any],
    written: Mapping[str, Any],
    *,
    folder: Path,
    given_by: dict[str, str],
) -> None:
    """Another output than the job file's (its table is `written`) has its report beside itself."""
    now = _output(tables)
    before, path = written.get("path"), now.get("path")
    if "report" not in now or "output.report" in given_by or before == path:
        return
    if isinstance(before, str) and isinstance(path, str):
        places = {os.path.realpath(placed(folder, one)) for one in (before, path)}
        if len(places) > 1:
            tables["output"]["report"] = f"{path}.html"
            given_by["output.report"] = given_by["output.path"]


def _read_files(
    tables: dict[str, Any], *, origin: str, folder: Path, given_by: Mapping[str, str]
) -> None:
    """Put what prompt.input_file and json.schema_file hold into their tables."""

    def place(key: str) -> str:
        return f"{giver(key, given_by) or origin}: {key}"

    prompt, schema = tables.get("prompt"), tables.get("json")
    if isinstance(prompt, dict) and isinstance(name := prompt.get("input_file"), str):
        if "input" in prompt:
            raise JobError(f"{place('prompt')}: both input and input_file are given")
        prompt["input"] = _text_of(folder / name, place("prompt.input_file"))
    if isinstance(schema, dict) and isinstance(name := schema.get("schema_file"), str):
        if "schema" in schema:
            raise JobError(f"{place('json')}: both schema and schema_file are given")
        try:
            text = _text_of(folder / name, place("json.schema_file"))
            schema["schema"] = json.loads(text)
        except ValueError as error:
            raise JobError(f"{place('json.schema_file')}: {name!r} is not JSON: {error}") from None


def _text_of(file: Path, place: str) -> str:
    try:
        return file.expanduser().read_text(encoding="utf-8-sig")
    except OSError as error:
        raise JobError(f"{place}: {str(file)!r} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise JobError(f"{place}: {str(file)!r} is not UTF-8 text") from None


def _output_stem(tables: Mapping[str, Any]) -> str:
    """What a job without a file is called after."""
    path = _output(tables).get("path")
    return Path(path).stem if isinstance(path, str) else "job"


def _output(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The table `[output]` as it stands now; empty where it is none."""
    output = tables.get("output")
    return dict(output) if isinstance(output, Mapping) else {}
