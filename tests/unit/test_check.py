"""`check`: what can be known before the first call; `--probe`: one row, in the open."""

import json
import re
from urllib.parse import urlsplit

import pytest


KEY = "sk-0123456789abcdefghij"


@pytest.fixture
def job(tmp_path, fault_server):
    """A job over five rows whose endpoint wants a key."""
    rows = "".join(f"{n},text {n}\n" for n in range(5))
    (tmp_path / "in.csv").write_text("id,body\n" + rows)
    (tmp_path / "job.toml").write_text(
        f"""
[input]
path = "in.csv"
key = "id"
[prompt]
input = "Sum: {{{{ body }}}}"
[request]
model = "gpt-5-mini"
max_output_tokens = 50
[endpoint]
base_url = "{fault_server.url}"
api_key_env = "MY_API_KEY"
[output]
path = "out.csv"
"""
    )


def calls(server):
    server.settle()
    return len(server.ledger.rows())


def test_three_real_prompts_are_shown_and_counted_and_nothing_is_sent(job, main_cli, fault_server):
    ran = main_cli("check", "job.toml", MY_API_KEY=KEY)
    assert ran.code == 0
    assert ran.out.count('"input": "Sum: text') == 3
    assert ran.out.count("input tokens") == 3
    for words in ("5 rows", "5 to send", "key from MY_API_KEY", fault_server.url, "out.csv"):
        assert words in ran.out
    assert calls(fault_server) == 0
    assert not (main_cli.folder / "out.csv.run").exists()


def test_machines_get_the_same_as_json(job, main_cli):
    told = json.loads(main_cli("check", "job.toml", "--json", MY_API_KEY=KEY).out)
    assert (told["rows"], told["to_send"], told["key_problem"]) == (5, 5, None)
    assert [request["input"] for request in told["requests"]] == [
        f"Sum: text {n}" for n in range(3)
    ]
    assert len(told["input_tokens"]) == 3


def test_rows_that_ask_for_the_same_are_told_with_what_becomes_of_them(job, main_cli):
    (main_cli.folder / "in.csv").write_text("id,body\n1,same\n2,same\n3,other\n")
    told = "1 row asks for the same as another"
    alone = main_cli("check", "job.toml", MY_API_KEY=KEY).out
    assert f"{told} (run --dedupe sends it once)" in alone
    main_cli("run", "job.toml", "--dedupe", "-q", MY_API_KEY=KEY)
    assert f"{told} (answered by one call)" in main_cli("check", "job.toml", MY_API_KEY=KEY).out


def test_without_a_key_everything_else_is_still_looked_at(job, main_cli):
    ran = main_cli("check", "job.toml")
    assert ran.code == 2
    assert "Sum: text 0" in ran.out
    assert "MY_API_KEY is not set: the key for http://" in ran.err
    assert "output are fine, but no API key is set" in ran.out  # `key` is also a column
    assert "export MY_API_KEY=..." in ran.err
    assert "--local asks a small model" in ran.err


def test_who_has_a_server_and_no_key_is_told_the_way_right_after_init(main_cli, fault_server):
    """The hint, followed as it stands, leads to a check that passes."""
    (main_cli.folder / "in.csv").write_text("id,body\n1,one\n2,two\n")
    assert main_cli("init", "in.csv", "-o", "job.toml").code == 0
    ran = main_cli("check", "job.toml")
    assert ran.code == 2
    hint = next(line for line in ran.err.splitlines() if "hint: " in line)
    assert "export OPENAI_API_KEY=..." in hint
    assert "--local a small model" in hint
    assert len(hint) < 180
    flag, url = re.search(r"(--base-url) (http://127\.0\.0\.1:PORT/v1)", hint).groups()
    port = str(urlsplit(fault_server.url).port)
    assert main_cli("check", "job.toml", flag, url.replace("PORT", port)).code == 0


def test_quiet_says_nothing_when_all_is_well(job, main_cli):
    ran = main_cli("check", "job.toml", "-q", MY_API_KEY=KEY)
    assert (ran.code, ran.out, ran.err) == (0, "", "")


def test_what_is_rarely_meant_is_noted(job, main_cli):
    path = main_cli.folder / "job.toml"
    text = path.read_text().replace("max_output_tokens = 50", "")
    path.write_text(text + '[notify]\nping_url_env = "NO_SUCH_URL"\n')
    out = main_cli("check", "job.toml", MY_API_KEY=KEY).out
    assert "nothing bounds the cost" in out
    assert "NO_SUCH_URL is not set" in out
    mistyped = main_cli("check", "job.toml", MY_API_KEY=KEY, NO_SUCH_URL="https//host/5ecret").out
    assert "NO_SUCH_URL holds no http(s) URL" in mistyped
    assert "5ecret" not in mistyped
    well = main_cli("check", "job.toml", MY_API_KEY=KEY, NO_SUCH_URL="https://host/5ecret").out
    assert "ping_url_env" not in well


