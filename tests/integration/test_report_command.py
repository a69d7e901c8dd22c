"""`batch-runner report` as people call it, during, after and without a run."""

import csv
import json
import shlex

import pytest

from batch_runner import load_job
from batch_runner.findings import gather
from batch_runner.opening import open_work


FLAGS = ("-i", "in.csv", "-m", "m1", "-p", "Sum up: {{ body }}")


@pytest.fixture
def folder(tmp_path, fault_server):
    rows = [f"row {n}" for n in range(8)] + ["x [[fault:400]]", "y [[fault:script-tag]]"]
    with (tmp_path / "in.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "body"], *enumerate(rows)])
    (tmp_path / "job.toml").write_text(
        '[input]\npath = "in.csv"\nkey = "id"\n[prompt]\ninput = "Sum up: {{ body }}"\n'
        f'[request]\nmodel = "m1"\n[endpoint]\nbase_url = "{fault_server.url}"\n'
        '[output]\npath = "out.csv"\n[prices.m1]\ninput = 1\noutput = 2\n'
    )
    return tmp_path


def test_the_report_can_be_written_before_after_and_again(folder, main_cli):
    before = main_cli("report", "job.toml", "-o", "report.html")
    assert before.code == 0
    assert "Nothing has been sent yet" in (folder / "report.html").read_text()
    assert not (folder / "out.csv.run").exists(), "a report leaves no trace beside itself"

    assert main_cli("run", "job.toml").code == 3
    output = (folder / "out.csv").read_bytes()
    (folder / "out.csv.meta.json").unlink()  # the journal alone must do
    assert main_cli("report", "job.toml", "-o", "report.html").code == 0
    page = (folder / "report.html").read_text()
    assert "9 of 10 rows are answered" in page.replace("\N{NO-BREAK SPACE}", " ")
    assert "<script>" not in page
    assert (folder / "out.csv").read_bytes() == output, "-o is the report, not the output"
    assert not (folder / "report.html.run").exists()


def test_answers_to_another_prompt_are_not_told_as_rows_to_send_without_a_word(folder, main_cli):
    assert main_cli("run", "job.toml").code == 3
    job = folder / "job.toml"
    job.write_text(job.read_text().replace("Sum up", "Put briefly"))
    told = main_cli("report", "job.toml").out
    assert "9 of 9 finished rows would be sent and paid again" in told
    assert "--on-change keep keeps their old answers" in told


def test_rows_that_end_while_a_report_is_made_are_left_to_the_next_one(folder, main_cli):
    assert main_cli("run", "job.toml", "-n", "2").code == 0
    with open_work(load_job(folder / "job.toml")) as work:
        assert main_cli("run", "job.toml").code == 3
        findings = gather(work)
    assert findings.left_over == 0
    assert sum(course.rows for course in findings.courses) == 2


def test_the_page_is_named_also_after_a_run_that_sent_nothing(folder, main_cli):
    options = ("--set", "output.report=page.html", "--fail-on", "none")
    for _ in range(2):
        assert main_cli("run", "job.toml", *options).code == 0
        assert "output   out.csv   report page.html" in main_cli("report", "job.toml").out


def test_the_page_of_a_job_is_never_older_than_its_output(folder, main_cli, monkeypatch):
    """The run that had the answers died before it could show them; the next has nothing to send."""
    page = folder / "page.html"
    options = ("--set", f"output.report={page}", "--fail-on", "none")
    assert main_cli("run", "job.toml", *options).code == 0
    with (folder / "in.csv").open("a") as file:
        file.write("11,one more\n")

    def die(*_arguments, **_options):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("batch_runner.conclusion.export", die)
        assert main_cli("run", "job.toml", *options).code != 0
    ran = main_cli("run", "job.toml", *options)
    assert "11 rows, 0 to send" in ran.err
    assert "10 of 11 rows are answered" in page.read_text().replace("\N{NO-BREAK SPACE}", " ")


def test_the_terminal_shows_the_summary_and_for_each_error_what_to_type(folder, main_cli):
    main_cli("run", "job.toml")
    told = main_cli("report", "job.toml")
    assert told.code == 0
    assert "10 rows: 9 ok, 1 failed" in told.out
    assert "latency  p50" in told.out
    assert "such as  8: HTTP 400" in told.out
    assert "batch-runner check job.toml --probe" in told.out
    assert "HTTP 400" not in main_cli("report", "job.toml", "--redact").out


def test_a_report_goes_to_a_page_and_to_no_table(folder, main_cli):
    main_cli("run", "job.toml")
    for name in ("other.csv", "other", "page.txt"):
        refused = main_cli("report", "job.toml", "-o", name)
        assert refused.code == 2
        assert "the report is one HTML page" in refused.err
        assert ".html or .htm" in refused.err
        assert not (folder / name).exists()
    assert main_cli("report", "job.toml", "-o", "page.HTM").code == 0


def test_a_row_that_was_refused_costs_nothing_and_is_said_so(folder, main_cli):
    (folder / "in.csv").write_text("id,body\n1,x [[fault:400]]\n")
    assert (
        "cost     nothing: no call got so far as to cost anything"
        in main_cli("run", "job.toml").err
    )


def test_json_tells_the_same_to_programs(folder, main_cli):
    main_cli("run", "job.toml")
    told = json.loads(main_cli("report", "job.toml", "--json").out)
    assert told["statuses"]["ok"] == 9
    assert told["latency_seconds"]["p50"] >= 0


def test_redact_is_for_the_file_too(folder, main_cli):
    main_cli("run", "job.toml")
    main_cli("report", "job.toml", "-o", "report.html", "--redact")
    page = (folder / "report.html").read_text()
    assert "in.csv:4" in page, "rows are named by their place"
    assert "Sum up" not in page


def test_a_job_made_of_flags_is_reported_and_exported_with_the_same_flags(
    folder, main_cli, fault_server
):
    same = (*FLAGS, "--base-url", fault_server.url, "-o", "flags.csv")
    ran = main_cli("run", *same)
    assert ran.code == 3
    assert "batch-runner retry flags.csv" in ran.err
    assert "10 rows: 9 ok" in main_cli("report", *same).out
    (folder / "flags.csv").unlink()
    assert main_cli("export", *same).code == 0
    assert (folder / "flags.csv").exists()
    as_file = ("--set", "output.path=flags.csv", "-o", "flags.html")
    assert main_cli("report", *same[:-2], *as_file).code == 0
    assert "9 of 10" in (folder / "flags.html").read_text()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_job_made_of_flags_is_reported_by_its_output_or_run_folder(
    folder, main_cli, fault_server, suffix
):
    output = f"flags{suffix}"
    assert main_cli("run", *FLAGS, "--base-url", fault_server.url, "-o", output).code == 3
    for place in ((output,), (f"{output}.run",), ("-o", output)):
        told = main_cli("report", *place)
        assert "10 rows: 9 ok, 1 failed" in told.out, (place, told.err)
        assert f"batch-runner retry {output}" in told.out
        hint = next(line for line in told.out.splitlines() if "batch-runner retry" in line)
        again = shlex.split(hint.partition("batch-runner ")[2])
        assert "1 to send, 9 reused" in main_cli(*again, "--dry-run").err, "as typed"
    assert main_cli("report", output, "-o", "page.html").code == 0
    assert "9 of 10" in (folder / "page.html").read_text()
    before = (folder / output).read_bytes()
    (folder / output).unlink()
    assert main_cli("export", f"{output}.run").code == 0
    assert (folder / output).read_bytes() == before
    assert main_cli("export", output, "--partial", "-o", "some.csv").code == 0


def test_what_is_kept_of_a_job_made_of_flags_holds_no_secret(folder, main_cli, fault_server):
    secret = "Xy7Qp2Lm9Rt4Vb8Nc3Zk"
    options = ("--set", f'endpoint.headers={{"X-Gate" = "{secret}"}}', "-o", "flags.csv")
    assert main_cli("run", *FLAGS, "--base-url", fault_server.url, *options).code == 3
    kept = (folder / "flags.csv.run" / "manifest.json").read_text()
    assert "Sum up" in kept
    assert secret not in kept
    assert "9 ok" in main_cli("report", "flags.csv").out

    prompt = "Sum up, api_key=abcdefghij: {{ body }}"
    same = ("-i", "in.csv", "-m", "m1", "-p", prompt, "-o", "masked.csv")
    main_cli("run", *same, "--base-url", fault_server.url)
    assert "abcdefghij" not in (folder / "masked.csv.run" / "manifest.json").read_text()
    told = main_cli("report", "masked.csv")
    assert told.code == 2
    assert "name the job that wrote it, with its flags" in told.err
    assert "name the job that wrote it" in main_cli("report", "masked.csv.run").err


@pytest.mark.parametrize(
    "hidden",
    [
        ("-p", "Use this:\nsk-abcdefghij1234567890 {{ body }}"),
        ("-p", 'Say api_key="abcdefghij1234567890" {{ body }}'),
        ("--set", 'request.tools=[{type="mcp", authorization="abcdefghij1234567890"}]'),
        ("--set", '"endpoint".headers={"X-Gate" = "abcdefghij1234567890"}'),
        ("--set", 'endpoint .headers={"X-Gate" = "abcdefghij1234567890"}'),
    ],
)
def test_no_spelling_of_a_secret_is_kept(folder, main_cli, fault_server, hidden):
    main_cli(
        "run", "-i", "in.csv", "-m", "m1", "-p", "{{ body }}", "-o", "o.csv",
        "--base-url", fault_server.url, *hidden,
    )  # fmt: skip
    assert "abcdefghij" not in (folder / "o.csv.run" / "manifest.json").read_text()


def test_rows_of_a_killed_run_are_in_the_report(folder, main_cli):
    assert main_cli("run", "job.toml", "-n", "4").code in (0, 3)
    page_of = folder / "report.html"
    main_cli("report", "job.toml", "-o", str(page_of))
    assert "6\N{NO-BREAK SPACE}pending" in page_of.read_text()


def test_the_page_of_a_run_that_sends_nothing_tells_of_the_rows_there_are_now(folder, main_cli):
    run = ("run", "job.toml", "-q", "--set", "output.report=page.html")
    page, rows = folder / "page.html", (folder / "in.csv").read_text().splitlines(keepends=True)
    nights = [
        (rows[:9], "All 8 rows are answered"),
        (rows[:6], "All 5 rows are answered"),
        ([*rows[:4], "3,\n", "4,\n"], "3 of 5 rows are answered"),
        (rows[:9], "All 8 rows are answered"),
    ]
    for now, said in nights:
        (folder / "in.csv").write_text("".join(now))
        main_cli(*run)
        assert said in page.read_text()
    written = page.stat().st_mtime_ns
    main_cli(*run)
    assert page.stat().st_mtime_ns == written, "what says the same is left alone"
