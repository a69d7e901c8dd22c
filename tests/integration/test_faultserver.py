"""The fault server over real sockets, driven by a client that hides nothing."""

import asyncio
import contextlib
import email.utils
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from batch_runner.errors import UsageError
from batch_runner.faultserver import (
    FaultServer,
    Ledger,
    body_key,
    catalogue,
    expected_text,
    running,
    serve,
)
from batch_runner.faultserver.faults import parse
from batch_runner.faultserver.rejections import HTTP_ERRORS
from batch_runner.faultserver.rules import Match


KEY = "sk-test-1234"
EVENT = TypeAdapter(ResponseStreamEvent)


@pytest.fixture(scope="module")
def shared():
    with running() as server:
        yield server


@pytest.fixture
def server(shared):
    shared.settle()
    shared.reset()
    return shared


def body_of(prompt="The bus is late today.", model="m", **more):
    return {"model": model, "input": prompt, **more}


def ledger_of(server):
    """The ledger once it has caught up with the replies that this thread has read."""
    server.settle()
    return server.ledger


def address(server):
    split = urlsplit(server.url)
    return split.hostname, split.port


@contextlib.contextmanager
def connected(server, timeout=5.0):
    with contextlib.closing(http.client.HTTPConnection(*address(server), timeout=timeout)) as made:
        yield made


def ask(connection, method, path, body=None, **headers):
    raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, raw, {"Authorization": f"Bearer {KEY}", **named})
    reply = connection.getresponse()
    return reply, reply.read()


def post(server, body=None, path="/v1/responses", method="POST", timeout=5.0, **headers):
    with connected(server, timeout) as connection:
        return ask(
            connection,
            method,
            path,
            body_of() if body is None and method == "POST" else body,
            **headers,
        )


def get(server, path, **headers):
    reply, raw = post(server, None, path, method="GET", **headers)
    return reply.status, json.loads(raw)


def text_of(raw):
    return "".join(
        part["text"]
        for item in json.loads(raw)["output"]
        if item["type"] == "message"
        for part in item["content"]
    )


def eventually(claim):
    """The server's own thread notices some things, like a client that left, a moment later."""
    deadline = time.monotonic() + 5
    while not claim():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.002)


# Good replies


def test_every_row_gets_its_own_answer_and_the_test_can_say_which(server):
    for text in ("first row here", "second row here", "zweite Zeile äöü 🚌", ""):
        body = body_of(text, instructions="Be short.")
        reply, raw = post(server, body)
        assert reply.status == 200
        assert text_of(raw) == expected_text(body) == expected_text(json.dumps(body).encode())
    texts = {expected_text(body_of(f"same six words at the start {n}")) for n in range(100)}
    assert len(texts) == 100


def test_a_good_reply_is_a_whole_response_object(server):
    asked = body_of(
        [{"role": "user", "content": [{"type": "input_text", "text": "a b c"}]}],
        instructions="Be short.",
        temperature=0.2,
        max_output_tokens=64,
        metadata={"row": "7"},
        tools=[{"type": "function", "name": "look_up"}],
        service_tier="flex",
        reasoning={"effort": "low"},
    )
    reply, raw = post(server, asked)
    answer = Response.model_validate_json(raw)
    assert answer.output_text == expected_text(asked)
    assert (answer.model, answer.service_tier, answer.metadata) == ("m", "flex", {"row": "7"})
    assert answer.tools[0].strict is True
    assert reply.getheader("x-request-id").startswith("req_")


