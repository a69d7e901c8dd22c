"""What we say a run cost against the ledger of the server that billed it."""

import csv
import json
import re
from dataclasses import replace
from decimal import Decimal

import pytest

from batch_runner import OnChange, RunOptions, load_job, retrying, run
from batch_runner.bill import Biller
from batch_runner.errors import ExitCode, UsageError
from batch_runner.faultserver import running
from batch_runner.plan import Dedupe
from batch_runner.progress import ProgressStyle
from tests.integration.calls_received import calls_received


PRICES = {"input_price": "1.25", "cached_price": "0.125", "output_price": "10"}
JOB = """
[input]
path = "in.csv"
[prompt]
input = "{{{{ body }}}}"
[request]
model = {model}
max_output_tokens = 60
{request}
[endpoint]
base_url = "{url}"
timeout = "{timeout}"
[retry]
max_wait = "10ms"
[limits]
{limits}
[output]
path = "out.csv"
[prices."m"]
input = 1.25
cached_input = 0.125
output = 10
"""
QUIET = RunOptions(progress=ProgressStyle.OFF, handle_signals=False)


class Ground:
    """A folder with a job, and the server it calls."""

    def __init__(self, folder, server):
        self.folder, self.server = folder, server
        self.output = folder / "out.csv"

    def rows(self, bodies, header="body"):
        lines = [header, *bodies]
        (self.folder / "in.csv").write_text("\n".join(lines) + "\n")

    def run(self, *, model='"m"', request="", limits="", max_cost=None, timeout="30s", **options):
        limits = f"{limits}\nmax_cost = {max_cost}" if max_cost is not None else limits
        text = JOB.format(
            model=model, request=request, limits=limits, url=self.server.url, timeout=timeout
        )
        (self.folder / "job.toml").write_text(text)
        options = {"progress": QUIET.progress, "handle_signals": False, **options}
        summary = run(load_job(self.folder / "job.toml"), RunOptions(**options))
        self.server.settle()
        return summary


@pytest.fixture
def ground(tmp_path):
    with running(**PRICES) as server:
        yield Ground(tmp_path, server)


def bodies(count):
    return [f"row {number} {'x' * (number % 97)}" for number in range(count)]


