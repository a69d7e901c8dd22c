"""Start-up: CPU of `--help`, of one row, and of a cron run with nothing to do, above bare Python."""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from inputs import write_rows
from measuring import batch_runner, fast_server, folder, measure, table


REPEATS = 7


def main() -> None:
    with folder() as place, fast_server(place) as url:
        write_rows(place / "one.csv", 1)
        write_rows(place / "many.csv", 100_000)

        def run(file: str, output: str) -> list[str]:
            return batch_runner(
                "run", "-i", file, "-o", output, "-m", "m", "-p", "Sum: {{ body }}", "--base-url", url,
                "--progress", "off", "-c", "256",
            )  # fmt: skip

        bare = median([sys.executable, "-c", ""], place)
        measure(run("many.csv", "many-out.csv"), cwd=place)
        rows = [
            ["bare Python", f"{bare:.3f}", ""],
            line("batch-runner --help", batch_runner("--help"), bare, place),
            line("one row", run("one.csv", "one-out.csv"), bare, place, fresh=True),
            line("nothing to do, 100,000 rows", run("many.csv", "many-out.csv"), bare, place),
        ]
        table("Start-up", ["what", "CPU s", "above bare Python"], rows)


def line(
    name: str, command: Sequence[str], bare: float, place: Path, *, fresh: bool = False
) -> list[str]:
    cpu = median([*command, "--fresh"] if fresh else command, place)
    return [name, f"{cpu:.3f}", f"{cpu - bare:.3f}"]


def median(command: Sequence[str], place: Path) -> float:
    return statistics.median(measure(command, cwd=place).cpu_seconds for _ in range(REPEATS))


main()
