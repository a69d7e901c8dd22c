"""`batch-runner estimate`: what is said before money is spent, and what is kept when it was."""

import io
import json
import re
from decimal import Decimal
from random import Random

import pytest

from batch_runner import JobSpec, estimate, load_job, run
from batch_runner.errors import RunStoppedError
from batch_runner.estimate import Range
from batch_runner.expectation import Expectation, recall
from batch_runner.faultserver import running
from batch_runner.fingerprint import fingerprint
from batch_runner.run_options import RunOptions


JOB = """
[input]
path = "in.csv"
[prompt]
input = "{{{{ body }}}}"
[request]
model = "gpt-5-mini"
{cap}
[endpoint]
base_url = "{url}"
[limits]
concurrency = 20
[output]
path = "out.csv"
[prices."gpt-5-mini"]
input = 1
output = 10
"""


@pytest.fixture
def server():
    with running(input_price=1, output_price=10) as server:
        yield server


@pytest.fixture
def job_in(tmp_path, server):
    """Writes a job over rows of many lengths; its path."""

    def write(rows=200, *, cap="max_output_tokens = 100", repeats=0, url=server.url):
        draw = Random(3)
        texts = [f"{n} {'word ' * draw.randint(1, 200)}" for n in range(rows)]
        (tmp_path / "in.csv").write_text("\n".join(["body", *texts, *texts[:repeats]]) + "\n")
        (tmp_path / "job.toml").write_text(JOB.format(cap=cap, url=url))
        return tmp_path / "job.toml"

    return write


def test_without_a_sample_nothing_is_sent_and_nothing_is_written(job_in, server, main_cli):
    job_in()
    before = sorted(main_cli.folder.iterdir())
    ran = main_cli("estimate", "job.toml")
    assert ran.code == 0
    assert server.ledger.totals.received == 0
    assert sorted(main_cli.folder.iterdir()) == before
    assert "200 to send" in ran.out
    assert "at most" in ran.out


def test_the_limit_that_an_estimate_names_is_neither_reached_nor_waited_for(
    job_in, server, main_cli, monkeypatch
):
    monkeypatch.setattr("batch_runner.spending._PATIENCE_SECONDS", 0.02)
    job_in()
    told = main_cli("estimate", "job.toml", "--sample", "30", "--yes")
    [named] = re.findall(r"--max-cost (\S+) leaves room", told.out)
    again = json.loads(main_cli("estimate", "job.toml", "--json").out)
    assert again["max_cost_with_room"] == pytest.approx(float(named), rel=0.2), "as remembered"
    ample = main_cli("estimate", "job.toml", "--max-cost", "9").out
    assert "max_cost $9.00 stops a run before it spends more, and leaves room" in ample
    assert "--max-cost" not in ample.partition("next ")[0], "no other is needed"
    server.change(latency_seconds=0.05)
    ran = main_cli("run", "job.toml", "--max-cost", named)
    assert ran.code == 0, ran.err
    assert "slows this run" not in ran.err
    tight = main_cli("run", "job.toml", "--fresh", "--max-cost", str(float(named) * 0.6))
    assert "slows this run" in tight.err, "the control: of that there is less than set aside"


def test_a_limit_that_is_likely_enough_is_far_below_one_that_nobody_waits_for(
    job_in, main_cli, monkeypatch
):
    job_in(cap="max_output_tokens = 1000")
    told = main_cli("estimate", "job.toml", "--sample", "190", "--yes").out
    [enough] = re.findall(r"--max-cost (\S+) is likely enough", told)
    [room] = re.findall(r"--max-cost (\S+) leaves room", told)
    assert "for 10)" in told, "no more calls are in flight than rows are left"
    found = json.loads(main_cli("estimate", "job.toml", "--json").out)
    assert found["max_cost_set_aside_each"] * 9 == pytest.approx(
        float(room) - float(enough), rel=0.05
    )
    tight = str(float(enough) * 0.8)
    for limit, said in (
        (enough, "and is likely enough"),
        ("0.0001", "and is less than one call may cost"),
        (room, "and leaves room"),
    ):
        assert said in main_cli("estimate", "job.toml", "--max-cost", limit).out
    said = main_cli("estimate", "job.toml", "--max-cost", tight).out
    [rows] = re.findall(r"likely after about (\d+) of 10 rows", said)
    ran = main_cli("run", "job.toml", "--max-cost", tight)
    assert ran.code == 4
    assert "run again to go on: batch-runner run job.toml --max-cost" in ran.err
    [sent] = re.findall(r"this run (\d+) rows? in", ran.err)
    assert abs(int(sent) - int(rows)) <= 3
    assert main_cli("run", "job.toml", "--max-cost", enough).code == 0