@pytest.mark.parametrize("rows", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_the_cost_of_a_run_is_the_servers_ledger_to_the_last_digit(ground, honest_bill, rows):
    ground.server.change(cached_tokens=3, reasoning_tokens=7)
    ground.rows(bodies(rows))
    assert ground.run(limits="concurrency = 100").exit_code is ExitCode.DONE
    meta = honest_bill(ground.output, ground.server.ledger, exact=True)
    assert meta["calls_sent"] == rows
    in_the_rows = sum(
        Decimal(line.split(",")[-4]) for line in ground.output.read_text().splitlines()[1:]
    )
    assert in_the_rows == Decimal(meta["cost_usd_exact"]["listed"])


def test_the_ledger_check_sees_a_bill_that_is_too_low_or_too_high(ground, honest_bill):
    ground.rows(bodies(3))
    ground.run()
    honest_bill(ground.output, ground.server.ledger, exact=True)
    meta_file = ground.output.with_name("out.csv.meta.json")
    meta = json.loads(meta_file.read_text())
    said = meta["cost_usd_exact"]
    for wrong in ({"at_most": "0.00001"}, {"at_least": "1"}):
        meta_file.write_text(json.dumps({**meta, "cost_usd_exact": {**said, **wrong}}))
        with pytest.raises(AssertionError):
            honest_bill(ground.output, ground.server.ledger)


@pytest.mark.parametrize(
    "fault",
    [
        "500", "503", "reset-before", "reset-after", "half-reset", "half-close", "drop",
        "hang", "truncated-json", "html-200", "empty-body", "no-usage", "null-usage",
        "partial-usage", "failed", "failed:invalid_prompt", "incomplete", "empty", "refusal",
        "wrong-content-type", "minimal", "400",
    ],
)  # fmt: skip
def test_whatever_goes_wrong_known_is_below_and_at_most_above_the_ledger(
    ground, honest_bill, fault
):
    # Short only where nothing else ends the call: a stalled machine must not make calls time out.
    timeout = "0.4s" if fault == "hang" else "30s"
    ground.server.misbehave(fault, rate=0.5, seed=1)
    ground.rows(bodies(24))
    ground.run(limits="concurrency = 24", timeout=timeout)
    meta = honest_bill(ground.output, ground.server.ledger)
    assert meta["cost_usd_at_most"] is not None
    # The control: the fault did something to the bill, or to the calls.
    assert meta["calls_sent"] > 24 or meta["statuses"]["ok"] < 24 or fault in (
        "no-usage", "null-usage", "partial-usage", "wrong-content-type", "minimal",
    )  # fmt: skip
    ground.server.misbehave(None)
    ground.run(limits="concurrency = 24")
    honest_bill(ground.output, ground.server.ledger)


BUDGET_JOB = """
[input]
path = "in.csv"
[prompt]
input = "{{{{ body }}}}"
[request]
model = "m"
{cap}
[endpoint]
base_url = "{url}"
timeout = "30s"
[retry]
max_wait = "{max_wait}"
[limits]
concurrency = {concurrency}
max_cost = {max_cost}
[output]
path = "out.csv"
[prices."m"]
input = 0
output = 100
"""


def run_cents(
    ground, *, max_cost=1, cap="max_output_tokens = 101", concurrency="200", max_wait="10ms"
):
    text = BUDGET_JOB.format(
        url=ground.server.url,
        max_cost=max_cost,
        cap=cap,
        concurrency=concurrency,
        max_wait=max_wait,
    )
    (ground.folder / "job.toml").write_text(text)
    summary = run(load_job(ground.folder / "job.toml"), QUIET)
    ground.server.settle()
    return summary


def test_a_row_is_put_on_a_bill_once_with_a_budget_too(cent_ground, monkeypatch):
    billed = []
    add = Biller.add

    def counted(self, bill, result):
        billed.append(result.row)
        add(self, bill, result)

    monkeypatch.setattr(Biller, "add", counted)
    cent_ground.rows(bodies(12))
    assert run_cents(cent_ground).exit_code is ExitCode.DONE
    assert sorted(billed) == [*range(12)]


def test_refused_calls_cost_nothing_and_are_known_to(ground, honest_bill):
    ground.server.misbehave("429:0", next=6)
    ground.rows(bodies(24))
    ground.run(limits="concurrency = 24")
    meta = honest_bill(ground.output, ground.server.ledger, exact=True)
    assert meta["calls_sent"] == 30


def test_after_a_kill_known_is_below_and_at_most_above_the_ledger(ground, honest_bill, run_cli):
    ground.server.change(latency_seconds=0.05)
    ground.rows(bodies(60))
    text = JOB.format(
        model='"m"', request="", limits="concurrency = 20", url=ground.server.url, timeout="30s"
    )
    (ground.folder / "job.toml").write_text(text)
    child = run_cli.start("run", "job.toml", "--progress", "off")
    calls_received(ground.server.ledger, 30)
    child.kill()
    child.communicate()
    at_the_kill = ground.server.ledger.totals.received
    assert ground.run(limits="concurrency = 20").exit_code is ExitCode.DONE
    meta = honest_bill(ground.output, ground.server.ledger)
    # The control: calls were in flight, and are told apart from those that are known.
    assert 30 <= at_the_kill < 60
    assert meta["calls_unknown"].get("crash", 0) > 0
    assert meta["cost_usd_at_least"] < meta["cost_usd_at_most"]


def test_the_columns_of_a_row_count_every_call_for_it_whichever_run_made_it(ground, run_cli):
    ground.server.change(latency_seconds=0.05)
    ground.rows(bodies(60))
    text = JOB.format(
        model='"m"', request="", limits="concurrency = 20", url=ground.server.url, timeout="30s"
    )
    job_file = ground.folder / "job.toml"
    job_file.write_text(text.replace("[output]", '[output]\ncolumns = "full"'))
    child = run_cli.start("run", "job.toml", "--progress", "off")
    calls_received(ground.server.ledger, 30)
    child.kill()
    child.communicate()
    ground.server.change(latency_seconds=0)

    def run_again(fault, **options):
        ground.server.misbehave(fault)
        again = run(load_job(job_file), replace(QUIET, **options))
        ground.server.settle()
        with ground.output.open(newline="") as file:
            rows = [*csv.DictReader(file)]
        sums = {
            name: sum((Decimal(row[f"llm_{name}"] or 0) for row in rows), Decimal(0))
            for name in ("attempts", "billing_unknown", "cost_usd")
        }
        meta = json.loads(ground.output.with_name("out.csv.meta.json").read_text())
        assert sums["attempts"] == meta["calls_sent"]
        assert sums["billing_unknown"] == sum(meta["calls_unknown"].values())
        assert sums["cost_usd"] == Decimal(meta["cost_usd_exact"]["listed"])
        return again, meta

    cut = {"wanted": retrying("incomplete")}
    first, _ = run_again("incomplete")
    assert first.statuses["incomplete"] > 20
    second, meta = run_again("truncated-json", **cut)
    assert second.statuses["incomplete"] == first.statuses["incomplete"], "in vain"
    # The control: of every kind there is something that the last run knows nothing of.
    assert set(meta["calls_unknown"]) == {"crash", "bad_reply"}
    third, _ = run_again(None, **cut)
    assert third.statuses["ok"] == 60
    exported = ground.output.read_bytes()
    assert run_cli("export", "job.toml").code == 0
    assert ground.output.read_bytes() == exported


def test_a_call_that_was_turned_away_as_its_run_stopped_is_no_attempt_of_its_row(ground):
    ground.rows(["one"])
    ground.server.misbehave("404", next=1)
    assert ground.run().exit_code is ExitCode.STOPPED
    assert ground.run().bill.calls == 1
    assert ground.server.ledger.totals.received == 2
    with ground.output.open(newline="") as file:
        assert [row["llm_attempts"] for row in csv.DictReader(file)] == ["1"]


@pytest.fixture
def cent_ground(ground):
    """Every call that is billed costs one cent: 100 output tokens at $100 a million."""
    ground.server.change(input_price="0", cached_price="0", output_price="100")
    ground.server.misbehave("usage:10:0:100:0+slow:0.02")
    ground.rows(bodies(400))
    return ground


def test_a_budget_of_a_dollar_at_200_in_flight_ends_at_a_dollar(cent_ground, honest_bill):
    summary = run_cents(cent_ground)
    assert summary.exit_code is ExitCode.STOPPED
    assert "max_cost" in summary.stop_reason
    # 99 calls: beside 0.99 the ceiling of another, 0.0101, does not fit.
    assert cent_ground.server.ledger.totals.billed.dollars == Decimal("0.99")
    honest_bill(cent_ground.output, cent_ground.server.ledger, exact=True)
    assert (summary.statuses["ok"], summary.statuses["pending"]) == (99, 301)


def test_a_budget_holds_where_nothing_bounds_a_call(cent_ground):
    summary = run_cents(cent_ground, cap="")
    assert summary.exit_code is ExitCode.STOPPED
    assert cent_ground.server.ledger.totals.billed.dollars == 1


def test_repeats_of_calls_that_may_have_been_billed_keep_to_the_budget(cent_ground, honest_bill):
    cent_ground.server.misbehave("usage:10:0:100:0+truncated-json+slow:0.01")
    # Fewer at once than the money pays for: there is some left when the first are repeated.
    summary = run_cents(cent_ground, concurrency="20")
    assert summary.exit_code is ExitCode.STOPPED
    billed = cent_ground.server.ledger.totals.billed.dollars
    assert Decimal("0.9") <= billed <= 1
    # The control: rows were really repeated.
    received = cent_ground.server.ledger.times_received()
    assert max(received.values()) > 1
    honest_bill(cent_ground.output, cent_ground.server.ledger)


def test_a_repeat_waits_for_what_others_give_back(cent_ground):
    """Nine calls of ten cents at most are all the money: a repeat refused then would end the run.

    They really cost one cent each, but for the three of unknown billing.
    """
    cent_ground.server.misbehave("reset-after", next=3)
    summary = run_cents(cent_ground, cap="max_output_tokens = 1001")
    assert summary.exit_code is ExitCode.STOPPED
    assert summary.bill.unknown_calls == 3
    assert summary.statuses["ok"] >= 55


@pytest.mark.timeout(60)
@pytest.mark.parametrize("concurrency", ['"1-2-50"', '"auto"'])
def test_repeats_that_wait_for_money_keep_no_place_from_others(cent_ground, concurrency):
    """More rows than places: whoever waited in a place would wait for those outside it."""
    cent_ground.server.misbehave("500+slow:0.05")
    summary = run_cents(cent_ground, max_cost="0.1", concurrency=concurrency, max_wait="2s")
    assert summary.exit_code is ExitCode.STOPPED


def test_the_next_run_with_more_money_goes_on_and_pays_nothing_twice(cent_ground, honest_bill):
    run_cents(cent_ground)
    summary = run_cents(cent_ground, max_cost=5)
    assert summary.exit_code is ExitCode.DONE
    assert summary.statuses["ok"] == 400
    assert cent_ground.server.ledger.billed_again() == 0
    honest_bill(cent_ground.output, cent_ground.server.ledger, exact=True)


def test_each_run_counts_its_own_spending(cent_ground):
    run_cents(cent_ground)
    summary = run_cents(cent_ground)
    assert summary.exit_code is ExitCode.STOPPED
    assert summary.statuses["ok"] == 198


def test_a_budget_too_small_for_one_call_begins_none(cent_ground):
    summary = run_cents(cent_ground, max_cost="0.005")
    assert summary.exit_code is ExitCode.STOPPED
    assert re.search(
        r"^max_cost \$0\.00500 is less than one call may cost: \$0\.010\d", summary.stop_reason
    )
    assert "lower max_output_tokens" in summary.hint
    assert cent_ground.server.ledger.totals.received == 0


def test_the_budget_is_said_at_the_start_and_four_fifths_of_it_once(cent_ground, caplog):
    caplog.set_level("INFO", logger="batch_runner")
    run_cents(cent_ground)
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if line.startswith("max_cost $1.00 for this run: ")]) == 1
    assert not any("at most $0.00" in line for line in said)
    assert len([line for line in said if "of max_cost $1.00 is spent" in line]) == 1


