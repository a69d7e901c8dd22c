"""Input files for the benchmarks: about 250 bytes a row."""

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


def rows(count: int) -> Iterator[dict[str, str]]:
    for n in range(count):
        yield {
            "id": f"{n:08d}",
            "title": f"title {n}",
            "body": f"row {n} " + "lorem ipsum dolor sit amet " * 8,
        }


def write_rows(path: Path, count: int) -> None:
    """In a process of its own: a child's peak memory starts at what its parent had."""
    subprocess.run([sys.executable, __file__, str(path), str(count)], check=True)


def write_here(path: Path, count: int) -> None:
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["id", "title", "body"])
            writer.writeheader()
            writer.writerows(rows(count))
    elif path.suffix == ".jsonl":
        with path.open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows(count))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = ["id", "title", "body"]
        schema = pa.schema([(name, pa.string()) for name in names])
        with pq.ParquetWriter(path, schema) as writer:
            batch: list[dict[str, str]] = []
            for row in rows(count):
                batch.append(row)
                if len(batch) == 50_000:
                    writer.write_table(pa.Table.from_pylist(batch, schema=schema))
                    batch.clear()
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))


if __name__ == "__main__":
    write_here(Path(sys.argv[1]), int(sys.argv[2]))
