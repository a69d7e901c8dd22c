"""What a process tells its caller: exit codes, and the options of `run`, `retry` and `export`."""

import csv
import fcntl
import json
import os
import subprocess
import time

import pytest

from batch_runner.journal import RunDirectory, read_manifest, take_lock
from tests.integration.calls_received import calls_received


@pytest.fixture
def work(main_cli, fault_server):
    """A folder with four rows, a job file, and the command line over them."""
    (main_cli.folder / "in.csv").write_text("id,body\n1,one\n2,two\n3,three\n4,four\n")
    (main_cli.folder / "job.toml").write_text(
        f"""
        [input]
        path = "in.csv"
        key = "id"
        [prompt]
        input = "Say {{{{ body }}}}"
        [request]
        model = "m1"
        [endpoint]
        base_url = "{fault_server.url}"
        [output]
        path = "out.csv"
        [retry]
        attempts = 1
        max_wait = "10ms"
        maybe_billed_attempts = 0
        """
    )
    return Work(main_cli, fault_server)


class Work:
    def __init__(self, cli, server):
        self.cli, self.server, self.folder = cli, server, cli.folder
        self.output = cli.folder / "out.csv"

    def __call__(self, command, *more, **environment):
        self.ran = self.cli(command, "job.toml", *more, **environment)
        assert self.ran.code != 1, self.ran.err
        return self.ran.code

    def calls(self):
        """How many calls there have been since this was last asked."""
        self.server.settle()
        count = len(self.server.ledger.rows())
        self.server.reset()
        return count

    def spoil(self, row, fault):
        """The text of a row orders a fault."""
        text = (self.folder / "in.csv").read_text()
        (self.folder / "in.csv").write_text(text.replace(row, f"{row} [[fault:{fault}]]"))

    def cells(self, name="status", path=None):
        with (path or self.output).open(newline="") as file:
            return [row[f"llm_{name}"] for row in csv.DictReader(file)]

    def meta(self):
        return json.loads((self.folder / "out.csv.meta.json").read_text())


# The codes


def test_all_rows_done_is_0_and_nothing_to_do_too(work):
    assert work("run") == 0
    assert work.calls() == 4
    assert work("run") == 0
    assert work.calls() == 0
    assert work.meta()["exit_code"] == 0


def test_a_failed_row_is_3_and_so_is_a_later_run_that_only_finds_it(work):
    work.spoil("two", "400")
    assert work("run") == 3
    assert work.cells() == ["ok", "failed", "ok", "ok"]
    assert work.cells("error_code")[1] == "bad_request"
    assert "batch-runner retry job.toml" in work.ran.err
    assert work.calls() == 4
    assert work("run") == 3
    assert work.calls() == 0, "a permanent failure waits for retry"
    assert work.meta()["exit_code"] == 3


@pytest.mark.parametrize(
    ("fault", "status"), [("refusal", "refused"), ("incomplete:max_output_tokens", "incomplete")]
)
def test_a_refused_or_incomplete_row_is_3(work, fault, status):
    work.spoil("two", fault)
    assert work("run") == 3
    assert work.cells()[1] == status


def test_a_model_without_a_price_is_3_for_prices_and_that_is_documented(main_cli):
    assert main_cli("prices", "gpt-5-mini").code == 0
    assert main_cli("prices", "gpt-5-mini", "a-stranger").code == 3
    assert "exit 3" in main_cli("prices", "--help").out


def test_a_skipped_row_alone_is_0(work):
    (work.folder / "in.csv").write_text("id,body\n1,one\n2,\n")
    assert work("run", "--set", "prompt.missing=skip") == 0
    assert work.cells() == ["ok", "skipped"]


@pytest.mark.parametrize(
    ("fail_on", "code"), [("any", 3), ("none", 0), ("24%", 3), ("25%", 0), ("100%", 0)]
)
def test_fail_on_says_how_many_failed_rows_make_a_failure(work, fail_on, code):
    work.spoil("two", "400")
    assert work("run", "--fail-on", fail_on) == code


