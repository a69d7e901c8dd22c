"""What a run shows while it lasts."""

import io
import json
import logging
import os
import re
import sys
from dataclasses import replace
from decimal import Decimal
from types import SimpleNamespace

import pytest

from batch_runner import runner
from batch_runner.progress import (
    HEARTBEAT_SECONDS,
    Bar,
    Heartbeat,
    ProgressStyle,
    Silence,
    Snapshot,
    display_for,
    heartbeat,
)


SNAPSHOT = Snapshot(
    done=4120, total=20_000, ok=4101, failed=19, in_flight=16, oldest_seconds=34.2,
    rows_per_second=41.0, tokens_per_second=18_234.0, cost=Decimal("1.12"), limit=24,
)  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_heartbeat_says_everything_on_one_line():
    line = heartbeat(SNAPSHOT)
    assert "\n" not in line
    for words in ("4,120/20,000 21%", "ok 4,101", "failed 19", "in flight 16", "oldest 34s",
                  "41.0 rows/s", "18.2k tok/s", "$1.12", "eta 6m 27s"):  # fmt: skip
        assert words in line


def test_what_is_unknown_is_not_zero():
    line = heartbeat(replace(SNAPSHOT, cost=None, rows_per_second=0.0))
    assert line.endswith("0.0 rows/s 18.2k tok/s")
    for word in ("unknown", "$", "eta"):
        assert word not in line


def test_all_is_100_percent_and_nothing_less_is():
    assert heartbeat(replace(SNAPSHOT, done=19_999)).startswith("19,999/20,000 99%")
    assert heartbeat(replace(SNAPSHOT, done=20_000)).startswith("20,000/20,000 100%")
    assert heartbeat(replace(SNAPSHOT, done=0, total=0)).startswith("0/0 100%")


def test_the_time_left_is_that_of_an_end_that_comes(drawn):
    short = replace(SNAPSHOT, ends_at=4530)
    line = heartbeat(short)
    assert "eta 10s  max_cost ends at about 4,530" in line
    assert "10s left, max_cost ends at about 4,530" in drawn(120, replace(short, done=4121))[1][-1]
    ending = replace(short, is_ending=True)
    assert "eta" not in heartbeat(ending)
    assert "max_cost" not in heartbeat(ending), "it ends for another reason"
    assert " left" not in drawn(120, replace(ending, done=4121))[1][-1]


def test_a_heartbeat_comes_once_a_minute(caplog):
    caplog.set_level(logging.INFO)
    clock = Clock()
    display = Heartbeat(logging.getLogger("test"), clock=clock)
    for clock.now in (0.0, 30.0, HEARTBEAT_SECONDS, 61.0, 119.0, 120.5):
        display.show(SNAPSHOT)
    assert len(caplog.records) == 2
    fields = caplog.records[0].fields
    assert (fields["rows_done"], fields["rows"], fields["eta_seconds"]) == (4120, 20_000, 387)
    assert json.loads(json.dumps(fields)) == fields


def test_after_a_sleep_of_the_machine_heartbeats_do_not_pile_up(caplog):
    caplog.set_level(logging.INFO)
    clock = Clock()
    display = Heartbeat(logging.getLogger("test"), clock=clock)
    clock.now = 3600.0
    for _ in range(5):
        display.show(SNAPSHOT)
    assert len(caplog.records) == 1


@pytest.fixture
def drawn(monkeypatch):
    """A bar on a terminal of so many columns that has shown these snapshots, and all its frames."""

    def drawn(width, *snapshots, first=SNAPSHOT):
        size = os.terminal_size((width, 24))
        monkeypatch.setattr("os.get_terminal_size", lambda _fd: size)
        terminal = Terminal()
        monkeypatch.setattr(terminal, "fileno", lambda: 2, raising=False)
        bar = Bar(first, stream=terminal)
        for snapshot in snapshots:
            bar.show(snapshot)
        frames = [frame.removesuffix(ERASE) for frame in terminal.getvalue().split("\r")[1:]]
        bar.close(snapshots[-1] if snapshots else first)
        return terminal, frames

    return drawn


ERASE = "\x1b[K"
LATER = replace(SNAPSHOT, done=5000)


