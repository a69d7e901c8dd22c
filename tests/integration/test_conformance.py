"""The Responses API as three servers speak it: ours, a real small model, and somebody else's proxy.

Each feature is a job of one row. A server may ignore or refuse a feature; what it must not do is
make a row end as anything but what is stated here. The table in README.md names the tests.
"""

import csv
import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai.types.responses import Response

from batch_runner.errors import UsageError
from batch_runner.faultserver import FaultServer, running
from batch_runner.faultserver.register import ENDINGS
from batch_runner.local import LocalEndpoint, model_file
from batch_runner.records import Completion, Failure
from batch_runner.responses import Unfinished, read_reply, read_usage


ROOT = Path(__file__).parents[2]
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
LITELLM_SECONDS = 120

# A real image, because a server may look: one red pixel.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108020000009077"
    "53de0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)
PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
SCHEMA = {
    "type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"],
    "additionalProperties": False,
}  # fmt: skip
TOOL = '{type="function", name="look", parameters={type="object", properties={}}, strict=false}'
PLAIN = 'input = "Say hello to {{ name }}."'


def asked(part):
    return (
        f'messages = [{{role="user", content=[{{type="input_text", text="What is it?"}}, {part}]}}]'
    )


FEATURES = {
    "text": {"prompt": PLAIN},
    "instructions": {"prompt": f'instructions = "Be brief."\n{PLAIN}'},
    "conversation": {"prompt": 'messages = "talk"'},
    "whole body": {"prompt": 'body = "body"'},
    "row parameters": {"prompt": PLAIN, "request": 'max_output_tokens = "{{ room }}"'},
    "image": {"prompt": asked('{type="input_image", image_file="a.png"}')},
    "file": {"prompt": asked('{type="input_file", file_path="a.pdf"}')},
    "schema": {
        "prompt": PLAIN,
        "json": 'schema_file = "s.json"\non_invalid = "fail"\ncolumns = { "/word" = "word" }',
    },
    "tools": {"prompt": PLAIN, "request": f"tools = [{TOOL}]"},
    "reasoning": {"prompt": PLAIN, "request": 'reasoning = { effort = "low" }'},
    "background": {"prompt": PLAIN, "request": "background = true"},
    "stream": {"prompt": PLAIN, "endpoint": "stream = true"},
    "cap": {"prompt": PLAIN, "request": "max_output_tokens = 16"},
}
"""What is asked, by the tables of a job file."""

ROW = {
    "name": "Ann",
    "room": "64",
    "talk": [
        {"role": "user", "content": "My name is Ann."},
        {
            "type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": "Hello Ann.", "annotations": []}],
        },
        {"role": "user", "content": "What is my name?"},
    ],
    "body": {"input": "Say hello.", "max_output_tokens": 64},
}  # fmt: skip
"""The turn of the assistant is told in full: llama.cpp refuses the short form."""

CUT = "incomplete max_output_tokens"
TESTS = {
    name
    for file in (ROOT / "tests").rglob("test_*.py")
    for name in [file.stem, *re.findall(r"def (test_\w+)", file.read_text(encoding="utf-8"))]
}


@pytest.fixture
def ask(main_cli, tmp_path):
    """The row of the output of a job that asks one server for one feature."""

    def ask(feature, *, url, model, room=200):
        (tmp_path / "in.jsonl").write_text(json.dumps(ROW) + "\n")
        (tmp_path / "a.png").write_bytes(PNG)
        (tmp_path / "a.pdf").write_bytes(PDF)
        (tmp_path / "s.json").write_text(json.dumps(SCHEMA))
        tables = FEATURES[feature]
        request = f'model = "{model}"\n{tables.get("request", "")}'
        if feature not in ("row parameters", "cap"):
            request += f"\nmax_output_tokens = {room}"
        text = (
            '[input]\npath = "in.jsonl"\n[output]\npath = "out.csv"\ncolumns = "full"\n'
            f"[prompt]\n{tables['prompt']}\n[request]\n{request}\n[retry]\nattempts = 1\n"
            f"[json]\n{tables.get('json', '')}\n"
            f'[endpoint]\nbase_url = "{url}"\napi_key_env = "ANY"\n{tables.get("endpoint", "")}\n'
        )
        (tmp_path / "job.toml").write_text(text)
        ran = main_cli("run", "job.toml", ANY="any-key")
        assert ran.code in (0, 3), ran.err
        csv.field_size_limit(10_000_000)
        with (tmp_path / "out.csv").open(newline="") as file:
            [row] = csv.DictReader(file)
        return row

    return ask


