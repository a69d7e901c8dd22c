import pytest

from batch_runner.records import Completion, ErrorCode, Failure, RowStatus, Usage
from batch_runner.responses import (
    ServerError,
    Unfinished,
    citations,
    finish_reason,
    read_error,
    read_output,
    read_reply,
    read_usage,
    without_echo,
)


def message(text, **fields):
    return {"type": "message", "content": [{"type": "output_text", "text": text}], **fields}


def reply(*output, **fields):
    return {"id": "resp_1", "status": "completed", "output": list(output), **fields}


def usage(output_tokens, reasoning_tokens=None):
    details = {"reasoning_tokens": reasoning_tokens}
    return {"output_tokens": output_tokens, "output_tokens_details": details}


REASONING = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
CALL = {"type": "function_call", "name": "f", "call_id": "c", "arguments": "{}", "id": "fc"}


def test_the_text_is_found_wherever_it_stands():
    ending = read_reply(reply(REASONING, {"type": "acme:new"}, message("a"), message("b")))
    assert ending == Completion(text="ab", reasoning="hm")


def test_only_the_final_answer_is_text_where_messages_have_phases():
    ending = read_reply(
        reply(message("thinking", phase="commentary"), message("yes", phase="final_answer"))
    )
    assert ending.text == "yes"


def test_a_tool_call_without_text_is_an_answer():
    ending = read_reply(reply(CALL))
    assert ending.tool_calls == ({"name": "f", "call_id": "c", "arguments": "{}"},)
    custom = {"type": "custom_tool_call", "name": "sh", "call_id": "c", "input": "ls"}
    assert read_output(reply(custom)).tool_calls == ({"name": "sh", "call_id": "c", "input": "ls"},)


def test_items_of_hosted_tools_are_kept_and_their_citations_found():
    found = {"type": "url_citation", "url": "http://a", "start_index": 0, "end_index": 1}
    text = {"type": "output_text", "text": "a", "annotations": [found]}
    searched = reply(
        {"type": "web_search_call", "id": "ws"}, {"type": "message", "content": [text]}
    )
    assert citations(searched) == [found]
    assert without_echo({**searched, "instructions": "long"}) == searched
    assert citations(None) == citations(reply(message("a"))) == []


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_a_response_in_the_making_is_asked_for_by_its_id(status):
    assert read_reply(reply(status=status)) == Unfinished(response_id="resp_1")
    assert read_reply({"status": status}).code == ErrorCode.BAD_REPLY


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (reply(status="failed", error={"code": "server_error"}), "failed", "server_error"),
        (reply(status="failed", error={"code": "rate_limit_exceeded"}), "failed", "rate_limited"),
        (
            reply(status="failed", error={"code": "invalid_prompt"}),
            "failed",
            "other:invalid_prompt",
        ),
        (reply(message("x"), status="failed"), "failed", "server_error"),
        (reply(status="cancelled"), "failed", "other:cancelled"),
        (reply(message(" \n")), "failed", "empty_output"),
        (reply(REASONING), "failed", "empty_output"),
        (reply(), "failed", "empty_output"),
        ({"status": "completed"}, "failed", "bad_reply"),
        (reply(message("x"), status="incomplete"), "incomplete", "other:incomplete"),
        (
            reply(status="incomplete", incomplete_details={"reason": "content_filter"}),
            "incomplete",
            "content_filter",
        ),
        (
            reply(status="incomplete", incomplete_details={"reason": "steered"}),
            "incomplete",
            "other:steered",
        ),
        (reply(message("x"), usage=usage(50)), "incomplete", "max_output_tokens"),
        (
            reply({"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}),
            "refused",
            "other:refusal",
        ),
    ],
)
def test_every_ending_has_its_status_and_code(body, status, code):
    ending = read_reply(body, cap=50)
    assert (ending.status, ending.code) == (RowStatus(status), code)


def test_a_budget_spent_on_thinking_is_said_with_a_way_out():
    body = reply(REASONING, status="incomplete", usage=usage(50, 50))
    ending = read_reply(body, cap=50)
    assert ending.code == ErrorCode.MAX_OUTPUT_TOKENS
    assert "reasoning (50 tokens)" in ending.message
    assert "on_incomplete" in ending.message
    assert "reasoning" not in read_reply(reply(message("x"), usage=usage(50, 10)), cap=50).message


def test_counts_that_are_missing_or_wrong_are_unknown():
    assert read_usage({}) is None
    assert read_usage({"usage": {"input_tokens": None}}) is None
    told = {"input_tokens": 3, "output_tokens": -1, "total_tokens": True}
    assert read_usage({"usage": told}) == Usage(input_tokens=3)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"error": {"code": 401, "message": "m", "type": "t"}}, ("401", "m", "t")),
        ({"error": {"code": None, "message": "m", "type": "None"}}, ("", "m", "")),
        ({"error": "plain"}, ("", "plain", "")),
        ({"detail": "d"}, ("", "d", "")),
        ({"detail": [{"loc": ["x"]}]}, ("", "[{'loc': ['x']}]", "")),
        ({"message": "m"}, ("", "m", "")),
        ({}, ("", "", "")),
        (None, ("", "", "")),
        ([1], ("", "[1]", "")),
    ],
)
def test_an_error_is_read_in_every_shape(body, expected):
    code, text, kind = expected
    assert read_error(body) == ServerError(code=code, message=text, type=kind)


def test_why_a_reply_ended():
    assert finish_reason(reply(), has_calls=False) == "stop"
    assert finish_reason(reply(), has_calls=True) == "tool_calls"
    assert finish_reason(reply(status="incomplete"), has_calls=False) == "incomplete"
    assert finish_reason(reply(status="failed"), has_calls=False) is None
    assert isinstance(read_reply(reply(status="failed")), Failure)
