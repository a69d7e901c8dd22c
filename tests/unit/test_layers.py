"""The shape of the package: which module may know which. Kept here, because nobody remembers it."""

import ast
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import batch_runner
from batch_runner.cli import build_parser
from batch_runner.faultserver import running


ROOT = Path(batch_runner.__file__).parent

CORE = {
    "adaptive", "amounts", "bill", "breaker", "bucket", "budget", "columns", "concurrency", "course",
    "doubt", "errors", "estimate", "fingerprint", "frozen", "gain", "hosts", "job", "jobmapping",
    "jsonbytes", "looks", "media", "parameters", "price_list", "pricing", "printable", "prompt", "reask",
    "records", "redact", "responses", "retry", "spelling", "sse", "stored", "structured", "summary", "tally",
    "template_values", "timeline", "trouble", "values",
}  # fmt: skip
"""Pure: no I/O, no clock, no event loop."""

EDGE = {
    "api_key", "atomic", "attachments", "client", "disk", "endpoint_count", "exchange", "expectation",
    "faultserver", "grown", "jobfile", "journal", "judging", "limiter", "local", "logs", "meta", "notify",
    "open_files", "progress", "signals", "tables", "tokens", "transport",
}  # fmt: skip
"""One kind of I/O each."""

FLOW = {
    "__init__", "__main__", "announce", "asked", "batch_answers", "batch_files", "batch_report",
    "bequest", "changes", "charts", "check", "cli", "commands", "conclusion", "costs",
    "costs_report", "dispatch", "drift", "emptied", "estimate_report", "estimated", "estimating", "export", "findings", "frame",
    "freshness", "gauge", "guard", "html_report", "input_files", "invocation", "keeping", "kept", "losses", "manual", "money_view", "news", "opening", "origins", "outset", "output_place", "pipeline",
    "plan", "prospect", "remedy", "reparse", "report", "results", "rows_view", "run_options", "run_place", "run_view",
    "runner", "scripted", "shortcut", "soundness", "spending", "standing", "starter", "status", "survey", "variables", "watch", "work",
}  # fmt: skip
"""What puts them together."""

STATED = {
    ("client", "limiter"): "a slot is held per attempt, and attempts are the client's",
    ("client", "exchange"): "an attempt is one exchange",
    ("client", "transport"): "only the transport knows what its errors mean",
    ("client", "judging"): "what a reply means for its row",
    ("judging", "exchange"): "a reply is what an exchange brings back",
    ("endpoint_count", "exchange"): "a count is one exchange too",
    ("endpoint_count", "transport"): "as for the client",
    ("exchange", "transport"): "likewise, and its time to connect",
    ("atomic", "disk"): "the seam at which a disk can fail",
    ("journal", "disk"): "likewise",
    ("journal", "atomic"): "the manifest appears whole or not at all",
    ("expectation", "atomic"): "so does this file",
    ("meta", "atomic"): "so does this file",
    ("notify", "atomic"): "so does this file",
}
"""Edges that know each other, and why."""


def modules() -> list[str]:
    """Top-level modules and packages."""
    names = {path.stem for path in ROOT.glob("*.py")}
    return sorted(names | {path.parent.name for path in ROOT.glob("*/__init__.py")})


def sources(module: str) -> list[Path]:
    package = ROOT / module
    return sorted(package.rglob("*.py")) if package.is_dir() else [ROOT / f"{module}.py"]


@cache
def parsed(source: Path) -> ast.Module:
    return ast.parse(source.read_text())


