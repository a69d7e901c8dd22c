"""Many calls in flight against a slow server: how near to the ideal, and at what memory.

python bench_in_flight.py [IN_FLIGHT] [SECONDS] [ROWS]
"""

import sys

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
        ideal = ROWS / (IN_FLIGHT / SECONDS)
        table(
            f"{IN_FLIGHT:,} in flight, {SECONDS:g} s a reply, {ROWS:,} rows",
            ["wall s", "ideal s", "share of ideal", "CPU us a row", "peak MB"],
            [[f"{figures.wall_seconds:.1f}", f"{ideal:.1f}", f"{ideal / figures.wall_seconds:.0%}",
              f"{figures.cpu_seconds / ROWS * 1e6:,.0f}", f"{figures.peak_mb:.0f}"]],
        )  # fmt: skip


main()