def test_usage_follows_the_stated_rule(server):
    server.change(cached_tokens=3, reasoning_tokens=10)
    body = body_of("x" * 41, instructions="é" * 4)
    usage = Response.model_validate_json(post(server, body)[1]).usage
    assert usage.input_tokens == 13  # ceil((41 + 8) / 4)
    assert usage.input_tokens_details.cached_tokens == 3
    assert usage.output_tokens == 10 + -(-len(expected_text(body)) // 4)
    assert usage.output_tokens_details.reasoning_tokens == 10
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens


def test_answers_obey_a_json_schema(server):
    schema = {
        "type": "object",
        "properties": {
            "category": {"enum": ["bug", "billing"]},
            "score": {"type": "integer", "minimum": 1, "maximum": 5},
            "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}},
            "note": {"anyOf": [{"type": "string", "maxLength": 10}, {"type": "null"}]},
        },
        "$defs": {"tag": {"type": "string"}},
        "required": ["category", "score", "tags", "note"],
    }
    jsonschema = pytest.importorskip("jsonschema")
    for number in range(20):
        body = body_of(
            f"row {number}", text={"format": {"type": "json_schema", "name": "t", "schema": schema}}
        )
        raw = post(server, body)[1]
        jsonschema.validate(json.loads(text_of(raw)), schema)
        assert text_of(raw) == expected_text(body)
    fenced = body_of("[[fault:fenced-json]]", text=body["text"])
    assert text_of(post(server, fenced)[1]).startswith("```json\n{")


def stream_events(raw):
    for block in raw.decode().strip().split("\n\n"):
        name, data = block.split("\n", 1)
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        yield event


@pytest.mark.parametrize(
    ("fault", "last"),
    [
        ("ok", "response.completed"),
        ("refusal", "response.completed"),
        ("tool-call", "response.completed"),
        ("reasoning", "response.completed"),
        ("failed", "response.failed"),
        ("incomplete:content_filter", "response.incomplete"),
    ],
)
def test_a_stream_tells_the_same_as_json(server, fault, last):
    body = body_of("stream me", model=f"fault:{fault}")
    reply, raw = post(server, {**body, "stream": True})
    assert reply.getheader("content-type").startswith("text/event-stream")
    told = list(stream_events(raw))
    for event in told:
        EVENT.validate_python(event)
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert told[-1]["type"] == last
    deltas = "".join(e["delta"] for e in told if e["type"] == "response.output_text.delta")
    final = Response.model_validate(told[-1]["response"])
    assert final.output_text == deltas
    assert final.output_text == Response.model_validate_json(post(server, body)[1]).output_text


SOUND = [
    "ok", "failed", "failed:rate_limit_exceeded", "failed:invalid_prompt", "failed-no-error",
    "cancelled", "queued", "in_progress", "stuck", "incomplete", "content-filter",
    "incomplete-no-details", "cut-but-completed", "refusal", "empty", "no-output", "whitespace",
    "only-reasoning", "reasoning", "tool-call", "no-usage", "null-usage", "usage:9:1:5:2",
    "formula", "script-tag", "nul", "invalid-json", "bad-schema", "fenced-json", "json", "big",
    "echo-key", "byte-order-mark", "chunked", "close-after", "wrong-content-type", "status:202",
    "trickle:0.01", "slow:0.01",
]  # fmt: skip


@pytest.mark.parametrize("fault", SOUND)
def test_every_reply_that_claims_to_be_a_response_is_one(server, fault):
    reply, raw = post(server, body_of(model=f"fault:{fault}"))
    assert reply.status in {200, 202}
    Response.model_validate_json(raw.removeprefix(b"\xef\xbb\xbf"))


def test_a_fault_called_unsound_is_not_a_response():
    """The control of the test above: its oracle does see what is wrong."""
    with running() as server:
        for fault in ("partial-usage", "int-for-string", "nulls", "minimal", "html-200"):
            raw = post(server, body_of(model=f"fault:{fault}"))[1]
            with pytest.raises(ValueError, match="validation error"):
                Response.model_validate_json(raw)


def test_the_minimal_body_has_exactly_the_fields_seen_at_a_gateway(server):
    told = json.loads(post(server, body_of(model="fault:minimal"))[1])
    assert set(told) == {"id", "object", "model", "status", "output", "usage"}
    assert set(told["output"][0]) == {"type", "role", "content"}
    assert set(told["output"][0]["content"][0]) == {"type", "text"}
    assert set(told["usage"]) == {"input_tokens", "output_tokens", "total_tokens"}


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        ("incomplete", "incomplete", "max_output_tokens"),
        ("content-filter", "incomplete", "content_filter"),
        ("unknown-incomplete", "incomplete", "steered_by_moonlight"),
        ("incomplete-no-details", "incomplete", None),
        ("failed:invalid_prompt", "failed", None),
        ("cancelled", "cancelled", None),
    ],
)
def test_endings_of_status_200(server, fault, status, reason):
    told = json.loads(post(server, body_of(model=f"fault:{fault}"))[1])
    assert told["status"] == status
    assert (told["incomplete_details"] or {}).get("reason") == reason
    assert (told["error"] or {}).get("code") == ("invalid_prompt" if status == "failed" else None)


def test_unusual_texts_arrive_as_the_model_wrote_them(server):
    def text(fault):
        return text_of(post(server, body_of(model=f"fault:{fault}"))[1])

    assert text("formula").startswith("=HYPERLINK(")
    assert "</script>" in text("script-tag")
    assert "\0" in text("nul")
    assert "\ud800" in text("surrogate")
    assert len(text("big")) == 200_000
    assert text("whitespace").isspace()
    assert KEY in text("echo-key")
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(text("invalid-json"))


# Errors


@pytest.mark.parametrize("name", sorted(HTTP_ERRORS))
def test_http_errors_have_the_openai_shape(server, name):
    reply, raw = post(server, body_of(model=f"fault:{name}"))
    assert reply.status == HTTP_ERRORS[name].status
    assert set(json.loads(raw)["error"]) == {"message", "type", "param", "code"}
    assert reply.getheader("retry-after") is None


def test_errors_of_other_servers_have_their_own_shapes(server):
    def told(fault):
        reply, raw = post(server, body_of(model=f"fault:{fault}"))
        return reply.status, reply.getheader("content-type"), raw

    def error(fault):
        return json.loads(told(fault)[2])["error"]

    assert KEY in error("401")["message"]
    assert error("quota")["code"] == "insufficient_quota"
    assert error("quota:billing_hard_limit_reached")["code"] == "billing_hard_limit_reached"
    assert error("404")["code"] == "model_not_found"
    assert error("llama")["code"] == 401
    assert error("503-loading") == {
        "code": 503,
        "message": "Loading model",
        "type": "unavailable_error",
    }
    assert error("litellm")["code"] == "429"
    assert error("litellm")["type"] == "None"
    assert told("litellm-bad-key")[0] == 400
    assert json.loads(told("detail")[2]).keys() == {"detail"}
    assert told("502-html")[:2] == (502, "text/html")
    assert told("html-200")[:2] == (200, "text/html")
    assert told("plain")[:2] == (500, "text/plain")
    assert told("empty-body")[::2] == (200, b"")
    assert told("418")[0] == 418
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        json.loads(told("truncated-json")[2])


