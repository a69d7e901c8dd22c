"""A finished row as the journal stores it: names and values, read where no RowResult is needed.

Making a RowResult takes five times as long as reading the few fields that an output shows.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from batch_runner.records import Billed, Completion, Failure, RowStatus, Usage
from batch_runner.responses import ReplyOutput, read_output


Told = Mapping[str, Any]
"""The fields of one result; those that are None are left out."""

NO_USAGE: Told = {}
LAST_BILLED = "last_billed"
"""In place of a final usage that is that of the last billed attempt, as it mostly is."""
_NOTHING = ReplyOutput(text="", refusal="", reasoning="", tool_calls=())


def written(told: Told, status: RowStatus) -> ReplyOutput:
    """What the model wrote, according to the reply alone."""
    reply = told.get("reply")
    if not reply:
        return _NOTHING
    output = read_output(reply)
    if status is RowStatus.REFUSED and not output.text:
        return ReplyOutput(
            text=output.refusal,
            refusal=output.refusal,
            reasoning=output.reasoning,
            tool_calls=output.tool_calls,
        )
    return output


def text(told: Told, status: RowStatus) -> str:
    """What the model wrote; stored by itself only where the reply does not say it."""
    stored: str | None = told.get("text")
    return written(told, status).text if stored is None else stored


def ending(told: Told, status: RowStatus) -> Completion | Failure:
    output = written(told, status)
    text: str = told.get("text", output.text)
    if status in (RowStatus.FAILED, RowStatus.SKIPPED):
        return Failure(status=status, code=told["code"], message=told.get("message", ""), text=text)
    return Completion(
        status=status,
        code=told["code"],
        message=told.get("message"),
        text=text,
        reasoning=told.get("reasoning", output.reasoning or None),
        tool_calls=tuple(told.get("tool_calls", output.tool_calls)),
    )


def usage(told: Told) -> Told:
    """Token counts of the final attempt, by their names in `Usage`."""
    counts = told.get("final_usage")
    if counts == LAST_BILLED:
        counts = told["billed"][-1]["usage"]
    return counts or NO_USAGE


def billed(told: Told) -> tuple[Billed, ...]:
    found = [
        Billed(
            usage=Usage(**one["usage"]),
            model=one["model"],
            service_tier=one["service_tier"],
            at=one["at"],
        )
        for one in told.get("billed") or ()
    ]
    return tuple(found)


def with_other_calls(told: Told, others: Iterable[Told], lost: Counter[str]) -> Told:
    """As the row shows it whose request was sent in other runs, too; `lost` calls are told of nowhere.

    The last attempt is still that of `told`: tokens and latency are its own.
    """
    attempts, billed, unknown = told["attempts"], [*told.get("billed", ())], +lost
    attempts += unknown.total()
    unknown.update(told.get("unknown", {}))
    for other in others:
        attempts += other["attempts"]
        billed[:0] = other.get("billed", ())
        unknown.update(other.get("unknown", {}))
    return {**told, "attempts": attempts, "billed": billed, "unknown": +unknown}


def of_a_copy(told: Told) -> Told:
    """As the row shows it that shares another's answer: the call was the other's, and its cost."""
    nothing = {"attempts": 0, "billed": (), "final_usage": None, "unknown": {}}
    return {**told, **nothing, "latency_seconds": None}