def test_a_slip_of_the_cap_is_noted_once(job, main_cli):
    text = (main_cli.folder / "job.toml").read_text()
    slip = re.sub(r"(?m)^max_output_tokens = .*\n", "", text)
    (main_cli.folder / "job.toml").write_text(slip)
    out = main_cli("check", "job.toml", MY_API_KEY=KEY).out
    assert out.count("nothing bounds the cost") == 1
    out = main_cli("check", "job.toml", "--set", "request.max_tokens=9", MY_API_KEY=KEY).out
    assert out.count("nothing bounds the cost") == 1
    assert "request.max_tokens is sent as it stands" in out


def test_a_probe_shows_request_and_response_and_no_key(job, main_cli, fault_server):
    ran = main_cli("check", "job.toml", "--probe", MY_API_KEY=KEY)
    assert ran.code == 0
    assert f"POST {fault_server.url}/responses" in ran.out
    assert "Bearer [redacted] (key from MY_API_KEY)" in ran.out
    assert '"text": "summary of Sum: text 0' in ran.out
    assert KEY not in ran.out + ran.err
    assert calls(fault_server) == 1
    assert main_cli("run", "job.toml", MY_API_KEY=KEY).code == 0
    assert calls(fault_server) == 5  # the probed row has been paid for


def test_a_probe_that_is_refused_says_so_and_exits_likewise(job, main_cli, fault_server):
    fault_server.misbehave("401")
    ran = main_cli("check", "job.toml", "--probe", "--json", MY_API_KEY=KEY)
    assert ran.code == 4
    probe = json.loads(ran.out)["probe"]
    assert probe["response"] is None
    assert "401" in probe["error"]
    assert KEY not in ran.out + ran.err


def test_a_probe_of_a_row_that_fails_says_why(job, main_cli, fault_server):
    fault_server.misbehave("400")
    ran = main_cli("check", "job.toml", "--probe", MY_API_KEY=KEY)
    assert ran.code == 3
    assert "failed bad_request" in ran.out


def test_a_probe_takes_the_row_that_was_not_accepted_before_rows_still_to_send(
    job, main_cli, fault_server
):
    """`run` and `report` advise a probe for rows that failed with HTTP 400."""
    fault_server.misbehave("400", match={"input_contains": "text 1"})
    assert main_cli("run", "job.toml", "-q", "-n", "3", MY_API_KEY=KEY).code == 3
    ran = main_cli("check", "job.toml", "--probe", MY_API_KEY=KEY)
    assert "2 to send" in ran.out
    assert "--- probe: row 2 (1), the first that failed with bad_request before\n" in ran.out
    assert '"input": "Sum: text 1"' in ran.out.partition("--- probe")[2]
    assert calls(fault_server) == 4
    fault_server.misbehave(None)
    main_cli("check", "job.toml", "--probe", MY_API_KEY=KEY)
    ran = main_cli("check", "job.toml", "--probe", MY_API_KEY=KEY)
    assert "--- probe: row 4 (3), the first that is to be sent\n" in ran.out
    assert calls(fault_server) == 6


def test_a_probe_takes_the_first_failed_row_when_none_is_left_to_send(job, main_cli, fault_server):
    fault_server.misbehave("empty", match={"input_contains": "text 3"})
    assert main_cli("run", "job.toml", "-q", MY_API_KEY=KEY).code == 3
    before = calls(fault_server)
    ran = main_cli("check", "job.toml", "--probe", MY_API_KEY=KEY)
    assert ran.code == 3
    assert (
        "--- probe: row 4 (3), the first that failed before: no other row is left to send"
        in ran.out
    )
    assert '"input": "Sum: text 3"' in ran.out.partition("--- probe")[2]
    assert "failed empty_output" in ran.out
    assert calls(fault_server) > before
    fault_server.misbehave(None)
    told = json.loads(main_cli("check", "job.toml", "--probe", "--json", MY_API_KEY=KEY).out)
    assert (told["probe"]["row"], told["probe"]["status"]) == (4, "ok")
    assert "no row is left to do" in main_cli("check", "job.toml", "--probe", MY_API_KEY=KEY).out


def test_a_probe_says_that_its_answer_is_kept_and_the_output_written(job, main_cli):
    out = main_cli("check", "job.toml", "--probe", MY_API_KEY=KEY).out
    (kept,) = (line for line in out.splitlines() if line.startswith("--- kept: "))
    assert "the answer, for which no run pays again" in kept
    assert "out.csv is written (with 4 rows not answered yet)" in kept


