"""What `run` refuses at once, `check` says; and answers of another model are told as such."""

import contextlib
import html
import json
import re
from decimal import Decimal

import pytest

from batch_runner.jobfile import load_job
from batch_runner.local import MODEL
from batch_runner.run_place import place_of_job
from batch_runner.spending import budget_in_words
from batch_runner.status import read_status


@pytest.fixture
def job(tmp_path, fault_server):
    (tmp_path / "in.csv").write_text("body\none\ntwo\nthree\n")
    (tmp_path / "job.toml").write_text(
        'input.path = "in.csv"\noutput.path = "out.csv"\nrequest.model = "gpt-5-mini"\n'
        'prompt.input = "Sum: {{ body }}"\nrequest.max_output_tokens = 50\n'
        f'endpoint.base_url = "{fault_server.url}"\n'
    )
    return "job.toml"


@pytest.fixture
def local(monkeypatch, fault_server):
    """`--local` reaches the fault server, which answers for every model."""

    class Endpoint(contextlib.nullcontext):
        url, model, slots = fault_server.url, MODEL, 4

        def __init__(self, **_):
            super().__init__(self)

    monkeypatch.setattr("batch_runner.local.LocalEndpoint", Endpoint)


UNPRICED = ("--max-cost", "1", "-m", "a-stranger")
CHANGED = ("--set", "prompt.input=Other: {{ body }}")


@pytest.mark.parametrize("flags", [UNPRICED, CHANGED], ids=["no price", "changed prompt"])
def test_check_refuses_what_run_refuses_in_the_same_words(job, main_cli, flags):
    assert main_cli("run", job).code == 0
    if flags is UNPRICED:
        flags = (*flags, "-o", "other.csv")
    ran, checked = main_cli("run", job, *flags), main_cli("check", job, *flags)
    assert (ran.code, checked.code) == (2, 2)
    said = [line[9:] for line in ran.err.splitlines() if "job.toml:" in line or "hint:" in line]
    assert len(said) == 2
    assert [line[9:] for line in checked.err.splitlines()] == said
    reason = said[0].removeprefix("error: ")
    assert f"but a run would refuse to start: {reason}" in checked.out.splitlines()[0]
    told = json.loads(main_cli("check", job, *flags, "--json").out)
    assert told["refusal"] in said[0]


REFUSED = {
    "no price": UNPRICED,
    "no column": ("-p", "{{ nobody }}"),
    "no random draws": ("--dedupe", "--set", "request.temperature=1"),
    "column there": ("--set", "output.prefix=", "--set", 'json.columns={"/a" = "body"}'),
}


@pytest.mark.parametrize("flags", REFUSED.values(), ids=REFUSED)
def test_a_refused_run_leaves_nothing_behind(job, main_cli, tmp_path, flags):
    before = sorted(tmp_path.iterdir())
    assert main_cli("run", job, *flags, "-o", "new/deep/out.csv").code == 2
    assert sorted(tmp_path.iterdir()) == before
    (tmp_path / "new").mkdir()
    assert main_cli("run", job, *flags, "-o", "new/out.csv").code == 2
    assert [*(tmp_path / "new").iterdir()] == []


def test_a_run_whose_folder_cannot_be_made_leaves_nothing_behind(job, main_cli, tmp_path):
    before = sorted(tmp_path.iterdir())
    name_too_long = f"{'x' * 250}.csv"
    assert main_cli("run", job, "-o", f"new/deep/{name_too_long}").code == 2
    assert sorted(tmp_path.iterdir()) == before


def test_a_run_refused_later_takes_nothing_away(job, main_cli, tmp_path):
    assert main_cli("run", job).code == 0
    before = sorted((tmp_path / "out.csv.run").rglob("*"))
    assert main_cli("run", job, *CHANGED).code == 2
    assert sorted((tmp_path / "out.csv.run").rglob("*")) == before


def test_a_probe_is_not_sent_where_a_run_would_be_refused(job, main_cli, fault_server):
    assert main_cli("check", job, "--probe", *UNPRICED).code == 2
    fault_server.settle()
    assert fault_server.ledger.rows() == []


