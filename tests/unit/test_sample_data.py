import csv
import json
import runpy
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_runner.jobfile import load_job
from batch_runner.prompt import PromptBuilder
from batch_runner.records import Request
from batch_runner.tables import open_table


SAMPLES = Path(__file__).parents[2] / "sample_data"
JOBS = SAMPLES.parent / "jobs"


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    subprocess.run([sys.executable, SAMPLES / "generate.py", folder], check=True)
    return folder


def articles():
    with (SAMPLES / "articles.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def tickets():
    lines = (SAMPLES / "tickets.jsonl").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", ["articles.csv", "tickets.jsonl"])
def test_regenerating_gives_the_same_bytes(regenerated, name):
    assert (regenerated / name).read_bytes() == (SAMPLES / name).read_bytes()


def test_regenerating_gives_the_same_table(regenerated):
    again = pq.read_table(regenerated / "reviews.parquet")
    assert again.equals(pq.read_table(SAMPLES / "reviews.parquet"), check_metadata=True)


def test_an_edited_text_changes_the_bytes(regenerated, tmp_path):
    (tmp_path / "texts").mkdir()
    for source in (SAMPLES / "texts").iterdir():
        text = source.read_text(encoding="utf-8").replace("night bus", "day bus")
        (tmp_path / "texts" / source.name).write_text(text, encoding="utf-8")
    script = tmp_path / "generate.py"
    script.write_text((SAMPLES / "generate.py").read_text(encoding="utf-8"), encoding="utf-8")
    subprocess.run([sys.executable, script], check=True)
    name = "articles.csv"
    assert (tmp_path / name).read_bytes() != (regenerated / name).read_bytes()


def test_every_article_can_be_summarized():
    rows = articles()
    assert len(rows) == 40
    assert len({row["article_id"] for row in rows}) == 40
    assert rows[16]["article_id"] == "00017"
    for row in rows:
        assert all(row.values())
        assert 60 <= len(row["body"].split()) <= 110, row["article_id"]


def test_the_articles_hold_the_awkward_cells_they_promise():
    rows = articles()
    titles = [row["title"] for row in rows]
    everything = "".join(row["title"] + row["body"] for row in rows)
    for piece in (
        "{{ first_name }}",
        "{0}",
        "%s",
        "\u2028",
        "\u0085",
        "🐧",
        "図書館",
        "سلام",
        "\t",
    ):
        assert piece in everything
    assert "&nbsp;" in everything
    assert "<script>" in everything
    assert any("\n" in row["body"] for row in rows)
    assert any('"' in title and "," in title for title in titles)
    assert any(title.startswith("=") for title in titles)
    assert titles.count("Road closed") == 2


def test_tickets_keep_both_spellings_of_text_and_numbers():
    raw = (SAMPLES / "tickets.jsonl").read_text(encoding="utf-8")
    assert '"priority": 1.50}' in raw
    assert "J\\u00fcrgen" in raw
    assert "Łódź" in raw
    rows = tickets()
    assert len(rows) == 30
    assert len({row["ticket_id"] for row in rows}) == 30
    assert rows[0]["customer"]["address"]["city"] == "Lyon"
    assert all(isinstance(row["tags"], list) for row in rows)
    assert sum("plan" not in row["customer"] for row in rows) == 1


def test_reviews_carry_the_types_that_csv_has_not():
    table = pq.read_table(SAMPLES / "reviews.parquet")
    assert table.num_rows == 40
    assert pq.ParquetFile(SAMPLES / "reviews.parquet").num_row_groups == 3
    kinds = {field.name: field.type for field in table.schema}
    assert pa.types.is_dictionary(kinds["category"])
    assert kinds["posted"] == pa.timestamp("us", "UTC")
    assert kinds["price"] == pa.decimal128(9, 2)
    assert pa.types.is_list(kinds["tags"])
    assert table["price"][0].as_py() == Decimal("39.90")
    assert all(text.strip() for text in table["text"].to_pylist())


def test_importing_the_generator_writes_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["generate.py", str(tmp_path)])
    runpy.run_path(str(SAMPLES / "generate.py"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_ready_job_has_a_request_for_each_of_its_sample_rows(path):
    job = load_job(path, environment={})
    files = job.input.path
    if job.name == "nightly-triage":
        files = (str(SAMPLES / "tickets.jsonl"),)
    prompts = PromptBuilder(job)
    table = open_table(files)
    rows = list(table.rows())
    prompts.check_columns(table.header or rows[0].values, source=path.name)
    assert len(rows) >= 30
    for row in rows:
        assert isinstance(prompts.build(row), Request), row.place
