"""The embedded endpoint with the real model."""

import contextlib
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from batch_runner.errors import UsageError
from batch_runner.local import SLOT_TOKENS, LocalEndpoint, model_file


try:
    model_file()
except UsageError as error:
    pytest.skip(str(error), allow_module_level=True)

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
ROOT = Path(__file__).parents[2]
SERVER = [sys.executable, "-m", "batch_runner.local"]
SERVE = [
    sys.executable,
    "-c",
    "import sys; from batch_runner.local import serve; sys.exit(serve())",
]


def port_of(url):
    return int(url.removesuffix("/v1").rsplit(":", 1)[1])


def listens(url):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port_of(url)), 1):
        return True
    return False


def silent_within(url, seconds):
    """True when nobody listens there any more."""
    end = time.monotonic() + seconds
    while listens(url):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def post(endpoint, text, **request):
    body = {"model": endpoint.model, "input": text, "max_output_tokens": 16, "temperature": 0}
    call = urllib.request.Request(
        f"{endpoint.url}/responses",
        data=json.dumps(body | request).encode(),
        headers={"Content-Type": "application/json", "Origin": "http://page.example"},
    )
    with DIRECT.open(call, timeout=60) as reply:
        return json.load(reply), reply.headers


@contextlib.contextmanager
def started(command, **options):
    """The process and its URL; killed with what it holds if a test fails."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, **options) as child:
        try:
            yield child, child.stdout.readline().strip()
        finally:
            child.kill()


@pytest.fixture(scope="module")
def endpoint():
    with LocalEndpoint() as running:
        yield running


def test_it_answers_with_text_and_usage(endpoint):
    reply, _ = post(endpoint, "Say hello.")
    assert reply["status"] == "completed"
    assert reply["model"] == endpoint.model
    assert reply["output"][0]["content"][0]["text"].strip()
    assert 0 < reply["usage"]["output_tokens"] <= 16
    assert reply["usage"]["input_tokens"] > 0


def test_each_slot_holds_a_row_of_several_pages(endpoint):
    with DIRECT.open(f"{endpoint.url.removesuffix('/v1')}/props", timeout=60) as reply:
        properties = json.load(reply)
    assert properties["total_slots"] == endpoint.slots
    assert properties["default_generation_settings"]["n_ctx"] == SLOT_TOKENS >= 2048


def test_a_web_page_may_not_read_the_answers(endpoint):
    _, headers = post(endpoint, "Say hello.")
    assert headers.get("Access-Control-Allow-Origin", "") not in ("*", "http://page.example")


def test_a_second_one_takes_a_port_of_its_own(endpoint):
    with LocalEndpoint(slots=1) as second:
        assert port_of(second.url) != port_of(endpoint.url)
        assert listens(second.url)
        assert listens(endpoint.url)


def test_it_ends_with_its_block():
    with LocalEndpoint(slots=1) as endpoint:
        assert listens(endpoint.url)
    assert not listens(endpoint.url)


def test_a_taken_port_is_named(endpoint):
    port = port_of(endpoint.url)
    with pytest.raises(UsageError, match=f"port {port} did not start: .*bind"):
        LocalEndpoint(port=port)


def test_it_writes_nothing_to_the_terminal(capfd):
    with LocalEndpoint(slots=1) as endpoint:
        post(endpoint, "Say hello.")
    assert capfd.readouterr() == ("", "")


def test_verbose_shows_llama_cpp_at_work(capfd):
    out = err = ""
    until = time.monotonic() + 10  # its log is a thread of its own, and may come after its answers
    with LocalEndpoint(slots=1, verbose=True):
        while "model loaded" not in err and time.monotonic() < until:
            time.sleep(0.02)
            said = capfd.readouterr()
            out, err = out + said.out, err + said.err
    assert out == ""
    assert "model loaded" in err


def test_a_file_of_the_working_folder_shadows_no_module(tmp_path, monkeypatch):
    (tmp_path / "argparse.py").write_text("raise SystemExit('shadowed')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with LocalEndpoint(slots=1) as endpoint:
        assert listens(endpoint.url)

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    control = subprocess.run(SERVER, capture_output=True, text=True, check=False)
    assert control.stderr.strip() == "shadowed"


def test_it_ends_when_its_parent_is_killed():
    code = """
import time
from batch_runner.local import LocalEndpoint
print(LocalEndpoint(slots=1).url, flush=True)
time.sleep(600)
"""
    with started([sys.executable, "-c", code]) as (parent, url):
        assert listens(url)
        parent.send_signal(signal.SIGKILL)
        assert silent_within(url, 5)


def test_without_the_pipe_it_would_outlive_its_parent():
    """The control of the test above: a server whose standard input stays open stays."""
    read_end, write_end = os.pipe()
    try:
        code = f"""
import subprocess, sys, time
server = subprocess.Popen({[*SERVER, "--slots", "1"]!r}, stdin={read_end}, stdout=subprocess.PIPE)
print(server.stdout.readline().decode().strip(), flush=True)
time.sleep(600)
"""
        with started([sys.executable, "-c", code], pass_fds=[read_end]) as (parent, url):
            parent.send_signal(signal.SIGKILL)
            parent.wait()
            assert not silent_within(url, 0.2)
    finally:
        os.close(read_end)
        os.close(write_end)
    assert silent_within(url, 5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_prints_its_url_and_stops_cleanly(number):
    with started(SERVE, stderr=subprocess.PIPE) as (child, url):
        assert listens(url)
        child.send_signal(number)
        out, err = child.communicate(timeout=10)
        assert (child.returncode, out) == (0, "")
        assert f'endpoint.base_url = "{url}"' in err
        assert err.endswith("running until Ctrl-C\n")
        assert not listens(url)


def test_tokens_counted_before_a_local_run_are_those_that_it_then_reports(main_cli):
    (main_cli.folder / "in.csv").write_text("body\nThe river rose overnight.\nA council met.\n")
    job = ("-i", "in.csv", "-o", "out.csv", "-p", "Sum up: {{ body }}", "--local")
    job += ("--set", "request.max_output_tokens=4")
    checked = json.loads(main_cli("check", *job, "--json").out)
    estimated = json.loads(main_cli("estimate", *job, "--json").out)
    assert main_cli("run", *job).code in (0, 3)
    with (main_cli.folder / "out.csv").open(newline="") as file:
        reported = [int(row["llm_input_tokens"]) for row in csv.DictReader(file)]
    assert checked["input_tokens"] == reported
    assert checked["input_tokens_exact"]
    assert abs(estimated["input_tokens"] - sum(reported)) <= len(reported)