@pytest.mark.parametrize(("max_cost", "told"), [("0.5", 1), ("20", 0)], ids=["tight", "roomy"])
def test_a_limit_that_holds_calls_back_says_so_once(
    cent_ground, caplog, monkeypatch, max_cost, told
):
    monkeypatch.setattr("batch_runner.spending._PATIENCE_SECONDS", 0.1)
    cent_ground.server.change(latency_seconds=0.05)
    run_cents(cent_ground, max_cost=max_cost)
    said = [record.getMessage() for record in caplog.records if "slows this run" in record.msg]
    assert len(said) == told
    for words in said:
        assert re.search(r"max_cost \$0\.500 slows .* \d\d calls in flight", words)
        assert re.search(r"N x \$0\.010\d above the cost", words)


@pytest.mark.parametrize(
    ("model", "header", "rows"),
    [('"a-stranger"', "body", ["x"]), ('"{{ model }}"', "body,model", ["x,m", "y,a-stranger"])],
    ids=["one for all", "one in a row"],
)
def test_a_budget_over_a_model_without_a_price_sends_nothing(ground, model, header, rows):
    ground.rows(rows, header)
    with pytest.raises(UsageError, match="a-stranger"):
        ground.run(model=model, max_cost=1)
    assert ground.server.ledger.totals.received == 0
    # The control: without a limit it runs.
    assert ground.run(model=model).exit_code is ExitCode.DONE


