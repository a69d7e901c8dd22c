"""Runs a command as a process of its own and reads what the operating system says it took."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


ROOT = Path(__file__).parents[2]
REPLY = (
    '{"id":"resp_1","object":"response","created_at":1790000000,"status":"completed","model":"m",'
    '"output":[{"type":"message","id":"msg_1","status":"completed","role":"assistant","content":'
    '[{"type":"output_text","text":"'
    + "A summary of the text in about as many words as usual. "
    * 6
    + '","annotations":[]}]}],"usage":{"input_tokens":60,"input_tokens_details":{"cached_tokens":0},'
    '"output_tokens":20,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":80}}'
)
CLIENT_CORE, SERVER_CORE = "0", "1"


@dataclass(frozen=True)
class Figures:
    """One run of one process."""

    wall_seconds: float
    cpu_seconds: float
    peak_mb: float
    code: int


def on_core(core: str, command: Sequence[str]) -> list[str]:
    return ["taskset", "-c", core, *command] if shutil.which("taskset") else list(command)


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return {**kept, "PYTHONPATH": str(ROOT), "OPENAI_API_KEY": "benchmark-key-1234"}


def measure(command: Sequence[str], *, cwd: Path) -> Figures:
    """CPU and memory are the process's own, from wait4."""
    began = time.monotonic()
    with (cwd / "log").open("ab") as log:
        process = subprocess.Popen(
            on_core(CLIENT_CORE, command), cwd=cwd, env=environment(), stdout=log, stderr=log
        )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Figures(
        wall_seconds=time.monotonic() - began,
        cpu_seconds=used.ru_utime + used.ru_stime,
        peak_mb=used.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10),
        code=process.returncode,
    )


def batch_runner(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "batch_runner", *arguments]


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        yield Path(name)


@contextmanager
def fast_server(place: Path) -> Iterator[str]:
    """nginx with one fixed reply: far faster than any client here. Base URL with /v1."""
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    if not Path(nginx).exists():
        raise SystemExit("these benchmarks need nginx (Debian: apt-get install nginx-light)")
    port = 18950
    temp = "".join(
        f"{name}_temp_path {place}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = place / "nginx.conf"
    config.write_text(
        f"worker_processes 1; daemon off; pid {place}/pid; error_log /dev/null;"
        "events { worker_connections 20000; }"
        f"http {{ access_log off; keepalive_requests 100000000; {temp}"
        f"server {{ listen 127.0.0.1:{port} backlog=16384; location / {{"
        f" default_type application/json; return 200 '{REPLY}'; }} }} }}"
    )
    command = on_core(SERVER_CORE, [nginx, "-c", str(config)])
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(10)


@contextmanager
def slow_server(seconds: float) -> Iterator[str]:
    """A bare asyncio protocol that answers everything after `seconds`."""
    command = on_core(
        SERVER_CORE, [sys.executable, str(Path(__file__).with_name("slow_server.py")), str(seconds)]
    )
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.communicate()


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A Markdown table on stdout."""
    lines = [f"\n### {title}\n", f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
