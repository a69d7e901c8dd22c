"""A row and templates become a request: what is sent, what is refused, and what decides about its key."""

import base64
import datetime as dt
import json
from decimal import Decimal
from functools import partial
from pathlib import Path

import pytest

from batch_runner.attachments import read_attachment
from batch_runner.errors import JobError
from batch_runner.jobmapping import job_from_mapping
from batch_runner.prompt import PromptBuilder, digest_of, row_key
from batch_runner.records import Failure, Request, Row, RowStatus


PNG = b"\x89PNG\r\n\x1a\n rest"


def builder(prompt, *, folder=Path("/jobs"), **tables):
    """What builds the requests of a job whose prompt is a template or a whole [prompt] table."""
    prompt = {"input": prompt} if isinstance(prompt, str) else prompt
    mapping = {
        "input": {"path": "in.csv"}, "prompt": prompt, "request": {"model": "m"},
        "output": {"path": "out.csv"},
    }  # fmt: skip
    for name, table in tables.items():
        mapping[name] = mapping.get(name, {}) | table
    job = job_from_mapping(mapping, origin="a.toml", folder=folder, default_name="a")
    return PromptBuilder(job, read_file=partial(read_attachment, folder=folder))


def row(**values):
    return Row(index=0, values=values, source="in.csv", line=2)


def body(prompt, values, **tables):
    """The body that is sent for a row."""
    request = builder(prompt, **tables).build(row(**values))
    assert isinstance(request, Request), request
    return json.loads(request.body)


def failure(prompt, values, **tables):
    ending = builder(prompt, **tables).build(row(**values))
    assert isinstance(ending, Failure)
    return ending


# What templates print


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("{{ x }} {% if %} {0} %s <b>&amp;", "{{ x }} {% if %} {0} %s <b>&amp;"),
        ("a\nb", "a\nb"),
        (True, "true"),
        (17, "17"),
        (2**80, str(2**80)),
        (0.1, "0.1"),
        ([1, "é"], '[1, "é"]'),
        ({"k": None}, '{"k": null}'),
        (dt.datetime(2024, 1, 2, tzinfo=dt.UTC), "2024-01-02T00:00:00+00:00"),
        (Decimal("1.50"), "1.50"),
        (b"\x00\xff", base64.b64encode(b"\x00\xff").decode()),
    ],
)
def test_a_value_is_printed_as_it_is_and_never_run_as_a_template(value, shown):
    assert body("{{ x }}", {"x": value})["input"] == shown


def test_templates_can_reach_every_column_by_the_name_it_has():
    values = {"two words": "a", "x": {"deep": "b"}, "row": "c"}
    assert body("{{ row['two words'] }} {{ x.deep }}", values)["input"] == "a b"
    assert (
        body("{% for k, v in row|items %}{{ k }}={{ v }};{% endfor %}", {"a": "1", "b": "2"})[
            "input"
        ]
        == "a=1;b=2;"
    )


def test_templates_have_filters_for_prompts():
    assert body("{{ x | json }}", {"x": 'say "é"'})["input"] == '"say \\"é\\""'
    assert body("{{ x | truncate(3) }}", {"x": "abcdef"})["input"] == "abc"
    assert body("{{ x | upper }}", {"x": "a"})["input"] == "A"


def test_a_template_reaches_no_python_and_ends():
    endless = "{% for i in range(100000000) %}{{ x }}{% endfor %}"
    for template in ("{{ x.__class__ }}", "{{ x.__class__.__mro__ }}", endless):
        assert failure(template, {"x": "a"}).code == "bad_input"


@pytest.mark.parametrize(
    ("template", "words"),
    [("{{ x", "prompt.input"), ("{% nope %}", "prompt.input"), ("a\n{{ }}", "line 2")],
)
def test_a_template_that_cannot_be_read_is_refused_with_its_place(template, words):
    with pytest.raises(JobError, match=words):
        builder(template)


@pytest.mark.parametrize(
    ("template", "hint"),
    [
        ("a\nb {{ x ", "}} is missing"),
        ("a\nb {{ x }", "}} is missing"),
        ("a\nb {{ full name }}", '{{ row["a name"] }}'),
        ("a\nb {% if x %} c", "{% end... %} is missing"),
        ("a\nb {# x", "#} is missing"),
        ("a\nb {{ 'x }}", "a closing quote is missing"),
    ],
)
def test_a_syntax_error_names_its_line_once_and_says_what_is_missing(template, hint):
    with pytest.raises(JobError) as caught:
        builder(template)
    assert str(caught.value).count("prompt.input") == 1
    assert str(caught.value).endswith("(line 2 of the template)")
    assert hint in caught.value.hint


