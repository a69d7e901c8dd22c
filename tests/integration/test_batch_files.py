"""OpenAI batch files through the command line: run live, resumed, converted, counted, reparsed."""

import csv
import gzip
import json

import pytest
from openai.types.responses import Response

from batch_runner import columns


AS_BATCH = ("--set", "input.format=openai-batch")


def request(custom_id, text="x", *, model="m1", **line):
    body = {"model": model, "input": text, **line.pop("body", {})}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/responses", "body": body, **line}


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_csv(path):
    with path.open(newline="") as file:
        return [*csv.DictReader(file)]


@pytest.fixture
def run(main_cli, fault_server):
    def run(name="in.jsonl", output="out.jsonl", *more):
        place = ["-i", name, "-o", output, "--base-url", fault_server.url]
        return main_cli("run", *place, *AS_BATCH, *more)

    run.folder = main_cli.folder
    return run


def calls(server):
    server.settle()
    return len(server.ledger.rows())


def test_a_batch_file_is_run_live_and_comes_back_as_the_hosted_api_gives_it(run, fault_server):
    lines = [
        request("b", "one", body={"instructions": "Be brief.", "stream": True}),
        request("c", "two", model="fault:400"),
        request("a", "three"),
    ]
    write_lines(run.folder / "in.jsonl", lines)

    assert run().code == 3

    good = read_lines(run.folder / "out.jsonl")
    assert [line["custom_id"] for line in good] == ["b", "a"]
    for line in good:
        assert [*line] == ["id", "custom_id", "response", "error"]
        assert line["error"] is None
        assert line["response"]["status_code"] == 200
        assert line["response"]["request_id"].startswith("req_")
        reply = Response.model_validate(line["response"]["body"])
        assert reply.output_text.startswith("summary of")
    assert good[0]["response"]["body"]["instructions"] == "Be brief."
    [failed] = read_lines(run.folder / "out.errors.jsonl")
    assert (failed["custom_id"], failed["error"]) == ("c", None)
    assert failed["response"]["status_code"] == 400
    assert failed["response"]["body"]["error"]["message"]


def test_a_finished_line_is_not_paid_again_and_the_failures_go_when_they_are_mended(
    run, fault_server
):
    lines = [request("a", "one"), request("b", "two", model="fault:400")]
    write_lines(run.folder / "in.jsonl", lines)
    assert run().code == 3
    assert (run.folder / "out.errors.jsonl").exists()
    before = calls(fault_server)

    lines[1]["body"]["model"] = "m1"
    write_lines(run.folder / "in.jsonl", lines)
    assert run().code == 0

    assert calls(fault_server) == before + 1
    assert len(read_lines(run.folder / "out.jsonl")) == 2
    assert not (run.folder / "out.errors.jsonl").exists()


def test_a_failure_of_a_run_is_counted_once_though_two_files_tell_of_it(run, main_cli):
    write_lines(run.folder / "in.jsonl", [request("a"), request("b", model="fault:400")])
    assert run().code == 3
    for command in (("report", "out.jsonl"), ("costs", "out.errors.jsonl", "out.jsonl")):
        told = json.loads(main_cli(*command, "--json").out)
        assert told.get("costs", told)["total"]["results"] == 2, command


def test_a_file_of_failures_that_was_lost_is_written_again(run, fault_server):
    write_lines(run.folder / "in.jsonl", [request("a"), request("b", model="fault:400")])
    assert run().code == 3
    before = calls(fault_server)
    (run.folder / "out.errors.jsonl").unlink()
    assert run().code == 3
    assert (run.folder / "out.errors.jsonl").exists()
    assert calls(fault_server) == before


def test_every_line_is_looked_at_before_the_first_call(run, fault_server):
    lines = [
        request("a"),
        request("b", method="GET"),
        request("c", url="/v1/chat/completions"),
        {**request("d"), "body": "text"},
        request(""),
    ]
    write_lines(run.folder / "in.jsonl", lines)
    ran = run()
    assert ran.code == 2
    for number, word in ((2, "method"), (3, "url"), (4, "body"), (5, "custom_id")):
        assert f"in.jsonl:{number}: {word}" in ran.err
    assert calls(fault_server) == 0


