"""CPU a row, end to end, beside what people write by hand; one core for the client.

python bench_throughput.py [ROWS] [REPEATS]
"""

import statistics
import sys
from pathlib import Path

from inputs import write_rows
from measuring import batch_runner, fast_server, folder, measure, table


ROWS = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
REPEATS = int(sys.argv[2]) if len(sys.argv) > 2 else 3
IN_FLIGHT = (64, 512, 4096)
SLOW_ROWS = min(ROWS, 3000)
"""For clients that would take minutes."""


def ours(place: Path, url: str, file: str, in_flight: int) -> list[str]:
    output = f"out-{in_flight}-{len(list(place.iterdir()))}{Path(file).suffix}"
    return batch_runner(
        "run", "-i", file, "-o", output, "-m", "m", "-p", "Sum: {{ body }}", "--base-url", url,
        "--set", "endpoint.api_key_env=OPENAI_API_KEY", "-c", str(in_flight), "--progress", "off",
    )  # fmt: skip


def by_hand(kind: str, url: str, file: str, in_flight: int) -> list[str]:
    script = str(Path(__file__).with_name("baselines.py"))
    return [sys.executable, script, kind, url, file, str(in_flight)]


def main() -> None:
    with folder() as place, fast_server(place) as url:
        for suffix in ("csv", "jsonl", "parquet"):
            write_rows(place / f"rows.{suffix}", ROWS)
            write_rows(place / f"one.{suffix}", 1)
        write_rows(place / "few.csv", SLOW_ROWS)
        rows = []
        for in_flight in IN_FLIGHT:
            cases = [
                ("bare aiohttp loop", "rows.csv", "one.csv", ROWS, "aiohttp"),
                ("batch_runner, CSV", "rows.csv", "one.csv", ROWS, None),
                ("batch_runner, JSONL", "rows.jsonl", "one.jsonl", ROWS, None),
                ("batch_runner, Parquet", "rows.parquet", "one.parquet", ROWS, None),
            ]
            if in_flight <= 512:
                cases += [
                    ("openai SDK", "few.csv", "one.csv", SLOW_ROWS, "openai"),
                    ("httpx.AsyncClient", "few.csv", "one.csv", SLOW_ROWS, "httpx"),
                ]
            found: dict[str, list[float]] = {}
            memory: dict[str, float] = {}
            for _ in range(REPEATS):
                for name, file, one, count, kind in cases:

                    def command(
                        data: str, kind: str | None = kind, n: int = in_flight
                    ) -> list[str]:
                        return by_hand(kind, url, data, n) if kind else ours(place, url, data, n)

                    start = measure(command(one), cwd=place)
                    figures = measure(command(file), cwd=place)
                    if figures.code or start.code:
                        raise SystemExit((place / "log").read_text()[-2000:])
                    cpu = (figures.cpu_seconds - start.cpu_seconds) / count * 1e6
                    found.setdefault(name, []).append(cpu)
                    memory[name] = figures.peak_mb
            bare = statistics.median(found["bare aiohttp loop"])
            for name, values in found.items():
                median = statistics.median(values)
                rows.append([in_flight, name, f"{median:,.0f}", f"{median / bare:.2f}",
                             f"{1e6 / median:,.0f}", f"{memory[name]:.0f}"])  # fmt: skip
        table(
            f"End to end, {ROWS:,} rows, no server delay",
            [
                "in flight",
                "client",
                "CPU us a row",
                "x bare loop",
                "rows/s a core at most",
                "peak MB",
            ],
            rows,
        )


if __name__ == "__main__":
    main()
