"""A run as a person sees it: on a real (pseudo) terminal, with keys pressed."""

import fcntl
import os
import re
import select
import shlex
import shutil
import struct
import subprocess
import sys
import termios
import time

import pytest

from tests.integration.job_text import job_text


_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.executable, [sys.executable, '-m', 'batch_runner', *sys.argv[1:]])"
)


class Screen:
    """A process on a terminal of its own."""

    def __init__(self, cli, *arguments: str) -> None:
        self.master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, *arguments],
            cwd=cli.folder, env={**cli.environment, "TERM": "xterm-256color"},
            stdin=slave, stdout=slave, stderr=slave,
        )  # fmt: skip
        os.close(slave)
        self.text = ""

    def press(self, key: str) -> None:
        os.write(self.master, key.encode())

    def wait_for(self, pattern: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline, self.text
            self._read(0.05)

    def wait(self, seconds: float = 30) -> int:
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            self._read(0.05)
        while self._read(0):
            pass
        return self.process.wait(1)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)

    def _read(self, seconds: float) -> bool:
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        try:
            piece = os.read(self.master, 1 << 16)
        except OSError:  # Linux says EIO once the other side is closed
            return False
        self.text += piece.decode(errors="replace")
        return bool(piece)


@pytest.fixture
def on_screen(run_cli, fault_server):
    """Starts a run of 40 rows on a terminal, eight at a time, a quarter of a second each."""
    rows = "".join(f"{n},text {n}\n" for n in range(40))
    (run_cli.folder / "in.csv").write_text("id,body\n" + rows)
    fault_server.change(latency_seconds=0.25)
    opened = []

    def on_screen(*more):
        screen = Screen(
            run_cli, "run", "-i", "in.csv", "-o", "out.csv", "-m", "gpt-5-mini", "-p",
            "Sum: {{ body }}", "--base-url", fault_server.url, "-c", "8", *more,
        )  # fmt: skip
        opened.append(screen)
        return screen

    yield on_screen
    for screen in opened:
        screen.close()


def calls(server) -> int:
    server.settle()
    return len(server.ledger.rows())


def test_one_line_moves_and_makes_way_for_the_summary(on_screen):
    screen = on_screen()
    assert screen.wait() == 0
    frames = [frame for frame in screen.text.split("\r") if "in flight" in frame]
    assert len(frames) >= 2
    middle = next(frame for frame in frames if " left, " in frame)
    for word in ("/40  ", "rows/s", "$", "in flight", "tok/s"):
        assert word in middle, middle
    assert max(len(frame.rstrip()) for frame in frames) <= 100
    end = screen.text[screen.text.rindex("in flight") :]
    assert "40 rows: 40 ok" in end
    assert not re.search(r"\x1b\[[\d;]*m", screen.text)  # no colours: plain everywhere


def test_ctrl_c_finishes_what_is_in_flight_and_says_how_to_go_on(on_screen, fault_server):
    screen = on_screen()
    screen.wait_for(r"\d/40  .*8 in flight")
    screen.press("\x03")
    assert screen.wait() == 130
    assert "finishing" in screen.text
    assert re.search(r"\^C\r\x1b\[K", screen.text)  # what the terminal printed is wiped
    assert "once more to break them off" in screen.text
    assert "run again to go on" in screen.text
    assert re.search(r"40 rows: \d+ ok, \d+ pending", screen.text)  # as the input stands
    assert "Traceback" not in screen.text
    sent = calls(fault_server)
    assert sent < 40
    fault_server.change(latency_seconds=0.0)
    again = on_screen()
    assert again.wait() == 0
    assert calls(fault_server) == 40  # what was in flight was finished, and not sent again


def test_ctrl_c_twice_breaks_calls_off_and_counts_them(on_screen, fault_server):
    fault_server.change(latency_seconds=20)
    screen = on_screen()
    screen.wait_for("8 in flight")
    screen.press("\x03")
    screen.wait_for("once more")
    screen.press("\x03")
    began = time.monotonic()
    assert screen.wait() == 130
    assert time.monotonic() - began < 10
    assert "8 attempts of unknown billing" in screen.text


def test_quiet_shows_nothing_on_a_terminal_either(on_screen):
    screen = on_screen("-n", "1", "-q")
    assert screen.wait() == 0
    assert screen.text == ""


