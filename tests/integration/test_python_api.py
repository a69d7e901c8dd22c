"""The package as people use it from Python: jobs, frames, results, notebooks."""

import asyncio
import json
import logging
import shlex
import signal
import threading
import time
from decimal import Decimal

import pytest

import batch_runner as br


pd = pytest.importorskip("pandas")

JOB = """
[input]
path = "in.csv"
key = "id"
[prompt]
input = "Sum: {{{{ body }}}}"
missing = "skip"
[request]
model = "m1"
max_output_tokens = 50
[endpoint]
base_url = "{url}"
[output]
path = "out.csv"
[prices."m1"]
input = 1
output = 2
"""


@pytest.fixture
def job_path(tmp_path, fault_server):
    (tmp_path / "in.csv").write_text("id,body\na,one\nb,two\nc,\nd,[[fault:400]] four\n")
    path = tmp_path / "job.toml"
    path.write_text(JOB.format(url=fault_server.url))
    return path


@pytest.fixture
def frame():
    return pd.DataFrame(
        {
            "body": ["one", "two", None, "two", "five"],
            "n": pd.array([1, 2, None, 4, 5], dtype="Int8"),
            "kind": pd.Categorical(list("abaab")),
            "at": pd.to_datetime(["2024-01-01"] * 5, utc=True),
        },
        index=pd.Index([7, 7, 1, 2, 3], name="key"),
    )


@pytest.fixture
def ask(tmp_path, fault_server):
    """`run_frame` against the fault server, in one and the same run directory."""

    def ask(frame, prompt="Sum: {{ body }}", run_dir="frame.run", **more):
        return br.run_frame(
            frame, prompt=prompt, model="m1", run_dir=tmp_path / run_dir,
            base_url=fault_server.url, **more,
        )  # fmt: skip

    return ask


def calls(server):
    server.settle()
    return len(server.ledger.rows())


def test_a_job_runs_and_its_results_are_read_in_input_order(job_path):
    job = br.load_job(job_path)
    summary = br.run(job)
    assert summary.exit_code is br.ExitCode.ROWS_FAILED
    found = list(br.read_results(job))
    assert [outcome.label for outcome in found] == ["a", "b", "c", "d"]
    assert [outcome.status for outcome in found] == ["ok", "ok", "skipped", "failed"]
    first, _, skipped, failed = found
    assert first.text.startswith("summary of Sum: one")
    assert first.row.values == {"id": "a", "body": "one"}
    tokens = first.usage
    assert first.cost == (tokens.input_tokens + 2 * tokens.output_tokens) / Decimal(1_000_000)
    assert isinstance(first.result, br.RowResult)
    assert (skipped.result, skipped.usage, skipped.cost) == (None, None, None)
    assert failed.code == br.ErrorCode.BAD_REQUEST


def test_results_can_be_read_before_the_first_run(job_path):
    assert {outcome.status for outcome in br.read_results(br.load_job(job_path))} == {
        br.RowStatus.PENDING, br.RowStatus.SKIPPED,
    }  # fmt: skip


def test_results_can_be_read_while_a_run_holds_the_lock(job_path):
    job = br.load_job(job_path)
    seen = []

    def look(_result):
        seen.append(sum(outcome.result is not None for outcome in br.read_results(job)))

    br.run(job, br.RunOptions(on_result=look))
    assert max(seen) == 3


def test_on_result_hears_of_every_row_that_was_sent(job_path):
    heard = []
    br.run(br.load_job(job_path), br.RunOptions(on_result=heard.append))
    assert sorted(result.label for result in heard) == ["a", "b", "d"]


def test_an_error_of_on_result_is_raised_once_what_is_in_flight_is_stored(ask, fault_server):
    frame = pd.DataFrame({"body": [f"row {n}" for n in range(40)]})
    fault_server.change(latency_seconds=0.05)

    def burst(_result):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask(frame, settings={"limits.concurrency": 4}, on_result=burst)
    asked = calls(fault_server)
    assert 4 <= asked < 40
    fault_server.change(latency_seconds=0.0)
    assert (ask(frame)["llm_status"] == "ok").all()
    assert calls(fault_server) == 40


def test_run_async_works_in_a_loop_that_is_running(job_path):
    async def main():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticking = asyncio.create_task(tick())
        summary = await br.run_async(br.load_job(job_path))
        ticking.cancel()
        return summary, ticks

    summary, ticks = asyncio.run(main())
    assert summary.statuses[br.RowStatus.OK] == 2
    assert ticks > 0


