"""What SECURITY.md promises, one test each: keys, files, terminals, spreadsheets, bombs."""

import csv
import gzip
import json
import os
import random
import resource
import stat
import subprocess
import sys
import textwrap
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from batch_runner.api_key import api_key
from batch_runner.errors import UsageError
from batch_runner.job import JobSpec
from batch_runner.jobmapping import job_from_mapping
from batch_runner.progress import ProgressStyle
from batch_runner.run_options import RunOptions
from batch_runner.runner import run


ROOT = Path(__file__).parents[2]
KEY = "sk-Zq7/secret+key==" + "x9" * 12
STEERING = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"


def reply(text, **more):
    return {
        "id": "r", "object": "response", "model": "m", "status": "completed",
        "output": [{"type": "message", "content": [{"type": "output_text", "text": text}]}],
        "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}, **more,
    }  # fmt: skip


def job_in(folder, **tables) -> JobSpec:
    """A job over `in.csv` with one column; `tables` are laid over it, key by key."""
    job = {
        "input": {"path": "in.csv"},
        "prompt": {"input": "{{ text }}"},
        "request": {"model": "m"},
        "endpoint": {"base_url": "http://127.0.0.1:9/v1"},
        "output": {"path": "out.csv"},
        "retry": {"attempts": 1, "maybe_billed_attempts": 0},
    }
    for name, table in tables.items():
        job[name] = job.get(name, {}) | table
    return job_from_mapping(job, origin="job", folder=folder, default_name="job")


def ask(job, answer):
    """The summary of a run whose endpoint is a function from request to response."""
    options = RunOptions(
        transport=httpx.MockTransport(answer), progress=ProgressStyle.OFF, handle_signals=False
    )
    return run(job, options)


def texts(folder, *values):
    with (folder / "in.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text"], *([value] for value in values)])