@pytest.mark.parametrize(
    ("fault", "header", "value"),
    [
        ("429", "retry-after", None),
        ("429-seconds", "retry-after", "1"),
        ("429:0.5", "retry-after", "0.5"),
        ("429-zero", "retry-after", "0"),
        ("429-negative", "retry-after", "-5"),
        ("429-3h", "retry-after", "10800"),
        ("429-ms:250", "retry-after-ms", "250"),
        ("503:7", "retry-after", "7"),
        ("litellm", "llm_provider-retry-after", "60"),
        ("400-should-retry", "x-should-retry", "true"),
        ("500-should-not-retry", "x-should-retry", "false"),
        ("redirect", "location", "/health"),
        ("ok+header:x-odd=1", "x-odd", "1"),
        ("wrong-content-type:none", "content-type", None),
        ("close-after", "connection", "close"),
    ],
)
def test_headers_of_faults(server, fault, header, value):
    assert post(server, body_of(model=f"fault:{fault}"))[0].getheader(header) == value


def test_retry_after_can_be_a_date(server):
    value = post(server, body_of(model="fault:429-date:60"))[0].getheader("retry-after")
    wait = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    assert 50 < wait <= 61


# Choosing a fault


def test_a_marker_makes_a_single_row_misbehave(server):
    statuses = [
        post(server, body_of(text))[0].status
        for text in (
            "row one",
            "row two [[fault:503]]",
            "row three",
            "[[fault:slow:0]] [[fault:400]]",
        )
    ]
    assert statuses == [200, 503, 200, 400]


def test_a_fault_can_be_asked_for_by_query_and_header(server):
    assert post(server, path="/v1/responses?fault=504")[0].status == 504
    assert post(server, x_fault="529")[0].status == 529
    assert post(server)[0].status == 200


def test_a_row_recovers_after_the_stated_number_of_tries(server):
    spec = "429x3-then-ok"
    for row in ("a", "b"):
        tries = [post(server, body_of(f"{row} [[fault:{spec}]]"))[0].status for _ in range(5)]
        assert tries == [429, 429, 429, 200, 200]
    reply, _ = post(server, body_of("[[fault:429-then-ok:7]]"))
    assert (reply.status, reply.getheader("retry-after")) == (429, "7")


def test_an_unknown_fault_is_an_error_with_a_suggestion(server):
    reply, raw = post(server, body_of(model="fault:truncated-jsom"))
    assert reply.status == 400
    assert "did you mean 'truncated-json'?" in json.loads(raw)["error"]["message"]
    assert post(server, body_of(model="fault:slow:soon"))[0].status == 400
    with pytest.raises(UsageError, match="two endings"):
        parse("500+429")


def test_every_fault_has_a_line_in_the_catalogue(server):
    told = get(server, "/admin/faults")[1]
    assert told == catalogue()
    assert all(line.strip() for line in told.values())


def test_a_switched_fault_meets_the_next_n_calls(server):
    post(server, {"fault": "500", "next": 2}, path="/admin/fault")
    assert [post(server)[0].status for _ in range(3)] == [500, 500, 200]
    server.misbehave("503")
    assert [post(server)[0].status for _ in range(2)] == [503, 503]
    assert post(server, body_of("[[fault:ok]]"))[0].status == 200
    server.misbehave(None)
    assert post(server)[0].status == 200


def test_a_switched_rate_is_a_share_of_calls_and_repeatable(server):
    def statuses():
        server.reset()
        server.misbehave("500", rate=0.3, seed=7)
        with connected(server) as connection:
            return [
                ask(connection, "POST", "/v1/responses", body_of())[0].status for _ in range(200)
            ]

    first = statuses()
    assert first == statuses()
    assert 30 <= first.count(500) <= 90


@pytest.mark.parametrize("form", ["json", "toml"])
def test_a_script_chooses_by_model_text_and_number(tmp_path, form):
    path = tmp_path / f"script.{form}"
    rules = [
        {"match": {"model": "slow-*", "nth": [2]}, "fault": "429", "args": 3},
        {"match": {"input_contains": "né"}, "fault": "400"},
        {"match": {"model": "b", "every": 2}, "fault": "500"},
        {"match": {"model": "c", "first": 1}, "fault": "incomplete", "args": ["content_filter"]},
        {"match": {"endpoint": "models"}, "fault": "503-loading-then-ok"},
    ]
    toml = """
        [settings]
        cached_tokens = 1
        [[rules]]
        match = { model = "slow-*", nth = 2 }
        fault = "429"
        args = 3
        [[rules]]
        match = { input_contains = "né" }
        fault = "400"
        [[rules]]
        match = { model = "b", every = 2 }
        fault = "500"
        [[rules]]
        match = { model = "c", first = 1 }
        fault = "incomplete"
        args = ["content_filter"]
        [[rules]]
        match = { endpoint = "models" }
        fault = "503-loading-then-ok"
        """
    script = json.dumps({"settings": {"cached_tokens": 1}, "rules": rules})
    path.write_text(script if form == "json" else toml)
    with running(script=path) as server:

        def statuses(model, times):
            return [post(server, body_of(model=model))[0].status for _ in range(times)]

        assert statuses("slow-1", 3) == [200, 429, 200]
        assert statuses("b", 4) == [200, 500, 200, 500]
        raws = [post(server, body_of(model="c"))[1] for _ in range(2)]
        assert [json.loads(raw)["status"] for raw in raws] == ["incomplete", "completed"]
        assert post(server, body_of("Rue née"))[0].status == 400
        assert post(server, '{"model": "m", "input": "Rue née"}'.encode())[0].status == 400
        assert [get(server, "/v1/models")[0] for _ in range(2)] == [503, 200]
        assert json.loads(raws[1])["usage"]["input_tokens_details"]["cached_tokens"] == 1


