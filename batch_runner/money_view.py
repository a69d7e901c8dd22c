"""What a report says of tokens and dollars: known, unknown, and at most."""

from collections.abc import Iterator, Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

from batch_runner.bill import Bill
from batch_runner.findings import Findings
from batch_runner.progress import dollars, dollars_at_least, dollars_at_most
from batch_runner.records import UnknownBilling
from batch_runner.summary import RunSummary


_CAUSES = {
    UnknownBilling.CRASH: "in flight when a run died",
    UnknownBilling.TIMEOUT: "timed out after they were sent",
    UnknownBilling.RESET: "connection broke after they were sent",
    UnknownBilling.SERVER_ERROR: "server failed after it had the request",
    UnknownBilling.BAD_REPLY: "reply unreadable, or without usage",
    UnknownBilling.CANCELLED: "broken off when the run was stopped",
}


def cost_view(summary: RunSummary, findings: Findings) -> Mapping[str, Any]:
    bill = summary.bill
    least, most = bounds(bill)
    places = _places(bill)
    lines = [
        ("Answers", findings.answered_calls, exact_dollars(bill.answers, places), ""),
        (
            "Failed attempts with reported usage",
            bill.answered - findings.answered_calls,
            exact_dollars(bill.failures, places),
            "",
        ),
    ]
    if bill.listed is None:
        lines = [(name, calls, "unknown" if calls else "", note) for name, calls, _, note in lines]
    unknown = [
        (
            _CAUSES[cause],
            one.unknown_calls,
            "no bound" if one.unbounded else f"up to {dollars_at_most(one.unknown_at_most)}",
        )
        for cause, one in sorted(findings.unknown().items())
    ]
    return {
        "words": cost_in_words(bill),
        "lines": [(name, f"{calls:,}", amount) for name, calls, amount, _ in lines],
        "unknown": [(name, f"{calls:,}", amount) for name, calls, amount in unknown],
        "calls": f"{bill.calls:,}",
        "least": least,
        "most": most,
        "unpriced": bill.unpriced,
        "doubts": [(str(doubt), f"{n:,}") for doubt, n in bill.doubts.most_common()],
        "source": summary.price_source,
    }


def is_whole(bill: Bill) -> bool:
    """Every call told what it used, and that has one price. Free is not the same as known."""
    silent = bill.unknown_calls or bill.unpriced or bill.tokens.unreported or bill.doubts
    return not silent and bill.at_least == bill.at_most


def cost_in_words(bill: Bill) -> str:
    """The cost as a sentence."""
    least, most = bounds(bill)
    if is_whole(bill):
        return f"{least}, with nothing unknown about it."
    if most is None:
        beginning = "The cost is unknown" if bill.at_least is None else f"At least {least}"
        return f"{beginning}. There is no upper bound: {'; '.join(_why_unbounded(bill))}."
    if bill.at_least is None:
        return f"The cost is unknown, at most {most}: {_calls(bill.unpriced)} without a known cost."
    if bill.at_least == bill.at_most:
        return f"{least}. Not every call told all that it used, but none can have cost more."
    return f"At least {least}, at most {most}."


def _why_unbounded(bill: Bill) -> Iterator[str]:
    if bill.unbounded:
        yield f"{_calls(bill.unbounded)} without a price, or without a limit to their tokens"
    if bill.doubtful:
        yield f"{_calls(bill.doubtful)} at rates that may be too low"


def _calls(number: int) -> str:
    return "one call" if number == 1 else f"{number:,} calls"


def token_view(bill: Bill) -> Mapping[str, Any]:
    tokens = bill.tokens
    answered = bill.answered or 1
    return {
        "calls": bill.answered,
        "unreported": tokens.unreported,
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
    """At least, at most: rounded away from each other, so that the truth stays between them."""
    if is_whole(bill):
        return dollars(bill.at_least), dollars(bill.at_most)
    if bill.at_least is not None and bill.at_least == bill.at_most:
        return dollars_at_most(bill.at_least), dollars_at_most(bill.at_most)
    most = None if bill.at_most is None else dollars_at_most(bill.at_most)
    return dollars_at_least(bill.at_least), most


def _places(bill: Bill) -> int:
    """Decimals that show the bill's largest amount with four digits, and two at least."""
    largest = bill.at_most or bill.listed or Decimal(0)
    return 2 if not largest or largest >= 100 else min(9, 3 - largest.adjusted())


def exact_dollars(amount: Decimal | None, places: int) -> str:
    if amount is None:
        return "unknown"
    if not amount:
        return "$0"
    return f"${amount.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_EVEN):,f}"


def share(part: float, whole: float) -> str:
    """A percentage that never rounds a rest away: 99.99 % is not 100."""
    if not whole:
        return "none"
    percent = 100 * part / whole
    if 99.9 < percent < 100:
        return "99.9%"
    return f"{percent:.1f}%" if 0 < percent < 100 else f"{percent:.0f}%"
