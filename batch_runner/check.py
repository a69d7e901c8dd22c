"""`batch-runner check`: everything that can be known before the first call, and one probe."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from batch_runner.amounts import many
from batch_runner.api_key import api_key, key_source
from batch_runner.asked import first_without
from batch_runner.changes import changed_rows, other_model
from batch_runner.emptied import emptied
from batch_runner.errors import ExitCode, UsageError
from batch_runner.guard import refusal
from batch_runner.job import JobSpec
from batch_runner.logs import row_line
from batch_runner.notify import ping_url
from batch_runner.opening import open_work
from batch_runner.origins import other_endpoints
from batch_runner.parameters import notes as parameter_notes
from batch_runner.plan import Wanted, requests, unfinished
from batch_runner.printable import printable
from batch_runner.progress import ProgressStyle
from batch_runner.prospect import Prospect, prospect_of
from batch_runner.records import ANSWERED, ErrorCode, Request, RowResult, RowStatus
from batch_runner.redact import MASK
from batch_runner.summary import RunSummary
from batch_runner.tables import ignore
from batch_runner.tokens import counter_for, uncounted
from batch_runner.work import Work


SHOWN_REQUESTS = 3
SHOWN_FILES = 3
LONGEST_TEXT = 3000
SHOWN_HEAD, SHOWN_TAIL = 1600, 400
"""Of a longer text, the task often stands at its end: what is cut is in the middle, and no trifle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What a run would do."""

    job: str
    prospect: Prospect
    first_without: str = ""
    """The first row without a request, counted from 1."""
    dedupe: bool
    """Equal rows share the answer of the first."""
    input: str
    output: str
    endpoint: str
    model: str
    model_in_words: str
    key_source: str
    key_problem: UsageError | None = None
    """Why a run would refuse to start. All else has been looked at nevertheless."""
    refusal: UsageError | None = None
    """Why it would refuse although there is a key."""
    tokens: tuple[int, ...]
    """Counted input tokens of the requests shown."""
    tokens_exact: bool
    uncounted: frozenset[str]
    shown: tuple[Request, ...] = ()
    probed: "Probed | None" = None
    """None when no row is left to do, or nobody wants to know."""
    columns: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default_factory=tuple)

    @property
    def rows(self) -> int:
        return self.prospect.rows

    @property
    def to_send(self) -> int:
        return self.prospect.to_send

    def lines(self, *, whole: bool = False) -> Iterator[str]:
        """For people; `whole`: with texts of any length."""
        about = "" if self.tokens_exact else "about "
        but = f", but a run would refuse to start: {self.refusal}" if self.refusal else ""
        but = ", but no API key is set" if self.key_problem else but
        yield f"{self.job}: job, columns, templates and output are fine{but}"
        plan = self.prospect
        columns = ", ".join(self.columns)
        yield f"input    {self.input}: {many(plan.rows, 'row')} (columns: {columns})"
        yield f"plan     {', '.join([plan.sending(), *plan.resting()])}"
        if without := plan.without_request:
            rows = f"{many(without, 'row')} {'is' if without == 1 else 'are'}"
            yield f"         {rows} without a request; the first is {self.first_without}"
        if same := plan.duplicates:
            rows = f"{many(same, 'row')} {'asks' if same == 1 else 'ask'}"
            shared = "answered by one call" if self.dedupe else "run --dedupe sends it once"
            yield f"         {rows} for the same as another ({shared})"
        yield f"endpoint {self.model_in_words} at {self.endpoint}, {self.key_source}"
        yield f"output   {self.output}"
        for warning in self.warnings:
            yield f"note     {warning}"
        if self.key_problem is not None and self.refusal is not None:
            yield f"note     with a key, a run would refuse: {self.refusal}"
        if self.shown and not plan.to_send:
            yield "nothing is left to send; this is what the first rows would send:"
        for request, tokens in zip(self.shown, self.tokens, strict=True):
            name = f" ({request.label})" if request.label else ""
            yield f"--- row {request.row + 1}{name}, {about}{tokens:,} input tokens"
            yield _readable(json.loads(request.body), whole=whole)
        if self.uncounted:
            yield f"not counted: {', '.join(sorted(self.uncounted))}"

    def to_json(self) -> dict[str, Any]:
        return {
            "job": self.job,
            "rows": self.rows,
            "to_send": self.to_send,
            "done": self.prospect.done,
            "without_request": self.prospect.without_request,
            "duplicates": self.prospect.duplicates,
            "plan": self.prospect.to_json(),
            "columns": list(self.columns),
            "model": self.model,
            "endpoint": self.endpoint,
            "output": self.output,
            "warnings": list(self.warnings),
            "key_problem": None if self.key_problem is None else str(self.key_problem),
            "refusal": None if self.refusal is None else str(self.refusal),
            "requests": [json.loads(request.body) for request in self.shown],
            "input_tokens": list(self.tokens),
            "input_tokens_exact": self.tokens_exact,
        }


def check(job: JobSpec, *, is_at_hand: bool = False, for_probe: bool = False) -> CheckReport:
    """The job has been tried as far as that costs nothing.

    `is_at_hand`: the endpoint is our own, and may be asked to count tokens. `for_probe`: the row that
    a probe would send is looked for.
    Raises UsageError for what is wrong with the job itself; what a run would refuse is in the report.
    """
    key_problem = None
    try:
        source = key_source(job, api_key(job))
    except UsageError as error:
        source, key_problem = "no key", error
    with open_work(job) as work:
        plan = work.plan
        refused = refusal(work)
        if refused is None and (note := other_model(work)):
            work.warnings.append(note)
        work.warnings += filter(None, (other_endpoints(work), "" if refused else emptied(work)))
        shown = tuple(islice(_requests(work), SHOWN_REQUESTS))
        bodies = [json.loads(request.body) for request in shown]
        told = _told_by_endpoint(job, shown) if is_at_hand else None
        counter = counter_for(job.model)
        prospect = prospect_of(plan, work.replay, changed=changed_rows(work))
        return CheckReport(
            job=job.name,
            prospect=prospect,
            first_without=printable("".join(first_without(work).values())),
            dedupe=plan.dedupe,
            input=_files(work.table.paths),
            output=str(job.output_path),
            endpoint=job.endpoint.base_url,
            model=job.model,
            model_in_words=job.model_in_words,
            key_source=source,
            key_problem=key_problem,
            refusal=refused,
            tokens=tuple(told or (counter.count_request(body) for body in bodies)),
            tokens_exact=told is not None or counter.exact,
            uncounted=frozenset() if told else frozenset().union(*map(uncounted, bodies)),
            shown=shown,
            probed=_probed(work) if for_probe else None,
            columns=plan.columns,
            warnings=(*work.warnings, *_notes(job)),
        )


def _told_by_endpoint(job: JobSpec, shown: Sequence[Request]) -> list[int] | None:
    """The input tokens of the requests by the count of the endpoint; None where it counts none."""
    import anyio  # noqa: PLC0415  # check itself sends nothing

    from batch_runner.endpoint_count import count_at_endpoint  # noqa: PLC0415  # likewise

    return anyio.run(count_at_endpoint, job, None, [request.body for request in shown])


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """The row that a probe would send."""

    request: Request
    wanted: Wanted
    """It is the first of these."""
    why: str
    """This row and no other, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReport:
    """One real row, sent: what went out and what came back."""

    url: str
    key_source: str
    probed: Probed | None
    """None when no row is left to do."""
    result: RowResult | None
    summary: RunSummary

    @property
    def exit_code(self) -> ExitCode:
        """Rows that the probe left alone are no failure of the probe."""
        if self.result is not None and self.result.status is not RowStatus.OK:
            return max(ExitCode.ROWS_FAILED, self.summary.exit_code)
        stopped = self.summary.exit_code not in (ExitCode.DONE, ExitCode.ROWS_FAILED)
        return self.summary.exit_code if stopped else ExitCode.DONE

    def lines(self, *, whole: bool = False) -> Iterator[str]:
        """For people; `whole`: with texts of any length."""
        if self.probed is None:
            yield "--- probe: no row is left to do"
            return
        request = self.probed.request
        name = f" ({request.label})" if request.label else ""
        yield f"--- probe: row {request.row + 1:,}{name}, {self.probed.why}"
        yield f"POST {self.url}"
        if not self.key_source.startswith("no key"):
            yield f"authorization: Bearer {MASK} ({self.key_source})"
        yield "content-type: application/json"
        yield _readable(json.loads(request.body), whole=whole)
        if self.result is None:
            yield f"--- no answer: {self.summary.stop_reason}"
            yield from [f"hint: {self.summary.hint}"] * bool(self.summary.hint)
            return
        yield f"--- {row_line(self.result)}"
        if self.result.reply is not None:
            yield _readable(self.result.reply, whole=whole)
        elif self.result.ending.text:
            yield self.result.ending.text if whole else _cut(self.result.ending.text)
        yield f"--- kept: {self._kept()}"

    def _kept(self) -> str:
        """What stays of the probe, besides what it shows."""
        has_answer = self.result is not None and self.result.status in ANSWERED
        words = "the answer, for which no run pays again" if has_answer else "how the row ended"
        left = self.summary.statuses[RowStatus.PENDING]
        pending = f" (with {many(left, 'row')} not answered yet)" if left else ""
        written = f"; {self.summary.output} is written{pending}" if self.summary.output else ""
        return words + written

    def to_json(self) -> dict[str, Any]:
        request = None if self.probed is None else self.probed.request
        result = self.result
        return {
            "url": self.url,
            "row": None if request is None else request.row + 1,
            "why": None if self.probed is None else self.probed.why,
            "request": None if request is None else json.loads(request.body),
            "status": None if result is None else str(result.status),
            "error_code": None if result is None else result.code,
            "error": self.summary.stop_reason if result is None else result.ending.message,
            "response": None if result is None else result.reply,
            "exit_code": int(self.exit_code),
        }


