"""Whatever an endpoint sends, reading it gives an ending: nothing raises, nothing is invented."""

import json

from hypothesis import example, given, settings
from hypothesis import strategies as st

from batch_runner import responses, sse
from batch_runner.exchange import Reply
from batch_runner.journal import record
from batch_runner.records import Completion, Failure, RowResult
from batch_runner.redact import LONGEST_MESSAGE, Redactor


QUICK = settings(max_examples=200, deadline=None)

ODD = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
WORDS = st.sampled_from(
    [
        *("completed", "failed", "incomplete", "queued", "in_progress", "cancelled", "message"),
        *("output_text", "refusal", "reasoning", "function_call", "text", "final_answer", "error"),
        *("max_output_tokens", "content_filter", "rate_limit_exceeded", "", "\ud800", "\0"),
    ]
)
NAMES = st.sampled_from(
    [
        *("status", "output", "type", "content", "text", "refusal", "summary", "usage", "error"),
        *("code", "message", "id", "incomplete_details", "reason", "input_tokens", "phase", "name"),
        *("output_tokens", "input_tokens_details", "cached_tokens", "detail", "response", "delta"),
    ]
)
VALUES = st.recursive(
    ODD | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=20,
)
REPLIES = st.dictionaries(NAMES, VALUES, max_size=8)


@QUICK
@example({"output": [{"type": "message", "content": {"text": 1}}], "usage": []}, 1)
@example({"status": ["failed"], "error": [], "output": {}}, None)
@given(REPLIES, st.none() | st.integers(1, 10))
def test_any_reply_has_an_ending(reply, cap):
    ending = responses.read_reply(reply, cap=cap)
    assert isinstance(ending, (Completion, Failure, responses.Unfinished))
    usage = responses.read_usage(reply)
    assert usage is None or all(
        count is None or count >= 0 for count in (usage.input_tokens, usage.output_tokens)
    )
    responses.finish_reason(reply, has_calls=False)
    responses.citations(reply)
    responses.read_error(reply)
    assert "input" not in responses.without_echo(reply)


@QUICK
@given(REPLIES)
def test_any_reply_can_be_stored_and_read_back(reply):
    ending = responses.read_reply(reply)
    if isinstance(ending, responses.Unfinished):
        return
    kept = responses.without_echo(reply)
    result = RowResult(key=bytes(16), row=0, ending=ending, reply=kept)
    line = record.result_body(result) + b"}"
    assert b"\n" not in line
    back = record.read_result(line)
    assert back.ending.text == ending.text
    assert back.status == ending.status


@QUICK
@given(VALUES)
def test_any_error_body_is_read(body):
    error = responses.read_error(body)
    assert isinstance(error.code, str)
    assert isinstance(error.message, str)


EVENTS = st.lists(
    st.sampled_from(
        [
            *(b"data: ", b"data:", b"event: x\n", b"\n\n", b"\r\n\r\n", b"\n", b"\r", b": ping\n"),
            *(b"[DONE]", b'{"type":"response.completed","response":{}}', b"{" * 5000, b"\xff"),
            *(b'{"type":"response.output_text.delta","delta":"a"}', b'{"type":"error"}', b"[1]"),
            b'{"type":"response.failed","response":{"output":null}}',
        ]
    )
    | st.binary(max_size=8),
    max_size=14,
).map(b"".join)


@QUICK
@example(b"data: " + b"[" * 100_000 + b"\n\n", "text/event-stream")
@given(EVENTS, st.sampled_from(["text/event-stream", "application/json", "text/html"]))
def test_any_body_is_a_reply_or_none(body, content_type):
    reply = Reply(status=200, headers={"content-type": content_type}, body=body)
    value = reply.object()
    if reply.is_stream:
        assert value is None or responses.read_reply(value) is not None
    assert isinstance(reply.partial_text, str)
    assert sse.whole_until(bytearray(body)) <= len(body)


@QUICK
@given(st.text(max_size=60), st.text(max_size=1500))
def test_a_message_is_one_short_line_without_the_secret(around, noise):
    secret = "s3cr3t/key+that==is~long"
    told = Redactor([secret]).message(f"{around}{secret}{noise}{json.dumps(secret)}")
    assert secret not in told
    assert len(told) <= LONGEST_MESSAGE
    assert len(told.splitlines()) <= 1