def test_models_by_row_are_priced_by_row(ground):
    ground.rows(["x,m", "y,a-stranger", "z,m"], "body,model")
    summary = ground.run(model='"{{ model }}"')
    assert (summary.bill.answered, summary.bill.unpriced) == (3, 1)
    cells = [line.split(",")[-4] for line in ground.output.read_text().splitlines()[1:]]
    assert [bool(cell) for cell in cells] == [True, False, True]


def test_equal_rows_share_one_call_and_its_cost_stands_in_the_first(ground, honest_bill):
    ground.rows(["same", "other", "same", "same"])
    summary = ground.run(dedupe=Dedupe.ON)
    assert ground.server.ledger.totals.received == 2
    assert summary.statuses["ok"] == 4
    honest_bill(ground.output, ground.server.ledger, exact=True)
    header, *rows = [line.split(",") for line in ground.output.read_text().splitlines()]
    cells = [dict(zip(header, row, strict=True)) for row in rows]
    assert cells[0]["llm_output"] == cells[2]["llm_output"] == cells[3]["llm_output"]
    assert [cell["llm_attempts"] for cell in cells] == ["1", "1", "0", "0"]
    assert [bool(cell["llm_cost_usd"]) for cell in cells] == [True, True, False, False]
    assert [bool(cell["llm_input_tokens"]) for cell in cells] == [True, True, False, False]


