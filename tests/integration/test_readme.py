"""Every command of the README runs as it stands there, in order, in one folder."""

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from batch_runner.faultserver import FaultServer


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


def test_every_python_example_compiles():
    for block in blocks("python"):
        compile(block, "README.md", "exec")


def test_links_to_files_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
