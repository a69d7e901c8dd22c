"""Exceptions for people who call: what they show, wherever they show up."""

import copy
import pickle
import traceback

import pytest

from batch_runner.errors import BatchRunnerError, JobError


def shown(error):
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    "handed_on", [lambda e: e, copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))]
)
def test_a_traceback_shows_the_way_out_once(handed_on):
    error = handed_on(JobError("job.toml: input.path: missing", hint="name a file"))
    assert shown(error).endswith("JobError: job.toml: input.path: missing\nhint: name a file\n")
    assert (str(error), error.hint) == ("job.toml: input.path: missing", "name a file")


def test_without_a_hint_there_is_no_empty_note():
    assert shown(BatchRunnerError("full")).endswith("full\n")


def test_on_the_command_line_the_hint_is_said_once(main_cli):
    said = main_cli("run", "gone.toml").err
    assert said.count("hint:") == 1
