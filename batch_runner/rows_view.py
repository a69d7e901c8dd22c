"""Rows on show in the HTML report: those worth reading, an example of each error, and what to do."""

from collections.abc import Mapping
from typing import Any

from batch_runner.amounts import commonest, dollars_at_least, duration, many
from batch_runner.asked import Asked
from batch_runner.bill import Bill
from batch_runner.findings import Findings, Sample
from batch_runner.printable import one_line
from batch_runner.remedy import remedy
from batch_runner.report import skipped_words
from batch_runner.summary import RunSummary


MOST_CODES = 12


class RowViews:
    """Samples as the template shows them."""

    def __init__(self, asked: Asked, *, redact: bool) -> None:
        self._asked = asked
        self._redact = redact

    def name(self, sample: Sample) -> str:
        if sample.label is not None and not self._redact:
            return sample.label
        return self._asked.places.get(sample.key, f"row {sample.row + 1:,}")

    def message(self, sample: Sample) -> str | None:
        return None if self._redact else sample.message

    def example(self, code: str, sample: Sample | None) -> tuple[str, str | None]:
        """Place and message of a row that ended so, sent or not."""
        if sample is not None:
            return self.name(sample), self.message(sample)
        place, message = self._asked.unsendable.get(code, ("", None))
        return place, None if self._redact else message

    def view(self, sample: Sample) -> Mapping[str, Any]:
        text = sample.text
        latency = sample.latency_seconds
        facts = [
            *([duration(latency)] if latency is not None else []),
            *([dollars_at_least(sample.cost)] if sample.cost else []),
            *([many(sample.attempts, "attempt")] if sample.attempts > 1 else []),
            *([many(sample.output_tokens, "token")] if sample.output_tokens is not None else []),
        ]
        return {
            "name": self.name(sample),
            "place": self._asked.places.get(sample.key, ""),
            "status": str(sample.status),
            "code": sample.code or "",
            "facts": facts,
            "glimpse": "" if self._redact else one_line(text, 160) or (self.message(sample) or ""),
            "message": self.message(sample),
            "asked": None if self._redact else self._asked.texts.get(sample.key),
            "text": None if self._redact else text,
            "cut": f"{left:,}" if (left := sample.characters_left_out) else "",
        }


def error_view(summary: RunSummary, findings: Findings, rows: RowViews) -> Mapping[str, Any]:
    lines = []
    for code, n in commonest(summary.wanting, MOST_CODES):
        way_out = remedy(code, summary.invocation)
        place, message = rows.example(code, findings.examples.get(code))
        lines.append(
            {
                "code": one_line(code, 60),
                "rows": f"{n:,}",
                "share": f"{100 * n / (summary.rows or 1):.2f}",
                "example": message,
                "place": place,
                "words": way_out.words,
                "command": one_line(way_out.command, 300),
            }
        )
    more = max(0, len(summary.wanting) - MOST_CODES)
    return {"lines": lines, "more": more, "skipped": skipped_words(summary)}


def group_views(summary: RunSummary, findings: Findings, rows: RowViews) -> list[Mapping[str, Any]]:
    codes = [code for code, _ in commonest(summary.wanting) if code in findings.examples]
    groups = (
        (
            "Without a full answer",
            "one row of each error, the commonest first",
            [findings.examples[code] for code in codes[:MOST_CODES]],
            "No row that was sent is without its answer.",
        ),
        ("Slowest", "by the row's last call", findings.slowest.samples(), "No call was timed."),
        (
            "Most expensive",
            "by all calls of the row in its last run",
            findings.costliest.samples(),
            _no_cost(summary.bill),
        ),
        (
            "Empty",
            "answered without a word",
            findings.empty.samples(),
            "No answer came back empty.",
        ),
        (
            "Random",
            "the same ones in each report",
            findings.random.samples(),
            "No row is answered yet.",
        ),
    )
    return [
        {"title": title, "note": note, "rows": [rows.view(one) for one in samples], "none": none}
        for title, note, samples, none in groups
    ]


def _no_cost(bill: Bill) -> str:
    """Why no row is among the most expensive."""
    if not bill.answered:
        return "No call told what it used."
    return (
        "No call has a price."
        if bill.listed is None
        else "No call with a known cost cost anything."
    )