def test_while_it_lasts_a_run_tells_where_its_limit_ends_it(job_in, server, main_cli, monkeypatch):
    monkeypatch.setattr("batch_runner.progress.HEARTBEAT_SECONDS", 0.0)
    monkeypatch.setattr("batch_runner.progress.REFRESH_SECONDS", 0.1)
    job_in()
    server.change(latency_seconds=0.3)
    ran = main_cli("run", "job.toml", "--max-cost", "0.03", "--progress", "log", "-c", "4")
    assert ran.code == 4
    [ended] = re.findall(r"200 rows: (\d+) ok", ran.err)
    told = re.findall(r"eta \S+  max_cost ends at about (\d+)", ran.err)
    assert abs(int(told[-1]) - int(ended)) <= 4
    assert "eta" not in ran.err.partition("stopping:")[2]


def test_the_limit_that_an_estimate_names_has_room_for_calls_of_unknown_billing(
    job_in, server, main_cli
):
    """Each of them counts with the most that it can have cost: a hundred times its answer."""
    path, job = main_cli.folder / "in.csv", job_in(cap="max_output_tokens = 1000")
    job.write_text(job.read_text() + '[retry]\nmax_wait = "10ms"\n')
    header, *rows = path.read_text().splitlines()
    rows = [row + " [[fault:drop-then-ok]]" * (at % 3 == 0) for at, row in enumerate(rows)]
    path.write_text("\n".join([header, *rows]) + "\n")
    told = main_cli("estimate", "job.toml", "--sample", "40", "--yes")
    [named] = re.findall(r"--max-cost (\S+) leaves room", told.out)
    again = json.loads(main_cli("estimate", "job.toml", "--json").out)
    assert again["max_cost_with_room"] == pytest.approx(float(named), rel=0.2), "as remembered"
    ran = main_cli("run", "job.toml", "--max-cost", named)
    assert ran.code == 0, ran.err


def test_what_an_estimate_says_is_set_aside_is_what_a_run_sets_aside(job_in, main_cli):
    """More than a row's share of the total: that counts tokens, and not bytes."""
    job_in()
    told = main_cli("estimate", "job.toml", "--max-cost", "0.000001").out
    [each] = re.findall(r"each call in flight sets (\S+) aside", told)
    assert "with one call for each row" in told
    refused = main_cli("run", "job.toml", "--max-cost", "0.000001")
    assert refused.code == 4
    [called] = {*re.findall(r"less than one call may cost: ([$0-9.]+)", refused.err)}
    share = json.loads(main_cli("estimate", "job.toml", "--json").out)["usd_at_most"] / 200
    assert float(each[1:]) >= float(called[1:]) > share


def test_no_limit_is_named_where_nothing_bounds_a_call(job_in, main_cli):
    job_in(cap="")
    told = main_cli("estimate", "job.toml", "--sample", "30", "--yes").out
    assert "leaves room" not in told
    assert " aside" not in told
    told = main_cli("estimate", "job.toml", "--max-cost", "1").out
    assert "those in flight may pass it" in told


def test_a_model_without_a_price_is_not_given_an_unknown_amount(job_in, main_cli):
    job_in()
    told = main_cli("estimate", "job.toml", "-m", "a-stranger").out
    assert "a-stranger: no price is known" in told
    assert "unknown before" not in told
    assert 'add [prices."a-stranger"] with input and output' in told


