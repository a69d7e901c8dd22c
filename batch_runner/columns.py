"""The columns that the output adds: their names, types, sets, and what a result puts in them."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from batch_runner import stored
from batch_runner.errors import JobError
from batch_runner.frozen import frozen
from batch_runner.job import ColumnSet, JobSpec
from batch_runner.records import Column, ColumnKind, Completion, RowStatus
from batch_runner.responses import citations
from batch_runner.spelling import did_you_mean, nearest
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
    """The fields of its result, the reply only where somebody needs it; empty without one."""
    cost: Decimal | None = None
    """Dollars for all attempts of known usage; None when unpriced or unknown."""
    source: str = ""
    answer: Any = None
    """The parsed JSON answer, for JSON columns."""
    size: int = 0
    """About how many bytes `told` takes: some replies hold images."""


class _Rows:
    """Some rows as the output shows them: cells are worked out column by column, in half the time."""

    __slots__ = ("counts", "endings", "folder", "told")

    def __init__(self, endings: Sequence[Ending], folder: Path) -> None:
        self.endings = endings
        self.folder = folder
        self.told = [ending.told for ending in endings]
        self.counts = [stored.usage(told) for told in self.told]


_Values = Callable[[_Rows], Sequence[Any]]
"""The cells of one column."""


def _count(name: str) -> _Values:
    return lambda rows: [counts.get(name) for counts in rows.counts]


def _told(name: str) -> _Values:
    return lambda rows: [told.get(name) for told in rows.told]


def _each(read: Callable[[Ending], Any]) -> _Values:
    return lambda rows: [read(ending) for ending in rows.endings]


def _time(name: str) -> _Values:
    return lambda rows: [
        None if (seconds := told.get(name)) is None else datetime.fromtimestamp(seconds, UTC)
        for told in rows.told
    ]


def _cost(rows: _Rows) -> Sequence[float | None]:
    return [None if row.cost is None else float(row.cost) for row in rows.endings]


def _latency(rows: _Rows) -> Sequence[float | None]:
    seconds = [told.get("latency_seconds") for told in rows.told]
    return [None if one is None else round(one, 3) for one in seconds]


def _sources(rows: _Rows) -> Sequence[str]:
    names = {source: seen_from(rows.folder, source) for source in {e.source for e in rows.endings}}
    return [names[row.source] for row in rows.endings]


def seen_from(folder: Path, path: str) -> str:
    """As the job file would name it: a folder that moves with its job changes no output.

    Absolute where the two have nothing in common.
    """
    if not Path(path).is_absolute() or os.path.commonpath([folder, path]) == os.sep:
        return path
    return os.path.relpath(path, folder)


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


def _raw(ending: Ending) -> str | None:
    reply = ending.told.get("reply")
    return None if reply is None else json.dumps(reply, ensure_ascii=False, separators=(",", ":"))


K = ColumnKind
_STANDARD: Mapping[str, tuple[ColumnKind, _Values]] = {
    "output": (K.TEXT, lambda rows: [row.text or None for row in rows.endings]),
    "status": (K.TEXT, lambda rows: [str(row.status) for row in rows.endings]),
    "error_code": (K.TEXT, lambda rows: [row.code and str(row.code) for row in rows.endings]),
    "error": (K.TEXT, lambda rows: [row.message for row in rows.endings]),
    "input_tokens": (K.INTEGER, _count("input_tokens")),
    "cached_tokens": (K.INTEGER, _count("cached_tokens")),
    "output_tokens": (K.INTEGER, _count("output_tokens")),
    "reasoning_tokens": (K.INTEGER, _count("reasoning_tokens")),
    "total_tokens": (K.INTEGER, _count("total_tokens")),
    "cost_usd": (K.NUMBER, _cost),
    "model": (K.TEXT, _told("model")),
    "attempts": (K.COUNT, _told("attempts")),
    "latency_s": (K.NUMBER, _latency),
    "tool_calls": (K.JSON, _each(_tool_calls)),
    "source_file": (K.TEXT, _sources),
}
_FULL: Mapping[str, tuple[ColumnKind, _Values]] = {
    "cache_write_tokens": (K.INTEGER, _count("cache_write_tokens")),
    "reasoning": (K.TEXT, _each(_reasoning)),
    "billing_unknown": (K.COUNT, _each(_unknown)),
    "finish_reason": (K.TEXT, _told("finish_reason")),
    "service_tier": (K.TEXT, _told("service_tier")),
    "response_id": (K.TEXT, _told("response_id")),
    "request_key": (K.TEXT, _told("result")),
    "run_id": (K.TEXT, _told("run_id")),
    "started_at": (K.TIMESTAMP, _time("started_at")),
    "finished_at": (K.TIMESTAMP, _time("finished_at")),
    "citations": (K.JSON, lambda rows: [citations(t.get("reply")) or None for t in rows.told]),
    "raw": (K.TEXT, _each(_raw)),
}
_ALL = {**_STANDARD, **_FULL}
_OF_REPLIES = frozenset({"tool_calls", "reasoning", "citations", "raw"})
_MINIMAL = ("output", "status", "error_code")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputColumns:
    """The added columns of one job, and the cells that endings put in them."""

    columns: tuple[Column, ...]
    cells: Callable[[Sequence[Ending]], list[Sequence[Any]]]
    """For some rows: a list for each column."""
    of_replies: bool
    """Some of them are read off the reply: it has to be among what is told."""


def output_columns(job: JobSpec, *, many_files: bool) -> OutputColumns:
    """The columns the job asks for, in the order of the reference table, JSON columns last."""
    names = _chosen(job, many_files=many_files)
    pointers = job.json.columns
    for pointer in pointers:
        _check_pointer(job, pointer)
    columns = [Column(name=job.output.prefix + n, kind=_ALL[n][0]) for n in names]
    columns += [Column(name=c, kind=_json_kind(job, p)) for p, c in pointers.items()]
    _check_unique(job, columns)
    read = [_ALL[name][1] for name in names]
    # A job of flags has no file: what it writes must not depend on where it was typed.
    folder = job.folder if job.has_file else job.output_path.absolute().parent

    def cells(endings: Sequence[Ending]) -> list[Sequence[Any]]:
        rows = _Rows(endings, folder)
        answered = ([at_pointer(row.answer, pointer) for row in endings] for pointer in pointers)
        return [*(values(rows) for values in read), *answered]

    return OutputColumns(
        columns=tuple(columns), cells=cells, of_replies=not _OF_REPLIES.isdisjoint(names)
    )


def _chosen(job: JobSpec, *, many_files: bool) -> tuple[str, ...]:
    chosen = job.output.columns
    if isinstance(chosen, tuple):
        for name in chosen:
            if name not in _ALL:
                raise JobError(
                    f"{job.place('output.columns')}: unknown column {name!r}{did_you_mean(name, _ALL)}",
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
            near = nearest(step, properties)
            raise JobError(
                f"{job.place('json.columns')}: {pointer!r}: the schema allows no {step!r} there",
                hint=f"did you mean {near!r}?" if near else f"it has {', '.join(properties)}",
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
