import pytest

from batch_runner.cli import build_parser
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
