"""A million rows: memory against a tenth of them, resume with all and with half done, export.

python bench_scale.py [ROWS] [csv|jsonl|parquet ...]
"""

import sys
from pathlib import Path

from inputs import write_rows
from measuring import Figures, batch_runner, fast_server, folder, measure, table


ROWS = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
FORMATS = sys.argv[2:] or ["csv", "jsonl", "parquet"]


def main() -> None:
    with folder() as place, fast_server(place) as url:
        rows = []
        for suffix in FORMATS:
            for count in (ROWS // 10, ROWS):
                rows += [[suffix, f"{count:,}", *line] for line in lines(place, url, suffix, count)]
        table(
            "Scale",
            ["format", "rows", "what", "CPU s", "CPU us a row", "wall s", "peak MB"],
            rows,
        )


def lines(place: Path, url: str, suffix: str, count: int) -> list[list[str]]:
    file = f"rows-{count}.{suffix}"
    write_rows(place / file, count)
    job = place / f"job-{count}-{suffix}.toml"
    job.write_text(
        f'[input]\npath = "{file}"\n[prompt]\ninput = "Sum: {{{{ body }}}}"\n[request]\nmodel = "m"\n'
        f'[endpoint]\nbase_url = "{url}"\n[output]\npath = "out-{count}.{suffix}"\n'
        "[limits]\nconcurrency = 256\n"
        "[prices.m]\ninput = 0.25\ncached_input = 0.025\noutput = 2.0\n"  # as most runs have
    )
    steps = {
        "half of it": batch_runner("run", job.name, "-n", str(count // 2), "--progress", "off"),
        "the other half": batch_runner("run", job.name, "--progress", "off"),
        "nothing to do": batch_runner("run", job.name, "--progress", "off"),
        "export": batch_runner("export", job.name),
    }
    found = []
    for name, command in steps.items():
        figures = measure(command, cwd=place)
        if figures.code:
            raise SystemExit((place / "log").read_text()[-2000:])
        found.append(_line(name, figures, count))
    return found


def _line(name: str, figures: Figures, count: int) -> list[str]:
    return [
        name,
        f"{figures.cpu_seconds:.1f}",
        f"{figures.cpu_seconds / count * 1e6:.1f}",
        f"{figures.wall_seconds:.1f}",
        f"{figures.peak_mb:.0f}",
    ]


main()
