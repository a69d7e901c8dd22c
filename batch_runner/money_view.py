"""What a report says of tokens and dollars: known, unknown, and at most."""

from collections.abc import Mapping
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, ROUND_UP, Decimal
from typing import Any

from batch_runner.bill import Bill
from batch_runner.findings import Findings
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
            "no bound"
            if one.unbounded
            else f"up to {exact_dollars(one.unknown_at_most, places, ROUND_UP)}",
        )
        for cause, one in sorted(findings.unknown().items())
    ]
    if bill.at_least is None:
        words = "The cost is unknown: no price is known for what was answered."
    elif most is None:
        words = (
            f"At least {least}. There is no upper bound: {bill.unbounded:,} calls have no price, or "
            "no max_output_tokens that would limit them."
        )
    elif bill.at_least == bill.at_most:
        words = f"{least}, with nothing unknown about it."
    else:
        words = f"At least {least}, at most {most}."
    return {
        "words": words,
        "lines": [(name, f"{calls:,}", amount) for name, calls, amount, _ in lines],
        "unknown": [(name, f"{calls:,}", amount) for name, calls, amount in unknown],
        "calls": f"{bill.calls:,}",
        "least": least,
        "most": most,
        "unpriced": bill.unpriced,
        "doubts": [(str(doubt), f"{n:,}") for doubt, n in bill.doubts.most_common()],
        "source": summary.price_source,
    }


def token_view(bill: Bill) -> Mapping[str, Any]:
    tokens = bill.tokens
    answered = bill.answered or 1
    return {
        "calls": bill.answered,
        "unreported": tokens.unreported,
        "lines": [
            ("Input", f"{tokens.input:,}", "", f"{tokens.input / answered:,.0f}", 0),
            ("from the cache", f"{tokens.cached:,}", share(tokens.cached, tokens.input), "", 1),
            ("Output", f"{tokens.output:,}", "", f"{tokens.output / answered:,.0f}", 0),
            ("reasoning", f"{tokens.reasoning:,}", share(tokens.reasoning, tokens.output), "", 1),
        ],
    }


def bounds(bill: Bill) -> tuple[str, str | None]:
    """At least, at most: rounded away from each other, so that the truth stays between them."""
    places = _places(bill)
    at_most = bill.at_most
    return (
        "unknown" if bill.at_least is None else exact_dollars(bill.at_least, places, ROUND_DOWN),
        None if at_most is None else exact_dollars(at_most, places, ROUND_UP),
    )


def _places(bill: Bill) -> int:
    """Decimals that show the bill's largest amount with four digits, and two at least."""
    largest = bill.at_most or bill.listed or Decimal(0)
    return 2 if not largest or largest >= 100 else min(9, 3 - largest.adjusted())


def exact_dollars(amount: Decimal | None, places: int, rounding: str = ROUND_HALF_EVEN) -> str:
    if amount is None:
        return "unknown"
    if not amount:
        return "$0"
    return f"${amount.quantize(Decimal(1).scaleb(-places), rounding=rounding):,f}"


def share(part: float, whole: float) -> str:
    """A percentage that never rounds a rest away: 99.99 % is not 100."""
    if not whole:
        return "none"
    percent = 100 * part / whole
    if 99.9 < percent < 100:
        return "99.9%"
    return f"{percent:.1f}%" if 0 < percent < 100 else f"{percent:.0f}%"
