"""The fault server's ledger beside an output: each row finds its calls."""

import csv
import json

from batch_runner.faultserver import running
from batch_runner.manual import FAULTS


def test_each_row_of_an_output_finds_its_calls_in_the_ledger(main_cli):
    folder = main_cli.folder
    (folder / "in.csv").write_text("body\none\ntwo [[fault:500x1-then-ok]]\nthree\n")
    with running(ledger_path=folder / "ledger.jsonl") as server:
        ran = main_cli(
            "run", "-i", "in.csv", "-o", "out.csv", "-m", "m1", "-p", "{{ body }}",
            "--base-url", server.url, "--set", "output.columns=full", "--set", "retry.max_wait=10ms",
        )  # fmt: skip
        server.settle()
    assert ran.code == 0, ran.err
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    began = {line["response_id"]: line for line in lines if line["e"] == "B"}
    ended = {line["n"]: line for line in lines if line["e"] == "R"}
    with (folder / "out.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            call = began[row["llm_response_id"]]
            reply = ended[call["n"]]
            assert reply["billed"]
            assert reply["usage"]["output_tokens"] == int(row["llm_output_tokens"])
            calls = [line for line in began.values() if line["key"] == call["key"]]
            assert len(calls) == int(row["llm_attempts"])
    for name in {*lines[0], *lines[1]}:
        assert name in FAULTS, "the help explains what a line holds"


def test_the_ledger_has_dollars_where_the_script_of_the_help_gives_prices(tmp_path, main_cli):
    script = FAULTS.partition("all:\n")[2].partition("[[rules]]")[0]
    (tmp_path / "script.toml").write_text(script)
    (tmp_path / "in.csv").write_text("body\none\n")
    flags = ("-i", "in.csv", "-o", "out.csv", "-m", "gpt-5-mini", "-p", "{{ body }}")
    told = {}
    for name, given in (("priced", tmp_path / "script.toml"), ("free", None)):
        ledger = tmp_path / f"{name}.jsonl"
        with running(ledger_path=ledger, script=given) as server:
            assert main_cli("run", *flags, "--fresh", "--base-url", server.url).code == 0
            server.settle()
        told[name] = json.loads(ledger.read_text().splitlines()[-1])["dollars"]
    cost = json.loads((tmp_path / "out.csv.meta.json").read_text())["this_run"]["cost_usd"]
    assert (float(told["priced"]), told["free"]) == (cost, None)
