"""`import batch_runner`: the names people may rely on, and what it costs to have them."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import batch_runner as br


ROOT = Path(__file__).parents[2]

PROMISED = {
    # what one does
    "load_job", "run", "run_async", "run_frame", "retrying", "read_results", "estimate",
    # what one hands in
    "JobSpec", "Overrides", "RunOptions", "OnChange", "FailOn", "LockPolicy", "ProgressStyle",
    # what one gets
    "RunSummary", "Outcome", "Row", "RowResult", "RowStatus", "Completion", "Failure", "ErrorCode",
    "Usage", "ExitCode",
    # what one catches
    "BatchRunnerError", "UsageError", "JobError", "InputError", "ChangedRowsError",
    "RunStoppedError", "StorageError", "LockedError",
    "__version__",
}  # fmt: skip


def test_exactly_the_promised_names_are_public():
    assert set(br.__all__) == PROMISED
    assert list(br.__all__) == sorted(br.__all__)


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_every_public_name_is_there(name):
    assert getattr(br, name) is getattr(br, name)
    assert name in dir(br)


def test_every_public_name_is_also_declared_for_type_checkers():
    declared = (ROOT / "batch_runner/__init__.py").read_text().split("if TYPE_CHECKING:")[1]
    declared = declared.split("__all__")[0]
    for name in PROMISED - {"__version__"}:
        assert f" {name}" in declared, name
    assert (ROOT / "batch_runner/py.typed").exists()


def test_a_submodule_does_not_take_the_place_of_a_public_name():
    code = "import batch_runner.estimate, batch_runner as br; assert callable(br.estimate)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    from batch_runner import estimate
    from batch_runner.estimating import estimate as original

    assert estimate is original


def test_a_name_that_is_not_there_is_named():
    with pytest.raises(AttributeError, match="'runn'"):
        _ = br.runn


def test_a_star_import_gives_the_promised_names():
    space = {}
    exec("from batch_runner import *", space)
    assert set(space) >= PROMISED


def test_importing_loads_nothing_but_the_door():
    code = (
        "import sys; before = set(sys.modules); import batch_runner; "
        "print(*sorted(set(sys.modules) - before - sys.stdlib_module_names))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = [
        name for name in ran.stdout.split() if name.split(".")[0] not in sys.stdlib_module_names
    ]
    assert loaded == ["batch_runner"]


def test_help_on_no_module_shows_the_environment():
    code = (
        "import pkgutil, pydoc, batch_runner as br\n"
        "print(*(pydoc.render_doc(getattr(br, name)) for name in br.__all__ if name[0] != '_'))\n"
        "for module in pkgutil.walk_packages(br.__path__, 'batch_runner.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        print(pydoc.render_doc(module.name))\n"
    )
    environment = {**os.environ, "OPENAI_API_KEY": "sk-0123456789abcdefghij"}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "load_job" in ran.stdout
    assert environment["OPENAI_API_KEY"] not in ran.stdout


def test_the_version_is_the_one_of_the_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["tool"]["hatch"]["version"]["path"] == "batch_runner/__init__.py"
    assert br.__version__.count(".") == 2


@pytest.mark.slow
def test_a_strict_type_checker_sees_the_public_names(tmp_path):
    (tmp_path / "program.py").write_text(
        "import batch_runner as br\n"
        "def main() -> br.RunSummary:\n"
        "    job: br.JobSpec = br.load_job('job.toml')\n"
        "    texts: list[str | None] = [outcome.text for outcome in br.read_results(job)]\n"
        "    print(texts, br.estimate(job).rows)\n"
        "    return br.run(job, br.RunOptions(limit=3))\n"
        "wrong: int = main()\n"
    )
    call = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), "program.py"]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    ran = subprocess.run(
        call, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    ours = [line for line in ran.stdout.splitlines() if line.startswith("program.py")]
    assert len(ours) == 1, ran.stdout
    assert 'has type "RunSummary", variable has type "int"' in ours[0]
