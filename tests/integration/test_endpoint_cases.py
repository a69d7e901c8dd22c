"""CASES.md "Endpoint", over real sockets and through the command line."""

import csv
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from batch_runner import client
from batch_runner.faultserver import catalogue, running
from batch_runner.limiter import Slot


KEY = "sk-0123456789abcdefKEY"
QUICK = {
    "retry.attempts": 2,
    "retry.max_wait": "10ms",
    "retry.maybe_billed_attempts": 0,
    "retry.rate_limit_patience": "250ms",
    "endpoint.timeout": "500ms",
}


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch):
    monkeypatch.setattr(client, "FIRST_POLL_SECONDS", 0.01)


@pytest.fixture
def ask(main_cli, tmp_path):
    """Runs a job of one row per given text; the ending and the rows of its output."""

    def run(url, texts=("hello",), *flags, fault=None, settings=None, **environment):
        with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["body"])
            writer.writerows([text] for text in texts)
        chosen = {**QUICK, "output.columns": "full", **(settings or {})}
        ran = main_cli(
            "run", "-i", "a.csv", "-o", "o.csv", "-p", "Sum: {{ body }}", "--base-url", url,
            "-m", f"fault:{fault}" if fault else "m1",
            *(part for item in chosen.items() for part in ("--set", "{}={}".format(*item))),
            *flags, **environment,
        )  # fmt: skip
        return ran, read_rows(tmp_path / "o.csv") if (tmp_path / "o.csv").exists() else []

    return run


def read_rows(path):
    csv.field_size_limit(10_000_000)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def ending(row):
    return " ".join(filter(None, (row["llm_status"], row["llm_error_code"])))


OK = "ok"
ENDS = ("started", "finished")
ENDINGS = {
    "ok": OK,
    "reset-before": "failed connection",
    "400": "failed bad_request",
    "408": "failed server_error",
    "409": "failed server_error",
    "413": "failed bad_request",
    "422": "failed bad_request",
    "500": "failed server_error",
    "502": "failed server_error",
    "503": "failed server_error",
    "504": "failed server_error",
    "529": "failed server_error",
    "502-html": "failed server_error",
    "503-loading": "failed server_error",
    "litellm-bad-key": "failed bad_request",
    "detail": "failed bad_request",
    "plain": "failed server_error",
    "failed": "failed server_error",
    "failed:invalid_prompt": "failed other:invalid_prompt",
    "failed-no-error": "failed server_error",
    "queued": OK,
    "in_progress": OK,
    "stuck": "failed timeout",
    "cancelled": "failed other:cancelled",
    "incomplete": "incomplete max_output_tokens",
    "cut-but-completed": "incomplete max_output_tokens",
    "refusal": "refused other:refusal",
    "empty": "failed empty_output",
    "no-output": "failed empty_output",
    "whitespace": "failed empty_output",
    "only-reasoning": "failed empty_output",
    "reasoning": OK,
    "tool-call": OK,
    "html-200": "failed bad_reply",
    "no-usage": OK,
    "null-usage": OK,
    "partial-usage": OK,
    "usage": OK,
    "int-for-string": OK,
    "extra-fields": OK,
    "nulls": OK,
    "minimal": OK,
    "stream-error": "failed server_error",
    "formula": OK,
    "script-tag": OK,
    "nul": OK,
    "surrogate": OK,
    "invalid-json": OK,
    "bad-schema": OK,
    "fenced-json": OK,
    "json": OK,
    "big:2000": OK,
    "echo-key": OK,
    "slow:0.1": OK,
    "hang": "failed timeout",
    "reset-after": "failed connection",
    "drop": "failed connection",
    "half-body": "failed timeout",
    "half-reset": "failed connection",
    "half-close": "failed connection",
    "drip": "failed timeout",
    "trickle:0.1": OK,
    "truncated-json": "failed bad_reply",
    "empty-body": "failed bad_reply",
    "wrong-content-type": OK,
    "byte-order-mark": OK,
    "chunked": OK,
    "status": OK,
    "retry-after": OK,
    "retry-after-date": OK,
    "retry-after-ms": OK,
    "x-should-retry": OK,
    "header:x-a=b": OK,
    "close-after": OK,
    "billed": OK,
    "unbilled": OK,
    "400-should-retry": "failed bad_request",
    "500-should-not-retry": "failed server_error",
    "content-filter": "incomplete content_filter",
    "unknown-incomplete": "incomplete other:steered_by_moonlight",
    "incomplete-no-details": "incomplete other:incomplete",
}
RATE_LIMITED = (
    "429", "429-too-large", "slow-down", "flex-unavailable", "litellm", "429-seconds", "429-date",
    "429-ms", "429-zero", "429-negative", "429-3h", "429-should-not-retry",
)  # fmt: skip
STOPPING = {"401": "401", "403": "403", "404": "model", "quota": "quota", "llama": "API Key"}
ALONE = ("redirect", "stale", "idle-close")
"""Each has a test of its own."""


