"""The columns of the output: which, of which type, and what stands in them."""

import datetime as dt
from decimal import Decimal
from pathlib import Path

import pytest

from batch_runner.columns import Ending, at_pointer, output_columns, seen_from
from batch_runner.errors import JobError
from batch_runner.jobmapping import job_from_mapping
from batch_runner.journal import result_fields
from batch_runner.records import (
    ColumnKind,
    Completion,
    Failure,
    RowResult,
    RowStatus,
    UnknownBilling,
    Usage,
)


STANDARD = [
    "output", "status", "error_code", "error", "input_tokens", "cached_tokens", "output_tokens",
    "reasoning_tokens", "total_tokens", "cost_usd", "model", "attempts", "latency_s",
]  # fmt: skip


def chosen(*, many_files=False, request=None, json=None, **output):
    mapping = {
        "input": {"path": "in.csv"}, "prompt": {"input": "x"},
        "request": {"model": "m"} | (request or {}), "output": {"path": "o.csv"} | output,
    }  # fmt: skip
    mapping |= {"json": json} if json else {}
    job = job_from_mapping(mapping, origin="a.toml", folder=Path("/jobs"), default_name="a")
    return output_columns(job, many_files=many_files)


def names(**options):
    return [column.name for column in chosen(**options).columns]


RESULT = RowResult(
    key=b"k" * 16,
    row=0,
    ending=Completion(text="hi", tool_calls=({"name": "f"},), reasoning="because"),
    attempts=2,
    final_usage=Usage(input_tokens=10, output_tokens=5),
    unknown={UnknownBilling.TIMEOUT: 1},
    model="m-2024",
    latency_seconds=1.23456,
    started_at=0.0,
    run_id="r1",
    reply={"id": "resp_1"},
)


def cells(ending, **options):
    made = chosen(prefix="", **options)
    names = [column.name for column in made.columns]
    return {name: cell for name, (cell,) in zip(names, made.cells([ending]), strict=True)}


def test_the_standard_set_is_the_documented_one():
    assert names() == [f"llm_{name}" for name in STANDARD]
    assert names(columns="minimal") == ["llm_output", "llm_status", "llm_error_code"]
    assert set(STANDARD) < {name.removeprefix("llm_") for name in names(columns="full")}


def test_tool_calls_and_source_files_have_columns_where_there_can_be_some():
    assert "llm_tool_calls" in names(request={"tools": [{"type": "function"}]})
    assert "llm_source_file" in names(many_files=True)


def test_a_list_names_columns_without_the_prefix_and_keeps_its_order():
    assert names(columns=["cost_usd", "output"], prefix="p_") == ["p_cost_usd", "p_output"]
    with pytest.raises(JobError, match=r"output.columns: unknown column 'llm_output'") as caught:
        names(columns=["llm_output"])
    assert "output" in caught.value.hint


def test_types_are_those_of_the_reference():
    kinds = {column.name: column.kind for column in chosen(columns="full", prefix="").columns}
    assert kinds["input_tokens"] is ColumnKind.INTEGER
    assert kinds["attempts"] is ColumnKind.COUNT
    assert kinds["cost_usd"] is ColumnKind.NUMBER
    assert kinds["started_at"] is ColumnKind.TIMESTAMP
    assert kinds["output"] is ColumnKind.TEXT


def test_an_answer_fills_its_row():
    ending = Ending(
        status=RowStatus.OK,
        text=RESULT.ending.text,
        told=result_fields(RESULT),
        cost=Decimal("0.5"),
    )
    row = cells(ending, columns="full", request={"tools": [{}]})
    assert row["output"] == "hi"
    assert row["status"] == "ok"
    assert (row["input_tokens"], row["output_tokens"], row["cached_tokens"]) == (10, 5, None)
    assert row["cost_usd"] == 0.5
    assert (row["model"], row["attempts"], row["latency_s"]) == ("m-2024", 2, 1.235)
    assert row["tool_calls"] == [{"name": "f"}]
    assert row["reasoning"] == "because"
    assert row["billing_unknown"] == 1
    assert row["request_key"] == (b"k" * 16).hex()
    assert row["started_at"] == dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    assert row["raw"] == '{"id":"resp_1"}'


