"""The columns that the output adds: their names, types, sets, and what a result puts in them."""

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from batch_runner import stored
from batch_runner.errors import JobError
from batch_runner.frozen import frozen
from batch_runner.job import ColumnSet, JobSpec
from batch_runner.records import Column, ColumnKind, Completion, RowStatus
from batch_runner.responses import citations
from batch_runner.stored import Told


@frozen
class Ending:
    """A row as the output shows it: how it ended and what is told of it, or why it has no result."""

    status: RowStatus
    code: str | None = None
    message: str | None = None
    text: str = ""
    """What the model wrote."""
    told: Told = field(default_factory=dict)
    """The fields of its result; empty without one."""
    cost: Decimal | None = None
    """Dollars for all attempts of known usage; None when unpriced or unknown."""
    source: str = ""
    answer: Any = None
    """The parsed JSON answer, for JSON columns."""


def _field(name: str) -> Callable[[Ending], Any]:
    return lambda ending: ending.told.get(name)


def _latency(ending: Ending) -> float | None:
    seconds = ending.told.get("latency_seconds")
    return None if seconds is None else round(seconds, 3)


def _time(name: str) -> Callable[[Ending], datetime | None]:
    def read(ending: Ending) -> datetime | None:
        seconds = ending.told.get(name)
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

    return read


def _completion(ending: Ending) -> Completion | None:
    told = stored.ending(ending.told, ending.status) if ending.told else None
    return told if isinstance(told, Completion) else None


def _tool_calls(ending: Ending) -> Any:
    completion = _completion(ending)
    return list(completion.tool_calls) if completion and completion.tool_calls else None


def _reasoning(ending: Ending) -> str | None:
    completion = _completion(ending)
    return completion.reasoning if completion else None


def _unknown(ending: Ending) -> int | None:
    return sum(ending.told.get("unknown", {}).values()) if ending.told else None


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


K = ColumnKind
_Reader = Callable[[Ending], Any] | None
"""None: the count of that name in the usage of the final attempt."""
_STANDARD: Mapping[str, tuple[ColumnKind, _Reader]] = {
    "output": (K.TEXT, lambda e: e.text or None),
    "status": (K.TEXT, lambda e: str(e.status)),
    "error_code": (K.TEXT, lambda e: str(e.code) if e.code else None),
    "error": (K.TEXT, lambda e: e.message),
    "input_tokens": (K.INTEGER, None),
    "cached_tokens": (K.INTEGER, None),
    "output_tokens": (K.INTEGER, None),
    "reasoning_tokens": (K.INTEGER, None),
    "total_tokens": (K.INTEGER, None),
    "cost_usd": (K.NUMBER, lambda e: float(e.cost) if e.cost is not None else None),
    "model": (K.TEXT, _field("model")),
    "attempts": (K.COUNT, _field("attempts")),
    "latency_s": (K.NUMBER, _latency),
    "tool_calls": (K.JSON, _tool_calls),
    "source_file": (K.TEXT, lambda e: e.source),
}
_FULL: Mapping[str, tuple[ColumnKind, _Reader]] = {
    "cache_write_tokens": (K.INTEGER, None),
    "reasoning": (K.TEXT, _reasoning),
    "billing_unknown": (K.COUNT, _unknown),
    "finish_reason": (K.TEXT, _field("finish_reason")),
    "service_tier": (K.TEXT, _field("service_tier")),
    "response_id": (K.TEXT, _field("response_id")),
    "request_key": (K.TEXT, _field("result")),
    "run_id": (K.TEXT, _field("run_id")),
    "started_at": (K.TIMESTAMP, _time("started_at")),
    "finished_at": (K.TIMESTAMP, _time("finished_at")),
    "citations": (K.JSON, lambda e: citations(e.told.get("reply")) or None),
    "raw": (K.TEXT, lambda e: _json(e.told.get("reply"))),
}
_ALL = {**_STANDARD, **_FULL}
_MINIMAL = ("output", "status", "error_code")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputColumns:
    """The added columns of one job, and the cells an ending puts in them."""

    columns: tuple[Column, ...]
    cells: Callable[[Ending], Sequence[Any]]