def test_check_lets_pass_what_run_lets_pass(job, main_cli):
    assert main_cli("check", job, "--max-cost", "1").code == 0
    assert main_cli("run", job, "--max-cost", "1").code == 0
    assert main_cli("check", job, "--max-cost", "1").code == 0
    # Nothing is left to send, so nothing needs a price.
    assert json.loads(main_cli("check", job, "--json").out)["refusal"] is None


def test_kept_answers_are_no_reason_to_refuse(job, main_cli):
    main_cli("run", job)
    assert main_cli("run", job, *CHANGED, "--on-change", "keep").code == 0
    assert main_cli("check", job, *CHANGED).code == 0


def test_after_a_local_run_every_command_says_which_model_was_asked(job, main_cli, local):
    ran = main_cli("run", job, "--local")
    assert ran.err.count("answers of the small local model: status and report show them") == 1
    note = f"the answers in the journal are of {MODEL}; the job asks gpt-5-mini: add --local"
    for command in ("check", "export"):
        told = main_cli(command, job)
        assert note in told.out + told.err, command
        again = main_cli(command, job, "--local")
        assert note not in again.out + again.err, command
        assert again.code == 0


def test_what_the_local_model_answered_stays_free_where_local_is_not_said_again(
    job, main_cli, local
):
    """Also of a job whose own endpoint is elsewhere, where a model of that name would have a price."""
    hosted = "hosted.toml"
    text = (main_cli.folder / job).read_text()
    (main_cli.folder / hosted).write_text(re.sub("endpoint.base_url = .*", "", text))
    ran = main_cli("run", hosted, "--local")
    assert ran.code == 0, ran.err
    for command in ("costs", "status", "report"):
        told = main_cli(command, hosted).out
        assert "$0.00" in told, command
        assert not re.search("no (upper )?bound|no price|without a price", told), command


def test_answers_that_cost_nothing_keep_no_run_from_asking_the_model_of_the_job(
    job, main_cli, local
):
    main_cli("run", job, "--local")
    assert main_cli("run", job, "--on-change", "fail").code == 2
    assert main_cli("check", job).code == 0
    assert main_cli("run", job).code == 0
    # From here on there are answers that were paid for.
    assert main_cli("run", job, "-m", "m2").code == 2


def test_a_local_run_says_nothing_of_it_to_machines_or_when_the_job_is_local_itself(
    job, main_cli, local
):
    assert "--local" not in main_cli("run", job, "--local", "--json").err
    assert main_cli("run", job, "--local", "-q").err == ""
    assert "later commands" not in main_cli("run", job, "--local", "-m", MODEL, "-o", "b.csv").err


def test_another_model_that_is_not_the_local_one_needs_no_flag(job, main_cli):
    main_cli("run", job, "-m", "m2")
    told = main_cli("report", job, "-m", "gpt-5-mini").out
    assert "the answers in the journal are of m2; the job asks gpt-5-mini" in told
    assert "--local" not in told
    assert "the answers in the journal" not in main_cli("report", job, "-m", "m2").out


@pytest.mark.parametrize(
    "flags", [("--local",), ("-m", "m2"), CHANGED, ("--local", "-n", "2")], ids=" ".join
)
def test_status_and_report_tell_the_same_of_a_job_whose_last_run_had_flags(
    job, main_cli, local, flags
):
    assert main_cli("run", job, *flags).code == 0
    status = json.loads(main_cli("status", job, "--json").out)
    told = main_cli("report", job, "--json")
    report = json.loads(told.out)
    answered = 2 if "-n" in flags else 3
    assert report["statuses"]["ok"] == status["statuses"]["ok"] == answered
    assert report["rows"] == status["rows"] == 3
    assert report["rows"] - report["statuses"]["pending"] == status["rows_finished"]
    words = main_cli("report", job).out, main_cli("status", job).out
    for told in words:
        assert "batch-runner run job.toml --dry-run" in told, "what the job alone would send"
    asked = re.search("asked    (.*)", words[1])
    assert f"asked {asked[1]}; to see" in words[0]
    assert not any(word in told for told in words for word in ("since", "changed"))


