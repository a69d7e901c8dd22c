"""Every command of the README runs as it stands there, in order, in one folder."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from batch_runner.cli import build_parser
from batch_runner.faultserver import FaultServer
from batch_runner.local import MODEL


ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RUN_ELSEWHERE = {
    "make demo": "tests/integration/test_local_endpoint.py and every release by hand",
    "make test": "this is it",
    "pip install .": "tests/integration/test_packaging.py",
}
GOOD_ENDINGS = {0, 3}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    lines = [line.strip() for block in blocks("sh") for line in block.splitlines() if line.strip()]
    return [line for line in lines if line not in RUN_ELSEWHERE]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("jobs", "sample_data"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.timeout(240)
def test_every_command_runs(run_cli, folder: Path, fault_server: FaultServer):
    environment = {
        "OPENAI_API_KEY": "key-for-the-readme",
        "CCAPI_API_KEY": "key-for-the-gateway",
        "BATCH_RUNNER_BASE_URL": fault_server.url,
    }
    assert commands(), "the README shows no command"
    for command in commands():
        # The README's own server would be started by hand; the fault server stands in for it.
        if command.startswith("mkdir "):
            subprocess.run(command, shell=True, cwd=folder, check=True)
            continue
        words = shlex.split(command.replace("http://127.0.0.1:8081/v1", fault_server.url))
        assert words[0] == "batch-runner", f"not run by any test: {command}"
        ran = run_cli(*words[1:], **environment)
        assert ran.code in GOOD_ENDINGS, f"{command}\n{ran.out}\n{ran.err}"
        assert "Traceback" not in ran.err, f"{command}\n{ran.err}"


def test_every_toml_example_is_toml():
    for block in blocks("toml"):
        tomllib.loads(block)


def test_every_python_example_runs_and_what_it_prints_is_short(folder, fault_server):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OPENAI_API_KEY": "key-for-the-readme",
        "BATCH_RUNNER_BASE_URL": fault_server.url,
    }
    ran = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks("python"))],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "00001 ok" in ran.stdout, ran.stdout
    assert max(map(len, ran.stdout.splitlines())) < 100


def test_the_way_without_a_key_is_that_of_the_local_endpoint():
    assert f'model="{MODEL}"' in README
    port = build_parser().parse_args(["serve"]).port
    assert f'base_url="http://127.0.0.1:{port}/v1"' in README


def test_links_to_files_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_flag_that_the_readme_names_exists_and_those_of_a_run_are_named():
    flags = set(re.findall(r"`[^`\n]*?(--[a-z][a-z-]+)", README))
    parser = build_parser()
    commands = parser._subparsers._group_actions[0].choices
    known = {flag for one in (parser, *commands.values()) for flag in one._option_string_actions}
    assert flags - known <= {"--no-deps"}, "of pip"
    run = {group.title: group for group in commands["run"]._action_groups}["run"]
    own = {action.option_strings[-1] for action in run._group_actions if action.dest != "dedupe"}
    text = set(re.findall(r"--[a-z-]+", README))
    assert {*own, "--dedupe"} <= text | {"--limit"}