def test_everything_the_fault_server_can_do_has_a_stated_ending():
    stated = {spec.partition(":")[0] for spec in (*ENDINGS, *RATE_LIMITED, *STOPPING, *ALONE)}
    assert stated == {*catalogue()}


def test_every_fault_of_a_single_row_ends_as_stated(ask):
    texts = [f"[[fault:{spec}]] of some length" for spec in ENDINGS]
    # Half a second is short for the sixteen that share a busy machine with their server.
    settings = {"request.max_output_tokens": 900, "endpoint.timeout": "3s"}
    with running(background_polls=1) as server:
        ran, rows = ask(server.url, texts, "-c", "16", settings=settings)
    assert ran.code == 3
    assert {s: ending(row) for s, row in zip(ENDINGS, rows, strict=True)} == ENDINGS
    for row in rows:
        assert row["llm_output"] or row["llm_error"] or "look_up" in row["llm_raw"]


@pytest.mark.parametrize("fault", RATE_LIMITED)
def test_a_rate_limit_beyond_patience_fails_the_row_and_says_what_cures_it(
    ask, fault_server, fault
):
    ran, rows = ask(fault_server.url, ["one"], fault=fault)
    assert (ran.code, ending(rows[0])) == (3, "failed rate_limited")
    assert "a later run sends" in ran.err


def test_a_pause_of_three_hours_fails_the_other_rows_without_asking(ask, fault_server):
    fault_server.misbehave("429-3h")
    ran, rows = ask(fault_server.url, map(str, range(50)), "-c", "4")
    assert ran.code == 3
    assert {ending(row) for row in rows} == {"failed rate_limited"}
    assert fault_server.ledger.totals.received <= 4
    fault_server.misbehave(None)
    ran, rows = ask(fault_server.url, map(str, range(50)), "-c", "4")
    assert ran.code == 0
    assert {ending(row) for row in rows} == {OK}


@pytest.mark.parametrize("fault", ["429:0.2", "429+retry-after-ms:200"])
def test_a_rate_limit_is_waited_out_by_everybody(ask, fault_server, fault):
    fault_server.misbehave(fault, next=1)
    patient = {"retry.rate_limit_patience": "1m"}
    ran, rows = ask(fault_server.url, map(str, range(12)), "-c", "4", settings=patient)
    assert (ran.code, {ending(row) for row in rows}) == (0, {OK})
    assert fault_server.stats.requests["responses"] == 13


@pytest.mark.parametrize(("fault", "word"), STOPPING.items())
def test_an_endpoint_that_refuses_everyone_stops_the_run(ask, fault_server, fault, word, tmp_path):
    ran, rows = ask(
        fault_server.url, map(str, range(30)), "-c", "2", fault=fault,
        settings={"endpoint.api_key_env": "MY_KEY"}, MY_KEY=KEY,
    )  # fmt: skip
    assert ran.code == 4
    assert fault_server.stats.requests["responses"] <= 4
    assert word in ran.err
    assert ran.err.count("stopping: ") == 1
    assert {row["llm_status"] for row in rows} <= {"pending", "failed"}
    assert leaks(ran, tmp_path) == []


