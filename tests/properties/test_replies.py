"""Whatever a server says, reading it brings an ending."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from batch_runner import sse
from batch_runner.journal.record import read_result, result_body
from batch_runner.records import Completion, Failure, RowResult
from batch_runner.responses import Unfinished, citations, read_error, read_reply, read_usage
from batch_runner.retry import judge_status, retry_after_seconds


WORDS = st.sampled_from([
    "completed", "failed", "incomplete", "queued", "message", "output_text", "refusal", "reasoning",
    "function_call", "max_output_tokens", "server_error", "", "\ud800", "\0",
])  # fmt: skip
NAMES = st.sampled_from([
    "id", "status", "output", "type", "content", "text", "usage", "input_tokens", "error", "code",
    "message", "incomplete_details", "reason", "summary", "annotations", "name", "arguments", "detail",
])  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS | st.text()
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=6),
    max_leaves=25,
)
REPLIES = st.dictionaries(NAMES, JSON, max_size=8)


@settings(max_examples=300, deadline=None)
@given(REPLIES, st.none() | st.integers(1, 100))
def test_every_object_has_an_ending_that_can_be_stored(reply, cap):
    ending = read_reply(reply, cap=cap)
    read_usage(reply)
    citations(reply)
    if isinstance(ending, Unfinished):
        assert ending.response_id
        return
    assert isinstance(ending, Completion | Failure)
    result = RowResult(key=b"k" * 16, row=0, ending=ending, reply=reply)
    read_result(result_body(result) + b"}")


@settings(max_examples=200, deadline=None)
@given(JSON, st.integers(100, 999))
def test_every_status_and_error_body_is_judged(body, status):
    if 200 <= status < 300:
        return
    problem = judge_status(status, read_error(body), {}, now=0.0, shared_model=True)
    assert problem.failure.code


@settings(max_examples=200, deadline=None)
@given(st.text() | st.integers().map(str) | st.floats().map(str))
def test_a_wait_is_positive_and_finite_or_none(value):
    for name in ("retry-after", "retry-after-ms"):
        wait = retry_after_seconds({name: value}, now=0.0)
        assert wait is None or 0 < wait < float("inf")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary() | JSON.map(lambda v: b"data: " + json.dumps(v).encode() + b"\n\n")))
def test_every_stream_can_be_read(chunks):
    body = b"".join(chunks)
    assert isinstance(sse.partial_text(body), str)
    sse.final_reply(body)
    assert 0 <= sse.whole_until(bytearray(body)) <= len(body)