def test_the_script_that_the_help_shows_is_one(tmp_path, main_cli):
    page = main_cli("faults", "--help").out
    shown = page.partition("all:\n")[2].partition("\n\n")[0]
    (tmp_path / "script.toml").write_text(shown)
    with running(script=tmp_path / "script.toml") as server:
        stats = get(server, "/admin/stats")[1]
        assert stats["settings"]["latency_seconds"] == 0.2
        server.change(latency_seconds=0)
        statuses = [post(server, body_of(model="gpt-x"))[0].status for _ in range(10)]
        assert statuses == [*[200] * 9, 429]
    for spec in ("500", "500x2-then-ok", "429:3", "500+slow:1"):
        assert f"\n  {spec}  " in page
        parse(spec)
    conditions = page.partition("must hold:\n")[2]
    assert all(field.name in conditions for field in fields(Match))


def test_what_a_script_sets_holds_unless_it_is_typed(tmp_path, run_cli):
    (tmp_path / "script.json").write_text('{"settings": {"latency_seconds": 0.3}}')
    for typed, seconds in (((), 0.3), (("--latency", "0.1"), 0.1)):
        process = run_cli.start("faults", "--port", "0", "--script", "script.json", *typed)
        try:
            url = process.stdout.readline().strip().removesuffix("/v1")
            with urllib.request.urlopen(f"{url}/admin/stats") as reply:
                assert json.load(reply)["settings"]["latency_seconds"] == seconds
        finally:
            process.terminate()
            process.communicate(timeout=10)


def test_the_first_signal_ends_the_server_whatever_it_is_doing(run_cli):
    started = [run_cli.start("faults", "--port", "0") for _ in range(4)]
    try:
        for process in started:
            url = process.stdout.readline().strip()
            with urllib.request.urlopen(f"{url}/models"):
                process.terminate()  # while it is busy with this connection, more often than not
        for process in started:
            said = process.communicate(timeout=10)[1]
            assert said == "answering until Ctrl-C\n"
            assert process.returncode == 0, "a server has no other end"
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_a_share_of_rows_stays_the_same_rows(server):
    server.misbehave("500", match={"share": 0.5, "seed": 3})
    bodies = [body_of(f"row {number}") for number in range(60)]
    with connected(server) as connection:
        rounds = [
            [ask(connection, "POST", "/v1/responses", body)[0].status for body in bodies]
            for _ in range(2)
        ]
    assert rounds[0] == rounds[1]
    assert 10 < rounds[0].count(500) < 50


@pytest.mark.parametrize(
    "script",
    [
        *(
            '[{"fault": "nonsense"}]',
            '[{"match": {"colour": 1}, "fault": "500"}]',
            "[{}]",
            "{",
            "3",
        ),
        *("[3]", '{"rules": 3}', '{"settings": 3}', '[{"match": 3, "fault": "500"}]'),
        *(
            f'[{{"match": {{{condition}}}, "fault": "500"}}]'
            for condition in (
                *('"share": "a"', '"rate": 2', '"nth": "1"', '"nth": []', '"every": 0'),
                *('"first": true', '"model": 3', '"endpoint": "nix"', '"input_contains": 1'),
            )
        ),
    ],
)
def test_a_wrong_script_is_refused_at_the_start(tmp_path, script):
    path = tmp_path / "script.json"
    path.write_text(script)
    with pytest.raises(UsageError), running(script=path):
        pass


# Broken connections


