import json
from collections import Counter
from decimal import Decimal

from batch_runner.bill import Bill
from batch_runner.errors import ExitCode
from batch_runner.records import RowStatus
from batch_runner.summary import RunSummary


def summary(**changes):
    values = {
        "job": "j",
        "origin": "j.toml",
        "run_id": "r",
        "started_at": 0.0,
        "elapsed_seconds": 2.0,
    }
    return RunSummary(**(values | changes))


def test_the_meta_file_is_json_and_names_every_status():
    meta = json.loads(json.dumps(summary(statuses=Counter({RowStatus.OK: 3})).to_json()))
    assert meta["statuses"] == {
        "ok": 3, "incomplete": 0, "refused": 0, "failed": 0, "skipped": 0, "pending": 0,
    }  # fmt: skip


def test_times_are_utc_and_the_end_is_the_start_plus_the_duration():
    meta = summary().to_json()
    assert (meta["started_at"], meta["finished_at"]) == (
        "1970-01-01T00:00:00.000Z",
        "1970-01-01T00:00:02.000Z",
    )


def test_unknown_is_null_and_never_zero():
    meta = summary(bill=Bill(calls=1, answered=1, unpriced=1, unbounded=1)).to_json()
    assert meta["cost_usd_at_least"] is None
    assert meta["cost_usd_at_most"] is None
    assert meta["rate_limited_calls"] is None


def test_the_meta_file_bounds_the_cost():
    bill = Bill(calls=2, answered=1, answers=Decimal("0.25"), unknown_at_most=Decimal("0.5"))
    meta = summary(bill=bill, exit_code=ExitCode.ROWS_FAILED).to_json()
    assert (meta["cost_usd_at_least"], meta["cost_usd_at_most"]) == (0.25, 0.75)
    assert meta["exit_code"] == 3


def test_nothing_sent_is_no_pace():
    assert summary(elapsed_seconds=0.0).rows_per_second == 0.0
    assert summary(sent=10).rows_per_second == 5.0