def test_a_run_leaves_the_signal_handlers_of_the_program_as_they_were(job_path):
    def mine(number, frame):
        raise AssertionError

    before = signal.signal(signal.SIGTERM, mine)
    try:
        br.run(br.load_job(job_path))
        assert signal.getsignal(signal.SIGTERM) is mine
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_run_works_in_a_thread_that_hears_no_signals(job_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(br.run(br.load_job(job_path))))
    thread.start()
    thread.join()
    assert found[0].statuses[br.RowStatus.OK] == 2


def test_errors_are_raised_with_a_way_out(job_path):
    job_path.write_text(job_path.read_text().replace("max_output_tokens", "max_output_token"))
    with pytest.raises(br.UsageError) as caught:
        br.run(br.load_job(job_path.with_name("jbo.toml")))
    assert isinstance(caught.value, br.BatchRunnerError)
    assert "job.toml" in caught.value.hint


def test_a_frame_comes_back_as_it_was_with_answers_beside(frame, ask):
    before = frame.copy(deep=True)
    answered = ask(frame)
    pd.testing.assert_frame_equal(frame, before)
    pd.testing.assert_frame_equal(answered[list(frame.columns)], before)
    assert list(answered["llm_status"]) == ["ok", "ok", "failed", "ok", "ok"]
    assert list(answered["llm_error_code"].fillna("")) == ["", "", "missing_value", "", ""]
    assert "Sum: five" in answered["llm_output"].iloc[4]
    assert answered.dtypes["llm_input_tokens"] == "Int64"
    assert answered.dtypes["llm_latency_s"] == "float64"
    assert pd.isna(answered["llm_input_tokens"].iloc[2])


def test_the_same_frame_again_asks_nothing(frame, ask, fault_server):
    first = ask(frame)
    asked = calls(fault_server)
    assert asked == 4  # equal rows are separate rows; the empty one is not sent
    pd.testing.assert_frame_equal(ask(frame), first)
    assert calls(fault_server) == asked


def test_a_frame_that_grew_and_was_reordered_asks_for_what_is_new(frame, ask, fault_server):
    ask(frame)
    more = pd.concat([frame.iloc[::-1], frame.iloc[:1].assign(body="six")])
    answered = ask(more)
    assert calls(fault_server) == 5
    for body, text in zip(more["body"], answered["llm_output"], strict=True):
        assert (body is None or pd.isna(body)) or f"Sum: {body} " in text


def test_another_prompt_over_the_same_frame_is_refused_unless_wanted(frame, ask, fault_server):
    ask(frame)
    with pytest.raises(br.ChangedRowsError) as caught:
        ask(frame, prompt="Other: {{ body }}")
    assert caught.value.hint
    assert calls(fault_server) == 4
    assert (
        "Other" in ask(frame, prompt="Other: {{ body }}", on_change="rerun")["llm_output"].iloc[0]
    )


def test_types_reach_the_prompt_as_people_write_them(ask, fault_server):
    frame = pd.DataFrame(
        {
            "n": [3], "x": [1.5], "ok": [True], "at": pd.to_datetime(["2024-03-01 12:00"]),
            "money": [Decimal("1.10")], "tags": [["a", "b"]], 5: ["five"],
        }
    )  # fmt: skip
    prompt = "{{ n }}|{{ x }}|{{ at }}|{{ money }}|{{ tags | tojson }}|{{ row['5'] }}"
    ask(frame, prompt=prompt)
    fault_server.settle()
    sent = json.loads(fault_server.seen[0].body)["input"]
    assert sent == '3|1.5|2024-03-01T12:00:00|1.10|["a", "b"]|five'


def test_settings_are_job_values_by_their_names(frame, ask, fault_server):
    answered = ask(frame, settings={"request.temperature": 0, "output.columns": "minimal"})
    assert list(answered.columns[-3:]) == ["llm_output", "llm_status", "llm_error_code"]
    fault_server.settle()
    assert json.loads(fault_server.seen[0].body)["temperature"] == 0


def test_a_column_that_is_not_there_or_there_already_is_refused_before_anything_is_sent(
    frame, ask, fault_server
):
    with pytest.raises(br.UsageError, match="'bdy'") as caught:
        ask(frame, prompt="{{ bdy }}")
    assert "body" in caught.value.hint
    with pytest.raises(br.InputError, match="llm_status"):
        ask(frame.assign(llm_status=1))
    twice = pd.concat([frame, frame[["body"]]], axis=1)
    with pytest.raises(br.InputError, match="2 columns called 'body'"):
        ask(twice)
    assert calls(fault_server) == 0


def test_a_frame_without_rows_gets_the_columns(frame, ask):
    answered = ask(frame.iloc[:0])
    assert list(answered.columns[:4]) == list(frame.columns)
    assert answered.dtypes["llm_output"] == "string"