def ending(row):
    return f"{row['llm_status']} {row['llm_error_code']}".strip()


def test_every_row_of_the_table_in_the_readme_names_tests_that_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("## Conformance\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("|")][2:]
    assert len(rows) >= len(FEATURES)
    for feature, _field, tests in rows:
        named = re.findall(r"`(\w+)`", tests)
        assert named, feature
        for name in named:
            assert name in TESTS, (feature, name)


# Our fault server does all of it, and its ledger shows what arrived


@pytest.mark.parametrize("feature", FEATURES)
def test_the_fault_server_is_asked_for_every_feature_as_the_api_has_it(ask, fault_server, feature):
    model = "fault:tool-call" if feature == "tools" else "m1"
    row = ask(feature, url=fault_server.url, model=model)
    assert ending(row) == "ok", row["llm_error"]
    assert int(row["llm_total_tokens"]) > 0
    assert Response.model_validate(
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}
        | json.loads(row["llm_raw"])
    )
    fault_server.settle()
    body = json.loads(fault_server.seen[0].body)
    assert body["stream"] is (feature == "stream")
    if feature == "tools":
        [call] = json.loads(row["llm_tool_calls"])
        assert json.loads(call["arguments"]) is not None
    if feature == "schema":
        assert body["text"]["format"]["schema"] == SCHEMA
        assert row["word"]
    if feature == "image":
        assert body["input"][0]["content"][1]["image_url"].startswith("data:image/png;base64,")
    if feature == "file":
        assert body["input"][0]["content"][1]["filename"] == "a.pdf"