def test_a_limit_that_no_price_keeps_is_said_to_stop_the_run_before_it_begins(job_in, main_cli):
    job_in()
    flags = ("job.toml", "-m", "a-stranger", "--max-cost", "1")
    told = main_cli("estimate", *flags).out
    assert "max_cost $1.00 cannot be kept without a price" in told
    assert "next     a run would refuse to start" in told
    assert "stops a run before it spends more" not in told
    assert "next     batch-runner run" not in told
    assert main_cli("run", *flags).code == 2
    price = ("--set", 'prices."a-stranger".input=0', "--set", 'prices."a-stranger".output=0')
    told = main_cli("estimate", *flags, *price).out
    assert "stops a run before it spends more" in told
    assert "next     batch-runner run" in told


def test_prices_shows_what_to_add_for_a_model_without_one(job_in, main_cli):
    told = main_cli("prices", "a-stranger").out
    assert '  [prices."a-stranger"]\n  input = ...' in told
    assert "  output = ..." in told
    assert "0 for a server of your own" in told
    path = job_in()
    lines = [line.strip() for line in told.splitlines()[1:]]
    path.write_text(path.read_text() + "\n".join(["", *lines]).replace("...", "1.5"))
    assert "the job's own [prices]" in main_cli("estimate", "job.toml", "-m", "a-stranger").out


def test_a_finished_job_is_told_to_have_nothing_left(job_in, main_cli):
    job_in(3)
    assert main_cli("run", "job.toml").code == 0
    ran = main_cli("estimate", "job.toml")
    assert ran.code == 0
    assert "nothing is left to send" in ran.out
    assert "(;" not in ran.out


def test_the_ceiling_is_above_what_the_run_then_costs(job_in, server):
    job = load_job(job_in())
    found = estimate(job)
    assert found.ceiling.output_tokens_at_most == 200 * 100
    run(job)
    server.settle()
    assert found.ceiling.usd_at_most > server.ledger.totals.billed.dollars > 0


def test_an_output_without_a_cap_has_no_bound(job_in, main_cli):
    job_in(cap="")
    said = json.loads(main_cli("estimate", "job.toml", "--json").out)
    assert said["output_tokens_at_most"] is None
    assert said["usd_at_most"] is None
    words = "no upper bound: request.max_output_tokens is not set"
    assert words in main_cli("estimate", "job.toml").out


def test_sampled_rows_are_finished_rows_and_are_not_paid_again(job_in, server, main_cli):
    job_in()
    ran = main_cli("estimate", "job.toml", "--sample", "30", "--yes")
    assert ran.code == 0, ran.err
    assert server.ledger.totals.received == 30
    assert "likely range" in ran.out
    assert not (main_cli.folder / "out.csv").exists(), "an output of pending rows helps nobody"
    again = main_cli("run", "job.toml")
    assert again.code == 0, again.err
    server.settle()
    assert server.ledger.totals.received == 200
    assert server.ledger.billed_again() == 0


def test_the_likely_range_holds_the_cost_of_the_run(job_in, server):
    job = load_job(job_in())
    found = estimate(job, sample=30)
    assert isinstance(found.sample.usd, Range)
    run(job)
    server.settle()
    true = server.ledger.totals.billed.dollars
    assert found.sample.usd.low <= true <= found.sample.usd.high
    assert found.sample.usd.high < 2 * found.sample.usd.low
    assert found.sample.bill.listed < true
    assert found.sample.seconds is not None


def test_what_remains_to_be_paid_after_the_sample_is_said_and_holds(job_in, server, main_cli):
    job = load_job(job_in())
    found = estimate(job, sample=30)
    sample = found.sample
    assert sample.rows_left == 170
    run(job)
    server.settle()
    rest = server.ledger.totals.billed.dollars - sample.bill.listed
    assert sample.usd_left.low <= rest <= sample.usd_left.high
    assert sample.usd_left.expected == sample.usd.expected - sample.bill.listed


def test_the_rows_left_are_those_that_the_next_run_sends(job_in, server, main_cli):
    """A sampled row that failed by bad luck is one of them."""
    job_in(12)
    server.misbehave("500", next=1)
    once = ("--set", "retry.attempts=1", "--set", "retry.maybe_billed_attempts=0")
    told = main_cli("estimate", "job.toml", "--sample", "5", "--yes", *once).out
    assert "12 rows, 12 to send (all new) before the sample" in told
    assert "5 rows were run and are kept as finished, for " in told
    assert "1 of them tell nothing of the others" in told
    assert re.search(r"^left     8 rows to pay for: about \$0\.\d+$", told, re.MULTILINE)
    assert "8 to send (7 new, 1 failed before)" in main_cli("run", "job.toml").err
    assert "nothing is left to send" in main_cli("estimate", "job.toml").out