@pytest.mark.parametrize("command", [("check", "--probe"), ("run",)])
def test_who_sent_no_key_and_is_refused_is_told_so_with_the_way_out(
    job, main_cli, fault_server, command
):
    path = main_cli.folder / "job.toml"
    path.write_text(path.read_text().replace('api_key_env = "MY_API_KEY"', ""))
    fault_server.misbehave("401")
    ran = main_cli(command[0], "job.toml", *command[1:], OPENAI_API_KEY=KEY)
    assert ran.code == 4
    said = ran.out + ran.err
    assert "no key was sent (OPENAI_API_KEY goes to no other host unless" in said
    assert 'api_key_env = "..." under [endpoint]' in said
    assert KEY not in said
    sent = main_cli(command[0], "job.toml", *command[1:], "--set", "endpoint.api_key_env=MINE", MINE=KEY)  # fmt: skip
    assert "HTTP 401" in sent.out + sent.err
    assert "no key was sent" not in sent.out + sent.err
    assert "check the key in MINE" in sent.out + sent.err


def test_a_probe_with_nothing_left_to_do_sends_nothing(job, main_cli, fault_server):
    main_cli("run", "job.toml", MY_API_KEY=KEY)
    ran = main_cli("check", "job.toml", "--probe", MY_API_KEY=KEY)
    assert ran.code == 0
    assert "no row is left to do" in ran.out
    assert calls(fault_server) == 5


def test_the_first_row_without_a_request_is_named(job, main_cli):
    (main_cli.folder / "in.csv").write_text("id,body\n1,one\n2,\n")
    out = main_cli("check", "job.toml", MY_API_KEY=KEY).out
    assert "1 row is without a request; the first is in.csv:3" in out
    assert "empty cell in 'body'" in out
    (main_cli.folder / "in.csv").write_text("id,body\n1,one\n2,\n3,\n")
    assert "2 rows are without a request" in main_cli("check", "job.toml", MY_API_KEY=KEY).out


def shown_requests(out):
    """Each request as a person reads it, parsed."""
    blocks = out.split("--- row ")[1:]
    return [json.loads(block[block.index("{") : block.rindex("}") + 1]) for block in blocks]


@pytest.mark.parametrize("length", [700, 2990, 300_000])
def test_a_request_is_shown_with_its_whole_structure_however_long_its_text(job, main_cli, length):
    text = "a" * (length - 4) + " end"
    (main_cli.folder / "in.csv").write_text(f"id,body\n1,{text}\n")
    short, whole = (main_cli("check", "job.toml", *v, MY_API_KEY=KEY).out for v in ((), ("-v",)))
    (request,) = shown_requests(short)
    assert (request["model"], request["max_output_tokens"]) == ("gpt-5-mini", 50)
    assert request["input"].endswith(" end")
    if length < 3000:
        assert request["input"] == f"Sum: {text}"
    else:
        assert len(request["input"]) < 3000
        assert "298,005 characters, shown with -v" in request["input"]
    assert shown_requests(whole)[0]["input"] == f"Sum: {text}"


def test_with_nothing_left_to_send_the_first_rows_show_what_they_would(job, main_cli):
    main_cli("run", "job.toml", MY_API_KEY=KEY)
    out = main_cli("check", "job.toml", MY_API_KEY=KEY).out
    assert "0 to send" in out
    assert "nothing is left to send; this is what the first rows would send:" in out
    assert [request["input"] for request in shown_requests(out)] == [
        f"Sum: text {n}" for n in range(3)
    ]


def test_a_model_for_each_row_is_called_so_and_not_by_its_template(job, main_cli, fault_server):
    path = main_cli.folder / "job.toml"
    path.write_text(path.read_text().replace('"gpt-5-mini"', '"{{ id }}"'))
    for command in ("check", "run"):
        ran = main_cli(command, "job.toml", MY_API_KEY=KEY)
        assert f"each row's own model at {fault_server.url}" in ran.out + ran.err
        assert "{{" not in ran.out + ran.err


def test_of_many_files_it_says_how_many(job, main_cli):
    (main_cli.folder / "many").mkdir()
    for n in range(200):
        (main_cli.folder / f"many/{n:03}.csv").write_text(f"id,body\n{n},text\n")
    out = main_cli("check", "job.toml", "-i", "many/*.csv", MY_API_KEY=KEY).out
    assert "input    200 files, such as " in out
    assert "002.csv: 200 rows" in out
    for n in range(3, 200):
        (main_cli.folder / f"many/{n:03}.csv").unlink()
    assert "such as" not in main_cli("check", "job.toml", "-i", "many/*.csv", MY_API_KEY=KEY).out
