"""The output of an openai-batch job: a file of replies and a file of failures, as the hosted API has them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from batch_runner.atomic import publish
from batch_runner.columns import Ending
from batch_runner.disk import explained
from batch_runner.records import ANSWERED, Failure, Request, Row
from batch_runner.responses import ECHOED
from batch_runner.tables import BatchAnswer, Format, Table, compressed, failures_path, format_of
from batch_runner.tables import OpenAIBatchTable as BatchTable
from batch_runner.work import Work


_WHEN_UNSAID: Mapping[str, Any] = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
"""What the API takes when a request says nothing, and its own library insists on reading back."""


def is_batch(table: Table, path: Path) -> bool:
    """Requests came in as a batch file, and the output has a form in which replies go out as one."""
    return isinstance(table, BatchTable) and format_of(path) is Format.JSONL


def write_answers(work: Work, path: Path, shown: Callable[[Row], Ending | None]) -> None:
    """`path` holds the replies, `failures_path(path)` the rows without one, if there are any."""
    assert isinstance(work.table, BatchTable)  # noqa: S101  # is_batch said so
    beside = failures_path(path)
    failed = 0

    def answer(row: Row) -> BatchAnswer | None:
        nonlocal failed
        ending = shown(row)
        if ending is None:
            return None
        made = batch_answer(ending, work.builder.build(row))
        failed += made.failed
        return made

    with publish(path) as raw, compressed(raw, path) as target:
        with publish(beside) as other_raw, compressed(other_raw, beside) as failures:
            work.table.write_answers(target, failures, answer=answer)
        if not failed:
            with explained("remove", beside):
                beside.unlink()


def batch_answer(ending: Ending, sent: Request | Failure) -> BatchAnswer:
    """What the hosted API would say of a row.

    `error` is for what `response` does not tell: no HTTP reply, or a reply that would not do.
    """
    response = _response(ending, sent) if ending.told else None
    fine = ending.status in ANSWERED
    told = response is not None and (fine or response["status_code"] >= 400)
    code = str(ending.code or ending.status)
    message = ending.message or "not asked yet: run again"
    return BatchAnswer(
        response=response,
        error=None if told else {"code": code, "message": message},
        failed=not fine,
    )


def _response(ending: Ending, sent: Request | Failure) -> dict[str, Any] | None:
    """The reply with what it echoed of the request, which the journal does not keep."""
    told, status = ending.told, ending.told.get("http_status")
    reply = told.get("reply")
    if reply is not None:
        asked = json.loads(sent.body) if isinstance(sent, Request) else {}
        echo = {name: asked[name] for name in ECHOED & asked.keys() if name != "input"}
        body = {**_WHEN_UNSAID, **echo, **reply}
    elif status is not None and status >= 400:
        message = (ending.message or "").removeprefix(f"HTTP {status}: ")
        error = {"message": message, "type": None, "param": None, "code": ending.code}
        body = {"error": error}
    else:
        return None
    return {"status_code": status or 200, "request_id": told.get("request_id"), "body": body}
