"""Answers that must not vanish: kept by --on-change keep, or held by an output without its journal."""

import csv
import json
import os
import shutil
import signal
import time

import pytest

from batch_runner.export import export
from tests.integration.job_text import job_text


class Work:
    """A job of ten rows in a folder, and how often the endpoint was called."""

    def __init__(self, main_cli, server):
        self.cli, self.server, self.folder = main_cli, server, main_cli.folder
        self.output = self.folder / "out.csv"
        self.run_folder = self.folder / "out.csv.run"
        self.rows = {f"r{n}": f"text {n}" for n in range(10)}
        self.write()

    def write(self, prompt="Sum: {{ x }}", *, labelled=True):
        with (self.folder / "in.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("id", "x"), *self.rows.items()])
        key = "id" if labelled else ""
        text = job_text(key=key, prompt=prompt, cap=50, url=self.server.url)
        (self.folder / "job.toml").write_text(text)

    def __call__(self, command, *options):
        return self.cli(command, "job.toml", *options)

    def calls(self):
        self.server.settle()
        return len(self.server.ledger.rows())

    def answers(self):
        with self.output.open(newline="") as file:
            return {row["id"]: row["llm_output"] for row in csv.DictReader(file)}


@pytest.fixture
def work(main_cli, fault_server):
    return Work(main_cli, fault_server)


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("grows", [True, False])
def test_kept_answers_stay_for_whoever_looks_later(work, labelled, grows):
    work.write(labelled=labelled)
    assert work("run").code == 0
    before = work.answers()
    if grows:
        work.rows["new"] = "a new text"
    work.write("Say: {{ x }}", labelled=labelled)
    assert work("run").code == 2
    assert work("run", "--on-change", "keep").code == 0
    kept, told = work.output.read_bytes(), work.calls()
    assert {name: text for name, text in work.answers().items() if name != "new"} == before

    assert work("export").code == 0
    assert work.output.read_bytes() == kept
    assert work("export", "-o", "other.csv").code == 0
    assert (work.folder / "other.csv").read_bytes() == kept
    again = work("run")
    assert again.code == 0
    assert "10 changed rows show the answer of before" in again.err
    assert work.output.read_bytes() == kept
    assert "0 to send" in work("check").out
    assert work.calls() == told


def test_a_quiet_night_hides_nothing_for_good(work):
    """Cron stays silent; whoever looks later is told that these are answers of an old prompt."""
    page = work.folder / "page.html"
    options = ("--set", f"output.report={page}", "-q")
    note = "10 changed rows show the answer of before (--on-change keep)"
    assert work("run", *options).code == 0
    assert note not in page.read_text() + work("status").out + work("report").out
    work.write("Say: {{ x }}")
    for night in (("--on-change", "keep"), ()):
        kept = work("run", *options, *night)
        assert (kept.code, kept.out, kept.err) == (0, "", "")
        assert work.calls() == 10
        for command in ("status", "report"):
            assert note in work(command).out, command
        assert note in json.loads(work("status", "--json").out)["warnings"][0]
        assert note in page.read_text(), "also where the run had nothing to send"
    written = page.stat().st_mtime_ns
    assert work("run", *options).code == 0
    assert page.stat().st_mtime_ns == written, "what says the same is left alone"
    assert work("run", *options, "--on-change", "rerun").code == 0
    assert note not in page.read_text() + work("status").out + work("report").out


def test_what_was_kept_still_is_when_the_run_died_before_its_output_was_written(work, monkeypatch):
    work("run")
    work.write("Say: {{ x }}")

    def die(*_arguments, **_options):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("batch_runner.conclusion.export", die)
        assert work("run", "--on-change", "keep").code != 0
    told = work.calls()
    assert work("run").code == 0
    assert work.calls() == told


def test_keeping_ends_with_another_prompt_and_where_it_is_said(work):
    work("run")
    work.write("Say: {{ x }}")
    work("run", "--on-change", "keep")
    assert work("run", "--on-change", "fail").code == 2
    work.write("Tell: {{ x }}")
    assert "10 of 10 finished rows would be sent" in work("run").err
    work.write("Say: {{ x }}")
    assert work("run").code == 0, "what was kept for this prompt still is"
    told = work.calls()
    assert work("run", "--on-change", "rerun").code == 0
    assert work.calls() == told + 10
    assert "changed rows show" not in work("run").err


def test_without_labels_nothing_is_kept_for_rows_of_another_input(work):
    work.write(labelled=False)
    work("run")
    work.write("Say: {{ x }}", labelled=False)
    work("run", "--on-change", "keep")
    work.rows = {f"other{n}": f"another {n}" for n in range(10)}
    work.write("Say: {{ x }}", labelled=False)
    told = work.calls()
    ran = work("run")
    assert ran.code == 2, "old answers would stand beside new rows, or all be paid for"
    assert work.calls() == told
    assert "another" not in work.output.read_text()


def keep_another_prompt(work):
    """Ten answered rows that show the answers to another prompt than the job's."""
    work("run")
    work.write("Say: {{ x }}")
    ran = work("run", "--on-change", "keep")
    assert ran.code == 0, ran.err
    return work.answers(), work.calls()


def edit(work, **texts):
    work.rows |= texts
    work.write("Say: {{ x }}")


def test_a_row_edited_after_keep_is_sent_and_no_other(work):
    before, told = keep_another_prompt(work)
    edit(work, r3="edited", new="new")
    checked = work("check").out
    assert "2 to send (1 new, 1 changed)" in checked
    note = "9 changed rows show the answer of before (--on-change keep), those edited since (1) are sent"
    assert note in checked
    tried = work("run", "--dry-run")
    assert "2 to send (1 new, 1 changed), 9 reused" in tried.err
    assert note in tried.err
    assert work("retry").code == 0
    assert work.calls() == told, "nobody has sent anything yet"

    assert work("run", "-q").code == 0
    after = work.answers()
    assert work.calls() == told + 2
    assert [name for name in before if after[name] != before[name]] == ["r3"]
    assert "0 to send" in work("check").out
    assert work("export", "-o", "other.csv").code == 0
    assert (work.folder / "other.csv").read_bytes() == work.output.read_bytes()
    rested = work("run")
    assert "9 changed rows show the answer of before (--on-change keep); --on-change" in rested.err
    assert work.calls() == told + 2


def test_an_edited_row_shows_no_answer_to_the_text_it_had(work):
    keep_another_prompt(work)
    edit(work, r3="edited")
    assert work("export").code == 0
    assert [name for name, text in work.answers().items() if not text] == ["r3"]


def test_a_row_edited_while_the_run_goes_on_shows_no_answer_to_the_text_it_had(work, monkeypatch):
    before, _ = keep_another_prompt(work)

    def edit_and_export(*arguments, **options):
        edit(work, r3="edited")
        return export(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("batch_runner.conclusion.export", edit_and_export)
        edit(work, new="new")
        work("run")
    after = work.answers()
    assert after.pop("new")
    assert after == before | {"r3": ""}


def test_a_row_edited_back_does_not_show_the_answer_to_the_text_in_between(work):
    before, told = keep_another_prompt(work)
    text = work.rows["r3"]
    edit(work, r3="edited")
    edit(work, r3=text)
    assert work("run").code == 0
    assert work.answers() == before, "edited back before anybody looked"
    edit(work, r3="edited")
    work("run")
    between = work.answers()["r3"]
    edit(work, r3=text)
    assert work("run").code == 0
    assert work.answers()["r3"] not in ("", between)
    assert work.calls() == told + 2


def test_the_latest_answer_is_kept_whatever_was_planned_before_it(work):
    def ask(prompt, *options):
        work.write(prompt)
        os.utime(work.folder / "in.csv", (1e9, 1e9))  # old enough for a plan to be left
        return work("run", *options).code

    assert ask("Sum: {{ x }}") == 0
    assert ask("Say: {{ x }}") == 2, "refused, and planned"
    assert ask("Tell: {{ x }}", "--on-change", "rerun") == 0
    assert ask("Say: {{ x }}", "--on-change", "rerun") == 0
    latest, told = work.answers(), work.calls()
    assert ask("Name: {{ x }}", "--on-change", "keep") == 0
    assert work.answers() == latest
    (work.run_folder / "shortcut").unlink()
    assert ask("Name: {{ x }}") == 0
    assert work.answers() == latest
    assert work.calls() == told


@pytest.mark.parametrize("is_forgotten", [False, True], ids=["as planned", "by its label"])
def test_a_row_that_failed_with_a_later_text_keeps_no_answer_to_an_earlier_one(work, is_forgotten):
    assert work("run").code == 0
    before, told = work.answers(), work.calls()
    work.rows["r3"] = "another text [[fault:400]]"
    work.write()
    assert work("run").code == 3
    if is_forgotten:
        (work.run_folder / "shortcut").unlink()
    work.write("Say: {{ x }}")
    kept = work("run", "--on-change", "keep")
    assert kept.code == 3, "asked under the new prompt, in vain"
    assert "9 changed rows show the answer of before" in kept.err
    assert work.answers() == {**before, "r3": ""}
    assert work.calls() == told + 2


def test_two_rows_that_swap_their_texts_are_edited(work):
    before, told = keep_another_prompt(work)
    edit(work, r3=work.rows["r4"], r4=work.rows["r3"])
    assert work("run").code == 0
    assert work.calls() == told + 2
    after = work.answers()
    assert [name for name in before if after[name] != before[name]] == ["r3", "r4"]


@pytest.mark.parametrize("options", [[], ["--force-dedupe"]])
def test_a_kept_row_is_not_edited_by_what_becomes_of_others_with_its_text(work, options):
    work.rows |= {"r3": "same", "r4": "same", "r5": "same"}
    work.write()
    work("run", *options)
    work.write("Say: {{ x }}")
    assert work("run", "--on-change", "keep").code == 0
    told = work.calls()
    del work.rows["r4"]
    if not options:  # where copies share one answer, only the row that was asked for has a name
        work.rows = dict(reversed(work.rows.items()))
    work.write("Say: {{ x }}")
    assert work("run").code == 0
    assert work.calls() == told


def test_more_than_a_fifth_edited_after_keep_is_refused_and_the_way_out_names_its_price(work):
    _, told = keep_another_prompt(work)
    edit(work, r1="edited", r2="edited", r3="edited")
    for command in (["run"], ["retry"]):
        ran = work(*command)
        assert ran.code == 2, command
        assert "3 of 10 finished rows would be sent" in ran.err
        assert "--on-change rerun sends them and the 7 rows kept so far" in ran.err
    assert "3 of 10 finished rows would be sent" in work("check").err
    assert work("export").code == 2, "nor are three answers lost"
    assert work.calls() == told
    assert work("run", "--on-change", "keep").code == 0
    assert work("run").code == 0, "keep was said of the edited ones, too"
    assert work.calls() == told
    edit(work, r1="edited once more")
    assert work("run").code == 0
    assert work.calls() == told + 1
    assert work("run", "--on-change", "rerun").code == 0
    assert work.calls() == told + 10


def test_keep_said_while_nothing_had_changed_keeps_no_later_edit(work):
    work("run")
    assert work("run", "--on-change", "keep").code == 0
    told = work.calls()
    work.rows["r3"] = "edited"
    work.write()
    assert work("run").code == 0
    assert work.calls() == told + 1


def test_an_input_that_was_empty_for_a_night_has_its_kept_rows_again(work):
    before, told = keep_another_prompt(work)
    rows = dict(work.rows)
    work.rows = {}
    work.write("Say: {{ x }}")
    assert work("run").code == 0
    work.rows = rows
    work.write("Say: {{ x }}")
    assert work("run").code == 0
    assert work.answers() == before
    edit(work, r3="edited")
    assert work("run").code == 0
    assert work.calls() == told + 1


HARM = {
    "lost": lambda file: file.unlink(),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-9]),
    "empty": lambda file: file.write_bytes(b""),
}