# Which columns


def test_the_columns_a_request_needs_are_known_before_any_row():
    assert builder("{{ a }} {{ row.b }} {{ row['c d'] }}", input={"key": "id"}).columns == {
        "a", "b", "c d", "id",
    }  # fmt: skip
    assert builder("{% for k in row %}{{ k }}{% endfor %}").columns is None
    assert builder("{% set y = a %}{{ y }}").columns == {"a"}


def test_an_unknown_column_is_refused_with_the_nearest_one():
    build = builder("{{ Titel }}")
    build.check_columns(["Titel"], source="in.csv")
    with pytest.raises(JobError, match=r"in.csv has no column 'Titel'") as caught:
        build.check_columns(["title", "body"], source="in.csv")
    assert "'title'" in caught.value.hint
    with pytest.raises(JobError, match=r"input.key"):
        builder("x", input={"key": "nr"}).check_columns(["id"], source="in.csv")


@pytest.mark.parametrize("template", ["{{ x | nope }}", "{{ x is nope }}", "{% include 'nope' %}"])
def test_a_call_of_what_does_not_exist_stops_the_job_and_not_its_rows(template):
    with pytest.raises(JobError, match=r"a.toml: prompt.input: .*nope"):
        builder(template).build(row(x="a"))


def test_a_column_may_be_called_like_a_function_of_the_engine():
    assert body("{{ range }} {{ dict }}", {"range": "far", "dict": "book"})["input"] == "far book"
    assert body("{% for i in range(3) %}{{ i }}{% endfor %}", {"x": "a"})["input"] == "012"


def test_a_wide_table_is_not_listed_in_full():
    with pytest.raises(JobError) as caught:
        builder("{{ x }}").check_columns([f"c{n}" for n in range(1000)], source="in.csv")
    assert "and 970 more" in str(caught.value)
    assert len(str(caught.value)) < 500


# Missing values


@pytest.mark.parametrize("empty", ["", None])
def test_an_empty_cell_follows_the_rule_of_the_job(empty):
    values = {"x": empty, "y": "1"}
    failed = failure("{{ x }}", values)
    assert (failed.status, failed.code) == (RowStatus.FAILED, "missing_value")
    assert "'x'" in failed.message
    skipped = failure({"input": "{{ x }}", "missing": "skip"}, values)
    assert (skipped.status, skipped.code) == (RowStatus.SKIPPED, "missing_value")
    assert body({"input": "<{{ x }}>", "missing": "empty"}, values)["input"] == "<>"
    assert body("{{ y }}", values)["input"] == "1", "only cells that are referred to count"


def test_a_lone_surrogate_fails_its_row_wherever_it_is():
    for value in ("a\ud800", ["\udfff"], {"k": "\ud800"}):
        assert failure("{{ x }}", {"x": value}).code == "bad_input"


# The body


def test_the_body_is_the_request_table_with_the_prompt():
    sent = body(
        {"instructions": "Be {{ tone }}.", "input": "{{ x }}"},
        {"x": "hi", "tone": "kind"},
        request={
            "temperature": 0,
            "metadata": {"id": "{{ x }}"},
            "tools": [{"type": "web_search"}],
        },
    )
    assert sent == {
        "model": "m", "instructions": "Be kind.", "input": "hi", "temperature": 0,
        "metadata": {"id": "hi"}, "tools": [{"type": "web_search"}],
    }  # fmt: skip


def test_a_parameter_that_is_one_expression_keeps_its_type():
    sent = body(
        "x",
        {"n": "5", "t": 0.5, "m": "m2", "tags": ["a"]},
        request={
            "model": "{{ m }}", "max_output_tokens": "{{ n }}", "temperature": "{{ t }}",
            "user": "{{ n }}", "include": "{{ tags }}",
        },
    )  # fmt: skip
    assert sent["model"] == "m2"
    assert sent["max_output_tokens"] == 5
    assert sent["temperature"] == 0.5
    assert sent["user"] == "5"
    assert sent["include"] == ["a"]


