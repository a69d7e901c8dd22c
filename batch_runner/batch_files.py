"""`batch-runner convert`: a job as a batch file for the hosted API, and what that gave as a table."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from batch_runner.atomic import publish
from batch_runner.bill import Biller
from batch_runner.columns import Ending, output_columns
from batch_runner.errors import InputError, UsageError
from batch_runner.jobfile import Overrides, load_job
from batch_runner.journal import result_fields
from batch_runner.output_place import check_replaceable
from batch_runner.pricing import PriceBook
from batch_runner.prompt import digest_of
from batch_runner.records import (
    Billed,
    Completion,
    ErrorCode,
    Failure,
    Request,
    Row,
    RowResult,
    RowStatus,
    other,
)
from batch_runner.responses import Unfinished, read_error, read_reply, read_usage, without_echo
from batch_runner.retry import judge_status
from batch_runner.structured import AnswerSchema
from batch_runner.tables import (
    BatchLine,
    Format,
    compressed,
    expand,
    format_of,
    ignore,
    read_batch_lines,
    request_line,
)
from batch_runner.tables.chunks import size_of
from batch_runner.tables.converting import convert
from batch_runner.work import Work


MOST_LINES = 50_000
MOST_BYTES = 200_000_000
"""What the hosted API takes in one file."""
HOSTED_TIER = "batch"

log = logging.getLogger("batch_runner")


def check_conversion(files: Sequence[str], path: Path) -> None:
    """Raise UsageError where converting would harm a file, or write what its name denies."""
    if any(path.exists() and path.samefile(file) for file in files if Path(file).exists()):
        raise UsageError(f"-o: {str(path)!r} is also what is read", hint="choose another file")
    if not files and format_of(path) is not Format.JSONL:
        raise UsageError(
            f"-o: {str(path)!r}: a batch file is JSONL", hint="end it in .jsonl (also with .gz)"
        )


def write_requests(work: Work, path: Path) -> int:
    """`path` holds the request of every row of the job, done before or not; how many they are.

    Rows without a request are left out and told of.
    """
    written = left_out = first_left_out = size = 0
    with publish(path) as raw, compressed(raw, path) as target:
        for row in work.table.rows(columns=work.builder.columns, on_bad=ignore):
            request = work.builder.build(row)
            if isinstance(request, Failure):
                left_out += 1
                first_left_out = first_left_out or row.index + 1
                continue
            line = request_line(custom_id(request), request.body)
            target.write(line)
            written += 1
            size += len(line)
    if left_out:
        rows = "1 row is" if left_out == 1 else f"{left_out:,} rows are"
        log.warning(
            "%s left out, without a request (empty or unusable cells): the first is row %s",
            rows, f"{first_left_out:,}",
        )  # fmt: skip
    if written > MOST_LINES or size > MOST_BYTES:
        log.warning(
            "the hosted API takes at most %s lines and %s MB a file: split it",
            f"{MOST_LINES:,}", MOST_BYTES // 10**6,
        )  # fmt: skip
    return written


def custom_id(request: Request) -> str:
    """The name of a row in a batch file: its label, else its place in the input, from 1."""
    return request.label if request.label is not None else f"row-{request.row + 1}"


def batch_results(paths: Sequence[str | Path]) -> Iterator[RowResult]:
    """How each request in these output and error files ended; its label is the custom_id.

    Calls that the hosted API made are priced as its batch tier. Raises InputError.
    """
    for row, line in enumerate(read_batch_lines(expand(paths))):
        yield _result(line, row)


def write_table(paths: Sequence[str | Path], path: Path, settings: Sequence[str] = ()) -> int:
    """`path` holds a row for each line of batch output files: custom_id, and the usual columns.

    `settings` are those of `--set`: `output.columns`, `json.columns`, prices. How many rows it has.
    """
    nothing_to_send = {"prompt.body": "body", "request.model": "-", "endpoint.base_url": None}
    places = {"input.path": [str(p) for p in paths], "output.path": str(path)}
    job = load_job(None, Overrides(flags={**nothing_to_send, **places}, settings=settings))
    columns = output_columns(job, many_files=False)
    check_replaceable(path, [column.name for column in columns.columns], place="-o")
    biller = Biller(PriceBook(job.prices))
    schema = AnswerSchema(job.json.schema, origin=job.origin) if job.json.columns else None
    results: dict[int, RowResult] = {}

    def rows() -> Iterator[Row]:
        for result in batch_results(paths):
            results[result.row] = result
            name = {"custom_id": result.label}
            yield Row(index=result.row, values=name, source=str(paths[0]), line=result.row + 1)

    def answer(row: Row) -> Ending:
        return _ending(results.pop(row.index), biller, schema, row.source)

    with publish(path) as raw, compressed(raw, path) as target:
        return convert(
            rows,
            ("custom_id",),
            target,
            format=format_of(path),
            columns=columns.columns,
            answer=answer,
            cells=columns.cells,
            escape_formulas=False,
            delimiter="\t" if path.suffix == ".tsv" else ",",
        ).rows


def join_answers(work: Work, paths: Sequence[str | Path], path: Path) -> int:
    """`path` holds the rows of the job with the answers of its batch, joined by custom_id.

    How many answers there are. Holds them all in memory: a hosted batch has at most 50,000.
    Raises InputError for an answer to a row that the job does not have.
    """
    found = {str(result.label): result for result in batch_results(paths)}
    taken: set[str] = set()

    def answer(row: Row) -> Ending:
        request = work.builder.build(row)
        if isinstance(request, Failure):
            return Ending(status=request.status, code=request.code, message=request.message)
        result = found.get(custom_id(request))
        if result is None:
            return Ending(status=RowStatus.PENDING, source=row.source)
        taken.add(custom_id(request))
        return _ending(result, work.biller, work.schema, row.source)

    with publish(path) as raw, compressed(raw, path) as target:
        work.table.write_back(
            target,
            format=format_of(path),
            columns=work.columns.columns,
            answer=answer,
            cells=work.columns.cells,
            delimiter="\t" if path.suffix == ".tsv" else None,
        )
        if strange := sorted(found.keys() - taken):
            raise InputError(
                f"{paths[0]}: {len(strange):,} answers are to no row of {work.job.origin}, "
                f"such as custom_id {strange[0]!r}",
                hint="was it made from another input? without the job, convert gives a table of its own",
            )
    return len(taken)


def _ending(result: RowResult, biller: Biller, schema: AnswerSchema | None, source: str) -> Ending:
    told = result_fields(result)
    return Ending(
        status=result.status,
        code=result.code,
        message=result.ending.message,
        text=result.ending.text,
        told=told,
        cost=biller.cost(told),
        source=source,
        answer=schema.value(result.ending.text) if schema is not None else None,
        size=size_of(told),
    )


def _result(line: BatchLine, row: int) -> RowResult:
    body = line.body if isinstance(line.body, dict) else {}
    replied = line.status_code is not None and 200 <= line.status_code < 300 and bool(body)
    usage = read_usage(body) if replied else None
    model = str(body.get("model") or "")
    made_at = body.get("completed_at") or body.get("created_at")
    at = float(made_at) if isinstance(made_at, int | float) else 0.0
    tier = body.get("service_tier") if line.is_live else HOSTED_TIER
    return RowResult(
        key=digest_of(line.custom_id.encode()),
        row=row,
        label=line.custom_id,
        ending=_read(line, body, replied=replied),
        attempts=0 if line.status_code is None else 1,
        billed=(Billed(usage=usage, model=model, service_tier=tier, at=at),) if usage else (),
        final_usage=usage,
        model=model or None,
        service_tier=tier,
        response_id=body.get("id") if replied else None,
        http_status=line.status_code,
        request_id=line.request_id,
        started_at=at or None,
        finished_at=at or None,
        reply=without_echo(body) if replied else None,
    )


def _read(line: BatchLine, body: dict[str, Any], *, replied: bool) -> Completion | Failure:
    if replied:
        ending = read_reply(body, cap=_cap(body))
        if not isinstance(ending, Unfinished):
            return ending
        return Failure(code=other(str(body.get("status"))), message="the response is not finished")
    if line.status_code is not None and line.status_code >= 300:
        error = read_error(body)
        return judge_status(line.status_code, error, {}, now=0.0, shared_model=False).failure
    code, message = str(line.error.get("code") or "unknown"), line.error.get("message")
    known = code in set(ErrorCode)  # as a file written here has it
    return Failure(code=code if known else other(code), message=str(message or "no reply"))


def _cap(body: dict[str, Any]) -> int | None:
    cap = body.get("max_output_tokens")
    return cap if isinstance(cap, int) else None
