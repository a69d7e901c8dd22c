"""`batch-runner costs`: what jobs have cost, over runs, days, models and folders."""

import csv
import io
import json
import re
import shutil
from decimal import Decimal

import pytest

from batch_runner import load_job, read_results, run
from batch_runner.costs import costs
from batch_runner.faultserver import running
from batch_runner.journal import RunDirectory
from batch_runner.run_options import RunOptions


JOB = """
[input]
path = "in.csv"
[prompt]
input = "{{{{ body }}}}"
[request]
model = "{{{{ model }}}}"
max_output_tokens = 60
[endpoint]
base_url = "{url}"
[retry]
max_wait = "10ms"
[limits]
concurrency = 20
[output]
path = "{name}.csv"
[prices."a"]
input = 1
output = 10
[prices."b"]
input = 1
output = 10
"""


@pytest.fixture
def server():
    with running(input_price=1, output_price=10) as server:
        yield server


@pytest.fixture
def job_in(tmp_path, server):
    def write(name="job", rows=("x,a", "y,b", "z,a")):
        (tmp_path / "in.csv").write_text("\n".join(["body,model", *rows]) + "\n")
        (tmp_path / f"{name}.toml").write_text(JOB.format(url=server.url, name=name))
        return load_job(tmp_path / f"{name}.toml")

    return write


def groups(*places, **options):
    return {group.keys: group for group in costs(places, **options).groups}


def test_costs_add_up_to_the_servers_ledger_by_every_key(job_in, server, tmp_path):
    for name in ("one", "two"):
        run(job_in(name))
    run(job_in("one", ["x,a", "y,b", "z,a", "new,b"]))
    server.settle()
    for key in ("model", "day", "run", "status", "job"):
        report = costs([tmp_path], by=[key])
        assert report.total.bill.at_least == server.ledger.totals.billed.dollars
        assert sum(group.bill.listed for group in report.groups) == report.total.bill.listed
    assert {keys[0]: group.results for keys, group in groups(tmp_path).items()} == {"a": 4, "b": 3}
    runs = {keys[0] for keys in groups(tmp_path, by=["run"])}
    assert len(runs) == 3
    shown = {outcome.result.run_id for outcome in read_results(load_job(tmp_path / "one.toml"))}
    assert shown < runs
    assert set(groups(tmp_path, by=["job", "model"])) == {
        ("one", "a"), ("one", "b"), ("two", "a"), ("two", "b"),
    }  # fmt: skip


def test_a_run_directory_alone_knows_its_prices(job_in, tmp_path):
    job = job_in()
    run(job)
    by_job = costs([tmp_path / "job.toml"]).total.bill
    (tmp_path / "job.toml").unlink()
    moved = shutil.move(job.run_path, tmp_path / "kept.run")
    assert costs([moved]).total.bill == by_job
    assert by_job.at_least > 0


def test_a_place_named_twice_is_counted_once(job_in, tmp_path):
    job = job_in()
    run(job)
    once = costs([job.run_path]).total.bill
    assert costs([tmp_path / "job.toml", tmp_path, job.run_path]).total.bill == once


def test_a_journal_put_aside_by_fresh_was_paid_for_too(job_in, server, tmp_path):
    job = job_in()
    run(job)
    run(job, RunOptions(fresh=True))
    server.settle()
    report = costs([tmp_path])
    assert report.total.bill.at_least == server.ledger.totals.billed.dollars
    assert report.total.results == 6


