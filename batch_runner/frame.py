"""A prompt over the rows of a pandas frame, answers as new columns.

The columns in use go into the run directory as JSONL, the run is an ordinary one, and what its
journal holds comes back as columns.
"""

# ruff: noqa: PLC0415  pandas costs 1.5 s of CPU that nobody else should pay

import json
import logging
import signal
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from anyio.from_thread import start_blocking_portal

from batch_runner.amounts import commonest, many
from batch_runner.atomic import publish
from batch_runner.columns import output_columns
from batch_runner.errors import ExitCode, InputError, LockedError, RunStoppedError, StorageError
from batch_runner.export import endings
from batch_runner.job import RUN_FRAME, IncompletePolicy, JobSpec
from batch_runner.jobfile import Overrides
from batch_runner.journal import RunDirectory, is_locked
from batch_runner.opening import open_work
from batch_runner.plan import WITHOUT_REQUEST
from batch_runner.progress import ProgressStyle
from batch_runner.prompt import PromptBuilder
from batch_runner.records import WANTING, Column, ColumnKind, ErrorCode, RowResult, RowStatus
from batch_runner.remedy import all_pass
from batch_runner.run_options import OnChange, RunOptions, retrying
from batch_runner.run_place import FRAME_INPUT, FRAME_OUTPUT
from batch_runner.runner import run_async
from batch_runner.scripted import load_job
from batch_runner.summary import RunSummary
from batch_runner.tables import in_chunks


if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("batch_runner")

_DTYPES = {
    ColumnKind.TEXT: "string",
    ColumnKind.INTEGER: "Int64",
    ColumnKind.COUNT: "Int32",
    ColumnKind.NUMBER: "float64",
    ColumnKind.BOOLEAN: "boolean",
    ColumnKind.TIMESTAMP: "datetime64[us, UTC]",
    ColumnKind.JSON: "object",
}


def run_frame(
    frame: "pd.DataFrame",
    *,
    prompt: str,
    model: str,
    run_dir: str | Path,
    key: str | Sequence[str] | None = None,
    base_url: str | None = None,
    api_key_env: str | None = None,
    settings: Mapping[str, Any] | None = None,
    limit: int | None = None,
    retry: str | Collection[str] = (),
    on_change: str | OnChange = OnChange.GUARD,
    progress: str | ProgressStyle = ProgressStyle.AUTO,
    on_result: Callable[[RowResult], None] | None = None,
) -> "pd.DataFrame":
    """A copy of `frame` with the answers as new columns; index, dtypes and order are as they were.

    `run_dir` holds the journal: the same call again, in a new process too, asks only for rows that
    are not done. `settings` are any other job values by their names in the job file, such as
    `{"request.max_output_tokens": 400, "limits.rpm": 500, "output.columns": "full"}`.

    Rows that ended without a full answer are `failed`, `incomplete` (with the text there is) or
    `refused` in the column `llm_status`, and a warning is logged; those whose failure may pass by
    itself are asked again by the next call, others where `retry` names their status. With settings
    `{"retry.on_incomplete": "retry"}` cut answers get four times the room.

    Works in a script and in a notebook. Ctrl-C, or the notebook's stop button, finishes the calls
    in flight and returns what there is, the rest `pending`; a second one breaks them off. A limit
    does likewise. Raises UsageError before anything is sent, RunStoppedError when the endpoint
    refused before the first answer, LockedError, and StorageError.
    """
    flags = {
        "input.path": str(Path(run_dir).absolute() / FRAME_INPUT),
        "output.path": str(Path(run_dir).absolute() / FRAME_OUTPUT),
        "prompt.input": prompt,
        "request.model": model,
        "input.key": [key] if isinstance(key, str) else key and list(key),
        "endpoint.base_url": base_url,
        "endpoint.api_key_env": api_key_env,
        **(settings or {}),
    }
    given = {name: value for name, value in flags.items() if value is not None}
    job = load_job(None, Overrides(flags=given), origin=RUN_FRAME)
    columns = output_columns(job, many_files=False).columns
    _check_names(frame, columns, job)
    if not len(frame):  # not `empty`: that is true of rows without columns as well
        return _with_columns(frame, columns, [[] for _ in columns])
    if holder := is_locked(RunDirectory(job.run_path)):
        raise LockedError(f"{run_dir}: {holder} is using it", hint="wait, or name another run_dir")
    _write_input(frame, job)
    options = RunOptions(
        limit=limit,
        wanted=retrying(*([retry] if isinstance(retry, str) else retry)),
        on_change=OnChange(on_change),
        progress=ProgressStyle(progress),
        on_result=on_result,
    )
    summary = _run_here(job, options)
    _tell(summary, run_dir)
    if words := _without_answer(summary, job):
        log.warning("%s: %s", run_dir, words, extra={"event": "note"})
    return _with_columns(frame, columns, _cells(job, columns))


