"""The input laid against the journal: what is sent, and what stops a job before its first call."""

import json
import re
from pathlib import Path

import pytest

from batch_runner.columns import output_columns
from batch_runner.errors import InputError, JobError
from batch_runner.job import Durability
from batch_runner.jobmapping import job_from_mapping
from batch_runner.journal import Journal, RunDirectory, replay
from batch_runner.plan import make_plan, requests, unfinished
from batch_runner.prompt import PromptBuilder
from batch_runner.records import Completion, Failure, RowResult, RowStatus
from batch_runner.tables import open_table


class Planned:
    """A JSONL input of texts and a journal, laid against each other again and again."""

    def __init__(self, folder: Path, **tables) -> None:
        self.file = folder / "in.jsonl"
        self.directory = RunDirectory(folder / "out.jsonl.run")
        self.directory.create()
        mapping = {
            "input": {"path": "in.jsonl"}, "prompt": {"input": "{{ x }}"},
            "request": {"model": "m"}, "output": {"path": "out.jsonl"},
        }  # fmt: skip
        for name, table in tables.items():
            mapping[name] = mapping[name] | table
        self.job = job_from_mapping(mapping, origin="a.toml", folder=folder, default_name="a")
        self.builder = PromptBuilder(self.job)

    def write(self, *texts):
        lines = [json.dumps({"x": text} if isinstance(text, str) else text) for text in texts]
        self.file.write_text("".join(f"{line}\n" for line in lines))

    def plan(self, wanted=unfinished, **options):
        self.table = open_table([self.file])
        self.replay = replay(self.directory)
        columns = output_columns(self.job, many_files=False).columns
        self.planned = make_plan(
            self.job, self.table, self.builder, self.replay.index,
            wanted=wanted, new_columns=columns, **options,
        )  # fmt: skip
        return self.planned

    def requests(self):
        return list(requests(self.planned, self.table, self.builder, self.replay.index))

    def sent(self):
        """Plan, and give every request sent the answer that its text asks for; the texts."""
        self.plan()
        texts = []
        with Journal(
            self.directory, run_id="r", durability=Durability.OFF, reserve_bytes=0
        ) as journal:
            for request in self.requests():
                text = json.loads(request.body)["input"]
                texts.append(text)
                code, _, _ = text.partition(" ")
                ending = (
                    Failure(code=code, message="no")
                    if code in ("timeout", "bad_request")
                    else Completion(text=f"re {text}")
                )
                journal.finish(
                    RowResult(key=request.key, row=request.row, label=request.label, ending=ending)
                )
        return texts


@pytest.fixture
def planned(tmp_path):
    return lambda **tables: Planned(tmp_path, **tables)


def test_a_finished_row_is_never_planned_again(planned):
    work = planned()
    work.write("a", "b")
    assert work.sent() == ["a", "b"]
    work.write("b", "new", "a")
    assert work.sent() == ["new"]
    assert work.sent() == []


def test_failures_that_may_pass_are_planned_again_and_others_wait_for_retry(planned):
    work = planned()
    work.write("timeout x", "bad_request x", "ok")
    work.sent()
    assert work.sent() == ["timeout x"]
    work.plan(wanted=lambda status, code: status is RowStatus.FAILED)
    assert [json.loads(r.body)["input"] for r in work.requests()] == ["timeout x", "bad_request x"]


def test_equal_rows_are_separate_calls_and_stay_so(planned):
    work = planned()
    work.write("a", "a", "b", "a")
    assert work.sent() == ["a", "a", "b", "a"]
    assert work.planned.duplicates == 2
    assert len(set(work.planned.entries)) == 4
    work.write("a", "a", "a", "a", "b")
    assert work.sent() == ["a"]
    work.write("a")
    assert work.sent() == []


def test_with_dedupe_equal_rows_share_one_call(planned):
    work = planned()
    work.write("a", "b", "a", "a")
    plan = work.plan(dedupe=True)
    assert [r.row for r in work.requests()] == [0, 1]
    assert (plan.copies, plan.to_send, plan.not_wanted) == (2, 2, 0)
    assert [plan.is_copy(row) for row in range(4)] == [False, False, True, True]


