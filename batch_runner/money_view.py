"""What is said of tokens and dollars, wherever it is said: known, unknown, and at most."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from batch_runner.amounts import dollars_at_least, dollars_at_most, many, share
from batch_runner.bill import Bill
from batch_runner.records import UnknownBilling


if TYPE_CHECKING:
    from batch_runner.findings import Findings
    from batch_runner.summary import RunSummary


CAUSES = {
    UnknownBilling.CRASH: "in flight when a run died",
    UnknownBilling.TIMEOUT: "timed out after they were sent",
    UnknownBilling.RESET: "connection broke after they were sent",
    UnknownBilling.SERVER_ERROR: "server failed after it had the request",
    UnknownBilling.BAD_REPLY: "reply unreadable, or without usage",
    UnknownBilling.CANCELLED: "broken off when the run was stopped",
    UnknownBilling.DAMAGED: "their end stood where the journal is damaged",
}


def cost_view(summary: "RunSummary", findings: "Findings") -> Mapping[str, Any]:
    bill = summary.bill
    least, most = bounds(bill)
    failed_calls = bill.answered - findings.answered_calls
    lines = [
        ("Answers", findings.answered_calls, dollars_at_least(bill.answers)),
        ("Failed attempts with reported usage", failed_calls, dollars_at_least(bill.failures)),
    ]
    if bill.listed is None:
        lines = [(name, calls, "unknown" if calls else "") for name, calls, _ in lines]
    unknown = [
        (
            CAUSES[cause],
            one.unknown_calls,
            at_most_words(None if one.unbounded else one.unknown_at_most),
        )
        for cause, one in sorted(findings.unknown.items())
    ]
    return {
        "words": cost_in_words(bill),
        "of": "Since --fresh" if summary.put_aside else "Of all runs",
        "lines": [(name, f"{calls:,}", amount) for name, calls, amount in lines],
        "unknown": [(name, f"{calls:,}", amount) for name, calls, amount in unknown],
        "calls": f"{bill.calls:,}",
        "least": least,
        "most": most,
        "unpriced": many(bill.unpriced, "call") if bill.unpriced else "",
        "doubts": [(str(doubt), many(n, "call")) for doubt, n in sorted(bill.doubts.items())],
        "source": summary.price_source,
    }


def is_whole(bill: Bill) -> bool:
    """Every call told what it used, and that has one price. Free is not the same as known."""
    silent = bill.unknown_calls or bill.unpriced or bill.tokens.unreported or bill.doubts
    return not silent and bill.at_least == bill.at_most


def cost_in_words(bill: Bill) -> str:
    """The cost as a sentence."""
    words = bound_words(bill)
    if is_whole(bill):
        return f"{words}, with nothing unknown about it."
    start = f"The cost is {words}" if words.startswith("unknown") else words[0].upper() + words[1:]
    if bill.at_least == bill.at_most is not None:
        return f"{start}. Not every call told all that it used, but none can have cost more."
    if bill.at_most is None:
        return f"{start}: {'; '.join(_why_unbounded(bill))}."
    return start + (
        f": {many(bill.unpriced, 'call')} without a known cost." if bill.at_least is None else "."
    )


def bound_words(bill: Bill, shown: tuple[str, str | None] | None = None) -> str:
    """`$8.43` where all is known; else `at least $8.54, at most $8.56`. A bound of zero says nothing.

    `shown`: the two as a table beside it has them.
    """
    least, most = shown or bounds(bill)
    if is_whole(bill) or least == most:
        return least
    upper = NO_BOUND if most is None else f"at most {most}"
    if bill.at_least:
        return f"at least {least}, {upper}"
    return upper if bill.at_least is not None and most is not None else f"unknown, {upper}"


NO_BOUND = "no upper bound"


def at_most_words(amount: Decimal | None, places: int | None = None) -> str:
    """What calls may have cost, or may come to cost; None has no bound."""
    if amount is None:
        return NO_BOUND
    return f"at most {dollars_at_most(amount, places)}" if amount else "free of charge"


def _why_unbounded(bill: Bill) -> Iterator[str]:
    if bill.unbounded:
        yield f"{many(bill.unbounded, 'call')} without a price, or without a limit to their tokens"
    if bill.doubtful:
        yield f"{many(bill.doubtful, 'call')} at rates that may be too low"


def token_view(bill: Bill) -> Mapping[str, Any]:
    tokens = bill.tokens
    answered = bill.answered or 1
    return {
        "calls": bill.answered,
        "unreported": many(tokens.unreported, "call") if tokens.unreported else "",
        "lines": [
            ("Input", f"{tokens.input:,}", "", f"{tokens.input / answered:,.0f}", 0),
            _part("from the cache", tokens.cached, tokens.input),
            ("Output", f"{tokens.output:,}", "", f"{tokens.output / answered:,.0f}", 0),
            _part("reasoning", tokens.reasoning, tokens.output),
        ],
    }


def _part(name: str, tokens: int | None, whole: int) -> tuple[str, str, str, str, int]:
    if tokens is None:
        return (name, "not reported", "", "", 1)
    return (name, f"{tokens:,}", share(tokens, whole), "", 1)


def bounds(bill: Bill) -> tuple[str, str | None]:
    """At least, at most: rounded away from each other, so that the truth stays between them.

    So they are where both are the same amount: what is known is rounded down, and no bound is.
    """
    most = None if bill.at_most is None else dollars_at_most(bill.at_most)
    return dollars_at_least(bill.at_least), most
