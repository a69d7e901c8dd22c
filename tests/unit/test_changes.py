"""Finished rows that would be paid again: found by label or position, counted, kept."""

import csv
from pathlib import Path

import pytest

from batch_runner.changes import MOST_CHANGED_SHARE, check_changes, find_changes, keep_old_answers
from batch_runner.errors import ChangedRowsError
from batch_runner.job import Durability
from batch_runner.jobmapping import job_from_mapping
from batch_runner.journal import Journal, RunDirectory
from batch_runner.opening import open_work
from batch_runner.plan import Dedupe, requests
from batch_runner.records import Completion, RowResult, RowStatus


class Job:
    """An input that changes and a journal that remembers."""

    def __init__(self, folder: Path, *, key: str | None = "id") -> None:
        self.folder = folder
        self.key = key
        self.prompt = "{{ x }}"

    def write(self, rows):
        with (self.folder / "in.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("id", "x"), *rows.items()])

    def opened(self, **options):
        mapping = {
            "input": {"path": "in.csv"} | ({"key": self.key} if self.key else {}),
            "prompt": {"input": self.prompt}, "request": {"model": "m"},
            "output": {"path": "out.csv"},
        }  # fmt: skip
        return open_work(
            job_from_mapping(mapping, origin="a.toml", folder=self.folder, default_name="a"),
            **options,
        )

    def answer_all(self):
        directory = RunDirectory(self.folder / "out.csv.run")
        directory.create()
        with (
            self.opened() as work,
            Journal(directory, run_id="r", durability=Durability.OFF, reserve_bytes=0) as journal,
        ):
            for request in requests(work.plan, work.table, work.builder, work.replay.index):
                journal.finish(
                    RowResult(
                        key=request.key, row=request.row, label=request.label,
                        ending=Completion(text="yes"),
                    )
                )  # fmt: skip

    def changes(self, *, same_prompt=True):
        """Finished rows, and the rows that would be paid again."""
        with self.opened() as work:
            found = find_changes(work, work.plan, same_prompt=same_prompt)
            return found.finished, sorted(found.rows)


def rows(*names):
    return {name: f"text of {name}" for name in names}


@pytest.fixture
def job(tmp_path):
    def job(**options):
        job = Job(tmp_path, **options)
        job.write(rows(*"abcdef"))
        job.answer_all()
        return job

    return job


def test_an_input_that_is_the_same_has_no_changes(job):
    assert job().changes() == (6, [])


def test_an_edited_row_is_known_by_its_label_wherever_it_moved(job):
    work = job()
    work.write({"new": "n", **rows(*"fed"), "c": "edited", **rows(*"ba")})
    assert work.changes() == (6, [4])


def test_rows_that_left_or_came_are_no_changes(job):
    work = job()
    work.write(rows(*"xyzabc"))
    assert work.changes() == (3, [])


def test_another_prompt_changes_every_row_with_labels_and_without(job):
    for key in ("id", None):
        work = job(key=key)
        work.prompt = "Other {{ x }}"
        assert work.changes(same_prompt=False) == (6, [0, 1, 2, 3, 4, 5])


def test_without_labels_an_edited_row_is_known_by_its_position(job):
    work = job(key=None)
    work.write(rows(*"ab") | {"c": "edited"} | rows(*"def"))
    assert work.changes() == (6, [2])


def test_new_data_in_the_place_of_the_old_is_no_change(job):
    work = job(key=None)
    work.write(rows(*"uvwxyz"))
    assert work.changes(same_prompt=True) == (0, [])
    assert work.changes(same_prompt=False) == (6, [0, 1, 2, 3, 4, 5])


def night(number):
    """A window of six rows that moves on by three."""
    return {f"r{n}": f"text {n}" for n in range(3 * number, 3 * number + 6)}


def test_rows_that_left_the_input_make_the_guard_no_milder(job):
    work = job()
    for number in range(10):
        work.write(night(number))
        work.answer_all()
    edited = dict.fromkeys([*night(9)][:2], "edited")
    work.write(night(9) | edited)
    assert work.changes() == (6, [0, 1])
    with work.opened() as opened:
        found = find_changes(opened, opened.plan, same_prompt=True)
    with pytest.raises(ChangedRowsError, match="2 of 6 finished rows"):
        check_changes(found, origin="a.toml", most_share=MOST_CHANGED_SHARE)


def test_a_window_that_moves_on_changes_nothing_without_labels_too(job):
    work = job(key=None)
    for number in range(6):
        work.write(night(number))
        assert work.changes()[1] == [], number
        work.answer_all()
    work.write(night(5) | {"r17": "edited"})
    assert work.changes() == (6, [2])


def test_without_labels_an_edited_row_is_known_after_others_came_before_it(job):
    work = job(key=None)
    work.write({"new": "n", **rows(*"ab"), "c": "edited", **rows(*"def")})
    assert work.changes() == (6, [3])


def test_a_row_edited_back_is_found_again(job):
    work = job()
    work.write(rows(*"abcde") | {"f": "edited"})
    work.answer_all()
    work.write(rows(*"abcdef"))
    assert work.changes() == (6, [])


def test_a_fifth_of_the_finished_rows_may_change_and_no_more(job):
    work = job()
    work.write(rows(*"abcde") | {"f": "edited"})
    with work.opened() as opened:
        found = find_changes(opened, opened.plan, same_prompt=True)
    check_changes(found, origin="a.toml", most_share=MOST_CHANGED_SHARE)
    with pytest.raises(ChangedRowsError, match="1 of 6 finished rows") as caught:
        check_changes(found, origin="a.toml", most_share=0.1)
    assert "--on-change rerun" in caught.value.hint


def test_copies_of_a_kept_row_show_the_same(job):
    work = job()
    work.write({"a": "same", "b": "same"})
    work.answer_all()
    work.prompt = "Other {{ x }}"
    with work.opened(dedupe=Dedupe.ON) as opened:
        found = find_changes(opened, opened.plan, same_prompt=False)
        keep_old_answers(opened.plan, found)
        statuses = opened.replay.index.endings(opened.plan.entries)
        assert statuses == {(RowStatus.OK, None): 2}


def test_kept_rows_are_not_sent_and_show_what_they_had(job):
    work = job()
    work.write(rows(*"abcd") | {"e": "edited", "new": "n"})
    with work.opened() as opened:
        assert opened.plan.to_send == 2
        found = find_changes(opened, opened.plan, same_prompt=True)
        keep_old_answers(opened.plan, found)
        assert opened.plan.to_send == 1
        entry = opened.replay.index.entry(opened.plan.entries[4])
        assert opened.replay.load(entry).label == "e"