def test_a_custom_id_names_one_line(run, fault_server):
    write_lines(run.folder / "in.jsonl", [request("a", "one"), request("b"), request("a", "two")])
    ran = run()
    assert (ran.code, calls(fault_server)) == (2, 0)
    assert "in.jsonl:3: 'a' again, first at in.jsonl:1" in ran.err
    assert "hint: give each line a custom_id of its own" in ran.err
    assert "column" not in ran.err


def test_request_values_fill_the_gaps_of_a_line_and_never_replace_what_it_says(run, fault_server):
    own = request("a", "one", body={"max_output_tokens": 99})
    bare = request("b", "two")
    del bare["body"]["model"]
    write_lines(run.folder / "in.jsonl", [own, bare])
    more = ("-m", "filler", "--set", "request.max_output_tokens=50")
    assert run("in.jsonl", "out.jsonl", *more).code == 0
    fault_server.settle()
    sent = {b["input"]: b for b in (json.loads(request.body) for request in fault_server.seen)}
    assert (sent["one"]["model"], sent["one"]["max_output_tokens"]) == ("m1", 99)
    assert (sent["two"]["model"], sent["two"]["max_output_tokens"]) == ("filler", 50)


def test_a_line_without_a_model_fails_alone_where_the_job_names_none(run, fault_server):
    bare = request("b", "two")
    del bare["body"]["model"]
    write_lines(run.folder / "in.jsonl", [request("a", "one"), bare])
    assert run().code == 3
    [failed] = read_lines(run.folder / "out.errors.jsonl")
    assert (failed["custom_id"], failed["response"]) == ("b", None)
    assert failed["error"]["code"] == "bad_input"
    assert "model" in failed["error"]["message"]


def test_lines_not_asked_yet_stand_among_the_failures(run):
    write_lines(run.folder / "in.jsonl", [request("a", "one"), request("b", "two")])
    assert run("in.jsonl", "out.jsonl", "-n", "1").code == 0
    [pending] = read_lines(run.folder / "out.errors.jsonl")
    assert (pending["custom_id"], pending["error"]["code"]) == ("b", "pending")


def test_a_batch_may_be_compressed_or_become_a_table(run):
    write_lines(run.folder / "in.jsonl", [request("a", "one"), request("b", model="fault:400")])
    assert run("in.jsonl", "out.jsonl.gz").code == 3
    with gzip.open(run.folder / "out.errors.jsonl.gz", "rt") as file:
        assert json.loads(file.read())["custom_id"] == "b"
    assert run("in.jsonl", "out.csv").code == 3
    rows = read_csv(run.folder / "out.csv")
    assert [(row["custom_id"], row["llm_status"]) for row in rows] == [("a", "ok"), ("b", "failed")]
    assert not (run.folder / "out.errors.csv").exists()


def test_the_file_of_failures_is_not_written_over_the_input(run, fault_server):
    write_lines(run.folder / "out.errors.jsonl", [request("a")])
    ran = run("out.errors.jsonl", "out.jsonl")
    assert (ran.code, calls(fault_server)) == (2, 0)
    assert "is also the input" in ran.err


# convert, report, costs


JOB = """
[input]
path = "in.csv"
key = "id"
[prompt]
input = "Sum: {{{{ body }}}}"
[request]
model = "m1"
[endpoint]
base_url = "{url}"
[output]
path = "direct.csv"
columns = ["output", "status", "error_code"]
"""


@pytest.fixture
def job(main_cli, fault_server):
    (main_cli.folder / "in.csv").write_text("id,body\nx,one\ny,two\nz,\n")
    (main_cli.folder / "job.toml").write_text(JOB.format(url=fault_server.url))
    return "job.toml"