def test_what_is_told_of_the_journal_says_that_it_began_with_fresh(job_in, main_cli):
    """Else `costs`, which counts what was put aside, would contradict it."""
    job_in()
    page = ("report", "job.toml", "-o", "page.html")
    for fresh, told in ((), False), (("--fresh",), True), (("--on-change", "rerun"), True):
        path = main_cli.folder / "in.csv"
        path.write_text(path.read_text() + f"more{len(fresh)},a\n")
        ran = main_cli("run", "job.toml", *fresh)
        assert ("since --fresh  $" in ran.err) == told
        assert ("since --fresh  $" in main_cli("report", "job.toml").out) == told
        assert (" since --fresh" in main_cli("status", "job.toml").out) == told
        assert main_cli(*page).code == 0
        html = (main_cli.folder / "page.html").read_text()
        assert ("<th>Since --fresh</th>" in html) == told == ("<th>Of all runs</th>" not in html)
        for where in (
            (main_cli.folder / "job.csv.meta.json").read_text(),
            main_cli("status", "job.toml", "--json").out,
        ):
            assert json.loads(where)["journals_put_aside"] == int(told)
    assert "all runs" not in main_cli("report", "job.toml").out


def test_failed_attempts_that_were_billed_are_in(job_in, server, main_cli):
    server.misbehave("empty", next=1)
    run(job_in())
    server.settle()
    total = costs([main_cli.folder]).total.bill
    assert total.failures > 0
    assert total.at_least == server.ledger.totals.billed.dollars
    assert "failed attempts that were billed" in main_cli("costs", "job.toml").out


def test_unknown_billing_is_a_line_of_its_own_with_a_bound(job_in, server, main_cli):
    server.misbehave("truncated-json", next=1)
    run(job_in())
    server.settle()
    total = costs([main_cli.folder]).total.bill
    assert total.at_least < server.ledger.totals.billed.dollars <= total.at_most
    said = main_cli("costs", "job.toml").out
    assert "unknown billing: 1 call (1 reply unreadable, or without usage), at most $" in said
    assert re.search(r"^in all: at least \$\S+, at most \$\S+$", said, re.MULTILINE)


def test_calls_lost_in_a_crash_are_of_the_run_and_day_that_made_them(job_in):
    job = job_in()
    run(job)
    directory = RunDirectory(job.run_path)
    segment = directory.segment(0)
    whole = segment.read_bytes()
    # The journal as a kill would have left it: calls announced, nothing after them.
    lines = [
        line
        for line in whole.splitlines(keepends=True)
        if line.startswith((b'{"header', b'{"intent'))
    ]
    segment.write_bytes(b"".join(lines))
    found = groups(job.run_path, by=["status", "run", "model"])
    assert {keys[0] for keys in found} == {"lost"}
    assert {keys[2] for keys in found} == {"a", "b"}
    assert all(keys[1] != "unknown" for keys in found)
    assert all(group.bill.at_least == 0 < group.bill.at_most for group in found.values())


def test_days_can_be_left_out(job_in, tmp_path):
    run(job_in())
    assert costs([tmp_path], since="2000-01-01", until="2999-12-31").total.results == 3
    assert costs([tmp_path], until="2000-01-01").total.results == 0
    assert costs([tmp_path], since="2999-01-01").total.results == 0


def test_what_flex_and_batch_would_have_cost_where_they_have_a_price(tmp_path, server):
    (tmp_path / "in.csv").write_text("body,model\nx,gpt-5\ny,a\n")
    (tmp_path / "job.toml").write_text(JOB.format(url=server.url, name="job"))
    run(load_job(tmp_path / "job.toml"))
    found = groups(tmp_path)
    listed = found["gpt-5",].bill.listed
    for tier in ("flex", "batch"):
        alternative = found["gpt-5",].cheaper[tier]
        assert (alternative.usd, alternative.instead_of) == (listed / 2, listed)
    assert found["a",].cheaper == {}


