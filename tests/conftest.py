"""What most tests stand on: a clean environment, a fault server, and the command line as users have it."""

import logging
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import hypothesis
import pytest

from batch_runner.cli import main
from batch_runner.faultserver import FaultServer, running
from batch_runner.signals import STOPPING


ROOT = Path(__file__).parents[1]

# A shell that starts the tests in the background has them ignore these, and with them every process
# that they start.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

# The same examples in every run: what passed yesterday passes today. `make fuzz` rolls new dice.
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None)
hypothesis.settings.register_profile("dice", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, proxy or setting of the developer's machine reaches a test."""
    for name in list(os.environ):
        ours = name.startswith(("BATCH_RUNNER_", "OPENAI_")) or name.endswith("_API_KEY")
        if ours or name.lower().endswith("_proxy") or name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def clean_logging() -> Iterator[None]:
    """What a command sets up for its log ends with the test that ran it."""
    yield
    log = logging.getLogger("batch_runner")
    for handler in log.handlers[:]:
        log.removeHandler(handler)
        handler.close()
    log.setLevel(logging.NOTSET)
    log.propagate = True


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def fault_server() -> Iterator[FaultServer]:
    """A fault server in this process, on a free port; call `settle()` before reading its ledger."""
    with running() as server:
        yield server


@dataclass(frozen=True)
class Ran:
    """How a command line ended."""

    code: int
    out: str
    err: str


class CommandLine:
    """`batch-runner` as a process of its own, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def __call__(self, *arguments: str, timeout: float = 60, **environment: str) -> Ran:
        ended = subprocess.run(
            [sys.executable, "-m", "batch_runner", *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        return Ran(ended.returncode, ended.stdout, ended.stderr)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """The process, still running; whoever starts it ends it."""
        return subprocess.Popen(
            [sys.executable, "-m", "batch_runner", *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )


@pytest.fixture
def run_cli(tmp_path: Path, clean_environment: None) -> CommandLine:
    return CommandLine(tmp_path)


class InProcess:
    """`batch-runner` inside this process: ten times quicker, and what it leaks is an error here."""

    def __init__(self, folder: Path, captured: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._captured = captured

    def __call__(self, *arguments: str, **environment: str) -> Ran:
        handlers = {number: signal.getsignal(number) for number in STOPPING}
        self._captured.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            for name, value in environment.items():
                patch.setenv(name, value)
            try:
                code = main(arguments)
            except SystemExit as left:
                code = int(left.code or 0)
            finally:
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        said = self._captured.readouterr()
        return Ran(code, said.out, said.err)


@pytest.fixture
def main_cli(
    tmp_path: Path, clean_environment: None, capsys: pytest.CaptureFixture[str]
) -> InProcess:
    return InProcess(tmp_path, capsys)


@pytest.fixture
def honest_bill() -> Callable[..., dict[str, Any]]:
    """`assert_honest_bill(output, ledger, exact=False)` of tests/ledger_check.py."""
    check = runpy.run_path(str(Path(__file__).with_name("ledger_check.py")))["assert_honest_bill"]
    return cast("Callable[..., dict[str, Any]]", check)
