"""The ground on which faults are planted: a job in a folder, a server with a ledger, a table of figures.

`make test-faults` ends with the table: test, figure demanded, figure measured. The numbers are those
of the list of reliability tests in the project's notes; a test that cannot run here says so in it.
"""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from batch_runner.faultserver import FaultServer, body_key, expected_text, running
from batch_runner.jobfile import Overrides, load_job
from batch_runner.journal import RunDirectory, replay
from batch_runner.prompt import PromptBuilder
from batch_runner.records import Request
from batch_runner.tables import open_table


ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
FIGURE = "figure"

JOB = """
[input]
path = "in.csv"
[prompt]
input = "{prompt}: {{{{ body }}}}"
[request]
model = "m1"
max_output_tokens = 64
[endpoint]
base_url = "{url}"
{endpoint}
[limits]
concurrency = {concurrency}
[retry]
max_wait = "0.05s"
{retry}
[output]
path = "out.csv"
[prices."m1"]
input = 1.0
output = 2.0
"""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """`-m slow` takes the quick ones of this folder along, so that its table is whole."""
    if config.option.markexpr == "slow":
        quick = ("test_the_model_sees_planted_bugs",)
        for item in items:
            if item.path.is_relative_to(HERE) or item.name.startswith(quick):
                item.add_marker("slow")


def _recorded(terminalreporter: Any) -> Iterator[tuple[float, str, str, str]]:
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call" or getattr(report, "skipped", False):
                for name, value in report.user_properties:
                    if name == FIGURE:
                        yield tuple(value)


def _counted(terminalreporter: Any) -> Iterator[tuple[float, str, str, str]]:
    ended = {
        outcome: [report.location[2] for report in terminalreporter.stats.get(outcome, ())]
        for outcome in ("passed", "failed")
    }
    for number, name, demanded, starts in COUNTED:
        passed, failed = (
            sum(test.startswith(starts) for test in tests) for tests in ended.values()
        )
        if passed + failed:
            yield number, name, demanded, f"{passed}/{passed + failed}"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    rows = [*_recorded(terminalreporter), *_counted(terminalreporter)]
    if not rows:
        return
    rows.sort()
    terminalreporter.section("faults: figures")
    wide = [max(len(row[column]) for row in rows) for column in (1, 2)]
    terminalreporter.write_line(f"{'#':>3}  {'test':{wide[0]}}  {'demanded':{wide[1]}}  measured")
    for number, name, demanded, measured in rows:
        terminalreporter.write_line(
            f"{number:>3g}  {name:{wide[0]}}  {demanded:{wide[1]}}  {measured}"
        )


COUNTED = (
    (
        8.0,
        "holes, lost, doubled and swapped lines and segments",
        "every intact record kept; every damage told",
        (
            "test_whatever_is_still_intact_is_kept",
            "test_a_removed_line_",
            "test_a_doubled_line_",
            "test_swapped_",
            "test_a_missing_segment_",
            "test_a_copied_segment_",
            "test_a_segment_without_",
            "test_a_file_whose_lost_lines_",
        ),
    ),
    (
        10.0,
        "hypothesis: histories of crashes and lost pages",
        "0 failures; planted bugs found",
        (
            "test_the_journal_keeps_its_promises_",
            "test_the_model_sees_planted_bugs",
        ),
    ),
    (
        13.0,
        "EIO at the n-th call of the journal, once and for good",
        "stops; never syncs again after an error; nothing lost in silence",
        ("test_an_io_error_at_any_call_",),
    ),
)
"""Figures that are a number of tests: how many of those that ran have passed."""

RecordFigure = Callable[[float, str, str, object], None]


@pytest.fixture
def record_figure(request: pytest.FixtureRequest) -> RecordFigure:
    """Enters a line of the table at the end of the run."""

    def record(number: float, name: str, demanded: str, measured: object) -> None:
        # A property of the test, because it finds its way home from a worker process.
        request.node.user_properties.append((FIGURE, [number, name, demanded, str(measured)]))

    return record


@pytest.fixture
def needs(record_figure: RecordFigure) -> Callable[..., None]:
    """Skips, and says so in the table, where root or a tool is missing."""

    def require(number: float, name: str, *tools: str, root: bool = False) -> None:
        missing = [tool for tool in tools if shutil.which(tool) is None]
        if root and os.geteuid() != 0:
            missing.append("root")
        if missing:
            reason = f"skipped: needs {', '.join(missing)}"
            record_figure(number, name, "-", reason)
            pytest.skip(reason)

    return require


