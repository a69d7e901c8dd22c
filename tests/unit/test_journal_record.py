import json
import math

import pytest

from batch_runner import stored
from batch_runner.errors import UsageError
from batch_runner.journal.line import is_intact, number, seal
from batch_runner.journal.record import (
    Header,
    Intent,
    header_body,
    intent_body,
    read_head,
    read_header,
    read_intent,
    read_result,
    read_state,
    read_told,
    result_body,
    state_of,
)
from batch_runner.jsonbytes import decode
from batch_runner.records import (
    Billed,
    Completion,
    Failure,
    RowResult,
    RowStatus,
    UnknownBilling,
    Usage,
)


KEY = bytes(range(16))
USAGE = Usage(input_tokens=7, cached_tokens=0, output_tokens=3)


def reply(text, **fields):
    parts = [{"type": "output_text", "text": text}]
    return {"id": "r1", "output": [{"type": "message", "content": parts}], **fields}


FULL = RowResult(
    key=KEY,
    row=12,
    ending=Completion(text="hello"),
    label="u-9",
    attempts=3,
    repeated_at=(1790000000.5, 1790000001.25),
    billed=(Billed(usage=USAGE, model="m-1", service_tier="flex", at=1.5),),
    final_usage=USAGE,
    unknown={UnknownBilling.TIMEOUT: 2},
    model="m-1",
    service_tier="flex",
    response_id="resp_1",
    finish_reason="stop",
    latency_seconds=0.25,
    started_at=1790000000.125,
    finished_at=1790000001.5,
    reply=reply("hello"),
)
RESULTS = {
    "everything": FULL,
    "nothing but the key": RowResult(key=KEY, row=0, ending=Completion(text="")),
    "text unlike the reply": RowResult(
        key=KEY, row=0, ending=Completion(text="trimmed"), reply=reply(" trimmed ")
    ),
    "text without a reply": RowResult(key=KEY, row=0, ending=Completion(text="streamed")),
    "nothing where the reply has all": RowResult(
        key=KEY,
        row=0,
        ending=Completion(text=""),
        reply={
            "output": [
                {"type": "message", "content": [{"type": "output_text", "text": "x"}]},
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "why"}]},
                {"type": "function_call", "name": "f", "call_id": "c", "arguments": "{}"},
            ]
        },
    ),
    "reasoning and tool calls": RowResult(
        key=KEY,
        row=0,
        ending=Completion(text="", reasoning="why", tool_calls=({"name": "f", "x": [1, None]},)),
    ),
    "a refusal": RowResult(
        key=KEY,
        row=0,
        ending=Completion(text="no", status=RowStatus.REFUSED, code="other:refusal", message="no"),
        reply={"output": [{"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}]},
    ),
    "cut off": RowResult(
        key=KEY,
        row=0,
        ending=Completion(text="hel", status=RowStatus.INCOMPLETE, code="max_output_tokens"),
        reply=reply("hel"),
    ),
    "a failure with text": RowResult(
        key=KEY, row=0, ending=Failure(code="json_invalid", message="", text="{"), reply=reply("{")
    ),
    "skipped": RowResult(
        key=KEY,
        row=0,
        ending=Failure(status=RowStatus.SKIPPED, code="missing_value", message="empty cell"),
    ),
    "a code made to confuse": RowResult(
        key=KEY, row=0, ending=Failure(code='other:","row":1,"n":5,"crc":"', message='"}\n\r\x00')
    ),
    "line separators, NUL and emoji": RowResult(
        key=KEY, row=0, ending=Completion(text="a\n\u2028\u0085\x00\U0001f600"), reply=reply("a")
    ),
    "half a surrogate pair": RowResult(
        key=KEY, row=0, ending=Completion(text="\ud83d"), reply=reply("\ud83d", name="\udc00")
    ),
}


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS.keys())
def test_a_result_comes_back_as_it_went_in(result):
    line = seal(result_body(result), 5).removesuffix(b"\n")
    assert b"\n" not in line
    assert is_intact(line)
    assert number(line) == 5
    assert read_result(line) == result
    assert read_state(state_of(line)) == (result.status, result.code)


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS.keys())
def test_a_line_is_one_json_object(result):
    fields = json.loads(seal(result_body(result), 5))
    assert fields["result"] == KEY.hex()
    assert list(fields)[-2:] == ["n", "crc"]


