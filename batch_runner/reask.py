"""The same row asked differently: told what was wrong with its answer, or given more room."""

import json
from dataclasses import dataclass, replace
from typing import Any

from batch_runner.course import Course
from batch_runner.job import IncompletePolicy, InvalidPolicy
from batch_runner.records import Completion, ErrorCode, Failure, Request, RowStatus
from batch_runner.structured import AnswerSchema, flaw_of


MORE_ROOM = 4
"""`on_incomplete = "retry"` multiplies the cap that cut an answer off by this, once a run."""
MOST_CORRECTIONS = 2
"""Repeats of a row because its answer did not fit; apart from every other budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasking:
    """The job's wishes about answers that came, and will not do."""

    schema: AnswerSchema | None
    on_invalid: InvalidPolicy
    on_incomplete: IncompletePolicy

    def judge(self, completion: Completion) -> Completion | Failure:
        """The answer, or `json_invalid` where it does not fit and the job cares."""
        if completion.status is not RowStatus.OK or self.on_invalid is InvalidPolicy.KEEP:
            return completion
        flaw = flaw_of(completion, self.schema)
        if flaw is None:
            return completion
        return Failure(code=ErrorCode.JSON_INVALID, message=flaw, text=completion.text)

    def changed(self, ending: Completion | Failure, course: Course) -> Request | None:
        """The request to send instead of taking this ending; None to take it."""
        if ending.code == ErrorCode.JSON_INVALID and self.on_invalid is InvalidPolicy.RETRY:
            if course.corrections >= MOST_CORRECTIONS:
                return None
            course.corrections += 1
            base = course.asked if course.asked.is_enlarged else course.request
            return with_correction(base, ending.message or "")
        wanted = self.on_incomplete is IncompletePolicy.RETRY
        if wanted and not course.asked.is_enlarged and ending.code == ErrorCode.MAX_OUTPUT_TOKENS:
            return with_more_room(course.asked, than=course.asked.max_output_tokens)
        return None


def with_correction(request: Request, flaw: str) -> Request:
    """The request with a word on why the last answer would not do. Key and label stay."""
    note = (
        f"Your previous answer could not be used: {flaw}\n"
        "Answer again, with nothing but JSON that fits the schema."
    )
    body = json.loads(request.body)
    given = body.get("input")
    if isinstance(given, list):
        body["input"] = [*given, {"role": "user", "content": note}]
    else:
        body["input"] = f"{given}\n\n{note}" if given else note
    return replace(request, body=_encoded(body))


def with_more_room(request: Request, *, than: int | None) -> Request | None:
    """The request with `MORE_ROOM` times the tokens at which it was cut; None without such a cap."""
    if than is None:
        return None
    room = than * MORE_ROOM
    body = {**json.loads(request.body), "max_output_tokens": room}
    return replace(request, body=_encoded(body), max_output_tokens=room, is_enlarged=True)


def _encoded(body: dict[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
