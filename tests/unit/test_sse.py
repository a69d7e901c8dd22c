import json
from itertools import pairwise

import pytest

from batch_runner import sse


def stream(*events, newline="\n"):
    return "".join(
        f"event: {event['type']}{newline}data: {json.dumps(event)}{newline}{newline}"
        for event in events
    ).encode()


def delta(text):
    return {"type": "response.output_text.delta", "delta": text}


def final(status="completed", **fields):
    return {"type": f"response.{status}", "response": {"id": "r", "status": status, **fields}}


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_the_final_event_is_the_reply_whatever_ends_its_lines(newline):
    body = stream(delta("a"), final(), newline=newline)
    assert sse.final_reply(body) == {"id": "r", "status": "completed"}


def test_a_stream_cut_anywhere_gives_its_whole_reply_or_none():
    body = stream(delta("one "), delta("two"), final())
    replies = [sse.final_reply(body[:end]) for end in range(len(body) + 1)]
    first = next(n for n, reply in enumerate(replies) if reply is not None)
    assert first >= len(body) - 2  # only the blank line may be missing
    texts = [sse.partial_text(body[:end]) for end in range(len(body) + 1)]
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert texts[-1] == "one two"


def test_an_error_event_reads_as_a_failed_response_with_the_text_so_far():
    for error in (
        {"type": "error", "code": "server_error", "message": "broke"},
        {"type": "error", "error": {"code": "server_error", "message": "broke"}},
    ):
        reply = sse.final_reply(stream(delta("half"), error))
        assert reply["status"] == "failed"
        assert reply["error"] == {"code": "server_error", "message": "broke"}
        assert reply["output"][0]["content"][0]["text"] == "half"


def test_a_failed_response_keeps_the_text_that_had_been_told():
    reply = sse.final_reply(stream(delta("half"), final("failed", output=[])))
    assert reply["output"][0]["content"][0]["text"] == "half"


def test_what_is_not_an_event_is_passed_over():
    noise = b": ping\n\ndata: [DONE]\n\ndata: 3\n\nretry: 10\n\ndata: {\ndata: }\n\n"
    assert list(sse.events(noise)) == [{}]
    assert sse.final_reply(noise) is None


def test_whole_events_end_at_the_last_blank_line():
    body = bytearray(stream(delta("a")))
    end = len(body)
    assert sse.whole_until(bytearray()) == 0
    assert sse.whole_until(body) == end
    assert sse.whole_until(body + b"data: {") == end