def test_a_parameter_that_is_no_number_fails_its_row():
    ending = failure("x", {"n": "many"}, request={"max_output_tokens": "{{ n }}"})
    assert ending.code == "bad_input"
    assert "'many'" in ending.message


def test_a_schema_is_sent_as_text_format_unless_the_job_has_its_own():
    schema = {"type": "object", "title": "My Answer"}
    sent = body("x", {}, json={"schema": schema}, request={"text": {"verbosity": "low"}})
    assert sent["text"]["format"] == {
        "type": "json_schema", "name": "My_Answer", "schema": schema, "strict": True,
    }  # fmt: skip
    assert sent["text"]["verbosity"] == "low"
    own = {"format": {"type": "json_object"}}
    assert body("x", {}, json={"schema": schema}, request={"text": own})["text"] == own


def test_messages_may_be_templates_or_a_column():
    written = [{"role": "user", "content": [{"type": "input_text", "text": "{{ x }}"}]}]
    assert body({"messages": written}, {"x": "hi"})["input"][0]["content"][0]["text"] == "hi"
    held = [{"role": "user", "content": "hi"}]
    assert body({"messages": "turns"}, {"turns": held})["input"] == held
    assert body({"messages": "turns"}, {"turns": json.dumps(held)})["input"] == held
    for wrong in ("not json", '{"role": "user"}', 5):
        assert failure({"messages": "turns"}, {"turns": wrong}).code == "bad_input"


def test_a_column_may_hold_the_whole_body():
    sent = body({"body": "b"}, {"b": '{"input": "x", "model": "m9", "stream": true}'})
    assert sent == {"input": "x", "model": "m9"}


def image_message(file):
    return {
        "messages": [{"role": "user", "content": [{"type": "input_image", "image_file": file}]}]
    }


@pytest.mark.parametrize("file", ["a.png", "{{ path }}"])
def test_an_image_file_is_sent_as_what_is_in_it(tmp_path, file):
    (tmp_path / "a.png").write_bytes(PNG)
    sent = body(image_message(file), {"path": "a.png"}, folder=tmp_path)
    [part] = sent["input"][0]["content"]
    url = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert part == {"type": "input_image", "image_url": url}


@pytest.mark.parametrize(
    ("path", "words"),
    [("gone.png", "No such file"), ("secret.png", "not a PNG"), (".", "cannot be read")],
)
def test_no_other_file_leaves_because_a_cell_names_it(tmp_path, path, words):
    (tmp_path / "secret.png").write_text("root:x:0:0")
    ending = failure(image_message("{{ path }}"), {"path": path}, folder=tmp_path)
    assert ending.code == "bad_input"
    assert words in ending.message


# Keys


def key(prompt, values, **tables):
    return builder(prompt, **tables).build(row(**values)).key


def test_a_key_is_that_of_the_bytes_that_are_sent():
    request = builder("{{ x }}").build(row(x="é"))
    assert request.body == '{"input":"é","model":"m"}'.encode()
    assert request.key == digest_of(request.body)


def test_only_what_is_sent_decides_about_a_key():
    base = key("{{ x }}", {"x": "a", "y": "1"})
    same = {
        "endpoint": {"base_url": "http://localhost", "timeout": "1s", "api_key_env": "K"},
        "limits": {"concurrency": 3}, "input": {"key": "y"}, "retry": {"attempts": 2},
        "output": {"prefix": "p_"},
    }  # fmt: skip
    assert key("{{ x }}", {"x": "a", "y": "2"}, **same) == base
    assert key("{{ x }}", {"x": "b", "y": "1"}) != base
    assert key("{{ x }} ", {"x": "a", "y": "1"}) != base
    assert key("{{ x }}", {"x": "a"}, request={"temperature": 0}) != base
    assert key("{{ x }}", {"x": "a"}, request={"model": "m2"}) != base


def test_equal_requests_have_keys_of_their_own_by_occurrence():
    digest = digest_of(b"{}")
    keys = [row_key(digest, n) for n in range(100)]
    assert keys[0] == digest
    assert len(set(keys)) == 100


def test_a_label_is_made_of_the_key_columns():
    build = builder("x", input={"key": ["a", "b"]})
    assert build.label(row(a="1", b=2)) == "1/2"
    assert builder("x").label(row(a="1")) is None
