"""`batch-runner check`: everything that can be known before the first call, and one probe."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from batch_runner.job import JobSpec
from batch_runner.jobfile import api_key
from batch_runner.plan import requests
from batch_runner.records import Request, RowResult
from batch_runner.tokens import counter_for, uncounted
from batch_runner.work import Work, open_work


SHOWN_REQUESTS = 3
SHOWN_CHARACTERS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What a run would do."""

    job: str
    rows: int
    to_send: int
    done: int
    without_request: int
    duplicates: int
    input: str
    output: str
    endpoint: str
    model: str
    key_source: str
    tokens: tuple[int, ...]
    """Counted input tokens of the requests shown."""
    tokens_exact: bool
    uncounted: frozenset[str]
    shown: tuple[Request, ...] = ()
    columns: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default_factory=tuple)

    def lines(self) -> Iterator[str]:
        """For people."""
        about = "" if self.tokens_exact else "about "
        yield f"{self.job}: job, columns, templates and output are fine"
        yield f"input    {self.input}: {self.rows:,} rows (columns: {', '.join(self.columns)})"
        yield f"plan     {self.to_send:,} to send, {self.done:,} done before"
        if self.without_request:
            yield f"         {self.without_request:,} rows have no request: an empty or unusable cell"
        if self.duplicates:
            yield f"         {self.duplicates:,} rows ask for the same as another"
        yield f"endpoint {self.model} at {self.endpoint}, {self.key_source}"
        yield f"output   {self.output}"
        for warning in self.warnings:
            yield f"note     {warning}"
        for request, tokens in zip(self.shown, self.tokens, strict=True):
            name = f" ({request.label})" if request.label else ""
            yield f"--- row {request.row + 1}{name}, {about}{tokens:,} input tokens"
            yield _readable(request.body)
        if self.uncounted:
            yield f"not counted: {', '.join(sorted(self.uncounted))}"

    def to_json(self) -> dict[str, Any]:
        return {
            "job": self.job,
            "rows": self.rows,
            "to_send": self.to_send,
            "done": self.done,
            "without_request": self.without_request,
            "duplicates": self.duplicates,
            "columns": list(self.columns),
            "model": self.model,
            "endpoint": self.endpoint,
            "output": self.output,
            "warnings": list(self.warnings),
            "requests": [json.loads(request.body) for request in self.shown],
            "input_tokens": list(self.tokens),
            "input_tokens_exact": self.tokens_exact,
        }


def check(job: JobSpec) -> CheckReport:
    """The job has been tried as far as that costs nothing. Raises UsageError for what is wrong."""
    key_source = _key_source(job)
    with open_work(job) as work:
        plan = work.plan
        shown = tuple(islice(_requests(work), SHOWN_REQUESTS))
        counter = counter_for(job.model)
        bodies = [json.loads(request.body) for request in shown]
        return CheckReport(
            job=job.name,
            rows=plan.rows,
            to_send=plan.to_send,
            done=plan.rows - plan.to_send - plan.unsendable.total(),
            without_request=plan.unsendable.total(),
            duplicates=plan.duplicates,
            input=", ".join(map(str, work.table.paths[:3])),
            output=str(job.output_path),
            endpoint=job.endpoint.base_url,
            model=job.model,
            key_source=key_source,
            tokens=tuple(counter.count_request(body) for body in bodies),
            tokens_exact=counter.exact,
            uncounted=frozenset().union(*map(uncounted, bodies)),
            shown=shown,
            columns=plan.columns,
            warnings=tuple(work.warnings),
        )


def probe(job: JobSpec) -> Iterator[str]:
    """One real row, sent and shown; it is kept as a finished row."""
    from batch_runner.runner import RunOptions, run  # noqa: PLC0415  # check itself sends nothing

    answers: list[RowResult] = []
    began = time.monotonic()
    options = RunOptions(limit=1, on_result=answers.append)
    summary = run(job, options)
    yield f"--- probe: {summary.statuses.total():,} rows in the output, {time.monotonic() - began:.1f} s"
    for result in answers:
        yield f"row {result.row + 1}: {result.status} {result.code or ''}".rstrip()
        yield json.dumps(result.reply, indent=2, ensure_ascii=False)[: 4 * SHOWN_CHARACTERS]
        if result.ending.message:
            yield result.ending.message
    if not answers:
        yield summary.stop_reason or "nothing was sent: no row is left to do"


def _requests(work: Work) -> Iterator[Request]:
    return requests(work.plan, work.table, work.builder, work.replay.index)


def _key_source(job: JobSpec) -> str:
    key = api_key(job)
    return "no key" if key is None else f"key from {job.endpoint.api_key_env or 'OPENAI_API_KEY'}"


def _readable(body: bytes) -> str:
    text = json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    return (
        text
        if len(text) <= SHOWN_CHARACTERS
        else f"{text[:SHOWN_CHARACTERS]}\n  ... ({len(body):,} bytes)"
    )
