"""Batch files as the hosted API has them: lines of requests in, lines of replies and failures out."""

import io
import json
from pathlib import Path

import pytest

from batch_runner.batch_answers import batch_answer
from batch_runner.columns import Ending
from batch_runner.errors import InputError, JobError
from batch_runner.jobmapping import job_from_mapping
from batch_runner.journal import result_fields
from batch_runner.records import Completion, Failure, Request, RowResult, RowStatus
from batch_runner.tables import (
    BatchAnswer,
    Format,
    failures_path,
    open_table,
    read_batch_lines,
    request_line,
)


def line(custom_id="a", **changes):
    given = {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/responses",
        "body": {"input": "x"},
    }
    return json.dumps({k: v for k, v in (given | changes).items() if v is not ...})


def table(folder, *lines):
    (folder / "in.jsonl").write_text("".join(f"{text}\n" for text in lines))
    return open_table([folder / "in.jsonl"], format=Format.OPENAI_BATCH)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"custom_id": ""}, "custom_id must be text"),
        ({"custom_id": 7}, "not 7"),
        ({"custom_id": ...}, "not None"),
        ({"method": "GET"}, "method must be 'POST', not 'GET'"),
        ({"method": "post"}, "not 'post'"),
        (
            {"url": "/v1/chat/completions"},
            "url must be '/v1/responses', not '/v1/chat/completions'",
        ),
        ({"url": ...}, "url must be"),
        ({"body": []}, "body must be an object"),
        ({"body": '{"input": "x"}'}, "body must be an object"),
    ],
)
def test_a_line_that_the_hosted_api_would_refuse_is_no_row(tmp_path, changes, words):
    bad = []
    rows = [
        *table(tmp_path, line("a"), line(**{"custom_id": "b"} | changes), line("c")).rows(
            on_bad=bad.append
        )
    ]
    assert [(row.index, row.values["custom_id"], row.line) for row in rows] == [
        (0, "a", 1),
        (1, "c", 3),
    ]
    assert [one.line for one in bad] == [2]
    assert words in bad[0].reason


def test_answers_and_failures_stand_in_files_of_their_own_in_the_order_of_the_input(tmp_path):
    requests = table(tmp_path, *map(line, "abcd"))
    endings = {
        "a": BatchAnswer(response={"status_code": 200, "body": {}}, error=None, failed=False),
        "b": BatchAnswer(response=None, error={"code": "timeout", "message": "m"}, failed=True),
        "c": None,
        "d": BatchAnswer(response={"status_code": 200, "body": {"é": 1}}, error=None, failed=False),
    }
    good, failed = io.BytesIO(), io.BytesIO()
    requests.write_answers(good, failed, answer=lambda row: endings[row.values["custom_id"]])
    lines = [json.loads(one) for one in good.getvalue().splitlines()]
    assert [one["custom_id"] for one in lines] == ["a", "d"]
    assert [*lines[0]] == ["id", "custom_id", "response", "error"]
    [other] = [json.loads(one) for one in failed.getvalue().splitlines()]
    assert (other["custom_id"], other["response"]) == ("b", None)
    assert len({one["id"] for one in [*lines, other]}) == 3
    assert all(one["id"].startswith("batch_req_") for one in lines)


@pytest.mark.parametrize(
    ("path", "beside"),
    [
        ("o.jsonl", "o.errors.jsonl"),
        ("o.jsonl.gz", "o.errors.jsonl.gz"),
        ("a.b.ndjson", "a.b.errors.ndjson"),
    ],
)
def test_failures_lie_beside_the_output(path, beside):
    assert failures_path(Path("/out") / path) == Path("/out") / beside


def test_a_request_line_holds_the_very_bytes_of_the_body(tmp_path):
    body = '{"input":"é ","model":"m","temperature":1e-05}'.encode()
    made = request_line('a"b', body)
    assert body in made
    (tmp_path / "b.jsonl").write_bytes(made)
    [row] = open_table([tmp_path / "b.jsonl"], format=Format.OPENAI_BATCH).rows()
    assert (row.values["custom_id"], row.values["body"]) == ('a"b', json.loads(body))


