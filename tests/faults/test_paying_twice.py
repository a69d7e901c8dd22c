"""What may be paid twice and what may not: keys for repeats, edited input, broken networks (23-25)."""

import json
import random
import shutil
import sys
from decimal import Decimal
from pathlib import Path

import pytest


sys.path.insert(0, str(Path(__file__).parent))
from chaos_proxy import FAULTS, chaos  # beside this file; tests are not a package


HEADER = 'idempotency_header = "Idempotency-Key"'


def killed_and_finished(ground, *, endpoint, concurrency=40):
    ground.server.change(latency_seconds=0.5)
    ground.write_job(concurrency=concurrency, endpoint=endpoint)
    ground.write_rows(120)
    child = ground.start()
    ground.received_at_least(60)
    ground.kill(child)
    ground.server.change(latency_seconds=0)
    code, said = ground.run()
    assert code == 0, said
    assert ground.wrong_rows() == 0
    return ground.billed_again()


def test_an_endpoint_that_honours_idempotency_keys_bills_nothing_twice(ground, record_figure):
    ground.server.change(idempotency="honour")
    again = killed_and_finished(ground, endpoint=HEADER)
    record_figure(23, "kill -9, Idempotency-Key honoured", "re-billed 0", again)
    assert again == 0
    # An answer given again is known in full to us, though it was first delivered to the dead.
    meta = json.loads((ground.folder / "out.csv.meta.json").read_text())
    said = {name: Decimal(text) for name, text in meta["cost_usd_exact"].items()}
    assert said["at_least"] <= ground.server.ledger.totals.billed.dollars <= said["at_most"]
    assert all(row.received.idempotency_key for row in ground.server.ledger.rows())


@pytest.mark.slow
def test_an_endpoint_that_ignores_them_bills_what_was_in_flight(ground, record_figure):
    """Control, too: the honouring endpoint above had something to honour."""
    again = killed_and_finished(ground, endpoint="")
    record_figure(23, "kill -9, no key sent", "re-billed <= concurrency (40)", again)
    assert 0 < again <= 40
    assert ground.bill_holds()
    assert not any(row.received.idempotency_key for row in ground.server.ledger.rows())


def test_a_definite_error_is_repeated_under_a_new_key(ground, record_figure):
    """A server that keeps a 500 for a day would give it again under the old one."""
    ground.server.change(idempotency="replay-500s")
    ground.server.misbehave("500", next=10)
    ground.write_job(concurrency=10, endpoint=HEADER)
    ground.write_rows(30)
    code, said = ground.run()
    replayed = ground.server.ledger.totals.replayed
    record_figure(
        23, "500s replayed under their key", "all rows ok; replays 0", f"exit {code}; {replayed}"
    )
    assert code == 0, said
    assert replayed == 0
    assert ground.wrong_rows() == 0


def edits(bodies):
    """Name, expected calls, new bodies and ids, prompt, flags, exit code: the input after 1,000 rows."""
    ids = list(range(len(bodies)))
    order = ids[:]
    random.Random(7).shuffle(order)
    edited = [f"{body} edited" if 500 <= n < 510 else body for n, body in enumerate(bodies)]
    gone = set(range(600, 610))
    rest = [n for n in ids if n not in gone]
    more = [f"more {n}" for n in range(100)]
    return [
        ("none", 0, bodies, ids, "Say", (), 0),
        ("shuffled", 0, [bodies[n] for n in order], order, "Say", (), 0),
        ("one row inserted at the top", 1, ["top", *bodies], [9999, *ids], "Say", (), 0),
        ("100 rows appended", 100, bodies + more, list(range(len(bodies) + 100)), "Say", (), 0),
        ("10 rows edited", 10, edited, ids, "Say", (), 0),
        ("10 rows deleted", 0, [bodies[n] for n in rest], rest, "Say", (), 0),
        ("prompt changed", 0, bodies, ids, "Tell", (), 2),
        ("prompt changed, rerun", 1000, bodies, ids, "Tell", ("--on-change", "rerun"), 0),
        ("ids regenerated", 0, bodies, [n + 5000 for n in ids], "Say", (), 0),
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_edited_input_costs_exactly_its_changes(ground, record_figure):
    bodies = ["the same text" if n % 20 == 7 else f"text {n}" for n in range(1000)]
    ground.write_bodies(bodies)
    assert ground.run()[0] == 0
    first = ground.server.ledger.totals.received
    calls, wrong, expected = [], 0, []
    for number, (name, demanded, new, ids, prompt, flags, exit_code) in enumerate(edits(bodies)):
        place = ground.at(ground.folder / f"edit{number}", [])
        place.folder.mkdir()
        for thing in ("out.csv", "out.csv.meta.json"):
            shutil.copy(ground.folder / thing, place.folder)
        shutil.copytree(ground.folder / "out.csv.run", place.folder / "out.csv.run")
        place.write_job(prompt=prompt)
        place.write_bodies(new, ids)
        before = ground.server.ledger.totals.received
        code, said = place.run(*flags)
        assert code == exit_code, (name, said)
        calls.append(ground.server.ledger.totals.received - before)
        expected.append(demanded)
        wrong += place.wrong_rows() if exit_code == 0 else 0
    record_figure(
        24, "edited input, 9 ways", f"calls {expected}; wrong answers 0", f"{calls}; {wrong}"
    )
    assert first == 1000
    assert calls == expected
    assert wrong == 0


@pytest.mark.slow
def test_a_broken_network_loses_no_row_and_hides_no_call(ground, record_figure):
    port = int(ground.server.root_url.rpartition(":")[2])
    with chaos(port, seed=11, healthy_replies=10) as proxy:
        ground.write_job(
            url=f"http://127.0.0.1:{proxy.port}/v1",
            concurrency=30,
            endpoint='timeout = "1s"',
            retry="attempts = 30\nmaybe_billed_attempts = 30",
        )
        ground.write_rows(1500)
        code, said = ground.run()
    wrong = ground.wrong_rows()
    held = ground.bill_holds()
    faults = sum(proxy.done.values())
    record_figure(
        25, f"network chaos, {len(FAULTS)} kinds of faults", "0 lost rows; at least <= ledger <= at most",
        f"exit {code}, {wrong} lost in {faults} faults; {held}",
    )  # fmt: skip
    assert code == 0, said
    assert wrong == 0
    assert held
    assert set(proxy.done) >= {"reset", "half", "stall", "trickle", "garbage"}  # the control
    assert ground.server.ledger.totals.received > 1500