def test_rows_without_a_request_are_counted_and_never_sent(planned):
    work = planned(prompt={"missing": "skip"})
    work.write("a", {"x": ""}, {"x": None}, {}, "b", {"x": "\ud800"})
    plan = work.plan()
    assert plan.unsendable == {
        (RowStatus.SKIPPED, "missing_value"): 3,
        (RowStatus.FAILED, "bad_input"): 1,
    }
    assert [plan.has_request(row) for row in range(6)] == [True, False, False, False, True, False]
    assert [request.row for request in work.requests()] == [0, 4]


def test_rows_appended_meanwhile_are_left_for_the_next_run(planned):
    work = planned()
    work.write("a", "b")
    work.plan()
    with work.file.open("a") as file:
        file.write('{"x":"c"}\n')
    assert [request.row for request in work.requests()] == [0, 1]


@pytest.mark.parametrize("texts", [["a"], ["a", "other"], ["b", "a"], ["a", ""], []])
def test_an_input_rewritten_meanwhile_is_not_sent(planned, texts):
    work = planned()
    work.write("a", "b")
    work.plan()
    work.write(*texts)
    with pytest.raises(InputError, match=r"changed while it was read"):
        work.requests()


def test_bad_records_stop_the_job_after_five_are_named_or_are_kept_for_the_meta_file(planned):
    lines = [f"bad {n}\n" for n in range(20)]
    work = planned()
    work.file.write_text('{"x":"a"}\n' + "".join(lines) + '{"x":"b"}\n')
    with pytest.raises(InputError) as caught:
        work.plan()
    assert str(caught.value).count("in.jsonl:") == 5
    assert "on_bad_row" in caught.value.hint

    skipping = planned(input={"on_bad_row": "skip"})
    plan = skipping.plan()
    assert (plan.rows, plan.bad_count) == (2, 20)
    assert plan.bad[0].place.endswith("in.jsonl:2")


def test_a_torn_last_line_stops_nothing(planned):
    work = planned()
    work.file.write_text('{"x":"a"}\n{"x":"b')
    plan = work.plan()
    assert (plan.rows, plan.bad_count, len(plan.torn)) == (1, 0, 1)


def test_labels_must_name_each_row_once(planned):
    work = planned(input={"key": ["a", "b"]})
    work.write({"x": "t", "a": 1, "b": 1}, {"x": "t", "a": 1, "b": 2})
    assert work.plan().rows == 2
    work.write(
        {"x": "t", "a": 1, "b": 1}, {"x": "u", "a": 1, "b": 1}, {"x": "v", "a": "", "b": None}
    )
    with pytest.raises(InputError, match=r"input.key: 'a/b'") as caught:
        work.plan()
    assert "in.jsonl:2: '1/1' again, first at " in str(caught.value)
    assert "in.jsonl:3: empty" in str(caught.value)


def test_a_label_that_comes_again_is_told_with_its_first_place(planned):
    work = planned(input={"key": ["a"]})
    names = ["n0", "", "n1", "n1", "n2", "n3", "n0", "n3", "n4", "n4", "n5"]
    work.write(*({"x": "t", "a": name} for name in names))
    work.file.write_text("\n" + work.file.read_text())  # lines and rows are not the same numbers
    with pytest.raises(InputError) as caught:
        work.plan()
    found = re.findall(
        r"in\.jsonl:(\d+): '(\w+)' again, first at in\.jsonl:(\d+)", str(caught.value)
    )
    assert found == [("5", "n1", "4"), ("8", "n0", "2"), ("9", "n3", "7"), ("11", "n4", "10")]


def test_columns_of_jsonl_are_checked_once_all_have_shown(planned):
    work = planned()
    work.write({"y": "a"}, {"x": "b"})
    assert work.plan().columns == ("y", "x")
    work.write({"X": "a"})
    with pytest.raises(JobError, match=r"no column 'x'") as caught:
        work.plan()
    assert "'X'" in caught.value.hint
    work.write({"x": "a", "llm_status": "theirs"})
    with pytest.raises(JobError, match=r"'llm_status'"):
        work.plan()