def test_fail_on_new_tells_of_a_failed_row_once(work):
    work.spoil("two", "400")
    assert work("run", "--fail-on", "new") == 3
    assert work("run", "--fail-on", "new") == 0
    assert work.meta()["exit_code"] == 0
    assert work("run") == 3, "the default tells the state of the output"
    with (work.folder / "in.csv").open("a") as file:
        file.write("5,five [[fault:refusal]]\n")
    assert work("run", "--fail-on", "new") == 3
    assert work("run", "--fail-on", "new") == 0
    assert work("retry", "--fail-on", "new") == 0, "it failed again, as it had before"
    assert work.calls() == 6


def test_a_row_that_fails_for_another_reason_than_before_is_new(work):
    for fault, code in [("500", 3), ("500", 0), ("400", 3), (None, 0)]:
        work.server.misbehave(fault)
        assert work("run", "--fail-on", "new") == code, fault
    assert work.calls() == 12, "a 400 waits for retry"
    assert work("retry", "--fail-on", "new") == 0
    assert work.cells() == ["ok"] * 4


@pytest.mark.parametrize("loss", ["", "shortcut"])
def test_fail_on_new_tells_once_of_a_row_that_cannot_be_sent(work, loss):
    path = work.folder / "in.csv"
    path.write_text("id,body\n1,one\n2,\n")
    for more in ("", "3,\n", "4,four\n5,\n"):
        path.write_text(path.read_text() + more)
        assert work("run", "--fail-on", "new") == 3, more
        if loss:
            (work.folder / "out.csv.run" / loss).unlink()
        assert work("run", "--fail-on", "new") == 0, more
    path.write_text(path.read_text() + "6,six\n")
    assert work("run", "--fail-on", "new") == 0


@pytest.mark.parametrize("key", ['key = "id"', ""])
def test_a_row_that_breaks_is_new_although_another_was_mended(work, key):
    """In one night, so that there are as many as before."""
    path, job = work.folder / "in.csv", work.folder / "job.toml"
    job.write_text(job.read_text().replace('key = "id"', key))
    nights = [
        ("1,one\n2,\n3,three\n4,\n", 3),
        ("1,one\n2,two\n3,\n4,\n", 3),
        ("1,one\n2,two\n3,\n4,\n5,five\n", 0),
        ("2,two\n3,\n4,\n5,five\n6,six\n", 0),  # a window that moves on
        ("2,two two\n3,\n4,\n5,five\n6,six\n", 0),  # the row before it is edited
        ("2,two two\n4,\n5,five\n3,\n6,six\n", 0),  # another order
        ("2,two\n3,\n4,four\n5,five\n6,six\n7,\n", 3),
    ]
    for rows, code in nights:
        path.write_text(f"id,body\n{rows}")
        assert work("run", "--fail-on", "new", "--on-change", "rerun") == code, rows
        assert work("run", "--fail-on", "new") == 0, rows
        assert work("run") == 3