def probe(job: JobSpec, checked: CheckReport) -> ProbeReport:
    """The one row has been sent. It is kept like any finished row."""
    from batch_runner.run_options import RunOptions  # noqa: PLC0415  # check itself sends nothing
    from batch_runner.runner import run  # noqa: PLC0415  # likewise

    answers: list[RowResult] = []
    options = RunOptions(
        limit=1,
        on_result=answers.append,
        progress=ProgressStyle.OFF,
        wanted=unfinished if checked.probed is None else checked.probed.wanted,
    )
    summary = run(job, options)
    return ProbeReport(
        url=f"{job.endpoint.base_url}/responses",
        key_source=checked.key_source,
        probed=checked.probed,
        result=answers[0] if answers else None,
        summary=summary,
    )


def _notes(job: JobSpec) -> Iterator[str]:
    """What is allowed and rarely meant."""
    yield from parameter_notes(job.request, is_whole=job.prompt.body is None)
    variable = job.notify.ping_url_env
    url = os.environ.get(variable, "").strip() if variable is not None else ""
    if variable is not None and not url:
        yield f"notify.ping_url_env: {variable} is not set, so nobody would be told"
    elif variable is not None and ping_url(url) is None:
        yield f"notify.ping_url_env: {variable} holds no http(s) URL (value not shown)"