def test_what_the_reply_gives_back_is_not_stored_twice():
    text = "a text that is long enough to be counted"
    body = result_body(RowResult(key=KEY, row=0, ending=Completion(text=text), reply=reply(text)))
    assert body.count(text.encode()) == 1


def test_a_text_is_found_without_parsing_its_reply_and_stands_in_it_all_the_same():
    line = seal(result_body(FULL), 0).removesuffix(b"\n")
    head, told = read_head(line), read_told(line)
    assert "reply" not in head
    assert head["text"] == told["text"] == "hello"
    assert told["reply"] == FULL.reply
    assert (
        stored.usage(head)
        == stored.usage(told)
        == {"input_tokens": 7, "cached_tokens": 0, "output_tokens": 3}
    )


HOSTILE = {
    "several texts": reply("ab") | {"output": reply("a")["output"] + reply("b")["output"]},
    "a reply within the reply": reply("ab", reply={"a": 1, "reply": {"b": 2}}),
    "no text at all": {"output": [{"type": "function_call", "arguments": {"a": 1, "reply": []}}]},
    "shapes that nobody expects": {"output": [None, {"content": 3}, {"content": [None, "text"]}]},
}


@pytest.mark.parametrize("said", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_told_without_the_reply_says_the_same_text(said):
    text = stored.written({"reply": said}, RowStatus.OK).text
    result = RowResult(key=KEY, row=0, ending=Completion(text=text), reply=said)
    line = seal(result_body(result), 0).removesuffix(b"\n")
    assert read_result(line).reply == said
    assert stored.text(read_head(line), RowStatus.OK) == text


def test_a_line_of_the_first_format_is_read_as_it_was_meant():
    fields = {
        "result": KEY.hex(), "status": "ok", "code": None, "row": 1, "attempts": 1,
        "final_usage": {"input_tokens": 7}, "reply": reply("hello"),
    }  # fmt: skip
    line = seal(json.dumps(fields, separators=(",", ":"))[:-1].encode(), 0).removesuffix(b"\n")
    assert stored.text(read_head(line), RowStatus.OK) == "hello"
    assert stored.usage(read_head(line)) == {"input_tokens": 7}
    assert read_result(line).reply == reply("hello")


def test_a_number_json_cannot_say_costs_no_result():
    said = decode(json.dumps(reply("x", logprob=math.nan, top=[math.inf])).encode())
    result = RowResult(key=KEY, row=0, ending=Completion(text="x"), reply=said)
    line = seal(result_body(result), 0)
    json.loads(line, parse_constant=pytest.fail)
    assert read_result(line).reply["logprob"] == "NaN"
    assert read_result(line).reply["top"] == ["Infinity"]


def test_a_number_beyond_64_bits_is_rounded_and_costs_no_result():
    result = RowResult(key=KEY, row=0, ending=Completion(text=""), reply={"n": 10**300})
    read = read_result(seal(result_body(result), 0).removesuffix(b"\n"))
    assert read.reply == {"n": 1e300}
    assert read.ending == result.ending


def test_every_single_bit_counts():
    line = seal(result_body(FULL), 5).removesuffix(b"\n")
    for position in range(len(line)):
        for bit in range(8):
            flipped = bytearray(line)
            flipped[position] ^= 1 << bit
            assert not is_intact(bytes(flipped))


def test_an_intent_comes_back_as_it_went_in():
    intent = Intent(key=KEY, attempt=2, row=5, model="m", request_bytes=900, max_output_tokens=None)
    assert read_intent(seal(intent_body(intent), 1)) == intent


def test_a_header_comes_back_and_a_later_format_is_refused():
    header = Header(
        segment=3,
        first=2,
        run_id="r",
        tool_version="0.1",
        started_at=1.5,
        settings={"model": "m"},
    )
    assert read_header(seal(header_body(header), 0)) == header
    later = header_body(header).replace(b'"format":2', b'"format":3')
    with pytest.raises(UsageError, match="format 3"):
        read_header(seal(later, 0))
