# ruff: noqa: INP001 - a script, not a package
"""Write articles.csv, tickets.jsonl and reviews.parquet beside this file from the texts in texts/.

Run it again after an edit there: `python sample_data/generate.py [FOLDER]`. The same texts give the
same bytes; of reviews.parquet only the same table, since its bytes depend on pyarrow's version.
"""

import csv
import json
import sys
import tomllib
from datetime import UTC
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


HERE = Path(__file__).parent

REVIEWS = pa.schema(
    [
        ("review_id", pa.string()),
        ("product", pa.string()),
        ("category", pa.dictionary(pa.int8(), pa.string())),
        ("stars", pa.int8()),
        ("text", pa.string()),
        ("posted", pa.timestamp("us", "UTC")),
        ("price", pa.decimal128(9, 2)),
        ("tags", pa.list_(pa.string())),
        ("verified", pa.bool_()),
    ],
    metadata={"source": "written for batch_runner; products are invented"},
)


def texts(name: str) -> dict[str, Any]:
    """A file of texts/; decimal numbers keep their zeros."""
    source = (HERE / "texts" / name).read_text(encoding="utf-8")
    return tomllib.loads(source, parse_float=Decimal)


def write_articles(path: Path) -> None:
    columns = ["article_id", "title", "section", "published", "body"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(texts("articles.toml")["article"])


def write_tickets(path: Path) -> None:
    """Every third line spells other scripts as escapes: both spellings are legal JSON."""
    with path.open("w", encoding="utf-8", newline="") as file:
        for number, ticket in enumerate(texts("tickets.toml")["ticket"]):
            priority = ticket.pop("priority")
            created_at = ticket.pop("created_at").isoformat().replace("+00:00", "Z")
            line = json.dumps(ticket | {"created_at": created_at}, ensure_ascii=number % 3 == 1)
            # json would write 1.50 as 1.5
            file.write(f'{line.removesuffix("}")}, "priority": {priority}}}\n')


def write_reviews(path: Path) -> None:
    source = texts("reviews.toml")
    rows = [
        review
        | {name: source["products"][review["product"]][name] for name in ("category", "price")}
        | {"posted": review["posted"].astimezone(UTC)}
        for review in source["review"]
    ]
    pq.write_table(pa.Table.from_pylist(rows, REVIEWS), path, row_group_size=16)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    write_articles(folder / "articles.csv")
    write_tickets(folder / "tickets.jsonl")
    write_reviews(folder / "reviews.parquet")


if __name__ == "__main__":
    main()