@pytest.mark.parametrize("row", ["5,five [[fault:400]]", "5,five [[fault:500]]", "5,"])
@pytest.mark.parametrize("loss", ["", "shortcut"])
def test_fail_on_new_tells_what_a_killed_run_told_nobody(work, run_cli, row, loss):
    """Once, whether the row is sent again (500) or not."""
    assert work("run", "--fail-on", "new") == 0
    path = work.folder / "in.csv"
    path.write_text(path.read_text() + f"{row}\n6,six\n7,seven [[fault:slow:60]]\n")
    killed = run_cli.start("run", "job.toml", "-c", "1", "--fail-on", "new")
    segment = work.folder / "out.csv.run" / "journal" / "00000001.jsonl"
    deadline = time.monotonic() + 20
    while not (segment.exists() and '"label":"6"' in segment.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    path.write_text(path.read_text().replace(" [[fault:slow:60]]", ""))
    if loss:
        (work.folder / "out.csv.run" / loss).unlink()
    assert work("run", "--fail-on", "new") == 3
    assert work("run", "--fail-on", "new") == 0
    assert work("run") == 3


@pytest.mark.parametrize("row", ["5,five [[fault:400]]", "5,"])
def test_fail_on_new_tells_what_no_exit_code_has_told(work, row):
    """A run that was refused has failed no row, and a sample writes no output."""
    path = work.folder / "in.csv"
    assert work("run", "--fail-on", "new") == 0
    path.write_text(path.read_text() + f"{row}\n6,six\n")
    assert work("run", "--fail-on", "new", "--max-cost", "1") == 2, "no price is known"
    assert work("estimate", "--sample", "9", "--yes") == 0
    assert work("run", "--fail-on", "new") == 3
    assert work("run", "--fail-on", "new") == 0


@pytest.mark.parametrize("fail_on", ["some", "5", "101%", "-1%", "%"])
def test_a_fail_on_that_is_none_is_2(work, fail_on):
    assert work("run", f"--fail-on={fail_on}") == 2
    assert repr(fail_on) in work.ran.err
    assert work.calls() == 0


def test_an_endpoint_that_refuses_everyone_is_4(work):
    work.server.misbehave("401")
    assert work("run") == 4
    assert 1 <= work.calls() <= 4
    assert work.meta()["exit_code"] == 4
    assert work.meta()["stop_reason"]

    work.server.misbehave(None)
    assert work("run") == 0
    assert work.cells() == ["ok"] * 4


def test_too_many_errors_are_4(work):
    work.server.misbehave("400")
    assert work("run", "--max-errors", "1", "-c", "1") == 4
    assert work.calls() <= 3, "one caller, and a row that it held already"
    assert "max_errors" in work.ran.err


def test_a_budget_is_4_and_one_that_cannot_be_kept_2(work):
    assert work("run", "--max-cost", "1") == 2
    assert "no price" in work.ran.err
    price = ["--set", "prices.m1.input=1000000", "--set", "prices.m1.output=1000000"]
    cap = ["--set", "request.max_output_tokens=10"]
    assert work("run", "--max-cost", "0", *price, *cap) == 2
    assert work("run", "--max-cost", "0.000001", *price, *cap) == 4
    assert work.calls() == 0
    assert "max_cost" in work.ran.err


def test_a_lock_that_is_held_is_75_unless_asked_otherwise(work):
    directory = RunDirectory(work.folder / "out.csv.run")
    directory.create()
    holder = os.open(directory.lock, os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_EX)
    try:
        assert work("run") == 75
        assert "another run" in work.ran.err
        assert work("run", "--if-locked", "skip") == 0
        assert "skipped: another run" in work.ran.err
        assert work("run", "--dry-run") == 0, "a dry run needs no lock"
    finally:
        os.close(holder)
    assert work.calls() == 0
    assert work("run", "--if-locked", "wait") == 0


def test_a_run_that_waits_says_at_once_and_once_for_whom(work, run_cli):
    directory = RunDirectory(work.folder / "out.csv.run")
    directory.create()
    with take_lock(directory):
        child = run_cli.start("run", "job.toml", "--if-locked", "wait")
        said = child.stderr.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(timeout=0.5)
    _, rest = child.communicate(timeout=30)
    assert f"waiting for another run (pid {os.getpid()} on " in said
    assert " since 20" in said
    assert "waiting" not in rest
    assert child.returncode == 0


# Options of run


def test_limit_sends_so_many_and_the_output_marks_the_rest_as_pending(work):
    assert work("run", "-n", "1") == 0
    assert work.calls() == 1
    assert work.cells() == ["ok", "pending", "pending", "pending"]
    assert work("run", "-n", "2") == 0
    assert work.calls() == 2
    assert work.cells() == ["ok", "ok", "ok", "pending"]
    assert work("run", "-n", "0") == 2
    assert work("run", "-n", "-3") == 2


def test_retry_points_to_run_for_rows_that_were_never_asked(work):
    work("run", "-n", "1")
    assert work("retry") == 0
    words = "0 to send, 1 reused, 3 not asked yet as they are now (batch-runner run sends them)"
    assert words in work.ran.err


def test_a_dry_run_sends_writes_and_keeps_nothing(work):
    before = sorted(work.folder.rglob("*"))
    assert work("run", "--dry-run") == 0
    assert "4 to send" in work.ran.err
    assert work("run", "--dry-run", "--fresh") == 0
    assert work.calls() == 0
    assert sorted(work.folder.rglob("*")) == before


def test_a_dry_run_says_that_it_was_one_and_how_the_rows_stand(work):
    work("run", "-n", "1")
    assert work("run", "--dry-run") == 0
    assert "4 rows: 1 ok, 3 pending   dry run: nothing was sent or written" in work.ran.err


def test_a_dry_run_tells_new_rows_from_changed_ones_and_from_those_that_failed(work):
    """In words and as JSON; and the run that follows sends just these."""
    rows = {f"r{n}": f"text {n}" for n in range(10)}
    rows |= {"passing": "[[fault:500]] a", "lasting": "[[fault:400]] b"}

    def write():
        lines = [f"{name},{text}\n" for name, text in rows.items()]
        (work.folder / "in.csv").write_text("id,body\n" + "".join(lines))

    write()
    assert work("run") == 3
    work.calls()
    rows["r3"] = "another text"
    rows |= {"n1": "new", "n2": "new too"}
    write()
    assert work("run", "--dry-run") == 0
    words = (
        "14 rows, 4 to send (2 new, 1 changed, 1 failed before), 9 reused, "
        "1 failed before (batch-runner retry sends them)"
    )
    assert words in work.ran.err
    assert work("run", "--dry-run", "--json") == 0
    told = json.loads(work.ran.out)
    assert told["dry_run"] is True
    plan = told["plan"]
    assert (plan["to_send"], plan["new"], plan["changed"]) == (4, 2, 1)
    assert (plan["ended_before"], plan["done_before"], plan["failed_before"]) == (
        {"failed": 1}, 9, 1
    )  # fmt: skip
    assert work("run", "--dry-run", "-n", "3", "--json") == 0
    few = json.loads(work.ran.out)["plan"]
    assert (few["to_send"], few["left_for_later"], few["changed"]) == (3, 1, 1)
    assert work("check") == 0
    assert "plan     4 to send (2 new, 1 changed, 1 failed before), 9 reused" in work.ran.out
    assert work.calls() == 0
    assert work("run") == 3
    assert work.calls() == plan["to_send"]
    assert "plan" not in work.meta()


def test_after_a_kill_the_next_run_says_how_many_of_its_rows_were_in_flight(work, run_cli):
    work.server.misbehave("slow:5")
    killed = run_cli.start("run", "job.toml", "-c", "2")
    calls_received(work.server.ledger, 2)
    killed.kill()
    killed.communicate()
    work.server.misbehave(None)
    (work.folder / "in.csv").write_text("id,body\n1,one\n2,edited\n3,three\n4,four\n")
    assert work("run", "--dry-run", "--json") == 0
    assert json.loads(work.ran.out)["plan"]["in_flight_before"] == 1, "what was edited is new"
    assert work("run", "-n", "1") == 0
    assert "4 rows, 1 to send (in flight before), 3 left for later" in work.ran.err
    assert work("run") == 0
    assert "4 rows, 3 to send (all new), 1 reused" in work.ran.err, "it has been answered"


def test_a_dry_run_needs_no_key_and_a_run_does(work):
    other = ["--base-url", "https://gateway.example/v1"]
    assert work("run", "--dry-run", *other) == 0
    assert work("run", *other) == 2
    assert "api_key_env" in work.ran.err


def test_fresh_sends_every_row_again_and_keeps_the_old_journal(work):
    assert work("run") == 0
    assert work.calls() == 4
    for count in (1, 2):
        assert work("run", "--fresh") == 0
        assert work.calls() == 4
        assert len([*(work.folder / "out.csv.run").glob("journal.before-*/*.jsonl")]) == count
    assert work.meta()["calls_sent"] == 4, "the bill is that of the new journal"


def test_fresh_touches_nothing_when_the_run_cannot_begin(work):
    assert work("run") == 0
    with (work.folder / "in.csv").open("a") as file:
        file.write("5,too,long\n")
    assert work("run", "--fresh") == 2
    assert not [*(work.folder / "out.csv.run").glob("journal.before-*")]
    text = (work.folder / "in.csv").read_text().removesuffix("5,too,long\n")
    (work.folder / "in.csv").write_text(text)
    work.calls()
    assert work("run") == 0
    assert work.calls() == 0


PROMPT = ["-p", "Shout {{ body }}"]


def test_a_changed_prompt_stops_before_a_call_and_says_what_can_be_done(work):
    assert work("run") == 0
    work.calls()
    assert work("run", *PROMPT) == 2
    assert work.calls() == 0
    assert "4 of 4 finished rows" in work.ran.err
    assert "--on-change rerun" in work.ran.err


@pytest.mark.parametrize("command", ["export", "retry"])
def test_no_command_replaces_answers_by_pending_rows(work, command):
    assert work("run") == 0
    before = work.output.read_bytes()
    assert work(command, *PROMPT) == 2
    assert work.output.read_bytes() == before


def test_on_change_rerun_sends_changed_rows(work):
    assert work("run") == 0
    first = work.cells("output")
    work.calls()
    assert work("run", *PROMPT, "--on-change", "rerun") == 0
    assert work.calls() == 4
    assert not set(first) & set(work.cells("output"))


def test_on_change_keep_shows_the_old_answers_and_sends_only_new_rows(work):
    assert work("run") == 0
    first = work.cells("output")
    work.calls()
    with (work.folder / "in.csv").open("a") as file:
        file.write("5,five\n")
    assert work("run", *PROMPT, "--on-change", "keep") == 0
    assert work.calls() == 1
    assert work.cells("output")[:4] == first
    assert work.cells("status") == ["ok"] * 5
    assert work("run", *PROMPT, "--on-change", "keep") == 0
    assert work.calls() == 0
    assert work.cells("output")[:4] == first


def test_on_change_fail_stops_at_a_single_changed_row(work):
    rows = "".join(f"{n},text {n}\n" for n in range(20))
    (work.folder / "in.csv").write_text("id,body\n" + rows)
    assert work("run") == 0
    (work.folder / "in.csv").write_text("id,body\n" + rows.replace("text 7", "edited"))
    work.calls()
    assert work("run", "--on-change", "fail") == 2
    assert work.calls() == 0
    assert work("run") == 0
    assert work.calls() == 1


# Nothing to do


def stamp(work):
    found = work.output.stat()
    return found.st_mtime_ns, found.st_ino


def test_a_run_with_nothing_to_do_leaves_the_output_alone(work):
    work.spoil("two", "400")
    assert work("run") == 3
    before, said = stamp(work), work.meta()
    assert work("run") == 3
    assert stamp(work) == before
    for name in ("rows", "statuses", "error_codes", "calls_sent", "output", "csv_formula_cells"):
        assert work.meta()[name] == said[name], name
    assert work.meta()["rows_reused"] == 3


def touch_output(work):
    os.utime(work.output)


def edit_output(work):
    work.output.write_text("mine\n")


def remove_output(work):
    work.output.unlink()


def touch_input(work):
    os.utime(work.folder / "in.csv")


def damage_manifest(work):
    (work.folder / "out.csv.run/manifest.json").write_text("{}")


def remove_manifest(work):
    (work.folder / "out.csv.run/manifest.json").unlink()


def add_a_segment(work):
    (work.folder / "out.csv.run/journal/00000007.jsonl").write_bytes(b"")


@pytest.mark.parametrize(
    "doubt",
    [touch_output, edit_output, remove_output, touch_input, damage_manifest, remove_manifest, add_a_segment],
)  # fmt: skip
def test_any_doubt_about_the_output_writes_it_again(work, doubt):
    assert work("run") == 0
    whole, before = work.output.read_bytes(), stamp(work)
    doubt(work)
    assert work("run") == 0
    assert stamp(work) != before
    assert work.output.read_bytes() == whole


@pytest.mark.parametrize(
    "setting",
    [
        "output.columns=minimal",
        "output.prefix=x_",
        "prices.m1={ input = 1, output = 1 }",
        "input.key=body",
    ],
)
def test_other_settings_of_the_output_write_it_again(work, setting):
    assert work("run") == 0
    before = stamp(work)
    assert work("run", "--set", setting) == 0
    assert stamp(work) != before
    between = stamp(work)
    assert work("run", "--set", setting) == 0
    assert stamp(work) == between


def test_settings_without_effect_on_a_finished_output_do_not(work):
    assert work("run") == 0
    before = stamp(work)
    assert (
        work("run", "--rpm", "5", "--deadline", "1h", "-c", "3", "--set", "retry.attempts=2") == 0
    )
    assert stamp(work) == before
    assert read_manifest(work.folder / "out.csv.run/manifest.json").extra["exported"]


def test_a_deduped_run_with_nothing_to_do_leaves_the_output_alone_too(work):
    with (work.folder / "in.csv").open("a") as file:
        file.write("5,one\n")
    assert work("run", "--dedupe") == 0
    assert work.calls() == 4
    before = stamp(work)
    assert work("run", "--dedupe") == 0
    assert stamp(work) == before


def test_an_output_made_with_kept_answers_is_not_taken_for_one_without(work):
    assert work("run") == 0
    without = work.output.read_text()
    assert work("run", *PROMPT, "--on-change", "keep") == 0
    before = stamp(work)
    assert work("run", *PROMPT) == 0, "it was said once"
    assert work("run", *PROMPT, "--on-change", "keep") == 0
    assert stamp(work) == before
    assert work.output.read_text() == without
    assert work("run", *PROMPT, "--on-change", "fail") == 2


# retry


def test_retry_sends_failed_rows_and_only_those_asked_for(work):
    work.spoil("two", "400")
    work.spoil("three", "empty")
    work.spoil("four", "incomplete:max_output_tokens")
    assert work("run") == 3
    assert work.cells() == ["ok", "failed", "failed", "incomplete"]
    assert work.cells("error_code") == ["", "bad_request", "empty_output", "max_output_tokens"]
    work.calls()

    assert work("retry", "--only", "content_filter,timeout") == 3
    assert work.calls() == 0
    assert (
        "--only content_filter names rows that are incomplete, not failed; --include incomplete sends "
        "them: batch-runner retry job.toml --only content_filter,timeout --include incomplete\n"
    ) in work.ran.err
    assert "timeout names" not in work.ran.err
    assert work("retry", "--only", "bad_request") == 3
    assert work.calls() == 1
    assert work("retry", "--only", "bad_request", "--include", "incomplete") == 3
    assert work.calls() == 2
    assert work("retry") == 3
    assert work.calls() == 2
    assert work("retry", "--include", "refused") == 3
    assert work.calls() == 2
    assert work("retry", "--only", "content_filter", "--include", "refused, incomplete") == 3
    assert "names rows" not in work.ran.err
    assert work.calls() == 1
    assert work.cells()[3] == "incomplete"


def test_retry_of_a_code_that_does_not_exist_is_2(work):
    assert work("run") == 0
    assert work("retry", "--only", "ratelimited") == 2
    assert "'ratelimited'" in work.ran.err
    assert "rate_limited" in work.ran.err


# export


def test_export_writes_all_rows_at_any_time_and_partial_the_finished_ones(work):
    assert work("export") == 0
    assert work.cells() == ["pending"] * 4
    assert work("run", "-n", "2") == 0
    work.output.unlink()

    assert work("export") == 0
    assert work.cells() == ["ok", "ok", "pending", "pending"]
    assert work("export", "--partial", "-o", "part.csv") == 0
    assert work.cells(path=work.folder / "part.csv") == ["ok", "ok"]
    assert work("export", "-o", "all.jsonl") == 0
    lines = (work.folder / "all.jsonl").read_text().splitlines()
    assert [json.loads(line)["llm_status"] for line in lines] == ["ok", "ok", "pending", "pending"]


def test_export_never_replaces_the_input(work):
    before = (work.folder / "in.csv").read_text()
    assert work("export", "-o", "in.csv") == 2
    assert "-o: " in work.ran.err
    assert (work.folder / "in.csv").read_text() == before


# Keys


def keys_received(work):
    work.server.settle()
    return {request.headers.get("authorization") for request in work.server.seen}


def test_the_key_of_the_named_variable_is_sent_and_written_nowhere(work):
    named = ["--set", "endpoint.api_key_env=MY_KEY"]
    assert work("run", *named, MY_KEY=" sk-very-secret-0123 \n") == 0
    assert keys_received(work) == {"Bearer sk-very-secret-0123"}
    written = [path.read_bytes() for path in work.folder.rglob("*") if path.is_file()]
    assert not [data for data in written if b"very-secret" in data]
    assert "very-secret" not in work.ran.err + work.ran.out


def test_a_named_key_that_is_not_there_is_2_on_this_machine_too(work):
    named = ["--set", "endpoint.api_key_env=MY_KEY"]
    assert work("run", *named) == 2
    assert "MY_KEY is not set" in work.ran.err
    assert 'api_key_env = "" says that the server takes none' in work.ran.err
    assert work("run", *named, MY_KEY="") == 2
    assert "MY_KEY is empty" in work.ran.err
    assert work("run", *named, MY_KEY="sk-very secret") == 2
    assert "very secret" not in work.ran.err
    assert work.calls() == 0


def test_the_default_key_is_not_sent_to_a_host_of_the_jobs_choosing(work):
    assert work("run", OPENAI_API_KEY="sk-default-0123456") == 0
    assert keys_received(work) == {None}


def test_a_key_typed_on_the_command_line_is_2_and_not_repeated(work):
    for words in (
        ["--set", "endpoint.api_key=sk-very-secret-0123"],
        ["--set", "request.metadata.k=sk-very-secret-0123"],
        ["--base-url", "https://user:sk-very-secret-0123@host/v1"],
        ["--api-key", "sk-very-secret-0123"],
    ):
        assert work("run", *words) == 2
        assert "very-secret" not in work.ran.err
    assert work.calls() == 0


# stdout and stderr


def test_quiet_prints_nothing_at_0_and_the_reason_otherwise(work):
    assert work("run", "-q") == 0
    assert (work.ran.out, work.ran.err) == ("", "")
    assert work("check", "-q") == 0
    assert (work.ran.out, work.ran.err) == ("", "")
    assert work("verify", "-q") == 0
    assert (work.ran.out, work.ran.err) == ("", "")
    assert work("export", "-q") == 0
    assert (work.ran.out, work.ran.err) == ("", "")
    assert work("run", "-q", "-m", "m2") == 2
    assert "finished rows" in work.ran.err
    assert work.ran.out == ""


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("run", {"rows", "statuses", "exit_code", "output"}),
        ("check", {"rows", "to_send", "requests"}),
        ("status", {"rows", "statuses", "running"}),
        ("export", {"output", "statuses"}),
        ("report", {"rows", "statuses"}),
        ("verify", set()),
    ],
)
def test_json_is_one_object_on_stdout_and_everything_else_is_on_stderr(work, command, names):
    assert work("run") == 0
    assert work.ran.out == ""
    assert work(command, "--json") == 0
    assert names <= json.loads(work.ran.out).keys()


def test_a_job_that_is_wrong_is_2_and_says_where(work):
    with (work.folder / "job.toml").open("a") as file:
        file.write("[limits]\nrmp = 5\n")
    for command in ("run", "check", "status", "export", "retry", "report", "verify"):
        assert work(command) == 2
        assert "job.toml: limits.rmp: unknown key, did you mean 'rpm'?" in work.ran.err
        assert work.ran.out == ""
    assert work.calls() == 0