def output(folder):
    with (folder / "out.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def places_of(secret, folder, *said):
    """Where a secret has ended up, in plain or as JSON spells it; the folder's own input aside."""
    spellings = {secret.encode(), json.dumps(secret)[1:-1].replace("/", "\\/").encode()}
    found = [
        str(path)
        for path in folder.rglob("*")
        if path.is_file() and any(spelling in path.read_bytes() for spelling in spellings)
    ]
    return found + [text for text in said if secret in text]


# Keys.


@pytest.mark.parametrize("key", ["sk-1234567890\nX-Evil: 1", "sk-12345\r67890", "sk-1234 567890"])
def test_a_key_with_a_line_end_inside_is_refused_unseen(main_cli, fault_server, key):
    texts(main_cli.folder, "a")
    ran = main_cli(
        *("run", "-i", "in.csv", "-o", "out.csv", "-m", "m", "-p", "{{ text }}"),
        *("--base-url", fault_server.url, "--set", "endpoint.api_key_env=MY_KEY"),
        MY_KEY=key,
    )
    assert ran.code == 2
    assert not places_of(key.split()[0], main_cli.folder, ran.out, ran.err)
    assert not fault_server.seen


def test_a_line_end_after_a_key_is_taken_off(tmp_path):
    job = job_in(tmp_path, endpoint={"api_key_env": "MY_KEY"})
    assert api_key(job, {"MY_KEY": f" {KEY}\r\n"}) == KEY


def test_a_key_that_the_server_echoes_reaches_no_file_and_no_screen(
    main_cli, tmp_path, monkeypatch
):
    monkeypatch.setenv("MY_KEY", KEY)
    texts(tmp_path, "answer", "fail")
    job = job_in(
        tmp_path,
        endpoint={"api_key_env": "MY_KEY", "headers": {"x-tenant": "tenant-s3cret-7"}},
        output={"columns": "full"},
    )
    escaped = json.dumps(KEY)[1:-1].replace("/", "\\/")

    def answer(request):
        assert request.headers["authorization"] == f"Bearer {KEY}"
        headers = {"x-request-id": KEY, "server": KEY, "location": f"https://x/{KEY}"}
        if b"fail" in request.content:
            wrong = {"error": {"code": "bad", "message": f"Incorrect API key: {KEY}."}}
            return httpx.Response(400, headers=headers, json=wrong)
        body = json.dumps(reply(f"your key is {KEY}", note="tenant-s3cret-7", id=KEY, model=KEY))
        return httpx.Response(200, headers=headers, content=body[:-1] + f',"again":"{escaped}"}}')

    ask(job, answer)
    assert "[redacted]" in output(tmp_path)[0]["llm_output"]
    said = main_cli("report", "-o", "out.csv", "-i", "in.csv", "--set", "request.model=m")
    assert not places_of(KEY, tmp_path, said.out, said.err)
    assert not places_of("tenant-s3cret-7", tmp_path, said.out, said.err)
    assert places_of("your key is", tmp_path), "the search must be able to see a leak"


@pytest.mark.parametrize(
    "url", ["https://me:hunter2hunter2@host/v1", "https://host/v1?api_key=hunter2hunter2"]
)
def test_a_secret_in_the_url_is_refused_unseen(main_cli, url):
    texts(main_cli.folder, "a")
    ran = main_cli(
        *("run", "-i", "in.csv", "-o", "out.csv", "-m", "m", "-p", "{{ text }}"),
        *("--base-url", url),
        OPENAI_API_KEY=KEY,
    )
    assert ran.code == 2
    assert not places_of("hunter2hunter2", main_cli.folder, ran.out, ran.err)


@pytest.mark.parametrize("way", ["environment", "job"])
def test_the_password_of_a_proxy_is_shown_nowhere(main_cli, way):
    proxy = "http://me:hunter2hunter2@127.0.0.1:9"
    texts(main_cli.folder, "a")
    by_job = ["--set", f"endpoint.proxy={proxy}"] if way == "job" else []
    ran = main_cli(
        *("run", "-i", "in.csv", "-o", "out.csv", "-m", "m", "-p", "{{ text }}", "-v", "-v"),
        *("--base-url", "http://endpoint.invalid/v1", "--set", "endpoint.api_key_env=MY_KEY"),
        *("--set", "retry.attempts=1"),
        *by_job,
        MY_KEY=KEY,
        **({"http_proxy": proxy} if way == "environment" else {}),
    )
    assert ran.code in (2, 3, 4), ran.err
    told = main_cli("report", "-o", "out.csv", "-i", "in.csv", "--set", "request.model=m", *by_job)
    assert not places_of("hunter2hunter2", main_cli.folder, ran.out, ran.err, told.out, told.err)


# Job files of others.


def test_a_job_file_that_names_another_host_gets_no_key(main_cli, fault_server):
    texts(main_cli.folder, "a")
    job = """
        [input]
        path = "in.csv"
        [prompt]
        input = "{{{{ text }}}}"
        [request]
        model = "m"
        [endpoint]
        base_url = "{url}"
        [output]
        path = "out.csv"
    """
    (main_cli.folder / "far.toml").write_text(
        textwrap.dedent(job).format(url="https://collector.invalid/v1")
    )
    ran = main_cli("run", "far.toml", OPENAI_API_KEY=KEY)
    assert ran.code == 2
    assert "api_key_env" in ran.err
    (main_cli.folder / "near.toml").write_text(textwrap.dedent(job).format(url=fault_server.url))
    assert main_cli("run", "near.toml", OPENAI_API_KEY=KEY).code == 0
    assert fault_server.seen
    assert not any(KEY in str(request.headers) for request in fault_server.seen)


@pytest.mark.parametrize("name", ["../../up", "/etc/cron.d/x", "a/b", "a\nb", "\x1b[2J", ""])
def test_a_job_name_is_no_path(tmp_path, name):
    with pytest.raises(UsageError):
        job_in(tmp_path, job={"name": name})


@pytest.mark.parametrize(
    "source",
    ['{% include "/etc/passwd" %}', "{{ text.__class__.__mro__ }}", "{{ env.HOME }}", "{{ self }}"],
)
def test_a_template_reaches_no_file_no_object_and_no_environment(main_cli, fault_server, source):
    texts(main_cli.folder, "a")
    ran = main_cli(
        *("run", "-i", "in.csv", "-o", "out.csv", "-m", "m", "-p", source + "{{ text }}"),
        *("--base-url", fault_server.url),
    )
    assert ran.code in (2, 3), ran.err
    assert not fault_server.seen


def test_a_template_without_an_end_costs_its_row_and_no_call(main_cli, fault_server):
    texts(main_cli.folder, "a")
    endless = (
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ text }}{% endfor %}{% endfor %}"
    )
    ran = main_cli(
        *("run", "-i", "in.csv", "-o", "out.csv", "-m", "m", "-p", endless),
        *("--base-url", fault_server.url),
    )
    assert ran.code == 3
    assert output(main_cli.folder)[0]["llm_error_code"] == "bad_input"
    assert not fault_server.seen


