"""Many calls in flight against a slow server: how near to the ideal, and at what memory.

python bench_in_flight.py [IN_FLIGHT] [SECONDS] [ROWS]
"""

import re
import sys
from pathlib import Path

from inputs import write_rows
from measuring import batch_runner, folder, measure, slow_server, table


IN_FLIGHT = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
SECONDS = float(sys.argv[2]) if len(sys.argv) > 2 else 10.0
ROWS = int(sys.argv[3]) if len(sys.argv) > 3 else 6 * IN_FLIGHT


def main() -> None:
    with folder() as place, slow_server(SECONDS) as url:
        write_rows(place / "rows.csv", ROWS)
        figures = measure(
            batch_runner(
                "run",
                "-i",
                "rows.csv",
                "-o",
                "out.csv",
                "-m",
                "m",
                "-p",
                "Sum: {{ body }}",
                "--base-url",
                url,
                "-c",
                str(IN_FLIGHT),
                "--progress",
                "log",
            ),
            cwd=place,
        )
        if figures.code:
            raise SystemExit((place / "log").read_text()[-2000:])
        ideal = IN_FLIGHT / SECONDS
        rate = steady_rate(place / "out.csv.run" / "journal")
        table(
            f"{IN_FLIGHT:,} in flight, {SECONDS:g} s a reply, {ROWS:,} rows",
            ["rows/s", "ideal", "share", "whole run s", "CPU us a row", "peak MB"],
            [[f"{rate:,.0f}", f"{ideal:,.0f}", f"{rate / ideal:.0%}", f"{figures.wall_seconds:.1f}",
              f"{figures.cpu_seconds / ROWS * 1e6:,.0f}", f"{figures.peak_mb:.0f}"]],
        )  # fmt: skip


def steady_rate(journal: Path) -> float:
    """Rows a second, without the first and the last round of calls in flight."""
    ended = sorted(
        float(found[1])
        for segment in journal.iterdir()
        for line in segment.open("rb")
        if (found := re.search(rb'"finished_at":([\d.]+)', line))
    )
    inner = ended[IN_FLIGHT:-IN_FLIGHT]
    return len(inner) / (inner[-1] - inner[0])


main()
