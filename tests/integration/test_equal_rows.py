"""Rows that ask for the same: what the last run planned tells whose answer is whose, labels do not."""

import csv
import json
import os

import pytest

from batch_runner.progress import Silence
from tests.integration.job_text import job_text


OTHER = "Say: {{ x }}"
THIRD = "Tell: {{ x }}"


class Nights:
    """`b.csv` came after `t.csv` and stands before it; its two rows say what two of the others say."""

    def __init__(self, main_cli, server):
        self.cli, self.server, self.folder = main_cli, server, main_cli.folder
        (self.folder / "in").mkdir()
        self.ask("Sum: {{ x }}")
        self.write("t", {f"t{n}": f"text {n}" for n in range(10)})
        assert self("run").code == 0
        self.write("b", {"b3": "text 3", "b4": "text 4"})
        assert "2 to send" in self("run").err
        self.paid = self.calls()
        assert self.paid == 12

    def __call__(self, command, *options):
        return self.cli(command, "job.toml", *options)

    def ask(self, prompt):
        text = job_text(path="in/*.csv", key="id", prompt=prompt, cap=50, url=self.server.url)
        (self.folder / "job.toml").write_text(text)

    def write(self, name, rows):
        with (self.folder / "in" / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("id", "x"), *rows.items()])

    def calls(self):
        self.server.settle()
        return len(self.server.ledger.rows())

    def answers(self):
        with (self.folder / "out.csv").open(newline="") as file:
            return {row["id"]: row["llm_output"] for row in csv.DictReader(file)}


@pytest.fixture
def nights(main_cli, fault_server):
    return Nights(main_cli, fault_server)


def test_the_guard_counts_each_finished_row_and_keep_sends_none_of_them(nights):
    before = nights.answers()
    nights.ask(OTHER)
    for _ in range(2):
        refused = nights("run")
        assert refused.code == 2
        assert "12 of 12 finished rows would be sent and paid again" in refused.err
    assert "12 of 12" in nights("check").err
    for options in (("--on-change", "keep"), ()):
        ran = nights("run", *options)
        assert ran.code == 0
        assert "12 changed rows show the answer of before" in ran.err
        assert nights.answers() == before
    assert nights.calls() == nights.paid


def test_what_was_kept_is_kept_when_the_prompt_changes_once_more(nights):
    before = nights.answers()
    for prompt in (OTHER, THIRD):
        nights.ask(prompt)
        assert nights("run", "--on-change", "keep").code == 0
    assert nights.answers() == before
    assert nights.calls() == nights.paid


@pytest.mark.parametrize("is_said_before", [True, False])
def test_in_another_input_a_label_still_tells_what_its_row_showed(nights, is_said_before):
    before = nights.answers()
    nights.ask(OTHER)
    if is_said_before:
        assert nights("run", "--on-change", "keep").code == 0
    nights.write("a", {"new": "a new text"})
    ran = nights("run", "--on-change", "keep")
    assert "13 rows, 1 to send (new), 12 reused" in ran.err
    assert nights.calls() == nights.paid + 1
    after = nights.answers()
    assert after.pop("new")
    assert after == before


def test_a_kept_row_that_is_edited_is_sent_and_those_that_equalled_it_are_not(nights):
    before = nights.answers()
    nights.ask(OTHER)
    assert nights("run", "--on-change", "keep").code == 0
    nights.write("b", {"b3": "edited", "b4": "text 4"})
    ran = nights("run")
    assert "1 to send (changed), 11 reused" in ran.err
    assert nights.calls() == nights.paid + 1
    after = nights.answers()
    assert [name for name in before if after[name] != before[name]] == ["b3"]


def test_equal_rows_that_come_with_the_prompt_of_before_are_new_and_none_is_changed(nights):
    """Half of the finished rows give their answers to others, and ask anew: nobody edited them."""
    nights.write("a", {f"a{n}": f"text {n}" for n in range(6)})
    ran = nights("run")
    assert ran.code == 0
    assert "6 to send (all new), 12 reused" in ran.err
    assert nights.calls() == nights.paid + 6


def test_a_renamed_row_is_known_when_the_prompt_changes(nights):
    nights.write("b", {"b3": "text 3", "new name": "text 4"})
    assert nights("run").code == 0
    before = nights.answers()
    nights.ask(OTHER)
    assert "12 of 12" in nights("run").err
    assert nights("run", "--on-change", "keep").code == 0
    assert nights.answers() == before
    assert nights.calls() == nights.paid


def test_reparse_finds_the_answers_of_rows_whose_label_is_on_no_answer(nights):
    before = nights.answers()
    nights.ask(OTHER)
    assert nights("reparse").code == 0
    assert nights.answers() == before
    assert nights.calls() == nights.paid


def test_a_row_that_the_last_run_left_unanswered_is_no_finished_row(nights):
    nights.write("c", {"c": "x [[fault:400]]"})
    assert nights("run").code == 3
    nights.ask(OTHER)
    assert "12 of 12 finished rows" in nights("run").err
    assert (
        "13 rows, 1 to send (new), 12 reused"
        in nights("run", "--on-change", "keep", "--dry-run").err
    )


def test_files_of_any_age_are_known_again(nights):
    for file in (nights.folder / "in").iterdir():
        os.utime(file, (1e9, 1e9))
    assert nights("run").code == 0
    nights.ask(OTHER)
    assert "12 of 12" in nights("run").err
    assert nights("run", "--on-change", "keep").code == 0
    statuses = json.loads((nights.folder / "out.csv.meta.json").read_text())["statuses"]
    assert statuses["ok"] == 12
    assert nights.calls() == nights.paid


def test_the_pace_of_a_run_with_dedupe_is_that_of_the_rows_it_sends_and_says_so(
    main_cli, fault_server, monkeypatch
):
    """Rows that take an answer cost no time: with them the pace would be that of nothing."""
    shown = []

    def display_for(_style, first, **_named):
        shown.append(first)
        return Silence()

    monkeypatch.setattr("batch_runner.runner.display_for", display_for)
    rows = [f"text {number % 5}" for number in range(50)]
    (main_cli.folder / "in.csv").write_text("\n".join(["body", *rows, ""]))
    (main_cli.folder / "job.toml").write_text(job_text(url=fault_server.url, cap=50))
    first = main_cli("run", "job.toml", "--dedupe", "-n", "4")
    assert "   4 rows sent in " in first.err
    rest = main_cli("run", "job.toml")
    assert "   this run 1 row in " in rest.err
    assert [(bar.done, bar.total) for bar in shown] == [(0, 4), (4, 5)]
    assert "   5 rows sent in " in main_cli("report", "job.toml").out