@pytest.mark.parametrize(
    ("command", "begun", "code"),
    [
        ("status in.toml --watch", "waiting for one", 130),
        ("status out.csv --watch", "in flight", 130),
        ("faults --port 0", r"http://\S+/v1\r", 0),
    ],
)
def test_what_lasts_until_ctrl_c_ends_without_a_word(
    on_screen, run_cli, fault_server, *, command, begun, code
):
    fault_server.change(latency_seconds=20)
    (run_cli.folder / "in.toml").write_text(job_text(output="never.csv"))
    if "out.csv" in command:
        on_screen().wait_for("in flight")
    screen = Screen(run_cli, *command.split())
    try:
        screen.wait_for(begun)
        shown = len(screen.text)
        screen.press("\x03")
        assert screen.wait() == code
        assert screen.text[shown:].replace("\r", "").endswith("^C\n"), "the prompt gets a line"
        assert "SIGINT" not in screen.text
    finally:
        screen.close()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_made_from_the_command_line(main_cli, shell):
    pytest.importorskip("shtab")
    ran = main_cli("--print-completion", shell)
    assert (ran.code, ran.err) == (0, "")
    assert "batch-runner" in ran.out
    assert "max-cost" in ran.out
    if program := shutil.which(shell):
        subprocess.run([program, "-n"], input=ran.out, text=True, check=True)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["ver"], ["verify"]),
        (["run", "--max"], ["--max-cost", "--max-errors"]),
        (["run", "--on-change", ""], ["rerun", "keep", "fail"]),
        (["run", "jobs/mi"], ["jobs/mine.toml"]),
    ],
)
def test_bash_itself_completes_what_is_typed(main_cli, typed, offered):
    pytest.importorskip("shtab")
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    (main_cli.folder / "jobs").mkdir()
    (main_cli.folder / "jobs/mine.toml").touch()
    script = main_cli.folder / "completion.sh"
    script.write_text(main_cli("--print-completion", "bash").out)
    asks = """
        source completion.sh
        read -r -a entry <<< "$(complete -p batch-runner)"
        for word in "${!entry[@]}"; do [ "${entry[word]}" = -F ] && answer=${entry[word + 1]}; done
        COMP_WORDS=(batch-runner "$@") COMP_CWORD=$#
        $answer batch-runner "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    ran = subprocess.run(
        [bash, "--noprofile", "--norc", "-c", asks, "bash", *typed], cwd=main_cli.folder,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert [word.strip() for word in ran.stdout.splitlines()] == offered, ran.stderr


def test_completion_without_shtab_says_what_to_install(main_cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    ran = main_cli("--print-completion", "bash")
    assert ran.code == 2
    assert 'pip install "batch-runner[completion]"' in ran.err


def run_job(cli, server, *more, command="run", rows=("one",)):
    (cli.folder / "in.csv").write_text("\n".join(["body", *rows]) + "\n")
    return cli(command, "-i", "in.csv", "-o", "out.csv", "-m", "m1", "-p", "{{ body }}",
               "--base-url", server, *more)  # fmt: skip


MIXED = ("one", "two", "[[fault:400]] three", "[[fault:content-filter]] four", "[[fault:500]] five")


def test_an_endpoint_that_nobody_serves_is_told_within_seconds_and_with_the_reason(main_cli):
    began = time.monotonic()
    ran = run_job(main_cli, "http://127.0.0.1:9/v1", "--set", "retry.attempts=4",
                  "--set", "retry.max_wait=2s")  # fmt: skip
    assert ran.code == 3
    assert time.monotonic() - began < 20
    told = "no answer in this run yet from http://127.0.0.1:9/v1: connection failed: Connection refused"
    assert ran.err.count(told) == 1
    assert ran.err.count("row 1: connection failed: Connection refused (127.0.0.1:9)") == 1


def test_an_endpoint_that_answers_is_not_complained_of(main_cli, fault_server):
    assert "no answer" not in run_job(main_cli, fault_server.url, rows=MIXED[:2]).err


def test_rows_that_a_run_does_not_send_are_called_what_they_are(main_cli, fault_server):
    attempts = ("--set", "retry.attempts=1", "--set", "retry.maybe_billed_attempts=0")
    run_job(main_cli, fault_server.url, "-n", "4", *attempts, rows=MIXED)
    again = run_job(main_cli, fault_server.url, *attempts, rows=MIXED)
    assert "1 to send (new), 3 reused, 1 failed before (batch-runner retry sends them)" in again.err
    retried = run_job(main_cli, fault_server.url, *attempts, command="retry", rows=MIXED)
    assert "2 to send, 3 reused" in retried.err
    assert "failed before" not in retried.err


def test_the_command_shown_after_a_mixed_run_sends_all_that_asking_again_can_mend(
    main_cli, fault_server
):
    attempts = ("--set", "retry.attempts=1", "--set", "retry.maybe_billed_attempts=0")
    ran = run_job(main_cli, fault_server.url, *attempts, rows=MIXED)
    shown = re.search(r"-> batch-runner (retry .*)", ran.err)
    told = main_cli(*shlex.split(shown[1])).err
    words = "2 to send (1 incomplete before, 1 failed before), 2 reused, 1 failed before (not named by --only)"
    assert words in told


def test_an_output_is_named_from_the_present_folder_however_the_job_names_it(
    main_cli, fault_server
):
    place, log = main_cli.folder / "sub", main_cli.folder / "run.log"
    place.mkdir()
    (place / "in.csv").write_text("body\none\n")
    flags = ("-m", "m1", "-p", "{{ body }}", "--base-url", fault_server.url)
    for name in ("sub/out.csv", str(place / "out.csv")):
        words = ("-i", "sub/in.csv", "-o", name, *flags)
        told = main_cli("run", *words, "--log-file", str(log)).err
        assert "\noutput   sub/out.csv\n" in told
        assert "\noutput   sub/out.csv\n" in main_cli("report", *words).out
        assert " sub/out.csv: 1 ok" in main_cli("export", *words).err
    assert f"output   {place / 'out.csv'}\n" in log.read_text(), "read in other folders, too"


def test_a_row_without_a_request_is_named_by_its_place_in_the_input(main_cli, fault_server):
    for name, cells in {"a": "a1,one\n", "b": "b1,two\nb2,\n"}.items():
        (main_cli.folder / f"{name}.csv").write_text(f"id,body\n{cells}")
    flags = ("-i", "?.csv", "-m", "m1", "-p", "{{ body }}", "--base-url", fault_server.url)
    told = "b.csv:3{}: empty cell in 'body'"
    for key, name in (((), ""), (("--set", "input.key=id"), " (b2)")):
        ran = main_cli("run", *flags, *key, "-o", "out.csv")
        assert ran.code == 3
        assert told.format(name) in ran.err
        for command in ("check", "report"):
            assert told.format(name) in main_cli(command, *flags, *key, "-o", "out.csv").out


def test_the_summary_shows_for_each_error_a_row_and_its_message(main_cli, fault_server):
    attempts = ("--set", "retry.attempts=1", "--set", "retry.maybe_billed_attempts=0")
    ran = run_job(main_cli, fault_server.url, *attempts, rows=MIXED)
    assert "1 bad_request, such as row 3: HTTP 400" in ran.err
    assert "1 server_error, such as row 5: HTTP 500" in ran.err
    # A run that finds nothing to send remembers them from the export before.
    assert (
        run_job(main_cli, fault_server.url, *attempts, "--fail-on", "none", rows=MIXED[:4]).code
        == 0
    )
    again = run_job(main_cli, fault_server.url, *attempts, rows=MIXED[:4])
    assert "0 to send" in again.err
    assert "such as row 3: HTTP 400" in again.err


@pytest.mark.parametrize(
    "words",
    [("--print-completion", "bash"), ("--help",), ("run", "--help"), ("prices", "gpt-5-mini")],
)
def test_a_reader_who_has_enough_is_no_trouble(run_cli, words):
    if "--print-completion" in words:
        pytest.importorskip("shtab")
    taken, given = os.pipe()
    os.close(taken)  # nobody reads any of it
    with os.fdopen(given, "wb") as output:
        ended = subprocess.run(
            [sys.executable, "-m", "batch_runner", *words],
            cwd=run_cli.folder, env=run_cli.environment,
            stdout=output, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