def test_the_table_the_json_and_the_csv_say_the_same(job_in, server, main_cli):
    server.change(cached_tokens=1)
    run(job_in(rows=["some words to ask,a", "some more words to ask,b"]))
    table = main_cli("costs", "job.toml", "--by", "model,day")
    said = json.loads(main_cli("costs", "job.toml", "--by", "model,day", "--json").out)
    rows = list(
        csv.DictReader(io.StringIO(main_cli("costs", "job.toml", "--by", "model,day", "--csv").out))
    )
    assert table.code == 0
    assert table.out.splitlines()[0].split()[:3] == ["model", "day", "results"]
    assert "total" in table.out
    assert (
        [row["model"] for row in rows] == [group["model"] for group in said["groups"]] == ["a", "b"]
    )
    exact = [Decimal(group["cost_usd_exact"]["listed"]) for group in said["groups"]]
    assert [Decimal(row["cost_usd"]) for row in rows] == exact
    assert 0 < said["total"]["cached_share"] < 1


def test_an_unpriced_model_costs_unknown_and_not_zero(tmp_path, server, main_cli):
    (tmp_path / "in.csv").write_text("body,model\nx,a-stranger\n")
    (tmp_path / "job.toml").write_text(JOB.format(url=server.url, name="job"))
    run(load_job(tmp_path / "job.toml"))
    assert "unknown" in main_cli("costs", "job.toml").out
    said = json.loads(main_cli("costs", "job.toml", "--json").out)
    assert said["total"]["cost_usd"] is None
    [row] = csv.DictReader(io.StringIO(main_cli("costs", "job.toml", "--csv").out))
    assert row["cost_usd"] == ""


def test_a_job_that_never_ran_has_cost_nothing(job_in, main_cli):
    job_in()
    ran = main_cli("costs", "job.toml")
    assert (ran.code, ran.out) == (0, "no calls\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere.toml",), "nowhere.toml"),
        ((".",), "no run directory"),
        ((".", "--by", "colour"), "colour"),
        ((".", "--since", "yesterday"), "yesterday"),
    ],
)
def test_what_cannot_be_answered_is_a_usage_error(main_cli, arguments, words):
    ran = main_cli("costs", *arguments)
    assert ran.code == 2
    assert words in ran.err


def test_a_row_that_was_sent_again_is_told_from_another_row(job_in, server, main_cli):
    server.misbehave("400", next=1)
    run(job_in())
    assert costs([main_cli.folder]).total.again == 0
    assert "sent before" not in main_cli("costs", "job.toml").out
    main_cli("retry", "job.toml")
    run(load_job(main_cli.folder / "job.toml"), RunOptions(fresh=True))
    ran = main_cli("costs", "job.toml")
    assert ran.out.splitlines()[0].split()[1] == "results"
    assert "results: a row has one for each time it was sent" in ran.out
    assert "prompt changes: 3 of new requests, 4 of requests sent before\n" in ran.out
    said = json.loads(main_cli("costs", "job.toml", "--json").out)
    assert (said["total"]["results"], said["results_of_rows_sent_again"]) == (7, 4)


def test_flags_say_which_run_of_a_job_is_meant(job_in, tmp_path, main_cli):
    job_in()
    assert main_cli("run", "job.toml", "-n", "1").code == 0
    assert main_cli("run", "job.toml", "-o", "other.csv").code == 0
    for words in (("job.toml", "-o", "other.csv"), ("-o", "other.csv"), ("other.csv",)):
        ran = main_cli("costs", *words, "--json")
        assert (ran.code, json.loads(ran.out)["total"]["results"]) == (0, 3), words
    by_url = main_cli("costs", "job.toml", "--base-url", "http://127.0.0.1:9", "--json")
    assert json.loads(by_url.out)["total"]["results"] == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("job.toml", "-o", "figures.csv"), "no run has written there"),
        ((".", "-o", "job.csv"), "not of ."),
        (("job.toml", "job.csv", "-o", "job.csv"), "not of job.toml job.csv"),
    ],
)
def test_an_output_that_says_nothing_is_refused(job_in, main_cli, words, told):
    run(job_in())
    ran = main_cli("costs", *words)
    assert (ran.code, ran.out) == (2, "")
    assert told in ran.err