@pytest.mark.parametrize("harm", HARM)
def test_without_the_file_that_knows_them_all_are_kept_and_known_from_then_on(work, harm):
    before, told = keep_another_prompt(work)
    HARM[harm](work.run_folder / "kept")
    edit(work, r3="edited")
    ran = work("run")
    assert (
        "10 changed rows show the answer of before (--on-change keep), any edited since" in ran.err
    )
    assert work.answers() == before
    assert work.calls() == told
    edit(work, r4="edited")
    assert "9 changed rows show" in work("run").err
    assert work.calls() == told + 1


@pytest.mark.parametrize(
    "write", ["batch_runner.work.write_kept", "batch_runner.work.write_manifest"]
)
def test_a_run_that_died_while_keep_was_noted_pays_for_nothing(work, monkeypatch, write):
    before, told = keep_another_prompt(work)
    work.write("Tell: {{ x }}")

    def die(*_arguments, **_options):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(write, die)
        assert work("run", "--on-change", "keep").code != 0
    assert work("run").code == 2, "keep has not been noted, so the guard asks"
    edit(work)
    assert work("run").code == 0, "nor has what was noted of the prompt before been forgotten"
    assert work("run").code == 0
    assert work.answers() == before
    assert work.calls() == told


def test_edited_rows_go_on_after_a_kill(work, run_cli):
    work.rows = {f"r{n}": f"text {n}" for n in range(40)}
    work.write()
    before, told = keep_another_prompt(work)
    edit(work, **{f"r{n}": f"edited {n}" for n in range(6)})
    work.server.misbehave("slow:0.4")
    process = run_cli.start("run", "job.toml", "-c", "1")
    deadline = time.monotonic() + 20
    while work.calls() < told + 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    work.server.misbehave("ok")
    assert work("run").code == 0
    after = work.answers()
    assert [name for name in before if after[name] != before[name]] == [f"r{n}" for n in range(6)]
    assert told + 6 <= work.calls() <= told + 7, "at most the call in flight is repeated"


