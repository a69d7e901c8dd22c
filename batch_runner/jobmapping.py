"""A nested mapping (TOML, environment and flags already laid over one another) becomes a JobSpec.

Everything that is wrong is a JobError: `file: table.key: value what is wrong`, and the way out.
"""

import difflib
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from batch_runner import values as read
from batch_runner.errors import JobError
from batch_runner.job import (
    EndpointSpec,
    InputSpec,
    JobSpec,
    JsonSpec,
    LimitSpec,
    NotifySpec,
    OutputSpec,
    PriceSpec,
    PromptSpec,
    RetrySpec,
)


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
_ELSEWHERE = {
    "input": "prompt.input",
    "instructions": "prompt.instructions",
    "stream": "endpoint.stream",
}
"""Parts of the request body that have a place of their own in a job."""


def job_from_mapping(
    mapping: Mapping[str, Any], *, origin: str, folder: Path, default_name: str
) -> JobSpec:
    """The job that `mapping` describes; relative paths are resolved against `folder`.

    Raises JobError for the first thing that is wrong.
    """
    for table, value in mapping.items():
        if table not in _KNOWN_TABLES:
            raise _unknown_table(table, value, origin)
    specs = {
        name: _read_table(spec, mapping.get(name, {}), origin=origin, place=name)
        for name, spec in _TABLES.items()
    }
    prices = _read(read.table, mapping.get("prices", {}), origin=origin, place="prices")
    job = JobSpec(
        name=_read_name(mapping.get("job", {}), origin=origin) or _name_like(default_name),
        origin=origin,
        folder=folder,
        request=_read_request(mapping.get("request", {}), origin=origin),
        prices={
            model: _read_table(PriceSpec, table, origin=origin, place=f'prices."{model}"')
            for model, table in prices.items()
        },
        **_absolute(specs, folder),
    )
    _check_together(job)
    return job


def _read_table(spec: type[T], table: Any, *, origin: str, place: str) -> T:
    known: dict[str, Field[Any]] = {f.name: f for f in fields(spec)}  # type: ignore[arg-type]  # T is always a dataclass here
    values = {}
    for key, value in _read(read.table, table, origin=origin, place=place).items():
        if key not in known:
            raise _unknown_key(key, known, origin=origin, place=place)
        reader = known[key].metadata["read"]
        values[key] = _read(reader, value, origin=origin, place=f"{place}.{key}")
    for key, entry in known.items():
        if key not in values and entry.default is MISSING and entry.default_factory is MISSING:
            flag = {"input.path": ", or pass -i", "output.path": ", or pass -o"}
            raise JobError(
                f"{origin}: {place}.{key}: missing",
                hint=f"add {key} = ... under [{place}]{flag.get(f'{place}.{key}', '')}",
            )
    return spec(**values)


def _read(reader: Callable[[Any], T], value: Any, *, origin: str, place: str) -> T:
    try:
        return reader(value)
    except read.SecretValueError as error:
        raise JobError(f"{origin}: {place}: (value not shown) {error}") from None
    except read.WrongValueError as error:
        raise JobError(f"{origin}: {place}: {value!r} {error}") from None


def _read_name(table: Any, *, origin: str) -> str | None:
    values = _read(read.table, table, origin=origin, place="job")
    for key in values:
        if key != "name":
            raise _unknown_key(key, ["name"], origin=origin, place="job")
    if "name" not in values:
        return None
    return _read(read.job_name, values["name"], origin=origin, place="job.name")


def _name_like(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:64] or "job"


def _read_request(table: Any, *, origin: str) -> Mapping[str, Any]:
    request = _read(read.table, table, origin=origin, place="request")
    for name, home in _ELSEWHERE.items():
        if name in request:
            raise JobError(f"{origin}: request.{name}: belongs to {home}")
    if "model" not in request:
        raise JobError(
            f"{origin}: request.model: missing",
            hint='add model = "..." under [request], or pass -m',
        )
    _check_json(request, origin=origin, place="request")
    _read(read.filled, request["model"], origin=origin, place="request.model")
    cap = request.get("max_output_tokens")
    if cap is not None and not isinstance(cap, str):
        _read(read.positive, cap, origin=origin, place="request.max_output_tokens")
    if "text" in request:
        _read(read.table, request["text"], origin=origin, place="request.text")
    return request


def _check_json(value: Any, *, origin: str, place: str) -> None:
    """Raise for what TOML has and JSON has not: dates, times, infinities."""
    match value:
        case Mapping():
            for key, item in value.items():
                _check_json(item, origin=origin, place=f"{place}.{key}")
        case list():
            for number, item in enumerate(value):
                _check_json(item, origin=origin, place=f"{place}[{number}]")
        case str() | bool() | int():
            return
        case float() if math.isfinite(value):
            return
        case _:
            raise JobError(f"{origin}: {place}: {value} has no form in JSON", hint="quote it")


def _absolute(specs: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The specs with every path made absolute."""

    def absolute(path: str) -> str:
        return os.path.normpath(folder / Path(path).expanduser())

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
                f"{job.origin}: json.columns: {pointer!r} must be a JSON pointer such as '/category'"
            )


def _unknown_table(name: str, value: Any, origin: str) -> JobError:
    if isinstance(value, Mapping):
        return JobError(f"{origin}: unknown table [{name}]{_did_you_mean(name, _KNOWN_TABLES)}")
    home = f": it belongs under [{_HOME[name]}]" if name in _HOME else ""
    return JobError(f"{origin}: {name}: stands outside every table{home}")


def _unknown_key(key: str, known: Iterable[str], *, origin: str, place: str) -> JobError:
    home = _HOME.get(key)
    if home is not None and place in _KNOWN_TABLES:
        return JobError(f"{origin}: {place}.{key}: unknown key, it belongs under [{home}]")
    return JobError(f"{origin}: {place}.{key}: unknown key{_did_you_mean(key, known)}")


def _did_you_mean(word: str, choices: Iterable[str]) -> str:
    choices = list(choices)
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    return f", did you mean {near[0]!r}?" if near else f" (known: {', '.join(choices)})"
