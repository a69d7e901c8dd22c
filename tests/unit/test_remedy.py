import pytest

from batch_runner.cli import build_parser
from batch_runner.invocation import Invocation
from batch_runner.plan import TRANSIENT
from batch_runner.records import ErrorCode, other
from batch_runner.remedy import command, remedy


CODES = [*ErrorCode, other("refusal"), other("stopped"), other("steered_by_moonlight")]


@pytest.mark.parametrize("code", CODES)
def test_every_command_shown_is_one_that_the_command_line_takes(code):
    words = remedy(code, "'my jobs/a.toml'").command
    import shlex

    name, *arguments = shlex.split(words)
    assert name == "batch-runner"
    assert build_parser().parse_args(arguments).job == "my jobs/a.toml"


@pytest.mark.parametrize("code", sorted(TRANSIENT))
def test_what_may_pass_by_itself_needs_no_retry(code):
    assert "batch-runner run" in remedy(code, "a.toml").command
    assert "a later run sends these rows again" in remedy(code, "a.toml").words


def test_a_job_without_a_file_says_what_to_type():
    assert command("run", "-i 'a b.csv' -m m") == "batch-runner run -i 'a b.csv' -m m"


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("a.toml --set retry.on_incomplete=retry", "a.toml"),
        ('a.toml --set \'retry . "on_incomplete" = "keep"\' --set x.y=1', "a.toml --set x.y=1"),
        ("a.toml --local --set request.model=m2", "a.toml --local --set request.model=m2"),
        ("-i in.csv --set retry.on_incomplete=keep", "-i in.csv --set retry.on_incomplete=keep"),
    ],
)
def test_what_an_advice_sets_is_not_said_a_second_time(typed, told):
    words = remedy(ErrorCode.MAX_OUTPUT_TOKENS, typed).command
    more = "--include incomplete --set retry.on_incomplete=retry"
    assert words == f"batch-runner retry {told} {more}"


def test_a_frame_is_run_by_the_call_that_made_it_and_by_no_command():
    def flags(source):
        typed = {"input": [f"f.run/{source}"], "output": "f.run/output.jsonl", "prompt": "x"}
        return str(Invocation(flags=typed))

    frame = flags("frame.jsonl")
    assert command("run", frame) == "make the same call of run_frame again"
    assert remedy(ErrorCode.TIMEOUT, frame).command == (
        'make the same call of run_frame again, with settings {"endpoint.timeout": "20m"}'
    )
    assert command("run", frame, "--dry-run") == "batch-runner check f.run/output.jsonl"
    assert command("retry", frame) == "batch-runner retry f.run/output.jsonl"
    assert command("run", flags("input.jsonl")).startswith("batch-runner run --input")


def test_a_command_that_sends_nothing_is_not_told_how_to_send():
    typed = "a.toml --model m2 --concurrency 2 --max-cost 3 --set retry.attempts=2 --set notify.ping_url_env=U"
    assert command("export", typed) == "batch-runner export a.toml --model m2"
    assert command("run", typed) == f"batch-runner run {typed}"


def test_a_job_of_flags_is_meant_by_its_output_however_long_its_prompt():
    flags = str(
        Invocation(flags={"input": ["in.csv"], "output": "my out.csv", "prompt": "x" * 900})
    )
    assert command("retry", flags, "--only", "timeout") == (
        "batch-runner retry 'my out.csv' --only timeout"
    )
    assert "x" * 900 in command("run", flags), "the one command that knows no output"
    of_a_file = str(Invocation(job="j.toml", flags={"output": "o.csv"}))
    assert command("retry", of_a_file) == "batch-runner retry j.toml --output o.csv"
