"""A nested mapping (TOML, environment and flags already laid over one another) becomes a JobSpec.

Everything that is wrong is a JobError: `file: table.key: value what is wrong`, and the way out.
"""

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from batch_runner import values as read
from batch_runner.errors import JobError
from batch_runner.job import (
    COMMAND_LINE,
    OVERRIDES,
    EndpointSpec,
    InputFormat,
    InputSpec,
    JobSpec,
    JsonSpec,
    LimitSpec,
    NotifySpec,
    OutputSpec,
    PriceSpec,
    PromptSpec,
    RetrySpec,
    giver,
)
from batch_runner.spelling import did_you_mean, nearest


T = TypeVar("T")

_TABLES: Mapping[str, Any] = {
    "input": InputSpec,
    "prompt": PromptSpec,
    "endpoint": EndpointSpec,
    "limits": LimitSpec,
    "retry": RetrySpec,
    "output": OutputSpec,
    "json": JsonSpec,
    "notify": NotifySpec,
}
_KNOWN_TABLES = ("job", *_TABLES, "request", "prices")
_HOME = {"name": "job", "model": "request", "max_output_tokens": "request"} | {
    entry.name: table
    for table, spec in reversed([*_TABLES.items()])
    if table != "json"
    for entry in fields(spec)
}
"""Key to the table it belongs in, for keys that stand in the wrong one."""

_PATHS = {
    "prompt": ("input_file",),
    "endpoint": ("ca_file",),
    "output": ("path", "report"),
    "json": ("schema_file",),
    "notify": ("prometheus_textfile",),
}
PATH_KEYS = frozenset(
    {"input.path"} | {f"{table}.{name}" for table, names in _PATHS.items() for name in names}
)
"""Keys whose values mean a file, seen from the job's folder."""
_ELSEWHERE = {
    "input": "prompt.input",
    "instructions": "prompt.instructions",
    "stream": "endpoint.stream",
}
"""Parts of the request body that have a place of their own in a job."""


def job_from_mapping(
    mapping: Mapping[str, Any],
    *,
    origin: str,
    folder: Path,
    default_name: str,
    given_by: Mapping[str, str] | None = None,
) -> JobSpec:
    """The job that `mapping` describes; relative paths are resolved against `folder`.

    `given_by` names the flag or variable that gave a key (`limits.rpm`) in place of `origin`.
    Raises JobError for the first thing that is wrong.
    """
    reading = _Reading(origin, given_by or {})
    for table, value in mapping.items():
        if table not in _KNOWN_TABLES:
            raise reading.unknown_table(table, value)
    mapping = _with_whole_requests(mapping, reading)
    specs = {
        name: reading.table(spec, mapping.get(name, {}), place=name)
        for name, spec in _TABLES.items()
    }
    prices = reading.value(read.table, mapping.get("prices", {}), place="prices")
    job = JobSpec(
        name=reading.name(mapping.get("job", {})) or _name_like(default_name),
        origin=origin,
        folder=folder,
        given_by=reading.given_by,
        request=reading.request(mapping.get("request", {})),
        prices={
            model: reading.table(PriceSpec, table, place=f'prices."{model}"')
            for model, table in prices.items()
        },
        **_absolute(specs, folder),
    )
    _check_together(job)
    return job


def _with_whole_requests(mapping: Mapping[str, Any], reading: "_Reading") -> Mapping[str, Any]:
    """The mapping; for an openai-batch file, whose lines are the requests, with what follows."""
    tables = {name: mapping.get(name, {}) for name in ("input", "prompt", "request")}
    if not all(isinstance(table, Mapping) for table in tables.values()):
        return mapping  # told of where the tables are read
    if tables["input"].get("format") != InputFormat.OPENAI_BATCH:
        return mapping
    rivals = [f"prompt.{key}" for key in ("input", "messages", "body") if key in tables["prompt"]]
    for place in [*rivals, *(["input.key"] if "key" in tables["input"] else [])]:
        raise reading.error(
            place,
            "means nothing for input.format = "
            f'"{InputFormat.OPENAI_BATCH}": its lines are whole requests, named by custom_id',
            hint='leave it out; or read the lines as rows: input.format = "jsonl"',
        )
    return {
        **mapping,
        "input": {**tables["input"], "key": "custom_id"},
        "prompt": {**tables["prompt"], "body": "body"},
        "request": {"model": "{{ body.model }}", **tables["request"]},
    }