# What a model or a server says.


def test_formulas_are_counted_and_defused_on_request(tmp_path):
    hostile = ['=HYPERLINK("http://x")', "+1", "-1+cmd|' /C calc'!A0", "@SUM(1)", "\t=1", "\r=1"]
    texts(tmp_path, *map(str, range(len(hostile))))

    def answer(request):
        return httpx.Response(200, json=reply(hostile[int(json.loads(request.content)["input"])]))

    kept = ask(job_in(tmp_path), answer)
    assert kept.formula_cells == len(hostile)
    assert [row["llm_output"] for row in output(tmp_path)] == hostile
    ask(job_in(tmp_path, output={"csv_formulas": "escape"}), answer)
    assert not any(row["llm_output"][0] in "=+-@\t\r" for row in output(tmp_path))


def test_nothing_that_is_shown_steers_the_terminal(main_cli, fault_server):
    folder = main_cli.folder
    with (folder / "in.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", f"te{STEERING}xt"], [f"1{STEERING}", f"a{STEERING}"]])
    job = ("-i", "in.csv", "-o", "out.csv", "-m", f"m{STEERING}", "--base-url", fault_server.url)
    flags = ("-p", "{{ row['te" + STEERING + "xt'] }}", "--set", "input.key=id")
    fault_server.misbehave("400")
    said = [
        main_cli("check", *job, *flags),
        main_cli("run", *job, *flags, "-v", "-v"),
        main_cli("run", *job, "-p", "{{ nothing }}" + STEERING),
        main_cli("report", *job[:4], "--set", f"request.model=m{STEERING}"),
        main_cli("status", *job[:4], "--set", f"request.model=m{STEERING}"),
        main_cli("run", f"no{STEERING}.toml"),
        main_cli("prices", f"m{STEERING}"),
    ]
    for ran in said:
        assert not set("\x1b\x07\x9b\u202e") & set(ran.out + ran.err), ran
    assert any("\\x1b" in ran.err for ran in said), "escapes show, as what they are"


class _Page(HTMLParser):
    """What a browser would run or fetch."""

    def __init__(self, page):
        super().__init__()
        self.active = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        names = {name for name, _ in attributes}
        runs = tag in ("script", "iframe", "object", "embed", "img", "link", "form", "base")
        if runs or any(name.startswith("on") for name in names) or names & {"src", "action"}:
            self.active.append((tag, attributes))
        self.active += [
            (tag, name, value)
            for name, value in attributes
            if name in ("href", "xlink:href") and not (value or "").startswith("#")
        ]


def test_the_html_report_runs_and_fetches_nothing(main_cli, tmp_path):
    hostile = (
        "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'><a href=javascript:1>"
    )
    texts(tmp_path, hostile, "fail " + hostile)
    job = job_in(tmp_path, request={"model": hostile}, output={"report": "report.html"})

    def answer(request):
        if b"fail" in request.content:
            return httpx.Response(400, json={"error": {"code": hostile, "message": hostile}})
        return httpx.Response(200, json=reply(hostile, model=hostile, id=hostile))

    ask(job, answer)
    page = (tmp_path / "report.html").read_text()
    assert "alert(1)" in page, "the hostile text is there, as text"
    assert _Page(page).active == []
    assert "Content-Security-Policy" in page
    assert _Page("<p onclick=x><script>").active, "the parser sees what would run"


# Files.


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_run_directory_is_private_and_the_output_follows_the_umask(tmp_path, umask):
    texts(tmp_path, "a")
    before = os.umask(umask)
    try:
        ask(job_in(tmp_path), lambda _: httpx.Response(200, json=reply("b")))
    finally:
        os.umask(before)
    run_directory = tmp_path / "out.csv.run"
    inside = [run_directory, *run_directory.rglob("*")]
    assert {stat.S_IMODE(p.stat().st_mode) for p in inside if p.is_dir()} == {0o700}
    assert {stat.S_IMODE(p.stat().st_mode) for p in inside if p.is_file()} == {0o600}
    assert stat.S_IMODE((tmp_path / "out.csv").stat().st_mode) == 0o666 & ~umask


