"""The job that arguments describe."""

import pytest

from batch_runner.cli import build_parser
from batch_runner.commands.described import described_job
from batch_runner.pricing import PriceBook


FLAGS = ("-i", "a b.csv", "-o", "o.csv", "-m", "m", "-p", "{{ text }}")


def described(*arguments):
    with described_job(build_parser().parse_args(["status", *FLAGS, *arguments])) as job:
        return job


def test_a_job_of_flags_can_be_typed_again():
    assert described("-c", "4").invocation == (
        "--input 'a b.csv' --output o.csv --model m --prompt '{{ text }}' --concurrency 4"
    )


def test_what_is_typed_again_holds_no_secret():
    typed = described(
        "--set", "endpoint.proxy=http://user:hunter2hunter2@proxy:1",
        "--set", 'endpoint.headers.x-tenant="s3cret-s3cret"',
        "--set", '"endpoint" . headers = {x-other="s3cret-s3cret"}',
        "--set", "limits.rpm=60",
    ).invocation  # fmt: skip
    assert "hunter2" not in typed
    assert "s3cret" not in typed
    assert "--set limits.rpm=60" in typed


def test_local_answers_are_never_taken_for_those_of_the_model_in_the_job():
    local = described("--local")
    assert local.model == "smollm2-135m-instruct"
    assert local.endpoint.is_local
    price = PriceBook(local.prices, base_url=local.endpoint.base_url).resolve(local.model, at=None)
    assert price is not None
    assert price.rates[0].input == price.rates[0].output == 0


@pytest.mark.parametrize("command", ["run", "check", "report", "export", "estimate"])
def test_a_data_file_in_the_place_of_a_job_is_told_as_such(tmp_path, main_cli, command):
    (tmp_path / "in.csv").write_text("body\none\n")
    told = main_cli(command, "in.csv")
    assert told.code == 2
    assert f"'in.csv' is a data file, and {command} takes a job file (TOML)" in told.err
    assert ("the output of a run" in told.err) == (command != "run")
    assert "batch-runner init in.csv -o job.toml" in told.err
    assert ("-i in.csv" in told.err) == (command in ("run", "check", "estimate"))


def test_a_name_that_is_no_file_is_not_taken_for_data(tmp_path, main_cli):
    told = main_cli("export", "nosuch.csv")
    assert told.code == 2
    assert "'nosuch.csv': no such file" in told.err
    assert "init" not in told.err


def test_run_names_the_job_that_wrote_an_output_in_its_place(tmp_path, main_cli, fault_server):
    (tmp_path / "in.csv").write_text("body\none\n")
    (tmp_path / "a job.toml").write_text(
        'input.path = "in.csv"\noutput.path = "out.csv"\nrequest.model = "m"\n'
        f'prompt.input = "{{{{ body }}}}"\nendpoint.base_url = "{fault_server.url}"\n'
    )
    main_cli("run", "a job.toml")
    assert "batch-runner run 'a job.toml'" in main_cli("run", "out.csv").err
    (tmp_path / "sub").mkdir()
    written = main_cli("report", "a job.toml", "-o", "sub/../r.html").err
    assert "wrote r.html" in written