def test_a_reset_before_the_body_leaves_no_trace_in_the_ledger(server):
    with connected(server) as connection:
        connection.putrequest("POST", "/v1/responses?fault=reset-before")
        connection.putheader("Content-Length", "1000000")
        connection.endheaders()
        with pytest.raises(ConnectionError):
            connection.getresponse()
    with pytest.raises(ConnectionError):
        post(server, body_of(model="fault:reset-before"))
    server.misbehave("reset-before", next=1)
    with pytest.raises(ConnectionError):
        post(server)
    assert post(server)[0].status == 200
    assert ledger_of(server).totals.received == 1
    assert server.stats.resets_before == 3


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("reset-after", ConnectionResetError),
        ("drop", http.client.RemoteDisconnected),
        ("half-reset", (ConnectionResetError, http.client.IncompleteRead)),
        ("half-close", http.client.IncompleteRead),
        ("half-body", TimeoutError),
        ("hang", TimeoutError),
        ("drip:100", TimeoutError),
    ],
)
def test_a_call_lost_on_the_way_back_is_billed_and_its_usage_is_not_delivered(server, fault, error):
    def impatient():
        with connected(server, 0.05) as connection:
            connection.connect()
            closer = threading.Timer(0.1, connection.sock.shutdown, [socket.SHUT_RDWR])
            if fault.startswith("drip"):  # bytes keep coming: only the wall clock ends it
                closer.start()
            try:
                ask(connection, "POST", "/v1/responses", body_of(model=f"fault:{fault}"))
            except http.client.IncompleteRead:
                raise (
                    TimeoutError if fault.startswith("drip") else http.client.IncompleteRead(b"")
                ) from None
            finally:
                closer.cancel()

    with pytest.raises(error):
        impatient()
    eventually(lambda: server.ledger.totals.in_flight == 0)
    (row,) = ledger_of(server).rows()
    assert row.replied.status is None
    assert row.replied.billed
    assert not row.replied.usage_delivered
    assert row.replied.usage.input > 0
    assert ledger_of(server).totals.delivered.calls == 0
    assert server.stats.in_flight == 0


def test_a_client_that_leaves_before_the_reply_is_billed_all_the_same(server):
    server.change(latency_seconds=30)
    with connected(server, 0.05) as connection, pytest.raises(TimeoutError):
        ask(connection, "POST", "/v1/responses", body_of())
    eventually(lambda: server.ledger.totals.in_flight == 0)
    assert ledger_of(server).totals.billed.calls == 1
    assert ledger_of(server).totals.delivered.calls == 0


def test_a_slow_whole_reply_is_delivered(server):
    """The control of the two tests above."""
    reply, raw = post(server, body_of(model="fault:trickle:0.05+slow:0.01"))
    assert reply.status == 200
    assert text_of(raw)
    eventually(lambda: server.ledger.totals.delivered.calls == 1)


def test_a_stale_connection_breaks_at_its_next_request(server):
    with connected(server) as connection:
        assert (
            ask(connection, "POST", "/v1/responses", body_of(model="fault:stale"))[0].status == 200
        )
        with pytest.raises(ConnectionError):
            ask(connection, "POST", "/v1/responses", body_of())
    assert ledger_of(server).totals.received == 1


def test_an_idle_connection_can_be_closed_unannounced(server):
    with connected(server) as connection:
        reply, _ = ask(connection, "POST", "/v1/responses", body_of(model="fault:idle-close"))
        assert reply.getheader("connection") is None
        assert connection.sock.recv(1) == b""


# HTTP


def raw_request(body, *headers):
    head = ["POST /v1/responses HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def test_a_connection_is_kept_alive(server):
    with connected(server) as connection:
        for number in range(5):
            assert ask(connection, "POST", "/v1/responses", body_of(str(number)))[0].status == 200
    assert server.stats.connections_opened <= 1


def test_pipelined_requests_are_answered_in_order(server):
    bodies = [
        json.dumps(body_of(f"row {number} [[fault:slow:0.00{number % 3}]]")) for number in range(30)
    ]
    with contextlib.closing(socket.create_connection(address(server), timeout=5)) as line:
        line.sendall(b"".join(raw_request(body.encode()) for body in bodies))
        for body in bodies:
            reply = http.client.HTTPResponse(line)
            reply.fp = _OneByOne(line)
            reply.begin()
            assert text_of(reply.read()) == expected_text(json.loads(body))


class _OneByOne:
    """Reads no byte beyond the reply, as HTTPResponse's own buffer would."""

    def __init__(self, line):
        self.line = line

    def readline(self, limit=-1):
        read = b""
        while not read.endswith(b"\n"):
            read += self.line.recv(1)
        return read

    def read(self, amount=-1):
        read = b""
        while len(read) < amount:
            read += self.line.recv(amount - len(read))
        return read

    def readinto(self, buffer):
        read = self.read(len(buffer))
        buffer[: len(read)] = read
        return len(read)

    def flush(self):
        pass

    def close(self):
        pass


def test_a_request_may_arrive_byte_by_byte_and_in_chunks(server):
    body = json.dumps(body_of("in pieces")).encode()
    chunked = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:]))
    head = b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    for request in (raw_request(body), head + chunked + b"0\r\nTrailer: x\r\n\r\n"):
        with contextlib.closing(socket.create_connection(address(server), timeout=5)) as line:
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for position in range(len(request)):
                line.sendall(request[position : position + 1])
            reply = http.client.HTTPResponse(line)
            reply.begin()
            assert text_of(reply.read()) == expected_text(json.loads(body))
            reply.close()
    assert ledger_of(server).times_received() == {body_key(body): 2}


def test_a_large_body_waits_for_100_continue(server):
    body = json.dumps(body_of("x" * 300_000)).encode()
    with contextlib.closing(socket.create_connection(address(server), timeout=5)) as line:
        request = raw_request(body, "Expect: 100-continue")
        line.sendall(request[: -len(body)])
        assert line.recv(100).startswith(b"HTTP/1.1 100 ")
        line.sendall(body)
        assert line.recv(100).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/2.0\r\n\r\n", b"505"),
        (b"POST /v1/responses HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST /v1/responses HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
        (b"POST /v1/responses HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000, b"431"),
    ],
)
def test_what_is_not_a_request_is_refused_and_the_connection_closed(server, request_bytes, status):
    with contextlib.closing(socket.create_connection(address(server), timeout=5)) as line:
        line.sendall(request_bytes)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while more := line.recv(65536):
                received += more
        assert received.split(b" ")[1] == status