def test_a_job_becomes_a_batch_file_with_the_requests_that_run_would_send(
    main_cli, job, run, fault_server
):
    converted = main_cli("convert", job, "-o", "batch.jsonl")
    assert converted.code == 0
    assert "1 row is left out, without a request" in converted.err
    lines = read_lines(main_cli.folder / "batch.jsonl")
    assert [line["custom_id"] for line in lines] == ["x", "y"]
    assert calls(fault_server) == 0

    assert main_cli("run", job).code == 3
    fault_server.settle()
    sent = [json.loads(request.body) for request in fault_server.seen]
    bodies = [line["body"] for line in lines]
    assert sorted((b | {"stream": False} for b in bodies), key=str) == sorted(sent, key=str)


def test_what_a_batch_gave_joins_the_rows_of_its_job(main_cli, job, run):
    assert main_cli("convert", job, "-o", "batch.jsonl").code == 0
    assert run("batch.jsonl", "answers.jsonl").code == 0
    assert main_cli("convert", job, "answers.jsonl", "-o", "joined.csv").code == 0
    assert main_cli("run", job).code == 3
    joined, direct = (main_cli.folder / name for name in ("joined.csv", "direct.csv"))
    assert joined.read_bytes() == direct.read_bytes()


def test_answers_to_rows_that_the_job_does_not_have_are_refused(main_cli, job, run):
    write_lines(main_cli.folder / "in.jsonl", [request("somebody else's")])
    assert run("in.jsonl", "answers.jsonl").code == 0
    ran = main_cli("convert", job, "answers.jsonl", "-o", "joined.csv")
    assert ran.code == 2
    assert "somebody else's" in ran.err
    assert not (main_cli.folder / "joined.csv").exists()


def hosted(custom_id, *, http=200, **body):
    reply = {
        "id": "resp_1", "object": "response", "created_at": 1795353636, "status": "completed",
        "model": "gpt-5-mini", "service_tier": "default",
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "hi"}]}],
        "usage": {"input_tokens": 1_000_000, "output_tokens": 0, "total_tokens": 1_000_000},
    }  # fmt: skip
    response = {"status_code": http, "request_id": "req_1", "body": reply | body}
    return {"id": "batch_req_6", "custom_id": custom_id, "response": response, "error": None}


@pytest.fixture
def hosted_files(main_cli):
    """What the hosted API gives: answers in any order, and a second file that is easily forgotten."""
    cut = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    write_lines(main_cli.folder / "o.jsonl", [hosted("b"), hosted("a", **cut)])
    refused = hosted("c", http=400)
    refused["response"]["body"] = {"error": {"message": "no", "code": "invalid_prompt"}}
    expired = {"id": "batch_req_8", "custom_id": "d", "response": None}
    expired["error"] = {"code": "batch_expired", "message": "too late"}
    write_lines(main_cli.folder / "o.errors.jsonl", [refused, expired])
    return "o.jsonl", "o.errors.jsonl"


def test_the_output_of_a_hosted_batch_becomes_a_table(main_cli, hosted_files):
    assert main_cli("convert", *hosted_files, "-o", "table.csv").code == 0
    rows = {row["custom_id"]: row for row in read_csv(main_cli.folder / "table.csv")}
    endings = {name: (row["llm_status"], row["llm_error_code"]) for name, row in rows.items()}
    assert endings == {
        "a": ("incomplete", "max_output_tokens"),
        "b": ("ok", ""),
        "c": ("failed", "bad_request"),
        "d": ("failed", "other:batch_expired"),
    }
    assert (rows["b"]["llm_output"], rows["b"]["llm_input_tokens"]) == ("hi", "1000000")
    assert main_cli("convert", *hosted_files, "-o", "table.parquet").code == 0


def test_a_hosted_batch_is_priced_as_one_and_a_live_one_is_not(main_cli):
    def listed(name, **line):
        write_lines(main_cli.folder / name, [hosted("a", model="claude-haiku-4-5") | line])
        return json.loads(main_cli("costs", name, "--json").out)["total"]["cost_usd"]

    live, batch = listed("live.jsonl", id="batch_req_live_1"), listed("batch.jsonl")
    assert batch * 2 == pytest.approx(live)
    assert batch > 0


