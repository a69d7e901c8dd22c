"""What the last run was is remembered: advice means that one, not what the job file says today."""

import json
import os

import pytest

from batch_runner.journal import RunDirectory, read_manifest
from tests.integration.job_text import job_text


JOB = job_text(output="paid.csv")


@pytest.fixture
def place(main_cli, fault_server):
    """Two rows, one of them failed for now, in an output of their own, from a server on this machine."""
    folder = main_cli.folder
    (folder / "in.csv").write_text("id,body\n1,one\n2,two [[fault:500]]\n")
    (folder / "m.toml").write_text(JOB)
    run = ("run", "m.toml", "--base-url", fault_server.url, "-o", "q.csv")
    ran = main_cli(*run, "--set", "retry.attempts=1", "--set", "retry.max_wait=10ms")
    assert ran.code == 3, ran.err
    (folder / "elsewhere").mkdir()
    return folder


def advice(text):
    """What is to be typed about the job."""
    typed = [line.partition("batch-runner ")[2] for line in text.splitlines()]
    return [words for words in typed if "m.toml" in words]


@pytest.mark.parametrize(
    "words",
    [
        ("status", "m.toml", "-o", "q.csv"),
        ("status", "q.csv"),
        ("status", "q.csv.run"),
        ("report", "m.toml", "-o", "q.csv"),
        ("report", "q.csv"),
        ("run", "q.csv"),
        ("retry", "q.csv"),
    ],
)
def test_advice_names_the_endpoint_and_the_output_of_the_last_run(
    main_cli, place, fault_server, words
):
    told = main_cli(*words)
    found = advice(told.out + told.err)
    assert found, told
    for line in found:
        assert f" m.toml --output q.csv --base-url {fault_server.url}" in line


def test_what_is_advised_sends_what_is_left_and_nothing_else(main_cli, place, fault_server):
    (place / "in.csv").write_text("id,body\n1,one\n2,two\n")
    fault_server.reset()
    to_look, words = advice(main_cli("status", "q.csv").out)
    assert to_look == f"{words} --dry-run", "the input has changed"
    assert main_cli(*words.split()).code == 0
    fault_server.settle()
    assert len(fault_server.ledger.rows()) == 1


def test_advice_can_be_typed_in_another_folder(place, main_cli, monkeypatch):
    main_cli.folder = place / "elsewhere"
    [words] = advice(main_cli("status", "../q.csv").out)
    assert f"{place / 'm.toml'} --output {place / 'q.csv'} " in words


def test_costs_takes_an_output_as_status_does(main_cli, place):
    by_output = main_cli("costs", "q.csv")
    assert by_output.code == 0, by_output.err
    assert by_output.out == main_cli("costs", "q.csv.run").out
    data = main_cli("costs", "in.csv")
    assert data.code == 2
    assert "no run has written to 'in.csv'" in data.err
    assert "not TOML" not in data.err


def test_no_secret_is_remembered_with_the_command(main_cli, place, fault_server):
    url = fault_server.url.replace("http://", "http://me:hunter2hunter2@")
    main_cli(
        "run", "m.toml", "--base-url", url, "-o", "s.csv",
        "--set", 'endpoint.headers.x-tenant="s3cret-s3cret"',
    )  # fmt: skip
    main_cli(
        "run", "m.toml", "--base-url", fault_server.url, "-o", "t.csv",
        "--set", 'endpoint.headers.x-tenant="s3cret-s3cret"',
    )  # fmt: skip
    manifest = RunDirectory(place / "t.csv.run").manifest
    assert read_manifest(manifest).job["typed"]
    for file in place.rglob("manifest.json"):
        assert "hunter2" not in file.read_text()
        assert "s3cret" not in file.read_text()


PRICES = ("--set", "prices.m1.input=2", "--set", "prices.m1.output=4")