def test_only_the_right_paths_exist(server):
    assert post(server, path="/v1/v1/responses")[0].status == 404
    assert post(server, path="/responses")[0].status == 404
    assert post(server, None, "/v1/responses", method="GET")[0].status == 404


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"input": "x"}', b'{"model": "m"}', b"[" * 100_000]
)
def test_a_wrong_body_is_a_400_and_costs_nothing(server, body):
    assert post(server, body)[0].status == 400
    assert ledger_of(server).totals.billed.calls == 0


@pytest.mark.parametrize(
    "field", [{"service_tier": ["flex"]}, {"text": "plain"}, {"text": {"format": 3}}, {"tools": 3}]
)
def test_a_field_of_the_wrong_type_is_a_400_of_that_row(server, field):
    with connected(server) as connection:
        assert ask(connection, "POST", "/v1/responses", body_of(**field))[0].status == 400
        assert ask(connection, "POST", "/v1/responses", body_of())[0].status == 200
    assert ledger_of(server).totals.received == 2


# Side endpoints


def test_side_endpoints(server):
    assert get(server, "/health")[0] == 200
    assert get(server, "/v1/models")[1]["data"][0]["object"] == "model"
    assert get(server, "/v1/models/none")[0] == 404
    _, raw = post(server, body_of("x" * 41), path="/v1/responses/input_tokens")
    assert json.loads(raw)["input_tokens"] == 11
    assert ledger_of(server).totals.received == 0


def test_a_background_response_is_polled_to_its_end(server):
    body = body_of("later", background=True)
    told = json.loads(post(server, body)[1])
    statuses = [told["status"]]
    assert told["usage"] is None
    assert ledger_of(server).totals.billed.calls == 1
    assert ledger_of(server).totals.delivered.calls == 0
    while statuses[-1] in {"queued", "in_progress"}:
        told = get(server, f"/v1/responses/{told['id']}")[1]
        Response.model_validate(told)
        statuses.append(told["status"])
    assert statuses == ["queued", "in_progress", "completed"]
    assert text_of(json.dumps(told)) == expected_text(body)
    eventually(lambda: server.ledger.totals.delivered.calls == 1)
    assert get(server, "/v1/responses/resp_unknown")[0] == 404


def test_a_background_response_can_take_time_fail_hang_and_be_cancelled(server):
    server.change(background_seconds=0.02)
    told = json.loads(post(server, body_of(model="fault:failed", background=True))[1])
    path = f"/v1/responses/{told['id']}"
    eventually(lambda: get(server, path)[1]["status"] == "failed")

    told = json.loads(post(server, body_of(model="fault:stuck"))[1])
    assert [get(server, f"/v1/responses/{told['id']}")[1]["status"] for _ in range(4)] == [
        "in_progress"
    ] * 4
    for _ in range(2):
        _, raw = post(server, {}, path=f"/v1/responses/{told['id']}/cancel")
        assert json.loads(raw)["status"] == "cancelled"
    assert get(server, f"/v1/responses/{told['id']}")[1]["status"] == "cancelled"


def test_a_key_can_be_demanded(server):
    server.change(api_key="right")
    assert post(server)[0].status == 401
    assert post(server, Authorization="Bearer right")[0].status == 200


# Limits and latency