def imported(source: Path, *, at_load: bool = False) -> Iterator[str]:
    """Full names a file imports, those under TYPE_CHECKING left out; `at_load`: not in functions."""
    waiting: list[ast.AST] = [parsed(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if at_load and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        waiting.extend(ast.iter_child_nodes(node))


def neighbours(module: str) -> set[str]:
    """The modules of this package that one imports, at load or later."""
    names = {name for source in sources(module) for name in imported(source)}
    parts = {name.split(".")[1] for name in names if name.startswith("batch_runner.")}
    return (parts & set(modules())) - {module}


def packages(module: str, *, at_load: bool = False) -> set[str]:
    """The foreign packages that one imports."""
    names = {name for source in sources(module) for name in imported(source, at_load=at_load)}
    return {name.split(".")[0] for name in names} - {"batch_runner"}


def test_every_module_belongs_to_exactly_one_layer():
    assert set(modules()) == CORE | EDGE | FLOW
    assert not CORE & EDGE | CORE & FLOW | EDGE & FLOW


@pytest.mark.parametrize(("layer", "members"), [("Core", CORE), ("Edge", EDGE), ("Flow", FLOW)])
def test_the_architecture_page_says_of_every_module_where_it_stands(layer, members):
    page = (Path(__file__).parents[2] / "ARCHITECTURE.md").read_text()
    table = page.partition(f"\n**{layer}**")[2].partition("|---|---|\n")[2].partition("\n\n")[0]
    inside = {path.stem for path in (ROOT / "commands").glob("*.py")} - set(modules())
    named = re.findall(r"`(\w+)`", table)
    assert sorted(name for name in named if name not in inside) == sorted(members)


@pytest.mark.parametrize("module", sorted(CORE))
def test_the_core_knows_only_the_core(module):
    assert neighbours(module) <= CORE


@pytest.mark.parametrize("module", sorted(EDGE))
def test_an_edge_knows_the_core_and_other_edges_only_for_a_stated_reason(module):
    known = neighbours(module)
    assert not known & FLOW
    assert {(module, other) for other in known & EDGE} <= STATED.keys()


def test_every_stated_reason_is_still_needed():
    assert {pair for pair in STATED if pair[1] not in neighbours(pair[0])} == set()


@pytest.mark.parametrize("module", sorted(CORE))
def test_the_core_does_no_io_and_knows_no_clock_and_no_chance(module):
    banned = {
        "anyio", "asyncio", "logging", "random", "secrets", "shutil", "signal", "socket",
        "subprocess", "sys", "tempfile", "threading", "time", "uuid",
    }  # fmt: skip
    seeded = {"estimate": {"random"}}  # the same sample for the same seed
    assert packages(module) & banned <= seeded.get(module, set())


@pytest.mark.parametrize("module", modules())
def test_the_network_is_known_to_the_client_alone(module):
    allowed = {
        "client": {"httpx", "tenacity"},
        "exchange": {"httpx"},
        "transport": {"httpx", "aiohttp"},
    }
    network = {"httpx", "aiohttp", "tenacity", "requests", "urllib3"}
    assert packages(module) & network <= allowed.get(module, set())


@pytest.mark.parametrize("module", modules())
def test_tables_and_frames_alone_know_pyarrow_and_pandas_and_not_at_load(module):
    heavy = {"pyarrow", "pandas", "numpy"}
    allowed = {"tables": {"pyarrow"}, "frame": {"pandas"}, "costs_report": {"pandas"}}
    assert packages(module) & heavy <= allowed.get(module, set())
    assert not packages(module, at_load=True) & heavy


def test_the_pipeline_knows_only_rows_and_tasks():
    assert neighbours("pipeline") == {"records"}
    assert packages("pipeline") - set(sys.stdlib_module_names) == {"anyio"}


def test_no_module_is_a_drawer_for_odds_and_ends():
    names = {path.stem for path in ROOT.rglob("*.py")}
    drawers = ("util", "helper", "base", "common", "manager", "misc", "stuff")
    assert not [name for name in names if any(drawer in name.split("_") for drawer in drawers)]
    assert not [name for name in names if name.rstrip("s") in drawers]


def loaded(code: str, *arguments: str, folder: Path | None = None) -> set[str]:
    """Top-level modules in a fresh interpreter after `code`."""
    ended = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint('|', *sys.modules)", *arguments],
        capture_output=True, text=True, check=True, cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT.parent)},
    )  # fmt: skip
    return {name.split(".")[0] for name in ended.stdout.rpartition("|")[2].split()}


ENDING = "try:\n    main({})\nexcept SystemExit:\n    pass"


def test_help_loads_nothing_heavy():
    code = "from batch_runner.cli import main\n" + ENDING.format("['run', '--help']")
    heavy = {
        "aiohttp", "anyio", "asyncio", "genai_prices", "httpx", "jsonschema", "minijinja", "numpy",
        "pandas", "pyarrow", "pydantic", "ssl", "tenacity", "tqdm",
    }  # fmt: skip
    assert not loaded(code) & heavy


def test_a_csv_run_loads_neither_pyarrow_nor_pandas(tmp_path):
    (tmp_path / "in.csv").write_text("body\none\ntwo\n")
    code = "from batch_runner.cli import main\nassert main(sys.argv[1:]) == 0"
    with running() as server:
        job = ["-m", "m1", "-p", "{{ body }}", "--base-url", server.url]
        names = loaded(code, "run", "-i", "in.csv", "-o", "out.csv", *job, folder=tmp_path)
    assert (tmp_path / "out.csv").exists()
    assert "httpx" in names, "the control: a run is what loads things"
    assert not names & {"pyarrow", "pandas", "numpy", "jsonschema", "openai", "ray"}


def cpu_seconds(code: str) -> float:
    """CPU of a fresh interpreter that runs `code`; the least of three."""
    figures = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        loaded(code)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        figures.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(figures)


def test_help_costs_next_to_nothing():
    code = "from batch_runner.cli import main\n" + ENDING.format("['--help']")
    assert cpu_seconds(code) - cpu_seconds("") < 0.15


def test_every_command_and_option_says_what_it_does():
    parser = build_parser()
    [commands] = [action for action in parser._actions if action.dest == "command"]
    silent = [name for name in commands.choices if not commands.choices[name].description]
    for name, command in commands.choices.items():
        silent += [
            f"{name} {action.option_strings or action.dest}"
            for action in command._actions
            if not action.help
        ]
    assert silent == []
