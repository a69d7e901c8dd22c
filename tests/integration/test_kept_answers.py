"""Answers that must not vanish: kept by --on-change keep, or held by an output without its journal."""

import csv
import json
import shutil
import signal
import time

import pytest


JOB = """
[input]
path = "in.csv"
{key}
[prompt]
input = "{prompt}"
[request]
model = "m1"
max_output_tokens = 50
[endpoint]
base_url = "{url}"
[output]
path = "out.csv"
"""


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
        key = 'key = "id"' if labelled else ""
        text = JOB.format(prompt=prompt, key=key, url=self.server.url)
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
    assert f"what it showed is kept as {str(aside)!r}" in ran.err
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