def test_a_hidden_rate_limit_refuses_what_is_above_it(server):
    post(server, {"admit_rate": 0.001, "admit_burst": 3}, path="/admin/settings")
    with connected(server) as connection:
        statuses = [ask(connection, "POST", "/v1/responses", body_of())[0].status for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    assert server.stats.refused == {"rate": 2}
    server.change(admit_rate=None)
    assert post(server)[0].status == 200


def test_a_hidden_concurrency_limit_refuses_what_is_above_it(server):
    server.change(admit_concurrency=2, admit_retry_after=3, latency_seconds=0.1)
    statuses = []
    threads = [
        threading.Thread(target=lambda: statuses.append(post(server)[0].status)) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 200, 429, 429, 429]
    assert server.stats.peak_in_flight <= 3


def test_rate_limit_headers_are_shown_on_demand(server):
    assert post(server)[0].getheader("x-ratelimit-limit-requests") is None
    server.change(limit_requests=60, limit_tokens=100_000)
    reply, _ = post(server)
    assert reply.getheader("x-ratelimit-limit-requests") == "60"
    assert reply.getheader("x-ratelimit-remaining-requests") == "59"
    assert reply.getheader("x-ratelimit-reset-requests") in {"1s", "1000ms", "0.999s"}
    assert int(reply.getheader("x-ratelimit-remaining-tokens")) < 100_000


def test_latencies_repeat_with_their_seed(server):
    import random

    from batch_runner.faultserver import Settings

    for shape in ("uniform", "lognormal"):
        settings = Settings().changed(
            {"latency_seconds": "0.2", "latency_shape": shape, "latency_spread": 0.5}
        )
        drawn = [
            [settings.latency(source) for _ in range(50)]
            for source in (random.Random(1), random.Random(1))
        ]
        assert drawn[0] == drawn[1]
        assert len(set(drawn[0])) > 10
        assert min(drawn[0]) >= 0
    with pytest.raises(UsageError, match="latency_seconds"):
        Settings().changed({"latency_seconds": -1})


# Idempotency


@pytest.mark.parametrize(
    ("mode", "statuses", "billed"),
    [
        ("ignore", [500, 200, 200, 200], 3),
        ("honour", [500, 200, 200, 200], 1),
        ("replay-500s", [500, 500, 500, 500], 0),
    ],
)
def test_a_repeated_idempotency_key(server, mode, statuses, billed):
    server.change(idempotency=mode)
    body = body_of("[[fault:500-then-ok]]")
    replies = [post(server, body, Idempotency_Key="k1") for _ in statuses]
    assert [reply.status for reply, _ in replies] == statuses
    assert ledger_of(server).totals.billed.calls == billed
    if mode == "replay-500s":
        assert post(server, body, Idempotency_Key="k2")[0].status == 200
    if mode == "honour":
        assert replies[1][1] == replies[2][1]
        assert replies[2][0].getheader("idempotent-replayed") == "true"
        assert post(server, body_of("another"), Idempotency_Key="k1")[0].status == 409


def test_an_answer_lost_on_the_way_is_replayed_whole(server):
    server.change(idempotency="honour")
    body = body_of(model="fault:reset-after")
    with pytest.raises(ConnectionError):
        post(server, body, Idempotency_Key="k")
    _, raw = post(server, body, Idempotency_Key="k")
    assert text_of(raw) == expected_text(body)
    assert ledger_of(server).totals.billed.calls == 1
    assert ledger_of(server).totals.replayed == 1


# Ledger


def test_the_ledger_counts_what_was_received_answered_and_billed(server):
    server.change(input_price="2", output_price="8", cached_tokens=1, cached_price="0.5")
    once, twice = body_of("once"), body_of("twice")
    for body in (once, twice, twice, body_of("[[fault:429]]"), body_of("[[fault:no-usage]]")):
        post(server, body, X_Attempt="1")
    key = body_key(json.dumps(twice).encode())
    assert ledger_of(server).times_received()[key] == 2
    assert ledger_of(server).times_answered()[key] == 2
    assert ledger_of(server).times_billed()[key] == 2
    assert ledger_of(server).billed_again() == 1
    server.settle()
    _, told = get(server, "/admin/ledger")
    totals = told["totals"]
    assert (totals["received"], totals["answered"], totals["in_flight"]) == (5, 5, 0)
    assert totals["by_status"] == {"200": 4, "429": 1}
    assert (totals["billed"]["calls"], totals["delivered"]["calls"]) == (4, 3)
    assert told["rows"][0]["received"]["attempt"] == "1"
    tokens = totals["delivered"]
    price = (tokens["input_tokens"] - 3) * 2 + 3 * Decimal("0.5") + tokens["output_tokens"] * 8
    assert Decimal(tokens["dollars"]) == price / 1_000_000


def test_the_ledger_file_tells_the_same_as_the_memory(tmp_path):
    path = tmp_path / "ledger.jsonl"
    with running(ledger_path=path, input_price=1, output_price=2) as server:
        for fault in ("ok", "429", "reset-after", "no-usage", "failed", "queued"):
            with contextlib.suppress(ConnectionError):
                told = json.loads(post(server, body_of(f"[[fault:{fault}]]"))[1])
        for _ in range(2):
            get(server, f"/v1/responses/{told['id']}")
        eventually(lambda: path.read_bytes().count(b"\n") == 6 * 2 + 1)
        assert Ledger.read(path).rows() == ledger_of(server).rows()
        assert Ledger.read(path).totals == ledger_of(server).totals
        before = ledger_of(server).totals
    with path.open("ab") as torn:
        torn.write(b'{"e":"B","n":')
    assert Ledger.read(path).totals == before
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_ledger_of_counts_keeps_totals_and_no_rows(tmp_path):
    path = tmp_path / "ledger.jsonl"
    with running(ledger_path=path, ledger_mode="counts") as server:
        for _ in range(3):
            post(server)
        assert ledger_of(server).totals.billed.calls == 3
        with pytest.raises(LookupError, match="counts"):
            ledger_of(server).rows()
        assert "rows" not in get(server, "/admin/ledger")[1]
        assert len(Ledger.read(path).rows()) == 3
        server.reset()
        assert path.read_bytes() == b""
        post(server)
        assert Ledger.read(path).totals.received == 1


@pytest.mark.parametrize("reads", [True, False])
def test_a_reply_counts_as_answered_only_when_the_socket_has_all_of_it(server, reads):
    body = json.dumps(body_of(model="fault:big:40000000")).encode()
    with contextlib.closing(socket.create_connection(address(server), timeout=5)) as line:
        line.sendall(raw_request(body))
        assert line.recv(1, socket.MSG_PEEK) == b"H"
        assert server.ledger.totals.answered == 0  # far more than the kernel's buffers hold
        if reads:
            with http.client.HTTPResponse(line) as reply:
                reply.begin()
                assert len(reply.read()) > 40_000_000
            server.settle()
    totals = ledger_of(server).totals
    assert (totals.answered, totals.delivered.calls) == ((1, 1) if reads else (0, 0))
    assert totals.billed.calls == 1


def test_a_request_stands_in_the_file_before_it_is_answered(tmp_path):
    path = tmp_path / "ledger.jsonl"
    with running(ledger_path=path) as server:
        with connected(server, 0.05) as connection, pytest.raises(TimeoutError):
            ask(connection, "POST", "/v1/responses", body_of(model="fault:hang"))
        first = path.read_bytes().splitlines()[0]
        assert json.loads(first)["e"] == "B"
    assert Ledger.read(path).totals.in_flight == 0


def test_a_server_in_its_own_process_outlives_a_killed_client_and_can_be_restarted(tmp_path):
    path = tmp_path / "ledger.jsonl"
    command = [sys.executable, "-m", "batch_runner.faultserver", "--ledger", str(path)]
    command += ["--set", "latency_seconds=0.05"]
    client = (
        "import sys, urllib.request as u\n"
        'r = u.Request(sys.argv[1] + \'/responses\', data=b\'{"model": "m", "input": "x"}\')\n'
        "print(1, flush=True)\n"
        "while True: u.urlopen(r).read()\n"
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().strip()
            with subprocess.Popen(
                [sys.executable, "-c", client, url], stdout=subprocess.PIPE
            ) as victim:
                victim.stdout.readline()
                eventually(lambda: Ledger.read(path).totals.answered >= 2)
                victim.kill()
            eventually(lambda: Ledger.read(path).totals.in_flight == 0)
            ledger = Ledger.read(path)
            assert ledger.totals.billed.calls == ledger.totals.received
            assert ledger.totals.billed.calls - ledger.totals.delivered.calls <= 1
        finally:
            process.terminate()
    with running(ledger_path=path) as again:
        post(again)
        assert again.ledger.totals.received == ledger.totals.received + 1
        assert [row.received.n for row in again.ledger.rows()] == list(
            range(1, ledger.totals.received + 2)
        )


def test_the_server_holds_no_file_or_socket_after_its_end():
    open_files = Path("/proc/self/fd")
    if not open_files.is_dir():
        pytest.skip("needs /proc to count open files")

    def held():
        return len(list(open_files.iterdir()))

    with running():
        pass
    before = held()
    with running() as server, connected(server, 0.05) as connection, pytest.raises(TimeoutError):
        ask(connection, "POST", "/v1/responses", body_of(model="fault:hang"))
    assert held() == before


# Doors


def test_requests_can_be_looked_at_as_they_were_sent(server):
    post(server, body_of("x" * 100_000))
    post(server, body_of("small"), X_Odd="1")
    large, small = server.seen
    assert large.body == b""
    assert (small.headers["x-odd"], small.headers["authorization"]) == ("1", f"Bearer {KEY}")
    assert json.loads(small.body) == body_of("small")


def test_the_figures_are_told(server):
    server.misbehave("500", next=1)
    with connected(server) as connection:
        for _ in range(2):
            ask(connection, "POST", "/v1/responses", body_of())
        told = json.loads(ask(connection, "GET", "/admin/stats")[1])
    assert told["requests"]["responses"] == 2
    assert told["faults"] == {"500": 1}
    assert told["connections_open"] >= 1
    assert told["settings"]["latency_seconds"] == 0
    for path, order in (
        ("fault", {"fault": "nonsense"}),
        ("settings", {"colour": 1}),
        ("fault", []),
    ):
        assert post(server, order, path=f"/admin/{path}")[0].status == 400
    post(server, {}, path="/admin/reset")
    assert server.ledger.totals.received == 0
    assert server.stats.faults == {}


def test_it_serves_in_the_loop_of_its_caller_until_cancelled(tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        async with FaultServer() as server:
            _, raw = await loop.run_in_executor(None, post, server)
            assert text_of(raw) == expected_text(body_of())
            assert server.ledger.totals.billed.calls == 1  # one loop: nothing to wait for
        url = loop.create_future()
        task = asyncio.create_task(serve(on_ready=url.set_result, ledger_path=tmp_path / "l"))
        port = urlsplit(await url).port
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))

    asyncio.run(main())


def test_a_taken_port_is_an_error(server):
    with pytest.raises(OSError, match="address already in use"), running(port=address(server)[1]):
        pass


def test_it_speaks_tls_with_a_certificate_of_its_own(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
        "-keyout",
    ]
    subprocess.run([*make, key, "-out", cert], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with running(ssl_context=context) as server:
        assert server.url.startswith("https://")
        trusting = ssl._create_unverified_context()
        made = http.client.HTTPSConnection(*address(server), timeout=5, context=trusting)
        with contextlib.closing(made) as connection:
            raw = ask(connection, "POST", "/v1/responses", body_of(model="fault:big"))[1]
            assert len(text_of(raw)) == 200_000
        wary = http.client.HTTPSConnection(*address(server), timeout=5)
        with contextlib.closing(wary), pytest.raises(ssl.SSLCertVerificationError):
            wary.request("GET", "/health")