def output_columns(job: JobSpec, *, many_files: bool) -> OutputColumns:
    """The columns the job asks for, in the order of the reference table, JSON columns last."""
    names = _chosen(job, many_files=many_files)
    pointers = job.json.columns
    for pointer in pointers:
        _check_pointer(job, pointer)
    columns = [Column(name=job.output.prefix + n, kind=_ALL[n][0]) for n in names]
    columns += [Column(name=c, kind=_json_kind(job, p)) for p, c in pointers.items()]
    _check_unique(job, columns)
    computed = [(name, read) for name in names if (read := _ALL[name][1]) is not None]

    def cells(ending: Ending) -> list[Any]:
        shown = dict(stored.usage(ending.told))
        for name, read in computed:
            shown[name] = read(ending)
        if not pointers:
            return [*map(shown.get, names)]
        answered = [at_pointer(ending.answer, pointer) for pointer in pointers]
        return [*map(shown.get, names), *answered]

    return OutputColumns(columns=tuple(columns), cells=cells)


def _chosen(job: JobSpec, *, many_files: bool) -> tuple[str, ...]:
    chosen = job.output.columns
    if isinstance(chosen, tuple):
        for name in chosen:
            if name not in _ALL:
                raise JobError(
                    f"{job.place('output.columns')}: unknown column {name!r}",
                    hint=f"names without the prefix: {', '.join(_ALL)}",
                )
        return chosen
    if chosen is ColumnSet.MINIMAL:
        return _MINIMAL
    left_out = set()
    if "tools" not in job.request:
        left_out.add("tool_calls")
    if not many_files:
        left_out.add("source_file")
    names = _STANDARD if chosen is ColumnSet.STANDARD else _ALL
    return tuple(name for name in names if name not in left_out)


def _check_unique(job: JobSpec, columns: Sequence[Column]) -> None:
    seen: set[str] = set()
    for column in columns:
        if column.name in seen:
            raise JobError(
                f"{job.origin}: output: two new columns are called {column.name!r}",
                hint=renaming(job, column.name)
                if column.name in job.json.columns.values()
                else "name it once under [output] columns",
            )
        seen.add(column.name)


def renaming(job: JobSpec, name: str) -> str:
    """How a new column can be called otherwise: a JSON column is called as the job writes it."""
    for pointer, column in job.json.columns.items():
        if column == name:
            pair = f"{json.dumps(pointer)} = {json.dumps(f'new_{name}')}"
            return f"call it otherwise under [json], such as columns = {{ {pair} }}"
    return 'choose another prefix under [output], such as prefix = "new_"'


def _check_pointer(job: JobSpec, pointer: str) -> None:
    """Raise JobError for a place that no answer can have, by the schema's own words."""
    schema: Any = job.json.schema
    for step in _steps(pointer):
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        if not isinstance(properties, Mapping):
            return
        if step not in properties and schema.get("additionalProperties") is False:
            near = difflib.get_close_matches(step, properties, n=1)
            raise JobError(
                f"{job.place('json.columns')}: {pointer!r}: the schema allows no {step!r} there",
                hint=f"did you mean {near[0]!r}?" if near else f"it has {', '.join(properties)}",
            )
        schema = properties.get(step)


def _json_kind(job: JobSpec, pointer: str) -> ColumnKind:
    """The type that the schema states for the value at `pointer`; JSON where it states none."""
    schema: Any = job.json.schema
    for step in _steps(pointer):
        if not isinstance(schema, Mapping):
            return K.JSON
        properties = schema.get("properties")
        schema = properties.get(step) if isinstance(properties, Mapping) else schema.get("items")
    stated = schema.get("type") if isinstance(schema, Mapping) else None
    types = {str(t) for t in (stated if isinstance(stated, list) else [stated]) if t != "null"}
    return _KINDS.get(types.pop(), K.JSON) if len(types) == 1 else K.JSON


_KINDS = {
    "string": K.TEXT,
    "integer": K.INTEGER,
    "number": K.NUMBER,
    "boolean": K.BOOLEAN,
}


def at_pointer(value: Any, pointer: str) -> Any:
    """The value at a JSON pointer (RFC 6901); None where there is none."""
    for step in _steps(pointer):
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def _steps(pointer: str) -> list[str]:
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