def test_run_frame_works_inside_a_running_loop_as_in_a_notebook(frame, ask):
    async def cell():
        return ask(frame)

    assert (asyncio.run(cell())["llm_status"] == "ok").sum() == 4


def test_an_interrupt_returns_what_there_is_and_the_next_call_goes_on(ask, fault_server):
    frame = pd.DataFrame({"body": [f"row {n}" for n in range(40)]})
    fault_server.change(latency_seconds=0.05)

    def press(_result):
        if not pressed:
            pressed.append(time.monotonic())
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    pressed = []
    with pytest.warns(UserWarning, match="stopped early"):
        part = ask(frame, settings={"limits.concurrency": 4}, on_result=press)
    asked = calls(fault_server)
    done = (part["llm_status"] == "ok").sum()
    assert 1 <= done == asked < 40  # what was in flight has been drained, not thrown away
    assert (part["llm_status"] == "pending").sum() == 40 - done
    fault_server.change(latency_seconds=0.0)
    assert (ask(frame)["llm_status"] == "ok").all()
    assert calls(fault_server) == 40


def test_an_endpoint_that_refuses_everyone_is_an_error_not_an_empty_frame(
    frame, ask, fault_server, monkeypatch
):
    fault_server.misbehave("401")
    with pytest.raises(br.RunStoppedError) as caught:
        ask(frame)
    assert caught.value.exit_code == 4


def test_a_limit_returns_what_there_is(frame, ask):
    assert (ask(frame, limit=2)["llm_status"] == "ok").sum() == 2


def test_a_run_directory_in_use_is_left_alone(frame, ask):
    trouble = []

    def again(_result):
        try:
            ask(frame.iloc[:2])
        except br.LockedError as error:
            trouble.append(error)

    assert (ask(frame, on_result=again)["llm_status"] == "ok").sum() == 4
    assert trouble


def test_the_library_does_not_set_up_logging(frame, ask):
    before = logging.getLogger("batch_runner").handlers[:]
    ask(frame)
    assert logging.getLogger("batch_runner").handlers == before


def test_an_estimate_sends_nothing(job_path, fault_server):
    plan = br.estimate(br.load_job(job_path))
    assert plan.rows == 4
    assert calls(fault_server) == 0


CUT = pd.DataFrame({"body": ["one", "[[fault:incomplete]] two"]})


def test_a_frame_with_cut_answers_says_so_and_how_to_ask_again(ask, caplog, fault_server):
    answered = ask(CUT, settings={"request.max_output_tokens": 20})
    assert list(answered["llm_status"]) == ["ok", "incomplete"]
    assert "1 of 2 rows without a full answer (1 max_output_tokens)" in caplog.text
    assert "retry=['incomplete'] asks again" in caplog.text
    assert calls(fault_server) == 2
    more = {"request.max_output_tokens": 20, "retry.on_incomplete": "retry"}
    ask(CUT, settings=more)
    assert calls(fault_server) == 2, "without retry nothing is sent"
    ask(CUT, settings=more, retry="incomplete")
    fault_server.settle()
    bodies = [json.loads(seen.body) for seen in fault_server.seen[2:]]
    assert bodies
    assert {body["max_output_tokens"] for body in bodies} == {80}


def test_a_frame_whose_rows_are_all_answered_warns_of_nothing(ask, caplog):
    ask(CUT.iloc[:1])
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING
                and "without a full answer" in record.message]  # fmt: skip


def test_failures_that_retry_cannot_mend_are_told_apart(frame, ask, caplog):
    ask(frame)
    assert "(1 missing_value); mend the cells of 1 row" in caplog.text
    assert "retry=" not in caplog.text


def test_rows_that_ended_are_asked_again_by_their_status(job_path, fault_server):
    job = br.load_job(job_path)
    br.run(job)
    before = calls(fault_server)
    br.run(job, br.RunOptions(wanted=br.retrying("failed")))
    assert calls(fault_server) == before + 1
    with pytest.raises(br.UsageError, match="did you mean 'incomplete'"):
        br.retrying("incomplet")


@pytest.mark.parametrize("name", ["frame.run", "frame.run/output.jsonl"])
def test_the_folder_of_a_frame_is_known_to_every_command_and_its_advice_can_be_typed(
    ask, main_cli, fault_server, name
):
    ask(CUT, settings={"request.max_output_tokens": 20})
    asked = calls(fault_server)
    for command in ("report", "status", "export", "verify", "costs", "check", "estimate"):
        ran = main_cli(command, name)
        assert ran.code == 0, ran
    assert calls(fault_server) == asked
    advice = next(
        line.partition("batch-runner ")[2]
        for line in main_cli("report", name).out.splitlines()
        if "batch-runner retry" in line
    )
    ran = main_cli(*shlex.split(advice))
    assert "1 to send" in ran.err
    assert calls(fault_server) > asked
    asked = calls(fault_server)
    ask(CUT, settings={"request.max_output_tokens": 20})
    assert calls(fault_server) == asked, "what the command line asked is the answer of the frame"