def _files(paths: Sequence[Path]) -> str:
    some = ", ".join(map(str, paths[:SHOWN_FILES]))
    return some if len(paths) <= SHOWN_FILES else f"{len(paths):,} files, such as {some}"


def _requests(work: Work) -> Iterator[Request]:
    """What would be sent; where nothing is left, what the first rows ask for all the same."""
    if work.plan.to_send:
        return work.requests()
    rows = work.table.rows(columns=work.builder.columns, on_bad=ignore)
    return (built for row in rows if isinstance(built := work.builder.build(row), Request))


_PROBES: tuple[tuple[Wanted, str], ...] = (
    (
        lambda _status, code: code == ErrorCode.BAD_REQUEST,
        f"the first that failed with {ErrorCode.BAD_REQUEST} before",
    ),
    (unfinished, "the first that is to be sent"),
    (
        lambda status, _code: status is RowStatus.FAILED,
        "the first that failed before: no other row is left to send",
    ),
)
"""Which rows a probe may send, best first, and why: one that the endpoint did not accept is what a
probe is advised for."""


def _probed(work: Work) -> Probed | None:
    plan = replace(work.plan)
    for wanted, why in _PROBES:
        plan.choose(work.replay.index, wanted)
        if plan.to_send:
            for request in requests(plan, work.table, work.builder, work.replay.index):
                return Probed(request=request, wanted=wanted, why=why)
    return None


def _readable(value: Any, *, whole: bool) -> str:
    return json.dumps(value if whole else _with_texts_cut(value), indent=2, ensure_ascii=False)


def _with_texts_cut(value: Any) -> Any:
    """Names and structure stay, however long the texts are."""
    if isinstance(value, dict):
        return {name: _with_texts_cut(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_with_texts_cut(inner) for inner in value]
    return _cut(value) if isinstance(value, str) else value


def _cut(text: str) -> str:
    if len(text) <= LONGEST_TEXT:
        return text
    missing = f" ... {len(text) - SHOWN_HEAD - SHOWN_TAIL:,} characters, shown with -v ... "
    return text[:SHOWN_HEAD] + missing + text[-SHOWN_TAIL:]
