"""Each test asks a process of its own: a limit once lowered cannot be raised again."""

import subprocess
import sys

import pytest

from batch_runner.open_files import SPARE


ASK = """
import resource
from batch_runner.open_files import make_room
resource.setrlimit(resource.RLIMIT_NOFILE, (256, {hard}))
print(make_room({calls}), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def ask(*, hard, calls):
    told = subprocess.run(
        [sys.executable, "-c", ASK.format(hard=hard, calls=calls)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return tuple(map(int, told.split()))


def test_the_limit_is_raised_to_what_the_calls_need():
    assert ask(hard=1024, calls=500) == (500, 500 + SPARE, 1024)


def test_what_does_not_fit_is_told():
    assert ask(hard=512, calls=10_000) == (512 - SPARE, 512, 512)


@pytest.mark.parametrize("calls", [1, 100])
def test_a_limit_that_suffices_is_left_alone(calls):
    assert ask(hard=512, calls=calls) == (calls, 256, 512)


def test_a_run_says_how_to_get_the_calls_it_was_asked_for(tmp_path, run_cli, fault_server):
    (tmp_path / "in.csv").write_text("body\na\n")
    ran = subprocess.run(
        ["sh", "-c", 'ulimit -n 300; exec "$@"', "sh", sys.executable, "-m", "batch_runner", "run",
         "-i", "in.csv", "-o", "out.csv", "-m", "m", "-p", "{{ body }}", "-c", "5000",
         "--base-url", fault_server.url],
        cwd=tmp_path, env=run_cli.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "at most 236 calls in flight instead of 5,000" in ran.stderr
    assert "ulimit -n 5064" in ran.stderr