def test_the_bar_is_one_line_that_is_gone_at_the_end(drawn):
    terminal, frames = drawn(120, LATER)
    assert "\n" not in terminal.getvalue()
    for words in ("5000/20000", "6m 06s left", "41.0 rows/s", "19 failed", "$1.12",
                  "16 in flight", "18.2k tok/s"):  # fmt: skip
        assert words in frames[-1]
    assert terminal.getvalue().endswith((f"\r{ERASE}\r", f"\r{ERASE}"))


@pytest.mark.parametrize("width", [30, 50, 80, 200])
def test_the_bar_never_wraps_and_leaves_room_for_a_ctrl_c(drawn, width):
    _, frames = drawn(width, LATER)
    assert all(len(frame) <= width - len("^C^C") for frame in frames)


def test_a_narrow_terminal_keeps_what_matters_most_and_a_bar(drawn):
    _, frames = drawn(50, LATER)
    assert re.fullmatch(r" 25%\|.{8,}\| 5000/20000  6m 06s left", frames[-1])
    _, frames = drawn(80, LATER)
    assert re.fullmatch(
        r" 25%\|.{8,}\| 5000/20000  6m 06s left, 41.0 rows/s, 19 failed, \$1.12", frames[-1]
    )


def test_the_bar_says_100_percent_of_all_rows_only(drawn):
    _, frames = drawn(80, replace(LATER, done=19_999))
    assert frames[-1].startswith(" 99%|")
    _, frames = drawn(80, replace(LATER, done=20_000))
    assert frames[-1].startswith("100%|")


def test_what_is_not_known_at_the_start_is_not_shown(drawn):
    start = replace(
        SNAPSHOT, done=0, failed=0, cost=None, rows_per_second=0.0, tokens_per_second=0.0
    )
    _, frames = drawn(80, start, first=start)
    assert not any("?" in frame for frame in frames)
    assert frames[-1].endswith("0/20000  16 in flight")


def test_each_frame_wipes_what_the_terminal_printed_behind_the_last_one(drawn):
    terminal, _ = drawn(80, LATER)
    written = terminal.getvalue().split("\r")[2:]
    assert all(frame.endswith(ERASE) or not frame for frame in written)


def test_a_terminal_that_knows_no_escapes_gets_none(drawn, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    terminal, _ = drawn(80, LATER)
    assert "\x1b" not in terminal.getvalue()


def test_slow_rows_are_counted_by_the_minute(drawn):
    _, frames = drawn(100, replace(LATER, rows_per_second=0.2))
    assert "12 rows/min" in frames[-1]


def test_the_bar_counts_back_when_rows_turn_out_to_be_fewer(drawn):
    terminal, _ = drawn(100, LATER, replace(SNAPSHOT, done=4990))
    assert re.search(r"4990/20000", terminal.getvalue())


def test_auto_is_a_bar_on_a_terminal_and_a_log_elsewhere(monkeypatch):
    def choice(style, stream):
        log = logging.getLogger("test")
        display = display_for(style, SNAPSHOT, log=log, clock=Clock(), stream=stream)
        display.close(SNAPSHOT)
        return type(display)

    assert choice(ProgressStyle.AUTO, Terminal()) is Bar
    assert choice(ProgressStyle.AUTO, io.StringIO()) is Heartbeat
    assert choice(ProgressStyle.OFF, Terminal()) is Silence
    kernel = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    monkeypatch.setattr("tqdm.auto.tqdm", sys.modules["tqdm"].tqdm)
    assert choice(ProgressStyle.AUTO, io.StringIO()) is Bar
    kernel.get_ipython = lambda: None  # IPython is imported, and nobody runs in it
    assert choice(ProgressStyle.AUTO, io.StringIO()) is Heartbeat


def test_rows_left_for_a_later_run_are_not_done(tmp_path, fault_server, main_cli, monkeypatch):
    seen = []

    def display_for(_style, first, **_more):
        seen.append((first.done, first.total))
        return Silence()

    monkeypatch.setattr(runner, "display_for", display_for)
    (tmp_path / "in.csv").write_text("body\n" + "".join(f"text {n}\n" for n in range(30)))
    job = ["-i", "in.csv", "-o", "out.csv", "-m", "m", "-p", "{{ body }}"]
    job += ["--base-url", fault_server.url]
    for limit in ("1", "2", "27"):
        assert main_cli("run", *job, "-n", limit).code == 0
    assert seen == [(0, 1), (1, 3), (3, 30)]