LOSSES = {
    "all of it": lambda work: shutil.rmtree(work.run_folder),
    "the journal": lambda work: shutil.rmtree(work.run_folder / "journal"),
    "its files": lambda work: [file.unlink() for file in (work.run_folder / "journal").iterdir()],
}


@pytest.mark.parametrize("loss", LOSSES)
def test_an_output_without_its_journal_is_neither_overwritten_nor_paid_for_again(work, loss):
    work("run")
    answered, told = work.output.read_bytes(), work.calls()
    LOSSES[loss](work)
    for command in (["export"], ["export", "--partial"], ["reparse"], ["run"], ["retry"],
                    ["run", "--on-change", "keep"], ["check", "--probe"]):  # fmt: skip
        ran = work(*command)
        assert ran.code == 2, command
        assert "shows at least 10 answers" in ran.err
        assert "holds 0 results" in ran.err
    assert work.output.read_bytes() == answered
    assert work.calls() == told
    assert work("export", "-o", "other.csv").code == 0
    assert work("run", "--fresh").code == 0
    assert work.calls() == told + 10


@pytest.mark.parametrize("loss", LOSSES)
def test_status_and_report_tell_of_an_output_without_its_journal(work, loss):
    work("run", "--set", "prices.m1.input=1", "--set", "prices.m1.output=2")
    LOSSES[loss](work)
    status = work("status")
    assert status.code == 0
    assert "no run has begun" not in status.out
    assert "  journal  a run would refuse to start: " in status.out
    assert "shows at least 10 answers that cost $" in status.out
    assert "put 'out.csv.run/journal' back; --fresh sends and pays for every row" in status.out
    assert "to go on" not in status.out
    assert json.loads(work("status", "--json").out)["journal_gone"]
    assert "note     a run would refuse to start: " in work("report").out
    assert work("run", "--fresh").code == 0
    assert "would refuse" not in work("status").out + work("report").out