def test_what_is_unknown_is_empty_and_never_zero():
    for ending in (
        Ending(status=RowStatus.PENDING),
        Ending(
            status=RowStatus.FAILED,
            code="timeout",
            message="late",
            told=result_fields(
                RowResult(key=b"k" * 16, row=0, ending=Failure(code="timeout", message="late"))
            ),
        ),
    ):
        row = cells(ending)
        assert row["output"] is None
        assert row["cost_usd"] is None
        assert row["total_tokens"] is None
        assert row["latency_s"] is None


def test_text_that_was_paid_for_is_kept_though_the_row_failed():
    failed = Failure(code="json_invalid", message="not JSON", text="almost")
    ending = Ending(
        status=RowStatus.FAILED,
        code=failed.code,
        text=failed.text,
        told=result_fields(RowResult(key=b"k" * 16, row=0, ending=failed)),
    )
    assert cells(ending)["output"] == "almost"


SCHEMA = {
    "type": "object",
    "properties": {
        "category": {"type": "string"},
        "urgency": {"type": ["integer", "null"]},
        "sure": {"type": "boolean"},
        "score": {"type": "number"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "deep": {"properties": {"a/b": {"type": "integer"}}},
    },
}


def test_json_columns_are_named_as_written_and_typed_by_the_schema():
    pointers = {
        "/category": "category", "/urgency": "urgency", "/sure": "sure", "/score": "score",
        "/tags": "tags", "/tags/0": "first", "/deep/a~1b": "ab", "/gone": "gone",
    }  # fmt: skip
    made = chosen(json={"schema": SCHEMA, "columns": pointers}, columns="minimal")
    kinds = {column.name: column.kind for column in made.columns[3:]}
    assert kinds == {
        "category": ColumnKind.TEXT, "urgency": ColumnKind.INTEGER, "sure": ColumnKind.BOOLEAN,
        "score": ColumnKind.NUMBER, "tags": ColumnKind.JSON, "first": ColumnKind.TEXT,
        "ab": ColumnKind.INTEGER, "gone": ColumnKind.JSON,
    }  # fmt: skip
    answer = {"category": "x", "tags": ["t"], "deep": {"a/b": 5}}
    told = result_fields(RESULT)
    ending = Ending(status=RowStatus.OK, text=RESULT.ending.text, told=told, answer=answer)
    row = [cell for (cell,) in made.cells([ending])[3:]]
    assert row == ["x", None, None, None, ["t"], "t", 5, None]


def test_a_pointer_finds_a_value_or_nothing():
    value = {"a": [{"b~c": 1}], "": 2}
    assert at_pointer(value, "/a/0/b~0c") == 1
    assert at_pointer(value, "/") == 2
    assert at_pointer(value, "") == value
    for gone in ("/a/1", "/a/x", "/a/0/b~0c/d", "/z"):
        assert at_pointer(value, gone) is None


def test_two_columns_of_one_name_are_refused():
    with pytest.raises(JobError, match=r"'llm_output'"):
        names(json={"columns": {"/x": "llm_output"}})
    with pytest.raises(JobError, match=r"'c'"):
        names(json={"columns": {"/x": "c", "/y": "c"}})


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("/home/me/jobs/in/a.csv", "in/a.csv"),
        ("/home/me/inbox/a.csv", "../inbox/a.csv"),
        ("/srv/inbox/a.csv", "/srv/inbox/a.csv"),
        ("in/a.csv", "in/a.csv"),
    ],
)
def test_a_source_file_is_named_as_the_job_file_would_name_it(source, shown):
    assert seen_from(Path("/home/me/jobs"), source) == shown