def test_finished_rows_survive_a_stop(ask, fault_server):
    with_key = {"retry.attempts": 1}
    ran, _ = ask(fault_server.url, ["a", "b"], settings=with_key)
    assert ran.code == 0
    fault_server.misbehave("quota")
    ran, rows = ask(fault_server.url, ["a", "b", "c", "d"], "-c", "1", settings=with_key)
    assert ran.code == 4
    assert [row["llm_status"] for row in rows] == [OK, OK, "pending", "pending"]


def test_a_key_that_the_server_echoes_is_found_nowhere(ask, fault_server, tmp_path):
    texts = [f"[[fault:{fault}]] {n}" for n, fault in enumerate(("echo-key", "401", "echo-key"))]
    ran, rows = ask(
        fault_server.url, texts, "-c", "1", "-v",
        settings={"endpoint.api_key_env": "MY_KEY"}, MY_KEY=f"{KEY}\n",
    )  # fmt: skip
    assert next(seen.headers["authorization"] for seen in fault_server.seen) == f"Bearer {KEY}"
    assert "[redacted]" in rows[0]["llm_output"]
    assert leaks(ran, tmp_path) == []


def test_the_search_for_leaks_can_see_one(tmp_path):
    (tmp_path / "x").write_bytes(b"..." + KEY.encode())
    assert leaks(None, tmp_path) == ["x"]


def test_one_bad_row_stops_nobody(ask, fault_server):
    texts = [f"[[fault:{n}]]" if n in (400, 413, 422) else str(n) for n in range(395, 425)]
    ran, rows = ask(fault_server.url, texts)
    assert ran.code == 3
    assert [ending(row) for row in rows].count("failed bad_request") == 3
    assert [ending(row) for row in rows].count(OK) == 27


@pytest.mark.parametrize("fault", ["500", "502-html", "503", "504", "529", "408", "409"])
def test_a_server_error_is_tried_again_within_the_budget(ask, fault_server, fault):
    budget = {"retry.maybe_billed_attempts": 1}
    ran, rows = ask(fault_server.url, ["x"], fault=f"{fault}-then-ok", settings=budget)
    assert (ran.code, ending(rows[0]), rows[0]["llm_attempts"]) == (0, OK, "2")


@pytest.mark.parametrize("fault", ["hang", "half-body", "drip", "reset-after", "truncated-json"])
def test_calls_that_may_have_been_billed_are_repeated_at_most_as_often_as_stated(
    ask, fault_server, fault
):
    settings = {"retry.maybe_billed_attempts": 1, "retry.attempts": 6, "endpoint.timeout": "150ms"}
    _, rows = ask(fault_server.url, ["x"], fault=fault, settings=settings)
    assert (rows[0]["llm_attempts"], rows[0]["llm_billing_unknown"]) == ("2", "2")
    assert rows[0]["llm_cost_usd"] == ""


@pytest.mark.parametrize("fault", ["stale", "idle-close"])
def test_a_kept_connection_that_had_died_costs_no_wait_and_no_row(ask, fault_server, fault):
    settings = {"retry.maybe_billed_attempts": 1, "retry.max_wait": "30s"}
    texts = [f"[[fault:{fault}]]", "b", "c"]
    ran, rows = ask(fault_server.url, texts, "-c", "1", settings=settings)
    assert (ran.code, {ending(row) for row in rows}) == (0, {OK})
    assert seconds_of(rows) < 0.4


@pytest.mark.parametrize("fault", ["no-usage", "null-usage", "partial-usage"])
def test_tokens_that_were_not_reported_are_unknown_not_zero(ask, fault_server, fault):
    _, rows = ask(fault_server.url, ["x"], fault=fault)
    assert (rows[0]["llm_status"], rows[0]["llm_output_tokens"]) == (OK, "")