def test_an_output_that_is_named_without_its_run_folder_has_lost_it(work):
    work("run")
    shutil.rmtree(work.run_folder)
    ran = work.cli("status", "out.csv")
    assert ran.code == 2
    assert "the journal of 'out.csv' is gone" in ran.err


def test_what_was_put_aside_on_purpose_is_no_loss(work, run_cli):
    work("run")
    work.server.misbehave("slow:0.5")
    process = run_cli.start("run", "job.toml", "--fresh", "-c", "1")
    deadline = time.monotonic() + 20
    begun = work.run_folder / "journal" / "00000000.jsonl"
    aside = work.run_folder.glob
    # In this order: before the old journal is aside, the segment there is one of its own.
    while not ([*aside("journal.before-*")] and begun.exists()) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    answered = work.output.read_bytes()
    assert work("export").code == 2
    assert work.output.read_bytes() == answered
    work.server.misbehave("ok")
    assert work("run").code == 0, "goes on with what --fresh began"
    assert json.loads((work.folder / "out.csv.meta.json").read_text())["statuses"]["ok"] == 10


def test_rows_that_left_the_input_are_no_loss(work):
    work("run")
    work.rows = dict([*work.rows.items()][:1])
    work.write()
    assert work("export").code == 0
    assert work("run").code == 0


