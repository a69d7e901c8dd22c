"""What a run would send: each row of the input is counted once, whatever has become of it."""

from collections import Counter

import pytest

from batch_runner.jobfile import Overrides, load_job
from batch_runner.opening import open_work
from batch_runner.plan import Dedupe
from batch_runner.prospect import Prospect, prospect_of
from batch_runner.records import RowStatus


@pytest.fixture
def job(tmp_path, fault_server, main_cli):
    """Two equal rows, one that fails for good, one that may yet succeed, one empty cell; all asked."""
    (tmp_path / "in.csv").write_text(
        'body\nsame\nsame\nother\n[[fault:400]] bad\n[[fault:500]] luck\n""\n'
    )
    (tmp_path / "job.toml").write_text(
        'input.path = "in.csv"\noutput.path = "out.csv"\nrequest.model = "m1"\n'
        f'prompt.input = "{{{{ body }}}}"\nendpoint.base_url = "{fault_server.url}"\n'
        "retry.attempts = 1\nretry.maybe_billed_attempts = 0\n"
    )
    assert main_cli("run", "job.toml").code == 3
    with (tmp_path / "in.csv").open("a") as file:
        file.write("seven\neight\n")
    return load_job(tmp_path / "job.toml", Overrides())


def retried(status, _code):
    return status is RowStatus.FAILED


@pytest.mark.parametrize("dedupe", [Dedupe.OFF, Dedupe.ON])
@pytest.mark.parametrize("limit", [None, 1, 2])
def test_each_row_is_counted_once(job, dedupe, limit):
    with open_work(job, dedupe=dedupe) as work:
        if limit is not None:
            work.plan.keep_first(limit)
        found = prospect_of(work.plan, work.replay)
    parts = (found.to_send, found.later, found.done, found.failed, found.copies,
             found.without_request)  # fmt: skip
    assert sum(parts) == found.rows == 8
    assert found.to_send == (limit or 3)
    assert found.to_send + found.later == 3
    assert (found.failed, found.without_request) == (1, 1)
    assert found.copies == (1 if dedupe is Dedupe.ON else 0)


def test_retry_leaves_alone_what_has_not_failed(job):
    with open_work(job, wanted=retried) as work:
        found = prospect_of(work.plan, work.replay, wanted=retried)
    assert found.sending() == "2 to send"
    assert [*found.resting()] == [
        "3 reused",
        "2 not asked yet as they are now (batch-runner run sends them)",
    ]


@pytest.mark.parametrize(
    ("kinds", "told"),
    [
        ({}, "0 to send"),
        ({"new": 1}, "1 to send (new)"),
        ({"new": 2000}, "2,000 to send (all new)"),
        ({"new": 2, "changed": 1}, "3 to send (2 new, 1 changed)"),
        ({"new": 2, "in_flight": 3}, "5 to send (2 new, 3 in flight before)"),
        (
            {"changed": 1, "again": Counter({RowStatus.FAILED: 2, RowStatus.INCOMPLETE: 1})},
            "4 to send (1 changed, 1 incomplete before, 2 failed before)",
        ),
    ],
)
def test_what_is_sent_is_told_by_its_kind(kinds, told):
    assert Prospect(rows=9, **kinds).sending() == told
