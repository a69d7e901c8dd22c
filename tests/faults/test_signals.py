"""Every stopping signal at every stage of a run (tests 20, 21)."""

import json
import re
import signal
import time

import pytest


CONCURRENCY = 200


def wait_for(child, seconds):
    """Exit code, stderr and the seconds the process took to leave."""
    began = time.monotonic()
    _, said = child.communicate(timeout=seconds)
    return child.returncode, said, time.monotonic() - began


def busy(ground, *, calls, rows, arguments=(), command=None, concurrency=CONCURRENCY):
    """A run with so many calls received and plenty in flight."""
    ground.write_job(concurrency=concurrency)
    ground.write_rows(rows)
    child = ground.start(*arguments, command=command)
    ground.received_at_least(calls)
    return child


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_a_drain_loses_no_call_and_the_next_run_repeats_none(ground, record_figure, number):
    ground.server.change(latency_seconds=0.3, latency_shape="uniform", latency_spread=0.15)
    child = busy(ground, calls=60, rows=150, concurrency=40)
    child.send_signal(number)
    code, said, _ = wait_for(child, 30)
    assert code == 128 + number, said
    assert "run again to go on" in said
    assert "batch-runner export" in said
    assert not ground.output.exists()
    ground.server.settle()
    received = ground.server.ledger.totals.received
    assert len(ground.finished()) == received < 150
    assert ground.bill_holds()
    meta = json.loads((ground.folder / "out.csv.meta.json").read_text())
    assert meta["calls_unknown"] == {}
    if number is signal.SIGTERM:
        assert ground.run()[0] == 0
        assert ground.billed_again() == 0
        assert ground.wrong_rows() == 0


def test_rejected_calls_are_not_of_unknown_billing_after_a_drain(ground):
    """A row that only met 429 has cost nothing; its announced attempts must not look lost."""
    ground.server.misbehave("429:0")
    child = busy(ground, calls=5, rows=30, concurrency=5)
    child.send_signal(signal.SIGTERM)
    assert wait_for(child, 10)[0] == 143
    meta = json.loads((ground.folder / "out.csv.meta.json").read_text())
    assert meta["calls_unknown"] == {}
    ground.server.misbehave(None)
    assert ground.run()[0] == 0
    meta = json.loads((ground.folder / "out.csv.meta.json").read_text())
    assert meta["calls_unknown"] == {}
    assert meta["cost_usd_at_least"] == meta["cost_usd_at_most"]


@pytest.mark.slow
def test_four_drains_at_concurrency_200_bill_nothing_again(ground, record_figure):
    ground.server.change(latency_seconds=0.6, latency_shape="uniform", latency_spread=0.3)
    ground.write_job(concurrency=CONCURRENCY)
    ground.write_rows(3000)
    codes, times = [], []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        child = ground.start()
        ground.received_at_least(ground.server.ledger.totals.received + 2 * CONCURRENCY)
        child.send_signal(number)
        code, said, seconds = wait_for(child, 30)
        codes.append(code)
        times.append(seconds)
    final, said = ground.run()
    again = ground.billed_again()
    record_figure(
        20, "drain, concurrency 200, latency 0.3-0.9 s", "re-billed 0; <= 1.9 s; 143, 130; final 0",
        f"{again}; {max(times):.1f} s; {codes}; {final}",
    )  # fmt: skip
    assert codes == [143, 130, 143, 129]
    assert final == 0, said
    assert again == 0
    assert sorted(times)[1] <= 0.9 + 1.0  # a busy neighbour may spoil some
    assert max(times) <= 5
    assert ground.bill_holds()


def test_the_drain_test_sees_a_stop_that_does_not_wait(ground):
    """Control: calls broken off at the first signal are billed again by the next run."""
    ground.server.change(latency_seconds=0.5)
    child = busy(ground, calls=30, rows=60, arguments=("--grace", "0.01s"), concurrency=20)
    child.send_signal(signal.SIGTERM)
    assert wait_for(child, 10)[0] == 143
    assert ground.bill_holds()
    ground.server.change(latency_seconds=0)
    assert ground.run()[0] == 0
    assert ground.billed_again() > 0
    assert ground.bill_holds()