EMPTYING = [
    ("run",), ("run", "--on-change", "keep"), ("run", "--on-change", "fail"), ("run", "--fresh"),
    ("retry",), ("export",), ("export", "--partial"), ("reparse",),
]  # fmt: skip


@pytest.mark.parametrize("command", EMPTYING, ids=" ".join)
def test_an_emptied_input_loses_no_answer_and_no_row_and_fails_no_night(work, command):
    work("run")
    answered, rows = work.output.read_bytes(), work.rows
    work.rows = {}
    work.write()
    assert "the input has no rows, and the output showed 10 answers" in work("check").out
    assert "wrote" not in work("run", "--dry-run").err
    assert work.output.read_bytes() == answered, "nobody has written anything yet"

    ran = work(*command)
    assert ran.code == 0, ran.err
    assert work.output.read_bytes().count(b"\n") == 1, "header only, as of any input without rows"
    aside = work.run_folder / "emptied-out.csv"
    assert f"what it showed is kept as '{aside.parent.name}/{aside.name}'" in ran.err
    assert aside.read_bytes() == answered

    again = work("run", "-q")
    assert (again.code, again.err) == (0, ""), "the next empty night"
    assert aside.read_bytes() == answered
    work.rows = rows
    work.write()
    assert work("run").code == 0
    assert work.output.read_bytes() == answered
    assert work.calls() == 10, "no row is paid for twice"
    assert work("verify").code == 0


def test_an_empty_night_between_nights_of_other_rows_is_a_night_like_others(work):
    def night(rows):
        work.rows = rows
        work.write(labelled=False)
        ran = work("run", "-q")
        assert (ran.code, ran.err) == (0, "")
        return work.calls()

    assert night({f"a{n}": f"monday {n}" for n in range(5)}) == 5
    assert night({}) == 5
    assert work.answers() == {}
    assert night({f"b{n}": f"wednesday {n}" for n in range(5)}) == 10
    assert len(work.answers()) == 5


def test_an_emptied_input_does_not_take_the_last_answers_there_are(work):
    work("run")
    answered = work.output.read_bytes()
    shutil.rmtree(work.run_folder)
    work.rows = {}
    work.write()
    for command in ("run", "export", "retry"):
        ran = work(command)
        assert ran.code == 2
        assert "holds 0 results" in ran.err
    assert work.output.read_bytes() == answered


def test_an_input_that_never_had_rows_is_no_news(work):
    work.rows = {}
    work.write()
    for command in (("run",), ("run", "--fresh"), ("export",)):
        ran = work(*command)
        assert ran.code == 0
        assert "kept" not in ran.err
    assert not [*work.run_folder.glob("emptied-*")]