def test_nobody_reachable_stops_after_twenty_rows(ask, tmp_path):
    with running() as server:
        url = server.url
    ran, rows = ask(url, map(str, range(100)), "-c", "8", settings={"retry.attempts": 1})
    assert ran.code == 4
    assert "connection failed" in ran.err
    assert "endpoint.base_url" in ran.err
    assert [row["llm_status"] for row in rows].count("pending") >= 70


def test_a_redirect_is_not_followed_and_the_way_out_is_named(ask, fault_server):
    ran, _ = ask(fault_server.url, map(str, range(5)), "-c", "1", fault="redirect")
    assert ran.code == 4
    assert "/health" in ran.err
    assert "endpoint.base_url" in ran.err
    assert fault_server.stats.requests["responses"] == 1
    assert fault_server.stats.requests["health"] == 0


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("", "empty"),
        (" \n", "empty"),
        (f"{KEY} extra", "white space"),
        (f"{KEY}\tx", "white space"),
    ],
)
def test_a_key_that_cannot_be_sent_is_refused_unseen(ask, fault_server, key, reason, tmp_path):
    ran, _ = ask(fault_server.url, settings={"endpoint.api_key_env": "MY_KEY"}, MY_KEY=key)
    assert ran.code == 2
    assert reason in ran.err
    assert leaks(ran, tmp_path) == []
    assert fault_server.ledger.totals.received == 0


# Proxies and certificates