def _cells(job: JobSpec, columns: Sequence[Column]) -> list[list[Any]]:
    """What the journal has for each column, a cell for each row."""
    cells: list[list[Any]] = [[] for _ in columns]
    with open_work(job) as work:
        told = ((row, 0, ending) for row, ending in endings(work))
        for _, new in in_chunks(told, work.columns.cells):
            for values, more in zip(cells, new, strict=True):
                values.extend(more)
    return cells


def _run_here(job: JobSpec, options: RunOptions) -> RunSummary:
    """The run, in a loop of its own thread: a notebook's thread has one running already."""
    interrupts, heard = anyio.create_memory_object_stream[int](8)
    with interrupts, heard, start_blocking_portal() as portal:
        options = replace(options, signals=heard)
        future: Future[RunSummary] = portal.start_task_soon(run_async, job, options)
        while True:
            try:
                return future.result()
            except KeyboardInterrupt:
                portal.call(interrupts.send_nowait, int(signal.SIGINT))


def _tell(summary: RunSummary, run_dir: str | Path) -> None:
    """Warns of a run that ended early; raises when there is nothing to return."""
    if summary.stop_reason is None:
        return
    again = "the same call goes on from there"
    if summary.exit_code is ExitCode.STORAGE:
        raise StorageError(summary.stop_reason, hint=summary.hint)
    if summary.exit_code is ExitCode.STOPPED and not summary.statuses[RowStatus.OK]:
        raise RunStoppedError(summary.stop_reason, hint=summary.hint or again)
    warnings.warn(
        f"{run_dir}: stopped early ({summary.stop_reason}); {again}",
        stacklevel=3,
        category=UserWarning,
    )


def _without_answer(summary: RunSummary, job: JobSpec) -> str:
    """How many rows have no full answer, why, and what asks for them again; empty: none is without."""
    kinds = [str(status) for status in WANTING if summary.statuses[status]]
    if not kinds:
        return ""
    codes = summary.wanting
    lacking, others = codes.keys() & WITHOUT_REQUEST, codes.keys() - WITHOUT_REQUEST
    ways = (
        [f"mend the cells of {many(sum(codes[code] for code in lacking), 'row')}"]
        if lacking
        else []
    )
    if others and all_pass(others):
        ways.append("the same call asks again")
    elif others:
        ways.append(f"retry={kinds} asks again")
    if codes[ErrorCode.MAX_OUTPUT_TOKENS] and job.retry.on_incomplete is IncompletePolicy.KEEP:
        ways[-1] += ', for cut answers with settings {"retry.on_incomplete": "retry"}'
    why = ", ".join(f"{n:,} {code}" for code, n in commonest(codes))
    rows = sum(summary.statuses[status] for status in WANTING)
    return (
        f"{rows:,} of {many(summary.rows, 'row')} without a full answer ({why}); {'; '.join(ways)}"
    )


def _check_names(frame: "pd.DataFrame", columns: Sequence[Column], job: JobSpec) -> None:
    names = [str(name) for name in frame.columns]
    for column in columns:
        if column.name in names:
            raise InputError(
                f"the frame already has a column {column.name!r}",
                hint="drop it, or call the other one otherwise, in settings: "
                + (
                    '"json.columns"'
                    if column.name in job.json.columns.values()
                    else '"output.prefix"'
                ),
            )
    for name in _needed(job, names):
        if names.count(name) > 1:
            raise InputError(f"the frame has {names.count(name)} columns called {name!r}")


def _needed(job: JobSpec, names: Sequence[str]) -> Collection[str]:
    """The columns that go into requests."""
    builder = PromptBuilder(job)
    builder.check_columns(names, source="the frame")
    return dict.fromkeys(names) if builder.columns is None else builder.columns


def _write_input(frame: "pd.DataFrame", job: JobSpec) -> None:
    names = [str(name) for name in frame.columns]
    needed = sorted(_needed(job, names))
    columns = [_json_values(frame.iloc[:, names.index(name)]) for name in needed]
    with publish(Path(job.input.path[0]), mode=0o600) as file:
        for cells in zip(*columns, strict=True) if columns else ((),) * len(frame):
            values = dict(zip(needed, cells, strict=True))
            file.write(json.dumps(values, default=_plain).encode() + b"\n")


def _json_values(column: "pd.Series[Any]") -> Iterator[Any]:
    """The cells, whatever is missing (None, NaN, NaT, NA) as None."""
    missing = column.isna()
    return (
        None if gap else value for value, gap in zip(column.astype(object), missing, strict=True)
    )


def _plain(value: Any) -> Any:
    """What JSON has no word for: numpy's numbers and arrays, times, Decimals."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "tolist"):
        return value.tolist()
    return list(value) if isinstance(value, set | frozenset | tuple) else str(value)


def _with_columns(
    frame: "pd.DataFrame", columns: Sequence[Column], cells: Sequence[Sequence[Any]]
) -> "pd.DataFrame":
    import pandas as pd

    added = {
        column.name: pd.Series(values, index=frame.index, dtype=_DTYPES[column.kind])
        for column, values in zip(columns, cells, strict=True)
    }
    answers = pd.DataFrame(added, index=frame.index)
    whole = pd.concat([frame, answers], axis=1)
    whole.attrs = dict(frame.attrs)
    return whole
