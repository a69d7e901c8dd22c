"""Files that other hands wrote: no command puts anything in their place."""

import json
import shutil
import subprocess
import sys

import pytest


JOB = """
[input]
path = "in.csv"
[prompt]
input = "Say {{{{ body }}}}"
[request]
model = "m1"
[endpoint]
base_url = "{url}"
[output]
path = "out.csv"
"""


@pytest.fixture
def job(main_cli, fault_server):
    """A job of two rows that has run."""
    (main_cli.folder / "in.csv").write_text("id,body\n1,one\n2,two\n")
    (main_cli.folder / "job.toml").write_text(JOB.format(url=fault_server.url))
    assert main_cli("run", "job.toml").code == 0
    return "job.toml"


@pytest.mark.parametrize(
    ("words", "name", "text"),
    [
        (("export", "job.toml"), "precious.csv", "id,body,mark\n1,x,9\n"),
        (("export", "job.toml"), "precious.jsonl", '{"id": 1, "body": "x"}\n'),
        (("export", "job.toml", "--partial"), "precious.csv", "no table at all"),
        (("reparse", "job.toml"), "precious.csv", "status,output\nnew,x\n"),
        (("convert", "job.toml"), "precious.jsonl", '{"messages": []}\n'),
        (("convert", "job.toml", "replies.jsonl"), "precious.csv", "id\n1\n"),
        (("convert", "replies.jsonl"), "precious.csv", "custom_id\n1\n"),
        (("report", "job.toml"), "precious.html", "<!doctype html><title>My page</title>"),
    ],
)
def test_a_file_of_other_hands_is_not_replaced(main_cli, job, words, name, text):
    reply = {
        "custom_id": "row-1",
        "response": {"status_code": 200, "body": {"status": "completed"}},
    }
    (main_cli.folder / "replies.jsonl").write_text(json.dumps(reply) + "\n")
    precious = main_cli.folder / name
    precious.write_text(text)

    refused = main_cli(*words, "-o", name)

    assert refused.code == 2, refused.err
    assert f"{name!r}" in refused.err.replace(f"{main_cli.folder}/", "")
    what = (
        "is no report of batch_runner"
        if name.endswith(".html")
        else "is not what batch_runner writes there: it has no columns such as "
    )
    assert f"exists and {what}" in refused.err
    assert "choose another file" in refused.err
    assert precious.read_text() == text


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("export", "job.toml"), "again.csv"),
        (("export", "job.toml"), "again.tsv"),
        (("export", "job.toml"), "again.jsonl.gz"),
        (("export", "job.toml"), "again.parquet"),
        (("convert", "job.toml"), "again.jsonl"),
        (("report", "job.toml"), "again.html"),
    ],
)
def test_what_was_written_here_before_is_written_anew(main_cli, job, words, name):
    file = main_cli.folder / name
    file.touch()  # an empty file, as mktemp leaves it, holds nothing to lose
    for _ in range(2):
        written = main_cli(*words, "-o", name)
        assert written.code == 0, written.err
        assert file.stat().st_size


def test_an_export_with_more_columns_than_last_time_is_still_known(main_cli, job):
    main_cli("export", job, "-o", "again.csv", "--set", "output.columns=minimal")
    assert main_cli("export", job, "-o", "again.csv").code == 0
    assert main_cli("export", job, "-o", "again.csv", "--set", "output.columns=full").code == 0


def test_a_first_run_replaces_no_page_of_other_hands_by_its_report(main_cli, fault_server):
    (main_cli.folder / "in.csv").write_text("id,body\n1,one\n")
    (main_cli.folder / "job.toml").write_text(JOB.format(url=fault_server.url))
    page = main_cli.folder / "page.html"
    page.write_text("<title>My page</title>")
    report = ("--set", "output.report=page.html")

    assert main_cli("run", "job.toml", *report).code == 2
    assert page.read_text() == "<title>My page</title>"
    assert not fault_server.ledger.rows()
    page.unlink()
    assert main_cli("run", "job.toml", *report).code == 0
    assert main_cli("run", "job.toml", *report, "--fresh").code == 0


READ_ONLY = 'mount -t tmpfs -o ro none ro && exec "$0" -m batch_runner {} job.toml -o ro/{}'


@pytest.mark.parametrize("output", ["out.csv", "sub/folder/out.csv"])
def test_check_refuses_a_read_only_place_as_run_does(run_cli, output):
    folder = run_cli.folder
    (folder / "in.csv").write_text("id,body\n1,one\n")
    (folder / "job.toml").write_text(JOB.format(url="http://127.0.0.1:9"))
    (folder / "ro").mkdir()
    inside = ["unshare", "-Urm", "sh", "-c"]
    probe = [*inside, "mount -t tmpfs -o ro none ro"]
    if shutil.which("unshare") is None or subprocess.run(probe, cwd=folder, check=False).returncode:
        pytest.skip("needs unshare(1) and the right to mount a tmpfs in a user namespace")
    told = {}
    for command in ("check", "run"):
        ran = subprocess.run(
            [*inside, READ_ONLY.format(command, output), sys.executable],
            cwd=folder, env=run_cli.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ran.returncode == 2, ran.stdout + ran.stderr
        told[command] = ran.stdout + ran.stderr
    for text in told.values():
        assert "nothing can be written to 'ro'" in text
        assert "choose another output.path" in text


def test_a_link_that_leads_nowhere_is_no_place_for_an_output(main_cli):
    (main_cli.folder / "in.csv").write_text("id,body\n1,one\n")
    (main_cli.folder / "job.toml").write_text(JOB.format(url="http://127.0.0.1:9"))
    (main_cli.folder / "gone").symlink_to(main_cli.folder / "nowhere")
    for command in ("check", "run"):
        told = main_cli(command, "job.toml", "-o", "gone/out.csv")
        assert told.code == 2
        assert "choose another output.path" in told.err
        assert "put it back" not in told.err