SENT = Request(
    row=0, key=b"k" * 16, model="m", max_output_tokens=9,
    body=b'{"input":"x","instructions":"i","max_output_tokens":9,"model":"m","tools":[{"type":"t"}]}',
)  # fmt: skip
REPLY = {"id": "resp_1", "model": "m-1", "status": "completed", "output": [], "usage": None}


def told(ending, *, status=RowStatus.OK, **result):
    made = RowResult(key=b"k" * 16, row=0, ending=ending, **result)
    return batch_answer(
        Ending(status=status, code=ending.code, message=ending.message, told=result_fields(made)),
        SENT,
    )


def test_a_reply_is_given_back_with_what_it_echoed_of_the_request():
    answer = told(Completion(text="t"), reply=REPLY, http_status=200, request_id="req_9")
    assert (answer.failed, answer.error) == (False, None)
    assert answer.response == {
        "status_code": 200,
        "request_id": "req_9",
        "body": REPLY | {
            "instructions": "i", "max_output_tokens": 9, "tools": [{"type": "t"}],
            "tool_choice": "auto", "parallel_tool_calls": True,
        },
    }  # fmt: skip


def test_an_http_error_is_a_response_and_not_an_error():
    failure = Failure(code="bad_request", message="HTTP 400: no such thing")
    answer = told(failure, status=RowStatus.FAILED, http_status=400, request_id="req_9")
    assert (answer.failed, answer.error) == (True, None)
    assert answer.response["status_code"] == 400
    assert answer.response["body"]["error"]["message"] == "no such thing"


def test_no_http_reply_is_an_error_and_no_response():
    failure = Failure(code="timeout", message="no reply in 5 s")
    answer = told(failure, status=RowStatus.FAILED)
    assert answer.response is None
    assert answer.error == {"code": "timeout", "message": "no reply in 5 s"}


def test_a_reply_that_would_not_do_is_both():
    failure = Failure(code="json_invalid", message="/a: 1 is not of type 'string'", text="{}")
    answer = told(failure, status=RowStatus.FAILED, reply=REPLY, http_status=200)
    assert answer.failed
    assert answer.response["body"]["id"] == "resp_1"
    assert answer.error["code"] == "json_invalid"


def test_a_row_that_was_not_asked_says_so():
    answer = batch_answer(Ending(status=RowStatus.PENDING), SENT)
    assert (answer.failed, answer.response, answer.error["code"]) == (True, None, "pending")


def job(**tables):
    mapping = {
        "input": {"path": "b.jsonl", "format": "openai-batch"},
        "output": {"path": "o.jsonl"},
    }
    return job_from_mapping(
        {name: mapping.get(name, {}) | tables.get(name, {}) for name in {*mapping, *tables}},
        origin="a.toml", folder=Path("/jobs"), default_name="a",
    )  # fmt: skip


def test_a_batch_job_needs_neither_prompt_nor_model():
    assert (job().prompt.body, job().input.key) == ("body", ("custom_id",))
    assert job(request={"model": "m"}).model == "m"


@pytest.mark.parametrize(
    ("table_name", "key", "value"),
    [
        ("prompt", "input", "x"),
        ("prompt", "messages", "m"),
        ("prompt", "body", "b"),
        ("input", "key", "id"),
    ],
)
def test_what_a_batch_line_says_itself_is_refused_in_the_job(table_name, key, value):
    with pytest.raises(JobError, match=rf"a\.toml: {table_name}\.{key}: means nothing"):
        job(**{table_name: {key: value}})


@pytest.mark.parametrize("bad", ['{"custom_id": "a"}', '{"response": {}}', line()])
def test_what_is_no_output_line_of_a_batch_is_refused_with_its_place(tmp_path, bad):
    (tmp_path / "o.jsonl").write_text(bad + "\n")
    with pytest.raises(InputError, match=r"o\.jsonl:1: not a line of a batch output"):
        [*read_batch_lines((tmp_path / "o.jsonl",))]