@pytest.mark.parametrize(
    "how", ["second signal", pytest.param("grace over", marks=pytest.mark.slow)]
)
def test_hanging_calls_are_broken_off_and_counted(ground, record_figure, how):
    ground.server.change(latency_seconds=600)
    grace = ("--grace", "0.5s") if how == "grace over" else ()
    child = busy(ground, calls=50, rows=80, arguments=grace, concurrency=50)
    child.send_signal(signal.SIGTERM)
    if how == "second signal":
        time.sleep(0.2)
        child.send_signal(signal.SIGTERM)
    code, said, seconds = wait_for(child, 20)
    ground.server.settle()
    meta = json.loads((ground.folder / "out.csv.meta.json").read_text())
    abandoned = meta["calls_unknown"].get("cancelled", 0)
    billed = ground.server.ledger.totals.billed.calls
    ground.server.change(latency_seconds=0)
    final = ground.run()[0]
    record_figure(
        21, f"{how} while the provider hangs", "exit 143 within 3 s; abandoned = in the ledger",
        f"exit {code}, {seconds:.1f} s; {abandoned} = {billed}",
    )  # fmt: skip
    assert code == 143, said
    assert seconds <= 3
    assert abandoned == 50
    assert re.search(r"50 attempts of unknown billing, at most \$", said)
    assert final == 0
    assert ground.bill_holds()
    assert ground.wrong_rows() == 0


def test_a_third_signal_ends_the_process_at_once(ground, record_figure):
    ground.server.change(latency_seconds=600)
    child = busy(ground, calls=20, rows=30, command=ground.driver("stubborn.py"), concurrency=20)
    for _ in range(3):
        child.send_signal(signal.SIGTERM)
        time.sleep(0.3)
    code, _, seconds = wait_for(child, 20)
    ground.server.settle()
    ground.server.change(latency_seconds=0)
    final = ground.run()[0]
    record_figure(
        21, "third signal", "the default action", f"ended by signal {-code}, {seconds:.1f} s"
    )
    assert code == -signal.SIGTERM
    assert final == 0
    assert ground.bill_holds()


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_a_signal_while_planning_leaves_without_a_call(ground, record_figure, number, code):
    ground.write_rows(10)
    child = ground.start(command=ground.driver("waits_at.py", "plan"))
    assert "waiting\n" in iter(child.stderr.readline, "")
    child.send_signal(number)
    assert wait_for(child, 10)[0] == code
    assert ground.server.ledger.totals.received == 0
    assert ground.run()[0] == 0


def test_a_signal_while_the_output_is_written_leaves_the_old_one(ground, record_figure):
    ground.write_rows(10)
    assert ground.run()[0] == 0
    old = ground.output.read_bytes()
    ground.write_rows(12)
    child = ground.start(command=ground.driver("waits_at.py", "export"))
    assert "waiting\n" in iter(child.stderr.readline, "")
    child.send_signal(signal.SIGTERM)
    code, said, _ = wait_for(child, 10)
    kept = ground.output.read_bytes() == old
    litter = [path.name for path in ground.folder.iterdir() if ".tmp-" in path.name]
    final = ground.run()[0]
    again = ground.billed_again()
    record_figure(
        21, "signal while the output is written", "143; old output whole; re-billed 0",
        f"{code}; {kept}; {again}",
    )  # fmt: skip
    assert code == 143, said
    assert kept
    assert litter == []
    assert (final, again) == (0, 0)
    assert ground.wrong_rows() == 0


@pytest.mark.slow
def test_nohup_means_that_a_hang_up_is_not_heard(ground):
    ground.server.change(latency_seconds=0.2)
    command = ["nohup", *ground.command()]
    child = busy(ground, calls=5, rows=30, command=command, concurrency=5)
    child.send_signal(signal.SIGHUP)
    code, said, _ = wait_for(child, 30)
    assert code == 0, said
    assert ground.wrong_rows() == 0
