"""`batch-runner report` for the output of a batch: what its lines tell, without a job or a journal."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batch_runner.amounts import commonest, many
from batch_runner.batch_files import batch_results
from batch_runner.costs import By, CostReport, costs
from batch_runner.costs_report import cost_json, cost_lines
from batch_runner.printable import one_line
from batch_runner.records import RowResult
from batch_runner.tables import failures_path


LONGEST_EXAMPLE = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReport:
    """How the requests of one batch ended, and what they cost."""

    files: tuple[Path, ...]
    costs: CostReport
    statuses: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    examples: dict[str, RowResult] = field(default_factory=dict)
    """Per error code the first line that has it."""

    def lines(self) -> Iterator[str]:
        """For people."""
        counts = ", ".join(f"{n:,} {status}" for status, n in sorted(self.statuses.items()))
        files = " and ".join(file.name for file in self.files)
        yield f"{files}  {many(self.statuses.total(), 'request')}: {counts}"
        yield from cost_lines(self.costs)
        for code, rows in commonest(self.codes):
            example = self.examples[code]
            message = one_line(example.ending.message or "", LONGEST_EXAMPLE)
            yield f"{rows:,} {code}   such as {one_line(example.label or '', 60)}: {message}"

    def to_json(self) -> dict[str, Any]:
        return {
            "files": [str(file) for file in self.files],
            "rows": self.statuses.total(),
            "statuses": dict(self.statuses),
            "codes": dict(self.codes),
            "costs": cost_json(self.costs),
        }


def batch_report(path: Path) -> BatchReport:
    """What the output file tells, and the file of failures beside it if there is one."""
    beside = failures_path(path)
    files = (path, beside) if beside.is_file() else (path,)
    report = BatchReport(files=files, costs=costs(files, by=(By.STATUS,)))
    for result in batch_results(files):
        report.statuses[str(result.status)] += 1
        if result.code is not None:
            report.codes[result.code] += 1
            report.examples.setdefault(result.code, result)
    return report