def test_of_a_sample_that_is_all_rows_nothing_is_projected(job_in, server, main_cli):
    """One row is long: counted and measured differ in it by more than in all others."""
    job = job_in(28)
    with (main_cli.folder / "in.csv").open("a") as file:
        file.write(f"the last {'extraordinarily-long-winded ' * 110}\n")
    found = estimate(load_job(job), sample=29)
    server.settle()
    took = server.ledger.totals.billed
    assert found.ceiling.input_tokens == took.tokens.input
    assert float(found.ceiling.input_usd) == pytest.approx(took.tokens.input * 1e-6)
    assert found.sample.usd.expected == took.dollars
    (main_cli.folder / "other.toml").write_text(job.read_text().replace("out.csv", "other.csv"))
    told = main_cli("estimate", "other.toml", "--sample", "29", "--yes").out
    [paid] = re.findall(r"kept as finished, for (\$\S+)\n", told)
    assert f"\ncost     {paid}, for all 29\n" in told, "no other rounding, and not 'about'"


def test_what_a_sample_remembers_of_the_others_leaves_out_the_longest(job_in, server, main_cli):
    job = job_in(28)
    with (main_cli.folder / "in.csv").open("a") as file:
        file.write(f"the last {'word ' * 6000}\n")
    sampled = estimate(load_job(job), sample=10)
    later = estimate(load_job(job))
    left = sampled.sample.usd_left.expected
    assert float(later.usd_as_remembered.expected) == pytest.approx(float(left), rel=0.02)
    assert left < sampled.sample.usd_of_longest


def test_a_limit_that_lets_calls_wait_from_the_start_says_so(job_in, main_cli, monkeypatch):
    monkeypatch.setattr("batch_runner.spending._PATIENCE_SECONDS", 0.02)
    job_in(40, cap="max_output_tokens = 2000")
    told = main_cli("estimate", "job.toml", "--sample", "10", "--yes").out
    line = re.search(
        r"--max-cost (\S+) is likely enough, but from the start calls may wait: "
        r"of 20 at a time there is room for about (\d+) of the largest",
        told,
    )
    [each] = re.findall(r"each call in flight sets \$(\S+) aside", told)
    assert int(line[2]) == int(float(line[1]) / float(each)) < 4
    assert "slows this run" in main_cli("run", "job.toml", "--max-cost", line[1]).err


def test_what_was_measured_is_said_in_plain_words(job_in, main_cli):
    job_in(40)
    assumed = main_cli("estimate", "job.toml").out
    assert "; what the endpoint adds to each request is assumed)" in assumed
    told = main_cli("estimate", "job.toml", "--sample", "5", "--yes").out
    line = next(line for line in told.splitlines() if line.startswith("input "))
    assert re.search(
        r"; the sampled requests took (as many|\d+ tokens? (more|fewer) each)\)", line
    ), line
    assert not re.search(r"[+-]\d", line)


def test_what_the_time_rests_on_is_said(job_in, main_cli):
    job_in()
    told = main_cli("estimate", "job.toml", "--sample", "5", "--yes").out
    assert "with 20 calls at a time, as quick as the sample's, which had 5 at a time;" in told
    assert "waits for rate limits come on top" in told
    told = main_cli("estimate", "job.toml", "--sample", "30", "--yes").out
    assert "with 20 calls at a time, as quick as the sample's; repeats" in told


def test_the_sample_measures_what_each_request_adds_to_its_words(job_in, server):
    job = load_job(job_in())
    counted_here = estimate(job).ceiling.input_tokens
    sampled = estimate(job, sample=30)
    assert sampled.overhead_source == "measured"
    run(job)
    server.settle()
    true = server.ledger.totals.billed.tokens.input
    assert abs(sampled.ceiling.input_tokens - true) < abs(counted_here - true)


@pytest.mark.anyio
async def test_a_notebook_whose_loop_is_running_may_sample_and_count(job_in, server):
    found = estimate(load_job(job_in()), sample=12, count="api")
    assert found.sample.rows == server.ledger.totals.received == 12