def test_what_a_batch_did_not_call_is_not_counted_as_a_call(main_cli, hosted_files):
    total = json.loads(main_cli("costs", *hosted_files, "--json").out)["total"]
    assert (total["results"], total["calls_sent"], total["calls_answered"]) == (4, 3, 2)


def test_the_report_of_a_batch_reads_the_failures_beside_it(main_cli, hosted_files):
    ran = main_cli("report", "o.jsonl")
    assert ran.code == 0
    assert "4 requests: 2 failed, 1 incomplete, 1 ok" in ran.out
    assert "1 other:batch_expired   such as d: too late" in ran.out
    assert json.loads(main_cli("report", "o.jsonl", "--json").out)["rows"] == 4
    assert main_cli("report", "o.jsonl", "-o", "r.html").code == 2


@pytest.mark.parametrize(
    "words", [(), ("job.toml",), ("o.jsonl",), ("a.toml", "b.toml", "-o", "x.csv")]
)
def test_convert_says_what_it_takes(main_cli, words):
    ran = main_cli("convert", *words)
    assert ran.code == 2
    assert "convert takes one job" in ran.err


def test_convert_harms_no_file_that_it_reads(main_cli, job, hosted_files):
    before = (main_cli.folder / "o.jsonl").read_bytes()
    for sources in ([*hosted_files], [job, *hosted_files]):
        ran = main_cli("convert", *sources, "-o", "o.jsonl")
        assert (ran.code, "is also what is read" in ran.err) == (2, True)
    assert (main_cli.folder / "o.jsonl").read_bytes() == before
    assert main_cli("convert", job, "-o", "batch.csv").code == 2


# reparse


SCHEMA = {
    "type": "object", "properties": {"category": {"type": "string"}},
    "required": ["category"], "additionalProperties": False,
}  # fmt: skip


@pytest.fixture
def answered(main_cli, fault_server):
    """A job with a schema whose two rows have been answered and paid."""
    folder = main_cli.folder
    (folder / "in.csv").write_text("id,body\nx,one\ny,two\n")
    (folder / "s.json").write_text(json.dumps(SCHEMA))
    text = JOB.format(url=fault_server.url).replace('key = "id"\n', "")
    json_part = '[json]\nschema_file = "s.json"\ncolumns = { "/category" = "category" }\n'
    (folder / "job.toml").write_text(text + json_part)
    assert main_cli("run", "job.toml").code == 0
    assert calls(fault_server) == 2
    return folder


def change_schema(folder, **category):
    properties = {"category": category}
    (folder / "s.json").write_text(json.dumps(SCHEMA | {"properties": properties}))


def test_columns_are_derived_again_under_another_schema_without_paying(
    main_cli, answered, fault_server
):
    change_schema(answered, type="string", maxLength=999)
    job = (answered / "job.toml").read_text()
    (answered / "job.toml").write_text(job.replace('= "category" }', '= "kind" }'))
    assert main_cli("reparse", "job.toml").code == 0
    rows = read_csv(answered / "direct.csv")
    assert [row["llm_status"] for row in rows] == ["ok", "ok"]
    assert all(row["kind"].startswith("summary of Sum:") for row in rows)
    assert calls(fault_server) == 2


def test_answers_are_judged_by_the_schema_of_now_in_both_directions(
    main_cli, answered, fault_server
):
    change_schema(answered, type="integer")
    assert main_cli("reparse", "job.toml").code == 0
    assert {row["llm_error_code"] for row in read_csv(answered / "direct.csv")} == {"json_invalid"}
    change_schema(answered, type="string", minLength=1)
    assert main_cli("reparse", "job.toml").code == 0
    assert {row["llm_status"] for row in read_csv(answered / "direct.csv")} == {"ok"}
    assert calls(fault_server) == 2


def test_positions_are_not_trusted_once_the_input_has_changed(main_cli, answered):
    (answered / "in.csv").write_text("id,body\nnew,zero\nx,one\ny,two\n")
    change_schema(answered, type="string", maxLength=999)
    before = (answered / "direct.csv").read_bytes()
    ran = main_cli("reparse", "job.toml")
    assert ran.code == 2
    assert "input.key" in ran.err
    assert (answered / "direct.csv").read_bytes() == before