def test_a_journal_costs_the_same_in_every_command(main_cli, fault_server):
    """The prices of a run are those of its calls, also where the job file names none."""
    folder = main_cli.folder
    (folder / "in.csv").write_text("id,body\n1,one\n2,two\n")
    (folder / "m.toml").write_text(f'{JOB}[endpoint]\nbase_url = "{fault_server.url}"\n')
    assert main_cli("run", "m.toml", *PRICES).code == 0

    def cost(*words):
        told = main_cli(*words)
        assert told.code == 0, told.err
        assert "without a price" not in told.out
        return told.out

    [known] = [line for line in cost("status", "paid.csv").splitlines() if "cost" in line]
    dollars = known.split()[1]
    assert float(dollars.strip("$")) > 0
    for words in (
        ("status", "m.toml"),
        ("report", "m.toml"),
        ("costs", "m.toml"),
        ("costs", "."),
        ("costs", "paid.csv"),
    ):
        assert dollars in cost(*words), words
    before = (folder / "paid.csv").read_bytes()
    assert main_cli("export", "m.toml").code == 0
    assert (folder / "paid.csv").read_bytes() == before
    assert main_cli("run", "m.toml", "-m", "m2", "--on-change", "rerun").code == 0
    assert dollars in main_cli("costs", "m.toml").out, "another model makes no price forgotten"


def test_a_price_taken_out_of_the_job_gives_way_to_the_built_in_list(main_cli, fault_server):
    folder = main_cli.folder
    (folder / "in.csv").write_text("id,body\n1,one\n")
    (folder / "m.toml").write_text(JOB.replace('"m1"', '"gpt-5-mini"'))
    own = ("--set", "prices.gpt-5-mini.input=1000", "--set", "prices.gpt-5-mini.output=1000")
    there = ("--base-url", fault_server.url)
    assert main_cli("run", "m.toml", *there, *own).code == 0
    dear = main_cli("status", "m.toml", *own).out
    assert main_cli("status", "m.toml").out != dear


def test_check_says_that_another_endpoint_gave_the_answers(main_cli, place, fault_server):
    told = main_cli("check", "m.toml", "-o", "q.csv", OPENAI_API_KEY="key-of-somebody")
    assert told.code == 0
    note = f"1 answer that stays was given by {fault_server.url}; the job asks https://api.openai.com/v1"
    assert note in told.out
    same = main_cli("check", "m.toml", "-o", "q.csv", "--base-url", fault_server.url)
    assert "given by" not in same.out
    new = main_cli("check", "m.toml", OPENAI_API_KEY="key-of-somebody")
    assert "given by" not in new.out


def test_a_run_that_met_429s_says_so_at_its_end_and_in_its_report(main_cli, fault_server):
    rows = "".join(f"{n},row {n}\n" for n in range(6))
    (main_cli.folder / "in.csv").write_text(f"id,body\n{rows}6,x [[fault:429x2-then-ok]]\n")
    (main_cli.folder / "m.toml").write_text(JOB)
    ran = main_cli("run", "m.toml", "--base-url", fault_server.url)
    assert ran.code == 0, ran.err
    assert "limits   2 calls were answered 429" in ran.err
    assert "limits   2 calls were answered 429" in main_cli("report", "m.toml").out


def test_a_run_that_sends_nothing_keeps_what_the_one_before_said_of_limits(main_cli, fault_server):
    rows = "".join(f"{n},row {n}\n" for n in range(6))
    table = main_cli.folder / "in.csv"
    table.write_text(f"id,body\n{rows}6,x [[fault:429x2-then-ok]]\n")
    (main_cli.folder / "m.toml").write_text(JOB)
    there = ("--base-url", fault_server.url, "--set", "output.report=page.html")
    run = ("run", "m.toml", *there)
    assert main_cli(*run).code == 0
    [meta] = main_cli.folder.glob("*.meta.json")
    before = json.loads(meta.read_text())
    page = main_cli.folder / "page.html"
    assert "2 calls of the last run were answered 429" in page.read_text()
    for _ in range(2):
        os.utime(table)
        page.unlink()
        idle = main_cli(*run)
        assert "0 to send" in idle.err
        assert "limits " not in idle.err, "this run has met none"
        assert "2 calls of the last run were answered 429" in page.read_text()
    after = json.loads(meta.read_text())
    for name in ("limit_changes", "rate_limited_calls", "limits_of_run"):
        assert after[name] == before[name]
    assert after["run_id"] != after["limits_of_run"] == before["run_id"]
    assert "limits   2 calls were answered 429" in main_cli("report", "m.toml").out
