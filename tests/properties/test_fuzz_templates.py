"""Whatever a template says, building a request ends soon, in a Request, a Failure or a JobError."""

import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batch_runner.errors import JobError
from batch_runner.jobmapping import job_from_mapping
from batch_runner.prompt import PromptBuilder
from batch_runner.records import Failure, Request, Row


QUICK = settings(max_examples=250, deadline=None)

PIECES = st.sampled_from(
    [
        *("{{", "}}", "{%", "%}", "{#", "#}", " ", "x", "row", "row.x", 'row["x"]', ".", "[", "]"),
        *("(", ")", "|", "json", "truncate", "upper", "length", "if", "endif", "for", "endfor"),
        *("in", "range(9)", "set", "macro", "loop", "else", "==", "not", "1", "'a'", '"', "**"),
        *("include", "extends", "import", "raw", "endraw", "__class__", "self", "namespace"),
    ]
)
SOURCES = st.lists(PIECES, max_size=12).map(" ".join) | st.text(max_size=30)
CELLS = st.text(max_size=8) | st.sampled_from(["{{ x }}", "{% for", "\ud800", "\0", "", "1e400"])


def build(source, cell, **request):
    job = job_from_mapping(
        {
            "input": {"path": "in.csv"},
            "prompt": {"input": source},
            "request": {"model": "m", **request},
            "output": {"path": "out.csv"},
        },
        origin="job",
        folder=Path("/"),
        default_name="job",
    )
    row = Row(index=0, values={"x": cell}, source="in.csv", line=2)
    return PromptBuilder(job).build(row)


@QUICK
@example("{{ x.__class__ }}", "a")
@example("{{ x", "a")
@example("{% include 'x' %}{{ x }}", "a")
@given(SOURCES, CELLS)
def test_any_template_gives_a_request_or_says_why_not(source, cell):
    try:
        built = build(source, cell)
    except JobError:
        return
    assert isinstance(built, (Request, Failure))


@QUICK
@given(SOURCES, CELLS)
def test_any_parameter_template_gives_a_request_or_says_why_not(source, cell):
    try:
        built = build("a {{ x }}", cell, temperature=source, metadata={"a": [source]})
    except JobError:
        return
    assert isinstance(built, (Request, Failure))


@QUICK
@given(CELLS)
def test_a_cell_is_never_run_as_a_template(cell):
    built = build("say: {{ x }}", cell)
    if isinstance(built, Request):
        assert b"say: " in built.body


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ x }}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}{{ x }}",
        "{% for a in range(10000) %}" * 5 + "{{ x }}" + "{% endfor %}" * 5,
    ],
)
def test_a_template_without_an_end_runs_out_of_fuel(source):
    began = time.process_time()
    built = build(source, "a")
    assert isinstance(built, Failure)
    assert time.process_time() - began < 10