def in_little_memory(folder, code, *, megabytes):
    """The code in a process of its own that may not grow past so much address space."""

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))

    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, preexec_fn=limit,
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("suffix", [".csv.gz", ".jsonl.gz"])
def test_ten_megabytes_that_unpack_to_ten_gigabytes_are_refused_in_little_memory(tmp_path, suffix):
    beginning = b"text\n" if suffix == ".csv.gz" else b'{"text": "'
    member = gzip.compress(b"a" * (64 << 20), 9, mtime=0)
    bomb = gzip.compress(beginning, mtime=0) + member * 160
    assert len(bomb) < 12 << 20
    (tmp_path / f"in{suffix}").write_bytes(bomb)
    ran = in_little_memory(
        tmp_path,
        f"""
        import sys
        from batch_runner.cli import main
        sys.exit(main(["check", "-i", "in{suffix}", "-o", "out.csv", "-m", "m", "-p", "{{{{ text }}}}"]))
        """,
        megabytes=900,
    )
    assert ran.returncode == 2, ran.stderr
    assert "MiB" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_reply_that_unpacks_without_an_end_fails_its_row_alone(tmp_path):
    texts(tmp_path, "bomb", "good")
    bomb = gzip.compress(bytes(100 << 20), 9)

    class Pieces(httpx.AsyncByteStream):
        async def __aiter__(self):
            for at in range(0, len(bomb), 8192):
                yield bomb[at : at + 8192]

    def answer(request):
        if b"bomb" in request.content:
            return httpx.Response(200, headers={"content-encoding": "gzip"}, stream=Pieces())
        return httpx.Response(200, json=reply("fine"))

    ask(job_in(tmp_path), answer)
    bad, good = output(tmp_path)
    assert (bad["llm_status"], bad["llm_error_code"]) == ("failed", "bad_reply")
    assert good["llm_output"] == "fine"


def test_a_broken_parquet_file_is_refused_without_a_crash(tmp_path):
    """Fifty files with random damage: each is read, or refused with exit code 2."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    table = pa.table({"text": ["a" * 50, None, "b"] * 40, "n": list(range(120))})
    pq.write_table(table, tmp_path / "good.parquet")
    good = (tmp_path / "good.parquet").read_bytes()
    dice = random.Random(5)
    for number in range(50):
        damaged = bytearray(good)
        for _ in range(dice.randint(1, 20)):
            damaged[dice.randrange(len(good))] = dice.randrange(256)
        (tmp_path / f"{number}.parquet").write_bytes(damaged)
    ran = in_little_memory(
        tmp_path,
        """
        from pathlib import Path
        from batch_runner.errors import InputError
        from batch_runner.tables import open_table
        for number in range(50):
            try:
                for row in open_table([Path(f"{number}.parquet")]).rows():
                    pass
            except InputError as error:
                print("refused", error)
        """,
        megabytes=4000,
    )
    assert ran.returncode == 0, ran.stderr
    assert "refused" in ran.stdout


@pytest.mark.parametrize("depth", [*range(300, 1000, 50), 100_000])
def test_deep_json_in_a_reply_costs_its_row_at_most(tmp_path, depth):
    """What the parser takes must also be stored: it has been paid for."""
    texts(tmp_path, "deep", "good")
    deep = json.dumps(reply("fine"))[:-1] + ',"deep":' + "[" * depth + "]" * depth + "}"

    def answer(request):
        if b"deep" in request.content:
            return httpx.Response(200, content=deep)
        return httpx.Response(200, json=reply("fine"))

    ask(job_in(tmp_path, output={"columns": "full"}), answer)
    first, second = output(tmp_path)
    assert first["llm_status"] in ("ok", "failed")
    assert second["llm_status"] == "ok"


def test_deep_json_in_the_input_is_a_bad_record(main_cli):
    deep = '{"text":' * 50_000 + "1" + "}" * 50_000
    (main_cli.folder / "in.jsonl").write_text('{"text": "a"}\n' + deep + "\n")
    ran = main_cli("check", "-i", "in.jsonl", "-o", "out.jsonl", "-m", "m", "-p", "{{ text }}")
    assert ran.code == 2
    assert "in.jsonl:2" in ran.err