@dataclass
class Ground:
    """One job in one folder, its processes, and what the server and the journal know of it."""

    folder: Path
    server: FaultServer
    check_bill: Callable[..., Any]
    """`assert_honest_bill` of tests/ledger_check.py."""
    bodies: list[str] = field(default_factory=list)
    ids: list[int] | None = None
    prompt: str = "Say"
    children: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def job_path(self) -> Path:
        return self.folder / "job.toml"

    @property
    def output(self) -> Path:
        return self.folder / "out.csv"

    @property
    def run_directory(self) -> RunDirectory:
        return RunDirectory(self.folder / "out.csv.run")

    def write_job(
        self,
        *,
        url: str | None = None,
        prompt: str = "Say",
        concurrency: int = 200,
        endpoint: str = "",
        retry: str = "",
    ) -> None:
        self.prompt = prompt
        text = JOB.format(
            url=url or self.server.url,
            prompt=prompt,
            concurrency=concurrency,
            endpoint=endpoint,
            retry=retry,
        )
        self.job_path.write_text(text)

    def write_rows(self, count: int, *, padding: int = 0) -> None:
        self.write_bodies([f"row {n} of many {'x' * padding}".strip() for n in range(count)])

    def write_bodies(self, bodies: list[str], ids: list[int] | None = None) -> None:
        self.bodies = bodies
        self.ids = ids
        with (self.folder / "in.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "body"])
            writer.writerows(zip(ids or range(len(bodies)), bodies, strict=True))

    def at(self, folder: Path, bodies: list[str]) -> "Ground":
        """The same server for a job in another folder, which is there already."""
        return Ground(folder, self.server, self.check_bill, bodies=bodies)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "batch_runner", "run", "job.toml", "--progress", "off", *arguments]  # fmt: skip

    def start(
        self, *arguments: str, command: list[str] | None = None, **environment: str
    ) -> subprocess.Popen[str]:
        """A run in a process of its own; ended with the test at the latest."""
        child = subprocess.Popen(
            command or self.command(*arguments),
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.children.append(child)
        return child

    def run(
        self,
        *arguments: str,
        command: list[str] | None = None,
        timeout: float = 110,
        **environment: str,
    ) -> tuple[int, str]:
        """Exit code and stderr of a run that ends by itself."""
        child = self.start(*arguments, command=command, **environment)
        _, said = child.communicate(timeout=timeout)
        return child.returncode, said

    def driver(self, name: str, *arguments: object) -> list[str]:
        return [sys.executable, str(HERE / name), *map(str, arguments)]

    def received_at_least(self, count: int, *, within: float = 60) -> None:
        """The server has received so many calls since it started."""
        deadline = time.monotonic() + within
        while self.server.ledger.totals.received < count:
            child = self.children[-1]
            if child.poll() is not None or time.monotonic() > deadline:
                received = self.server.ledger.totals.received
                raise TimeoutError(f"{received} calls of {count}; exit code {child.returncode}")
            time.sleep(0.005)

    def kill(self, child: subprocess.Popen[str]) -> None:
        child.send_signal(signal.SIGKILL)
        child.communicate()
        self.server.settle()

    def requests(self) -> list[Request]:
        job = load_job(self.job_path, Overrides())
        table = open_table(job.input.path)
        builder = PromptBuilder(job)
        built = [builder.build(row) for row in table.rows(columns=builder.columns, on_bad=print)]
        return [request for request in built if isinstance(request, Request)]

    def ledger_keys(self) -> dict[bytes, str]:
        """Journal key to ledger key; for rows that are all different."""
        return {
            request.key: body_key(request.body[:-1] + b',"stream":false}')
            for request in self.requests()
        }

    def finished(self) -> set[bytes]:
        """Journal keys of the rows that have an answer."""
        with replay(self.run_directory) as found:
            return {result.key for result in found.results() if result.ending.text}

    def wrong_rows(self) -> int:
        """Rows of the output without the one right answer; counts missing ones too."""
        with self.output.open(newline="") as file:
            rows = [*csv.DictReader(file)]
        wrong = abs(len(rows) - len(self.bodies))
        ids = self.ids or range(len(self.bodies))
        for n, row, body in zip(ids, rows, self.bodies, strict=False):
            text = expected_text({"model": "m1", "input": f"{self.prompt}: {body}"})
            right = row["id"] == str(n) and row["body"] == body and row["llm_output"] == text
            wrong += not right
        return wrong

    def billed_again(self) -> int:
        self.server.settle()
        return self.server.ledger.billed_again()

    def bill_holds(self) -> bool:
        """The meta file's bounds enclose what the server billed; says which one does not."""
        self.server.settle()
        self.check_bill(self.output, self.server.ledger)
        return True

    def close(self) -> None:
        for child in self.children:
            if child.poll() is None:
                child.kill()
                child.wait()
            child.stderr.close()


@pytest.fixture
def ground(tmp_path: Path, honest_bill: Callable[..., Any]) -> Iterator[Ground]:
    with running(input_price="1", output_price="2") as server:
        ground = Ground(tmp_path, server, honest_bill)
        ground.write_job()
        yield ground
        ground.close()