def test_a_sample_needs_leave(job_in, server, main_cli):
    job_in()
    ran = main_cli("estimate", "job.toml", "--sample", "5")
    assert ran.code == 2
    assert "--yes" in ran.err
    assert server.ledger.totals.received == 0


@pytest.mark.parametrize("said", [("n\n", 0), ("\n", 0), ("y\n", 5)], ids=repr)
def test_a_terminal_is_asked_and_told_the_most_it_can_cost(
    job_in, server, main_cli, monkeypatch, said
):
    answer, sent = said
    job_in()

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stdin", Terminal(answer))
    ran = main_cli("estimate", "job.toml", "--sample", "5")
    assert ran.code == 0
    assert "run 5 rows of job for at most $" in ran.err
    assert server.ledger.totals.received == sent


def test_what_was_done_before_is_not_counted_again(job_in):
    job = load_job(job_in())
    run(job, RunOptions(limit=50))
    found = estimate(job)
    assert (found.rows, found.to_send, found.done) == (200, 150, 50)


def test_equal_rows_are_counted_with_what_sharing_a_call_would_save(job_in, main_cli):
    job_in(repeats=40)
    assert "40 rows ask for the same as another" in main_cli("estimate", "job.toml").out
    said = json.loads(main_cli("estimate", "job.toml", "--sample", "20", "--yes", "--json").out)
    assert said["duplicates"] == 40
    share = said["dedupe_saves_usd"] / said["sample"]["usd"]["expected"]
    assert share == pytest.approx(40 / 240)


def test_the_endpoint_may_count(job_in, server):
    found = estimate(load_job(job_in()), count="api")
    assert found.overhead_source == "as the endpoint counts"
    assert server.ledger.totals.received == 0


@pytest.mark.parametrize("fault", ["404", "plain:405"])
def test_an_endpoint_that_does_not_count_is_said_and_does_no_harm(job_in, server, fault):
    server.misbehave(fault, match={"endpoint": "input_tokens"})
    found = estimate(load_job(job_in()), count="api")
    assert found.overhead_source == "assumed"
    assert any("counts no tokens" in note for note in found.notes)


def test_an_endpoint_that_refuses_to_count_stops_it(job_in, server):
    server.misbehave("401", match={"endpoint": "input_tokens"})
    with pytest.raises(RunStoppedError, match="HTTP 401"):
        estimate(load_job(job_in()), count="api")


def test_a_sample_that_is_refused_says_why(job_in, server, main_cli):
    server.misbehave("401")
    job_in()
    ran = main_cli("estimate", "job.toml", "--sample", "5", "--yes")
    assert ran.code == 4
    assert "sample was not finished" in ran.err


def test_rows_that_failed_by_bad_luck_say_nothing_about_the_others(job_in, server):
    job = load_job(job_in())
    server.misbehave("reset-before", match={"input_contains": "word"}, next=60)
    found = estimate(job, sample=12)
    assert found.sample.known <= found.sample.rows


def test_a_model_without_a_price_has_tokens_and_no_dollars(job_in, main_cli):
    job_in()
    ran = main_cli("estimate", "job.toml", "-m", "a-stranger", "--sample", "12", "--yes", "--json")
    said = json.loads(ran.out)
    assert said["prices"] == {"a-stranger": None}
    assert (said["input_usd"], said["usd_at_most"], said["sample"]["usd"]) == (None, None, None)
    assert said["sample"]["output_tokens"]["expected"] > 0


def test_an_empty_input_is_estimated_at_nothing(job_in, main_cli):
    job_in(rows=0)
    ran = main_cli("estimate", "job.toml", "--sample", "5", "--yes", "--json")
    said = json.loads(ran.out)
    assert (ran.code, said["to_send"], said["sample"]) == (0, 0, None)