@pytest.mark.parametrize("fault", sorted(ENDINGS))
def test_everything_the_fault_server_says_is_read_without_trouble(ask, fault_server, fault):
    """Whatever the body, a reader gives an ending and counts that are unknown or right."""
    request = urllib.request.Request(
        f"{fault_server.url}/responses",
        data=json.dumps({"model": f"fault:{fault}", "input": "x", "stream": False}).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with DIRECT.open(request, timeout=10) as reply:
            raw = reply.read()
    except urllib.error.HTTPError as error:
        raw = error.read()
    try:
        body = json.loads(raw.removeprefix(b"\xef\xbb\xbf"))
    except ValueError:
        return  # judged by its status: see test_endpoint_cases
    if isinstance(body, dict):
        assert isinstance(read_reply(body), Completion | Failure | Unfinished)
        read_usage(body)


# The real model: what llama.cpp does with the same requests


@pytest.fixture(scope="module")
def real_model() -> Iterator[LocalEndpoint]:
    try:
        model_file()
    except UsageError as error:
        pytest.skip(str(error))
    with LocalEndpoint() as endpoint:
        yield endpoint


REAL = {
    "image": {"failed bad_request", "failed server_error"},
    "file": {"failed bad_request", "failed server_error"},
    "schema": {"ok", "failed json_invalid", CUT},
    "cap": {"ok", CUT},
}
"""A text model refuses images, ignores `text.format`, and may be cut anywhere."""


@pytest.mark.parametrize("feature", FEATURES)
def test_a_real_model_answers_or_refuses_every_feature(ask, real_model, feature):
    row = ask(feature, url=real_model.url, model=real_model.model, room=24)
    assert ending(row) in REAL.get(feature, {"ok", CUT}), row["llm_error"]
    if row["llm_status"] in ("ok", "incomplete"):
        assert row["llm_output"].strip()
        assert int(row["llm_input_tokens"]) > 0
        assert int(row["llm_output_tokens"]) > 0


# An independent server: the LiteLLM proxy


@pytest.fixture(scope="module")
def litellm(tmp_path_factory) -> Iterator[str]:
    """The URL of a LiteLLM proxy in front of a canned answer and of our fault server."""
    program = os.environ.get("LITELLM") or shutil.which("litellm")
    if program is None:
        pytest.skip(
            "needs the LiteLLM proxy, a gigabyte that nothing else here wants: "
            "pip install 'litellm[proxy]==1.100.5' into a venv, LITELLM=<its bin>/litellm"
        )
    folder = tmp_path_factory.mktemp("litellm")
    with socket.socket() as free, running() as upstream:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        (folder / "config.yaml").write_text(litellm_config(upstream))
        environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        environment |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [program, "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)],
                cwd=folder, env=environment, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            wait_until_alive(f"http://127.0.0.1:{port}/health/liveliness", process, folder / "log")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(timeout=20)


def litellm_config(upstream: FaultServer) -> str:
    def model(name, **more):
        return {"model_name": name, "litellm_params": {"api_key": "none", **more}}

    passed_on = {"model": "openai/m1", "api_base": upstream.url}
    canned = {"model": "openai/canned", "mock_response": "A canned answer."}
    limited = {"model": "openai/canned", "mock_response": "A canned answer.", "rpm": 3}
    models = [
        model("canned", **canned),
        model("limited", **limited),
        model("passed-on", **passed_on),
    ]
    router = {"num_retries": 0, "optional_pre_call_checks": ["enforce_model_rate_limits"]}
    return json.dumps({"model_list": models, "router_settings": router})  # YAML holds JSON


def wait_until_alive(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + LITELLM_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with DIRECT.open(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the LiteLLM proxy did not come up: {log.read_text()[-2000:]}")


CANNED = {
    "schema": {"failed json_invalid"},
    "cap": {CUT},
    "row parameters": {CUT},
    "whole body": {CUT},
    "stream": {"failed server_error"},
}
"""The mock says the same words and 87 output tokens whatever is asked, and cannot stream."""


@pytest.mark.timeout(240)
@pytest.mark.parametrize("feature", FEATURES)
def test_an_independent_proxy_answers_every_feature(ask, litellm, feature):
    row = ask(feature, url=litellm, model="canned")
    assert ending(row) in CANNED.get(feature, {"ok"}), row["llm_error"]
    assert row["llm_output"] == ("" if feature == "stream" else "A canned answer.")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("feature", FEATURES)
def test_an_independent_proxy_passes_every_feature_on(ask, litellm, feature):
    row = ask(feature, url=litellm, model="passed-on")
    assert ending(row) == "ok", row["llm_error"]
    assert row["llm_output"]


@pytest.mark.timeout(240)
def test_the_limit_of_an_independent_proxy_is_waited_for_or_told(main_cli, litellm, tmp_path):
    (tmp_path / "in.csv").write_text("n\n" + "".join(f"{n}\n" for n in range(5)))
    ran = main_cli(
        "run", "-i", "in.csv", "-o", "out.csv", "-m", "limited", "-p", "Say {{ n }}.",
        "--base-url", litellm, "--set", "endpoint.api_key_env=ANY", "-c", "1",
        "--set", "retry.rate_limit_patience=1s", ANY="any-key",
    )  # fmt: skip
    assert ran.code == 3, ran.err
    with (tmp_path / "out.csv").open(newline="") as file:
        endings = [ending(row) for row in csv.DictReader(file)]
    assert endings.count("ok") == 3
    assert endings.count("failed rate_limited") == 2
