"""A path that is no UTF-8 is refused before anything is sent: nothing that is written could name it."""

import os
import sys

import pytest

from tests.integration.job_text import job_text


JOB = job_text()
BAD = os.fsdecode(b"\xff")


@pytest.fixture
def run(main_cli, fault_server):
    if sys.platform == "darwin":
        pytest.skip("names of files are UTF-8 there")
    folder = main_cli.folder
    (folder / "many").mkdir()
    for file in ("in.csv", f"in{BAD}.csv", f"many/in{BAD}.csv"):
        (folder / file).write_text("id,body\n1,one\n")
    for file in ("m.toml", f"m{BAD}.toml"):
        (folder / file).write_text(JOB)

    def ran(command, *words):
        told = main_cli(command, *words, "--base-url", fault_server.url)
        fault_server.settle()
        assert not fault_server.ledger.rows()
        return told

    return ran


@pytest.mark.parametrize("command", ["run", "check", "estimate"])
@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("m.toml", "-o", f"o{BAD}.csv"), r"o\udcff.csv'"),
        (("m.toml", "-i", f"in{BAD}.csv"), r"in\udcff.csv'"),
        (("m.toml", "-i", "many/*.csv"), r"many/in\udcff.csv'"),
        ((f"m{BAD}.toml",), r"m\udcff.toml'"),
    ],
)
def test_a_path_that_is_no_utf8_is_refused_before_anything_is_sent(
    run, main_cli, command, words, shown
):
    there = {*main_cli.folder.iterdir()}
    told = run(command, *words)
    assert told.code == 2, told
    assert f"{shown} is no UTF-8" in told.err
    assert {*main_cli.folder.iterdir()} == there