def test_a_plain_estimate_remembers_what_the_sample_said_of_the_rows_left(job_in, server, main_cli):
    job_in()
    sampled = json.loads(main_cli("estimate", "job.toml", "--sample", "30", "--yes", "--json").out)[
        "sample"
    ]
    calls = server.ledger.totals.received
    later = json.loads(main_cli("estimate", "job.toml", "--json").out)
    assert server.ledger.totals.received == calls, "it costs nothing"
    assert later["sample"] is None
    assert later["to_send"] == sampled["rows_left"] == 170
    for end in ("low", "expected", "high"):
        assert later["usd_as_remembered"][end] == pytest.approx(sampled["usd_left"][end], rel=0.05)
    told = main_cli("estimate", "job.toml").out
    assert re.search(
        r"cost +likely range \S+ to \S+, expected \S+, for 170 rows, by 30 rows sampled on "
        r"\d{4}-\d\d-\d\d \d\d:\d\d UTC with this prompt",
        told,
    )


def test_a_sample_of_another_prompt_is_not_remembered(job_in, main_cli):
    path = job_in()
    main_cli("estimate", "job.toml", "--sample", "30", "--yes")
    path.write_text(path.read_text().replace("{{ body }}", "Sum: {{ body }}"))
    later = json.loads(main_cli("estimate", "job.toml", "--json").out)
    assert (later["usd_as_remembered"], later["remembered_sample"]) == (None, None)


def expectation(job: JobSpec, low, high):
    return Expectation(
        fingerprint=fingerprint(job), sampled=30, low=low, expected=(low + high) / 2, high=high
    )


def test_the_run_is_held_against_the_estimate_and_warned_about_once(job_in, caplog):
    job = load_job(job_in())
    estimate(job, sample=30)
    kept = recall(job.run_path, fingerprint=fingerprint(job))
    run(job)
    assert "outside the estimate" not in caplog.text
    assert recall(job.run_path, fingerprint="another prompt") is None
    assert kept.low < kept.expected < kept.high


def test_a_run_that_leaves_the_range_is_told_once(job_in, server, caplog):
    job = load_job(job_in())
    estimate(job, sample=30)
    server.misbehave("usage:100:0:5000:0")
    run(job)
    assert caplog.text.count("outside the estimate") == 1


def kept_estimate(**changed):
    found = Expectation(
        fingerprint="x", sampled=3, low=Decimal(1), expected=Decimal(2), high=Decimal(3)
    )
    return json.dumps(found.to_json() | changed).encode()


DAMAGED = [
    b"", b"{", b"[]", b'{"fingerprint": 1}', b"\xff",
    kept_estimate(sampled_rows=0), kept_estimate(at=1e30), kept_estimate(cautions=["NO_SUCH"]),
    kept_estimate(usd_per_row={"low": "NaN", "expected": "2", "high": "3"}),
]  # fmt: skip


def test_a_kept_estimate_is_known_again(tmp_path):
    (tmp_path / "estimate.json").write_bytes(kept_estimate(at=1e9))
    assert recall(tmp_path, fingerprint="x") is not None


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_estimate_counts_as_none(tmp_path, content):
    (tmp_path / "estimate.json").write_bytes(content)
    assert recall(tmp_path, fingerprint="x") is None


def test_a_little_outside_the_range_is_no_news(job_in):
    kept = expectation(load_job(job_in()), Decimal(1), Decimal(2))
    assert not kept.strays(Decimal(210), 100)
    assert kept.strays(Decimal(230), 100)
    assert not kept.strays(Decimal(230), 29)


def test_an_estimate_says_that_the_run_after_it_would_be_refused_and_why(job_in, main_cli, server):
    job_in(10)
    assert main_cli("run", "job.toml").code == 0
    other = ("job.toml", "-m", "gpt-5-nano")
    refused = main_cli("run", *other)
    assert refused.code == 2
    told = main_cli("estimate", *other)
    assert told.code == 0
    assert "10 to send (all changed)" in told.out
    assert "next     a run would refuse to start: job.toml: 10 of 10 finished rows" in told.out
    assert "--on-change keep" in told.out
    assert "batch-runner run" not in told.out
    assert (
        "10 of 10 finished rows"
        in json.loads(main_cli("estimate", *other, "--json").out)["refusal"]
    )
    elsewhere = main_cli("estimate", *other, "-o", "other.csv")
    assert "next     batch-runner run job.toml" in elsewhere.out
    assert (
        json.loads(main_cli("estimate", *other, "-o", "other.csv", "--json").out)["refusal"] is None
    )
    assert len(server.ledger.rows()) == 10