@dataclass(frozen=True, slots=True)
class _Reading:
    """Reads parts of the mapping; whatever is wrong is told with the place it came from."""

    origin: str
    given_by: Mapping[str, str]

    def table(self, spec: type[T], table: Any, *, place: str) -> T:
        known: dict[str, Field[Any]] = {f.name: f for f in fields(spec)}  # type: ignore[arg-type]  # T is always a dataclass here
        values = {}
        for key, value in self.value(read.table, table, place=place).items():
            if key not in known:
                raise self.unknown_key(key, known, place=place)
            reader = known[key].metadata["read"]
            values[key] = self.value(reader, value, place=f"{place}.{key}")
        for key, entry in known.items():
            if key not in values and entry.default is MISSING and entry.default_factory is MISSING:
                flag = _FLAGS.get(f"{place}.{key}")
                hint = f"add {key} = ... under [{place}]" + (f", or pass {flag}" if flag else "")
                if flag and self.origin in _NEEDED:
                    hint = f"name a job file, or give {_NEEDED[self.origin]}"
                raise self.error(f"{place}.{key}", "missing", hint=hint)
        return spec(**values)

    def value(self, reader: Callable[[Any], T], value: Any, *, place: str) -> T:
        try:
            return reader(value)
        except read.WrongValueError as error:
            problem, inside = error, error.inside
        if inside is not None:
            place, value = f"{place}.{inside}", cast("Mapping[str, Any]", value)[inside]
        shown = _HIDDEN if isinstance(problem, read.SecretValueError) else _shown(value)
        hint = ""
        if self.given_by.get(place) == "--set" and isinstance(value, int | float):
            hint = f"for text, a shell needs quotes twice: --set '{place}=\"...\"'"
        raise self.error(
            place, f"{shown} {problem}", hint=hint if "must be text" in str(problem) else ""
        )

    def name(self, table: Any) -> str | None:
        values = self.value(read.table, table, place="job")
        for key in values:
            if key != "name":
                raise self.unknown_key(key, ["name"], place="job")
        if "name" not in values:
            return None
        return self.value(read.job_name, values["name"], place="job.name")

    def request(self, table: Any) -> Mapping[str, Any]:
        request = self.value(read.table, table, place="request")
        for name, home in _ELSEWHERE.items():
            if name in request:
                raise self.error(f"request.{name}", f"belongs to {home}")
        if "model" not in request:
            near = nearest("model", request)
            missing = f"missing, did you mean it by {near!r}?" if near else "missing"
            hint = 'add model = "..." under [request], or pass -m'
            raise self.error("request.model", missing, hint=hint)
        self.check_json(request, place="request")
        self.value(read.filled, request["model"], place="request.model")
        cap = request.get("max_output_tokens")
        if cap is not None and not isinstance(cap, str):
            self.value(read.positive, cap, place="request.max_output_tokens")
        if "text" in request:
            self.value(read.table, request["text"], place="request.text")
        return request

    def check_json(self, value: Any, *, place: str) -> None:
        """Raise for what TOML has and JSON has not: dates, times, infinities."""
        match value:
            case Mapping():
                for key, item in value.items():
                    self.check_json(item, place=f"{place}.{key}")
            case list():
                for number, item in enumerate(value):
                    self.check_json(item, place=f"{place}[{number}]")
            case str() | bool() | int():
                return
            case float() if math.isfinite(value):
                return
            case _:
                raise self.error(place, f"{value} has no form in JSON", hint="quote it")

    def unknown_table(self, name: str, value: Any) -> JobError:
        if isinstance(value, Mapping):
            return self.error(f"[{name}]", f"unknown table{_meant(name, _KNOWN_TABLES)}")
        home = f": it belongs under [{_HOME[name]}]" if name in _HOME else ""
        return self.error(name, f"stands outside every table{home}")

    def unknown_key(self, key: str, known: Iterable[str], *, place: str) -> JobError:
        home = _HOME.get(key) if place in _KNOWN_TABLES else None
        known_or_near = f", it belongs under [{home}]" if home else _meant(key, known)
        return self.error(f"{place}.{key}", f"unknown key{known_or_near}")

    def error(self, place: str, problem: str, *, hint: str = "") -> JobError:
        origin = giver(place, self.given_by) or self.origin
        return JobError(f"{origin}: {place}: {problem}", hint=hint)


_FLAGS = {"input.path": "-i", "output.path": "-o"}
_NEEDED = {
    COMMAND_LINE: "-i, -o, -m and -p",
    OVERRIDES: "input.path, output.path, request.model and prompt.input",
}
"""Origin -> what describes a job without a file."""
_HIDDEN = "(value not shown)"
_LONGEST_SHOWN = 100


def _shown(value: Any) -> str:
    """The value as a message repeats it: not where it may be a key, not at any length."""
    if isinstance(value, Mapping):
        return "a table"
    if any(map(read.looks_like_a_key, re.split(r"[\s'\"]+", str(value)))):
        return _HIDDEN
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _name_like(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:64] or "job"


def placed(folder: Path, path: str) -> str:
    """The path as seen from the folder; `~name` is a file of that name where nobody has that name."""
    return str(folder / os.path.expanduser(path))  # noqa: PTH111  Path.expanduser raises for nobody


def _absolute(specs: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The specs with every path made absolute."""

    def absolute(path: str) -> str:
        return os.path.normpath(placed(folder, path))

    resolved = dict(specs)
    for table, names in _PATHS.items():
        given = {name: getattr(specs[table], name) for name in names}
        changes = {name: absolute(path) for name, path in given.items() if path is not None}
        resolved[table] = replace(specs[table], **changes)
    paths = tuple(map(absolute, specs["input"].path))
    resolved["input"] = replace(specs["input"], path=paths)
    return resolved


def _check_together(job: JobSpec) -> None:
    """Raise for values that are fine alone and wrong together."""
    given = [n for n in ("input", "messages", "body") if getattr(job.prompt, n) is not None]
    if len(given) != 1:
        what = "nothing to send" if not given else " and ".join(f"prompt.{n}" for n in given)
        raise JobError(
            f"{job.origin}: prompt: {what}: exactly one of prompt.input, prompt.input_file, "
            f"prompt.messages and prompt.body is needed",
            hint='add input = "... {{ column }} ..." under [prompt], or pass -p',
        )
    for pointer in job.json.columns:
        if pointer and not pointer.startswith("/"):
            raise JobError(
                f"{job.place('json.columns')}: {pointer!r} must be a JSON pointer such as '/category'"
            )


def _meant(word: str, choices: Iterable[str]) -> str:
    choices = list(choices)
    return did_you_mean(word, choices) or f" (known: {', '.join(choices)})"