def forget_plan(folder):
    """As after an update, or with a damaged journal: only the journal tells what there was."""
    (folder / "direct.csv.run" / "shortcut").unlink()


NEW_ROW_ABOVE = "id,body\nnew,zero\nx,one\ny,two\n"


def test_positions_of_an_input_before_the_last_are_not_trusted_either(main_cli, answered):
    (answered / "in.csv").write_text(NEW_ROW_ABOVE)
    assert main_cli("run", "job.toml").code == 0, "the new row alone is sent, as the first"
    forget_plan(answered)
    change_schema(answered, type="string", maxLength=999)
    before = (answered / "direct.csv").read_bytes()
    ran = main_cli("reparse", "job.toml")
    assert ran.code == 2, "x stands where y was answered"
    assert "no row can be told from another" in ran.err
    assert (answered / "direct.csv").read_bytes() == before


def test_keeping_answers_trusts_no_positions_of_an_input_before_the_last(
    main_cli, answered, fault_server
):
    (answered / "in.csv").write_text(NEW_ROW_ABOVE)
    assert main_cli("run", "job.toml").code == 0
    forget_plan(answered)
    change_schema(answered, type="string", maxLength=999)
    before = (answered / "direct.csv").read_bytes()
    ran = main_cli("run", "job.toml", "--on-change", "keep")
    assert ran.code == 2, "x stands where y was answered"
    assert "without input.key no row can be told from another" in ran.err
    assert (answered / "direct.csv").read_bytes() == before
    assert calls(fault_server) == 3


@pytest.mark.parametrize("content", [NEW_ROW_ABOVE, "id,body\ny,two\nx,one\n", "id,body\ny,two\n"])
def test_keeping_answers_trusts_no_positions_once_rows_have_moved(
    main_cli, answered, fault_server, content
):
    """Prompt and input change in one night: no run has seen the rows where they stand now."""
    before = (answered / "direct.csv").read_bytes()
    (answered / "in.csv").write_text(content)
    change_schema(answered, type="string", maxLength=999)
    ran = main_cli("run", "job.toml", "--on-change", "keep")
    assert ran.code == 2, "y stands where x was answered, or x where y was"
    assert "without input.key no row can be told from another" in ran.err
    assert (answered / "direct.csv").read_bytes() == before
    assert calls(fault_server) == 2


def test_the_plan_of_the_last_run_tells_rows_without_a_key_apart(main_cli, answered, fault_server):
    (answered / "in.csv").write_text(NEW_ROW_ABOVE)
    assert main_cli("run", "job.toml").code == 0
    change_schema(answered, type="string", maxLength=999)
    for _ in range(2):
        assert main_cli("reparse", "job.toml").code == 0
        rows = read_csv(answered / "direct.csv")
        assert [row["id"] for row in rows] == ["new", "x", "y"]
        for row in rows:
            assert f"Sum: {row['body']}" in row["category"]
    assert calls(fault_server) == 3


@pytest.fixture
def gathered(monkeypatch):
    """How many rows were made together, each time, where 100 bytes are much."""
    monkeypatch.setattr("batch_runner.tables.chunks.CHUNK_BYTES", 100)
    together = []

    class Rows(columns._Rows):
        def __init__(self, endings, folder):
            together.append(len(endings))
            super().__init__(endings, folder)

    monkeypatch.setattr(columns, "_Rows", Rows)
    return together


def test_rows_with_large_replies_are_not_gathered(main_cli, answered, gathered):
    """Images come in replies: 64 of them at a time would take a gigabyte."""
    assert main_cli("export", "job.toml", "-o", "other.jsonl").code == 0
    assert gathered == [1, 1]


def test_nor_are_those_of_a_batch(run, main_cli, gathered):
    write_lines(run.folder / "in.jsonl", [request("a"), request("b")])
    assert run().code == 0
    assert main_cli("convert", "out.jsonl", "-o", "t.csv").code == 0
    assert gathered == [1, 1]
