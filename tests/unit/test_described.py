"""The job that arguments describe."""

from batch_runner.cli import build_parser
from batch_runner.commands.described import described_job


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
    ).invocation  # fmt: skip
    assert "hunter2" not in typed
    assert "s3cret" not in typed


def test_local_answers_are_never_taken_for_those_of_the_model_in_the_job():
    local = described("--local")
    assert local.model == "smollm2-135m-instruct"
    assert local.endpoint.is_local
    assert local.prices[local.model].input == local.prices[local.model].output == 0