@contextmanager
def tiny_proxy(origin_port):
    """A proxy that sends every plain request to one port of this machine, whatever host it names."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(self.path)
            body = self.rfile.read(int(self.headers["content-length"]))
            origin = http.client.HTTPConnection("127.0.0.1", origin_port)
            kept = {
                n: v for n, v in self.headers.items() if n.lower() not in ("host", "connection")
            }
            origin.request("POST", "/v1/responses", body, kept)
            reply = origin.getresponse()
            content = reply.read()
            origin.close()
            self.send_response(reply.status)
            self.send_header("content-type", reply.headers["content-type"])
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://user:pass-word-99@127.0.0.1:{proxy.server_port}", asked
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()


ELSEWHERE = "http://llm.example/v1"
KEYED = {"endpoint.api_key_env": "MY_KEY"}


def port_of(server):
    return int(server.url.rsplit(":", 1)[1].split("/")[0])


def test_the_proxy_of_the_environment_is_used_for_other_hosts(ask, fault_server, tmp_path):
    with tiny_proxy(port_of(fault_server)) as (proxy, asked):
        ran, rows = ask(ELSEWHERE, settings=KEYED, MY_KEY=KEY, HTTP_PROXY=proxy, http_proxy=proxy)
    assert (ran.code, ending(rows[0])) == (0, OK)
    assert asked == ["http://llm.example/v1/responses"]
    assert leaks(ran, tmp_path, secret="pass-word-99") == []


def test_no_more_rows_are_taken_in_hand_than_the_limit_lets_out(ask, fault_server, monkeypatch):
    """Fifty callers could hold a row each; those beyond the limit would only wait with it."""
    enter, over = Slot.__aenter__, []

    async def entering(slot):
        limiter = slot._limiter
        over.append(limiter.held + 1 - limiter.limit)
        return await enter(slot)

    monkeypatch.setattr(Slot, "__aenter__", entering)
    fault_server.misbehave("slow:0.02")
    rows = [f"row {n}" for n in range(200)]
    ran, _ = ask(fault_server.url, rows, "-c", "1-2-50")
    assert ran.code == 0
    assert len(over) == 200
    assert max(over) <= 0


def test_a_first_connection_that_takes_long_is_told_before_it_fails(ask, monkeypatch):
    monkeypatch.setattr("batch_runner.transport.SOON_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # accepts, and never shakes hands
        place = f"https://127.0.0.1:{deaf.getsockname()[1]}"
        soon = {"limits.deadline": "1s", "limits.grace": "0.5s"}
        ran, _ = ask(f"{place}/v1", ["hello"], settings=soon)
    assert f"no connection to {place} after" in ran.err
    assert ran.err.count("does it speak https?") == 1


def test_a_proxy_of_the_environment_needs_no_scheme(ask, fault_server):
    with tiny_proxy(port_of(fault_server)) as (proxy, asked):
        plain = proxy.removeprefix("http://")
        ran, rows = ask(ELSEWHERE, settings=KEYED, MY_KEY=KEY, http_proxy=plain, HTTP_PROXY=plain)
    assert (ran.code, ending(rows[0])) == (0, OK)
    assert len(asked) == 1


@pytest.mark.parametrize("kind", ["socks5", "socks5h", "SOCKS4"])
def test_a_socks_proxy_of_the_environment_is_refused_and_not_spoken_to(ask, tmp_path, kind):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.2)
        url = f"{kind}://me:pass-word-99@127.0.0.1:{listening.getsockname()[1]}"
        ran, _ = ask(ELSEWHERE, settings=KEYED, MY_KEY=KEY, ALL_PROXY=url, all_proxy=url)
        assert ran.code == 2
        assert f"a {kind} proxy" in ran.err
        assert not [*tmp_path.glob("*.run")], "a refused run leaves nothing"
        assert "pass-word-99" not in ran.err
        with pytest.raises(TimeoutError):
            listening.accept()


def test_no_proxy_is_honoured_and_loopback_is_never_proxied(ask, fault_server):
    with tiny_proxy(port_of(fault_server)) as (proxy, asked):
        ran, _ = ask(fault_server.url, HTTP_PROXY=proxy, http_proxy=proxy)
        assert ran.code == 0
        ran, _ = ask(
            "http://nowhere.invalid/v1", ["hello"], "--fresh", settings=KEYED, MY_KEY=KEY,
            http_proxy=proxy, NO_PROXY="nowhere.invalid", no_proxy="nowhere.invalid",
        )  # fmt: skip
        assert ran.code == 3
    assert asked == []


@pytest.fixture
def certificate(tmp_path):
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    folder = tmp_path / "tls"
    folder.mkdir()
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return folder


@pytest.fixture
def https_server(certificate):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    with running(ssl_context=context) as server:
        yield server


def test_a_certificate_nobody_vouches_for_stops_the_run_and_names_ca_file(ask, https_server):
    ran, _ = ask(https_server.url, map(str, range(5)))
    assert ran.code == 4
    assert "certificate" in ran.err.lower()
    assert "endpoint.ca_file" in ran.err


def test_ca_file_makes_an_own_certificate_good(ask, https_server, certificate):
    trusted = {"endpoint.ca_file": certificate / "cert.pem"}
    ran, rows = ask(https_server.url, settings=trusted)
    assert (ran.code, ending(rows[0])) == (0, OK)


def test_a_ca_file_that_is_none_is_a_usage_error(ask, https_server, tmp_path):
    ran, _ = ask(https_server.url, settings={"endpoint.ca_file": tmp_path / "none.pem"})
    assert ran.code == 2
    assert "none.pem" in ran.err


# Answers


SCHEMA = {"type": "object", "required": ["summary"], "properties": {"summary": {"type": "string"}}}


def structured(tmp_path, on_invalid):
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA))
    return {
        "json.schema_file": tmp_path / "s.json",
        "json.on_invalid": on_invalid,
        "json.columns": '{"/summary" = "summary"}',
    }


def test_an_answer_that_does_not_fit_is_asked_again_with_the_reason(ask, fault_server, tmp_path):
    settings = structured(tmp_path, "retry")
    fault_server.misbehave("json")
    fault_server.misbehave("invalid-json", next=1)
    ran, rows = ask(fault_server.url, settings=settings)
    assert (ran.code, rows[0]["llm_attempts"]) == (0, "2")
    first, second = (json.loads(seen.body) for seen in fault_server.seen)
    assert "the answer is not JSON" in second["input"]
    assert second["input"].startswith(first["input"])
    assert rows[0]["summary"]


@pytest.mark.parametrize("calls", [3, 1])
@pytest.mark.parametrize("fault", ["bad-schema", "invalid-json"])
def test_an_answer_that_never_fits_is_json_invalid_with_its_text(
    ask, fault_server, tmp_path, fault, calls
):
    policy = "retry" if calls > 1 else "fail"
    ran, rows = ask(fault_server.url, ["x"], fault=fault, settings=structured(tmp_path, policy))
    assert (ran.code, ending(rows[0])) == (3, "failed json_invalid")
    assert fault_server.ledger.totals.received == calls
    assert rows[0]["llm_output"].startswith("{")
    assert rows[0]["llm_billing_unknown"] == "0"


def test_an_answer_that_does_not_fit_may_be_kept(ask, fault_server, tmp_path):
    settings = structured(tmp_path, "keep")
    ran, rows = ask(fault_server.url, ["x"], fault="bad-schema", settings=settings)
    assert (ran.code, ending(rows[0]), rows[0]["summary"]) == (0, OK, "")


def test_json_inside_a_code_fence_fits(ask, fault_server, tmp_path):
    settings = structured(tmp_path, "fail")
    ran, rows = ask(fault_server.url, ["x"], fault="fenced-json", settings=settings)
    assert ran.code == 0
    assert rows[0]["llm_output"].startswith("```json")
    assert rows[0]["summary"]


def test_a_cut_answer_is_asked_for_once_more_with_four_times_the_room(ask, fault_server):
    settings = {"retry.on_incomplete": "retry", "request.max_output_tokens": 50}
    fault_server.misbehave("incomplete", next=1)
    ran, rows = ask(fault_server.url, settings=settings)
    assert (ran.code, ending(rows[0]), rows[0]["llm_attempts"]) == (0, OK, "2")
    assert [json.loads(s.body)["max_output_tokens"] for s in fault_server.seen] == [50, 200]


def test_a_cut_answer_stands_when_more_room_is_refused(ask, fault_server):
    settings = {"retry.on_incomplete": "retry", "request.max_output_tokens": 50}
    fault_server.misbehave("400")
    fault_server.misbehave("incomplete", next=1)
    _, rows = ask(fault_server.url, settings=settings)
    assert (ending(rows[0]), rows[0]["llm_attempts"]) == ("incomplete max_output_tokens", "2")
    assert rows[0]["llm_output"]


RETRY = ("retry", "o.csv", "--include", "incomplete", "--set", "retry.on_incomplete=retry")


def test_a_row_known_to_have_been_cut_is_not_paid_for_at_that_cap_again(
    ask, main_cli, fault_server
):
    fault_server.misbehave("incomplete")
    ran, _ = ask(fault_server.url, ("one", "two"), settings={"request.max_output_tokens": 50})
    assert ran.code == 3
    again = main_cli(*RETRY)
    assert "2 rows cut off before: asked with 4 times" in again.err
    main_cli(*RETRY)
    caps = [json.loads(seen.body)["max_output_tokens"] for seen in fault_server.seen]
    assert caps == [50, 50, 200, 200, 800, 800], "one call a row and run, each with more room"


def test_the_money_set_aside_for_a_cut_row_is_that_of_its_larger_cap(ask, main_cli, fault_server):
    settings = {"request.max_output_tokens": 1000}
    fault_server.misbehave("incomplete", next=1)
    ask(fault_server.url, settings={**settings, 'prices."m1"': "{input = 0, output = 10}"})
    tight = main_cli(*RETRY, "--max-cost", "0.039")
    assert tight.code == 4
    assert "less than one call may cost: $0.0400" in tight.err
    assert main_cli(*RETRY, "--max-cost", "0.04").code == 0


def test_a_cut_answer_stands_when_the_room_of_a_retry_is_refused(
    ask, main_cli, fault_server, tmp_path
):
    fault_server.misbehave("incomplete", next=1)
    _, [before] = ask(fault_server.url, settings={"request.max_output_tokens": 50})
    fault_server.misbehave("400")
    again = main_cli(*RETRY)
    assert again.code == 3
    assert "1 row asked again in vain keeps the answer it had: 1 bad_request; row 1: " in again.err
    [row] = read_rows(tmp_path / "o.csv")
    assert row == {**before, "llm_attempts": "2"}


def test_a_row_that_kept_no_answer_is_no_example_of_those_that_did(ask, main_cli, fault_server):
    fault_server.misbehave("incomplete", next=1)
    ask(fault_server.url, ("one", "[[fault:400]] two"), settings={"limits.concurrency": "1"})
    fault_server.misbehave("400")
    again = main_cli(*RETRY).err
    assert "1 row asked again in vain keeps the answer it had: 1 bad_request\n" in again


def test_more_room_is_counted_from_the_cap_of_the_answer_that_stands(ask, main_cli, fault_server):
    settings = {"retry.on_incomplete": "retry", "request.max_output_tokens": 50}
    fault_server.misbehave("400")
    fault_server.misbehave("incomplete", next=1)
    ask(fault_server.url, settings=settings)
    main_cli(*RETRY)
    caps = [json.loads(seen.body)["max_output_tokens"] for seen in fault_server.seen]
    assert caps == [50, 200, 200], "nobody was ever cut off at 200"


def test_more_room_is_no_repeat_to_an_endpoint_that_knows_idempotency_keys(
    ask, main_cli, fault_server
):
    fault_server.change(idempotency="honour")
    fault_server.misbehave("incomplete", next=1)
    header = {"endpoint.idempotency_header": "Idempotency-Key"}
    ask(fault_server.url, settings={"request.max_output_tokens": 50, **header})
    ran = main_cli(*RETRY)
    assert (ran.code, fault_server.ledger.totals.replayed) == (0, 0), ran.err


# Streams


STREAM = {"endpoint.stream": "true"}


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("ok", OK),
        ("incomplete", "incomplete max_output_tokens"),
        ("failed:invalid_prompt", "failed other:invalid_prompt"),
        ("refusal", "refused other:refusal"),
        ("stream-error:rate_limit_exceeded", "failed rate_limited"),
        ("stream-error", "failed server_error"),
        ("big:60000", OK),
        ("queued", OK),
    ],
)
def test_a_stream_ends_as_its_last_event_says(ask, fault_server, fault, expected):
    _, rows = ask(fault_server.url, fault=fault, settings=STREAM)
    assert ending(rows[0]) == expected


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("half-reset", "failed connection"),
        ("half-body", "failed timeout"),
        ("truncated-json", "failed bad_reply"),
    ],
)
def test_the_text_of_a_stream_that_broke_is_kept(ask, fault_server, fault, expected):
    settings = {**STREAM, "output.columns": "full"}
    _, rows = ask(fault_server.url, [f"[[fault:big:900+{fault}]] hello there"], settings=settings)
    assert ending(rows[0]) == expected
    assert rows[0]["llm_output"].startswith("summary of")


def test_connections_are_used_again_after_a_stream(ask, fault_server):
    ran, _ = ask(fault_server.url, map(str, range(20)), "-c", "1", settings=STREAM)
    assert ran.code == 0
    assert fault_server.stats.connections_opened == 1


# Background responses


BACKGROUND = {"request.background": "true"}


def test_a_background_response_is_asked_for_until_it_is_there(ask, fault_server):
    ran, rows = ask(fault_server.url, settings=BACKGROUND)
    assert (ran.code, ending(rows[0]), rows[0]["llm_attempts"]) == (0, OK, "1")
    assert fault_server.stats.requests["poll"] == 2
    assert fault_server.ledger.totals.received == 1


def test_trouble_while_asking_never_pays_again(ask, fault_server):
    fault_server.misbehave("500", next=1, match={"endpoint": "poll"})
    ran, rows = ask(fault_server.url, settings=BACKGROUND)
    assert (ran.code, ending(rows[0])) == (0, OK)
    assert fault_server.ledger.totals.received == 1


def test_a_later_run_asks_for_a_response_that_was_not_there_in_time(ask, fault_server, tmp_path):
    fault_server.change(background_seconds=3600.0)
    ran, rows = ask(fault_server.url, settings=BACKGROUND)
    assert (ran.code, ending(rows[0])) == (3, "failed timeout")
    assert "still being made" in rows[0]["llm_error"]
    fault_server.change(background_seconds=0.0)
    ran, rows = ask(fault_server.url, settings=BACKGROUND)
    assert (ran.code, ending(rows[0])) == (0, OK)
    assert fault_server.ledger.totals.received == 1
    assert meta(tmp_path)["calls_sent"] == 1


def test_a_response_that_the_endpoint_forgot_is_paid_again_and_counted(ask, fault_server, tmp_path):
    fault_server.change(background_seconds=3600.0)
    ask(fault_server.url, settings=BACKGROUND)
    fault_server.change(background_seconds=0.0)
    fault_server.misbehave("400+status:404", next=1, match={"endpoint": "poll"})
    budget = {**BACKGROUND, "retry.maybe_billed_attempts": 1}
    ran, rows = ask(fault_server.url, settings=budget)
    assert (ran.code, ending(rows[0])) == (0, OK)
    assert fault_server.ledger.totals.received == 2
    assert meta(tmp_path)["calls_unknown"]


def test_a_killed_run_pays_no_background_response_twice(ask, run_cli, fault_server, tmp_path):
    fault_server.change(background_seconds=3600.0)
    (tmp_path / "a.csv").write_text("body\nhello\n")
    arguments = ("-m", "m1", "-p", "Sum: {{ body }}", "--base-url", fault_server.url)
    process = run_cli.start(
        "run", "-i", "a.csv", "-o", "o.csv", *arguments, "--set", "request.background=true"
    )
    try:
        wait_for(lambda: fault_server.stats.requests["poll"])
    finally:
        process.kill()
        process.communicate()
    fault_server.change(background_seconds=0.0)
    ran, rows = ask(fault_server.url, settings=BACKGROUND)
    assert (ran.code, ending(rows[0]), rows[0]["llm_attempts"]) == (0, OK, "1")
    assert fault_server.ledger.totals.received == 1
    assert (meta(tmp_path)["calls_sent"], meta(tmp_path)["calls_unknown"]) == (1, {})


def test_the_second_signal_cancels_background_responses(run_cli, fault_server, tmp_path):
    fault_server.change(background_seconds=3600.0)
    (tmp_path / "a.csv").write_text("body\nhello\n")
    process = run_cli.start(
        "run", "-i", "a.csv", "-o", "o.csv", "-m", "m1", "-p", "Sum: {{ body }}",
        "--base-url", fault_server.url, "--set", "request.background=true",
    )  # fmt: skip
    try:
        wait_for(lambda: fault_server.stats.requests["poll"])
        process.terminate()
        wait_for(lambda: "once more" in process.stderr.readline())
        process.terminate()
        assert process.wait(20) == 143
    finally:
        process.kill()
        process.communicate()
    assert fault_server.stats.requests["cancel"] == 1


def wait_for(condition, seconds=20):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def seconds_of(rows):
    """From the first attempt to the last ending."""
    times = [datetime.fromisoformat(row[f"llm_{name}_at"]) for row in rows for name in ENDS]
    return (max(times) - min(times)).total_seconds()


def meta(folder):
    return json.loads((folder / "o.csv.meta.json").read_bytes())


def leaks(ran, folder: Path, secret=KEY):
    """Where the secret stands: in what was printed, or in a file of the run."""
    found = [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and secret.encode() in path.read_bytes()
    ]
    if ran is not None:
        found += [name for name in ("out", "err") if secret in getattr(ran, name)]
    return found