@pytest.mark.parametrize("flags", [("--local",), ("-m", "m2"), CHANGED], ids=" ".join)
def test_status_sees_an_edit_of_the_job_behind_the_flags_of_its_last_run(
    job, main_cli, local, flags
):
    """What it shows and what is to be typed to go on are of one run, and so is what has changed."""
    main_cli("run", job, *flags, "-n", "2")
    path = main_cli.folder / job
    path.write_text(f"{path.read_text()}request.temperature = 0\n")
    told = main_cli("status", job).out
    assert "the prompt or its parameters have changed" in told
    to_look, to_go_on = re.findall("-> (batch-runner run .*)", told)[:2]
    assert to_look == f"{to_go_on} --dry-run"


def test_a_run_with_other_flags_that_began_since_is_not_held_against_those_of_before(job, main_cli):
    """As `status --watch` meets it, which reads the job once."""
    before = place_of_job(load_job(main_cli.folder / job))
    main_cli("run", job, "-m", "m2")
    assert not read_status(before).request_changed
    now = place_of_job(load_job(main_cli.folder / job))
    assert read_status(now).request_changed == "the model was m2, and is gpt-5-mini now"


def test_a_report_of_something_typed_is_of_that(job, main_cli, local):
    main_cli("run", job, "--local")
    told = main_cli("report", job, "-m", "gpt-5-mini").out
    assert "3 rows: 0 ok, 3 pending" in told
    assert f"the answers in the journal are of {MODEL}; the job asks gpt-5-mini" in told


def test_a_report_uses_the_prices_that_the_job_has_today(job, main_cli):
    dear = ("--set", "prices.gpt-5-mini.input=1000", "--set", "prices.gpt-5-mini.output=1000")
    main_cli("run", job, *dear)
    path = main_cli.folder / job
    path.write_text(f"{path.read_text()}prices.gpt-5-mini = {{input = 0, output = 0}}\n")
    assert "$0.00" in main_cli("report", job).out
    assert "$0.00" in main_cli("status", job).out


@pytest.mark.parametrize("flags", [(), ("--local",)], ids=["as last run", "local"])
def test_the_page_of_a_local_run_names_the_model_on_this_machine(job, main_cli, local, flags):
    main_cli("run", job, "--local", "--set", "output.report=own.html")
    assert main_cli("report", job, *flags, "-o", "later.html").code == 0
    for name in ("own.html", "later.html"):
        page = html.unescape((main_cli.folder / name).read_text())
        assert page.count("the model on this machine") == 3, "headline, asked, answered"
        assert "127.0.0.1" not in page


def test_the_page_of_a_job_that_moved_names_the_endpoint_that_answered(job, main_cli, fault_server):
    main_cli("run", job)
    main_cli("report", job, "--base-url", "http://127.0.0.1:1/v1", "-o", "later.html")
    page = html.unescape((main_cli.folder / "later.html").read_text())
    assert page.count(fault_server.url) == 2, "headline and setting"
    assert page.count("http://127.0.0.1:1/v1") == 1, "what is asked now"


def test_the_budget_is_said_in_one_short_line_and_names_no_bound_of_zero():
    words = budget_in_words(Decimal(10), is_bounded=True)
    assert words == (
        "max_cost $10.00 for this run: a call begins only if the most it can cost still fits"
    )
    loose = budget_in_words(Decimal(10), is_bounded=False)
    assert loose.endswith("the limit may be passed by what calls in flight cost beyond that")


def test_one_is_not_told_as_many(job, main_cli):
    (main_cli.folder / "in.csv").write_text("body\none\n")
    ran = main_cli("run", job)
    assert "1 row, 1 to send" in ran.err
    assert "job  1 row: 1 ok" in ran.err
    assert "in.csv: 1 row (columns" in main_cli("check", job).out
    assert "1 of 1 row ended" in main_cli("status", job).out
    changed = main_cli("report", job, *CHANGED).out
    assert "1 result is of a prompt or row that the job no longer has; its tokens" in changed