def test_a_job_once_deduplicated_stays_so_until_told_otherwise(ground):
    ground.rows(["same", "same"])
    ground.run(dedupe=Dedupe.ON)
    assert ground.run().statuses["ok"] == 2
    assert ground.server.ledger.totals.received == 1
    assert ground.run(dedupe=Dedupe.OFF).statuses["ok"] == 2
    assert ground.server.ledger.totals.received == 2


def test_sharing_answers_that_are_drawn_at_random_is_refused_unless_forced(ground):
    ground.rows(["same", "same"])
    with pytest.raises(UsageError, match="temperature"):
        ground.run(request="temperature = 0.7", dedupe=Dedupe.ON)
    assert ground.server.ledger.totals.received == 0
    ground.run(request="temperature = 0.7", dedupe=Dedupe.FORCED)
    assert ground.server.ledger.totals.received == 1
    ground.run(request="temperature = 0", dedupe=Dedupe.ON, on_change=OnChange.RERUN)


def test_rows_that_bring_their_own_temperature_are_looked_at_one_by_one(tmp_path):
    bodies = [{"input": "a", "temperature": 0.5}, {"input": "b"}, {"input": "b"}]
    lines = [json.dumps({"body": {"model": "m", **body}}) for body in bodies]
    with running(**PRICES) as server:
        text = JOB.format(model='"m"', request="", limits="", url=server.url, timeout="30s")
        text = text.replace("in.csv", "in.jsonl").replace('input = "{{ body }}"', 'body = "body"')
        (tmp_path / "job.toml").write_text(text)
        (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
        shared = RunOptions(progress=ProgressStyle.OFF, handle_signals=False, dedupe=Dedupe.ON)
        job = load_job(tmp_path / "job.toml")
        assert run(job, shared).statuses["ok"] == 3
        assert server.ledger.totals.received == 2
        (tmp_path / "in.jsonl").write_text("\n".join([*lines, lines[0]]) + "\n")
        with pytest.raises(UsageError, match=r"in\.jsonl:4: temperature: 0\.5"):
            run(job, shared)
        assert server.ledger.totals.received == 2


def test_the_flags_do_as_they_say(ground, main_cli):
    ground.rows(["same", "same"])
    text = JOB.format(
        model='"m"', request="temperature = 1", limits="", url=ground.server.url, timeout="30s"
    )
    (ground.folder / "job.toml").write_text(text)
    refused = main_cli("run", "job.toml", "--dedupe")
    assert (refused.code, ground.server.ledger.totals.received) == (2, 0)
    assert "--force-dedupe" in refused.err
    assert main_cli("run", "job.toml", "--force-dedupe").code == 0
    assert ground.server.ledger.totals.received == 1
    assert main_cli("run", "job.toml", "--no-dedupe").code == 0
    assert ground.server.ledger.totals.received == 2