def test_a_frame_with_empty_cells_is_mended_in_python_and_not_in_a_file_of_ours(
    frame, ask, main_cli
):
    ask(frame)
    again = "-> fill the empty cells, then make the same call of run_frame again\n"
    assert again in main_cli("report", "frame.run").out
    assert again in main_cli("status", "frame.run").out
    ask(frame.assign(body=list("abcde")), limit=2, on_change="rerun")
    main_cli("retry", "frame.run")
    for command in ("report", "status"):
        told = main_cli(command, "frame.run").out
        assert "-> make the same call of run_frame again\n" in told, "3 rows are still to be sent"
        assert "frame.jsonl" not in told
        assert "batch-runner run " not in told


def test_the_folder_of_a_frame_that_was_moved_is_put_back_or_named_in_the_call(
    frame, ask, main_cli, fault_server, tmp_path
):
    home, moved = tmp_path / "frame.run", tmp_path / "moved.run"
    ask(frame)
    home.rename(moved)
    told = main_cli("report", "moved.run")
    assert told.code == 2
    assert told.err.endswith("hint: put the folder back: mv moved.run frame.run\n")
    home.mkdir()
    told = main_cli("report", "moved.run")
    assert told.err.endswith("hint: make the same call of run_frame with run_dir='moved.run'\n")
    asked = calls(fault_server)
    ask(frame, run_dir="moved.run")
    assert calls(fault_server) == asked
    assert main_cli("report", "moved.run").code == 0
    assert "since" not in main_cli("status", "moved.run").out


def test_a_run_with_overrides_is_known_by_its_output(job_path, main_cli, fault_server):
    given = {"output.path": str(job_path.with_name("local.csv")), "request.model": "m2"}
    prices = {"prices.m2": {"input": 0, "output": Decimal("2.5")}, "limits.concurrency": 3}
    job = br.load_job(job_path, br.Overrides(flags=given | prices | {"limits.max_cost": None}))
    br.run(job)
    asked = calls(fault_server)
    assert "2 ok" in main_cli("report", "local.csv").out
    assert main_cli("export", "local.csv").code == 0
    assert calls(fault_server) == asked
    assert "1 to send" in main_cli("retry", "local.csv").err
    fault_server.settle()
    assert {row.received.model for row in fault_server.ledger.rows()} == {"m2"}
    assert len(fault_server.ledger.rows()) == asked + 1


def test_overrides_that_no_flag_can_say_are_not_guessed(job_path, main_cli):
    given = {"output.path": str(job_path.with_name("local.csv")), "request.max_output_tokens": None}
    br.run(br.load_job(job_path, br.Overrides(flags=given)))
    ran = main_cli("retry", "local.csv")
    assert ran.code == 2
    assert "name the job that wrote it" in ran.err


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda path: br.load_job(path, br.Overrides(flags={"limits.concurency": 3})), "Overrides"),
        (lambda path: br.load_job(path, br.Overrides(settings=["limits.concurency=3"])), "Overrides"),
        (
            lambda path: br.run_frame(
                CUT, prompt="x", model="m", run_dir=path.parent / "f.run",
                settings={"limits.concurency": 3},
            ),
            "run_frame",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_words_of_python(job_path, call, told):
    with pytest.raises(br.JobError) as caught:
        call(job_path)
    meant = f"{told}: limits.concurency: unknown key, did you mean 'concurrency'?"
    assert str(caught.value) == meant


def test_what_describes_a_job_without_a_file_is_named_by_its_keys():
    with pytest.raises(br.JobError) as caught:
        br.load_job(None, br.Overrides(flags={"request.model": "m"}))
    assert "input.path, output.path, request.model" in caught.value.hint


def test_a_frame_with_settings_that_no_flag_can_say_is_known_by_its_folder(
    ask, main_cli, fault_server
):
    ask(CUT, settings={"request": {"model": "m5", "max_output_tokens": 20}})
    fault_server.settle()
    assert "1 ok, 1 incomplete" in main_cli("report", "frame.run").out
    assert "1 to send" in main_cli("retry", "frame.run", "--include", "incomplete").err
    fault_server.settle()
    bodies = [json.loads(seen.body) for seen in fault_server.seen]
    assert {(body["model"], body["max_output_tokens"]) for body in bodies} == {("m5", 20)}
