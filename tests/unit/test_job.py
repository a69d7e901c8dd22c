"""The job as checked values: what each key accepts, and what it says of the rest."""

import datetime as dt
import math
from decimal import Decimal
from pathlib import Path

import pytest

from batch_runner.errors import JobError
from batch_runner.hosts import base_url, is_loopback
from batch_runner.job import ColumnSet, Durability, InputFormat, MissingPolicy
from batch_runner.jobmapping import job_from_mapping
from batch_runner.values import ErrorLimit, WrongValueError, duration_seconds, looks_like_a_key


SMALLEST = {
    "input": {"path": "in.csv"},
    "prompt": {"input": "{{ body }}"},
    "request": {"model": "m"},
    "output": {"path": "out.csv"},
}


def job(**tables):
    """The smallest job, with the keys of `tables` laid over it."""
    mapping = {name: dict(table) for name, table in SMALLEST.items()}
    for name, table in tables.items():
        if isinstance(table, dict):
            mapping[name] = mapping.get(name, {}) | table
        else:
            mapping[name] = table
    return job_from_mapping(mapping, origin="a.toml", folder=Path("/jobs"), default_name="a b")


def refusal(**tables) -> JobError:
    with pytest.raises(JobError) as caught:
        job(**tables)
    assert str(caught.value).startswith("a.toml: ")
    return caught.value


def test_a_job_of_four_lines_has_the_documented_defaults():
    spec = job()
    assert spec.name == "a-b"
    assert spec.input.format is InputFormat.AUTO
    assert spec.prompt.missing is MissingPolicy.FAIL
    assert spec.endpoint.base_url == "https://api.openai.com/v1"
    assert spec.endpoint.timeout == 600
    assert (spec.limits.concurrency.minimum, spec.limits.concurrency.maximum) == (1, 512)
    assert (spec.retry.attempts, spec.retry.maybe_billed_attempts) == (6, 2)
    assert (spec.retry.max_wait, spec.retry.rate_limit_patience) == (60, 3600)
    assert spec.output.columns is ColumnSet.STANDARD
    assert spec.output.prefix == "llm_"
    assert spec.output.durability is Durability.MS_100
    assert spec.run_path == Path("/jobs/out.csv.run")
    assert spec.meta_path == Path("/jobs/out.csv.meta.json")


def test_every_path_is_resolved_against_the_folder_of_the_job():
    spec = job(
        input={"path": ["a.csv", "../b/*.csv", "/c.csv"]},
        output={"path": "../out/o.csv", "report": "r.html"},
        endpoint={"ca_file": "ca.pem"},
        notify={"prometheus_textfile": "x.prom"},
    )
    assert spec.input.path == ("/jobs/a.csv", "/b/*.csv", "/c.csv")
    assert spec.output.path == "/out/o.csv"
    assert spec.output.report == "/jobs/r.html"
    assert spec.endpoint.ca_file == "/jobs/ca.pem"
    assert spec.notify.prometheus_textfile == "/jobs/x.prom"


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"inputs": {"path": "x"}}, ["[inputs]: unknown table", "did you mean 'input'"]),
        ({"input": {"pth": "x"}}, ["input.pth", "did you mean 'path'"]),
        ({"input": {"zzz": 1}}, ["input.zzz", "known: path, format, key"]),
        ({"job": {"nam": "x"}}, ["job.nam", "did you mean 'name'"]),
        ({"input": {"rpm": 5}}, ["input.rpm", "belongs under [limits]"]),
        ({"endpoint": {"model": "m"}}, ["endpoint.model", "belongs under [request]"]),
        ({"model": "m"}, ["model", "belongs under [request]"]),
        ({"colour": "red"}, ["colour", "outside every table"]),
        ({"endpoint": {"api_key": "sk-abcdefghijklmnop"}}, ["did you mean 'api_key_env'"]),
        ({"prices": {"m": {"input": 1, "outptu": 2}}}, ['prices."m".outptu', "'output'"]),
        ({"prices": {"m": {"input": 1}}}, ['prices."m".output', "missing"]),
    ],
)
def test_an_unknown_key_is_an_error_with_a_suggestion(tables, words):
    message = str(refusal(**tables))
    assert all(word in message for word in words), message
    assert "sk-" not in message


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"input": {"format": "xlsx"}}, ["input.format: 'xlsx'", '"openai-batch"']),
        ({"input": {"on_bad_row": "ignore"}}, ["input.on_bad_row: 'ignore'", '"skip"']),
        ({"input": {"path": []}}, ["input.path: []", "list of texts"]),
        ({"input": {"key": [1]}}, ["input.key: [1]"]),
        ({"prompt": {"missing": "drop"}}, ["prompt.missing: 'drop'"]),
        ({"prompt": {"input": 5}}, ["prompt.input: 5 must be text"]),
        ({"endpoint": {"timeout": "ten minutes"}}, ["'ten minutes'", '"10m"']),
        ({"endpoint": {"timeout": 0}}, ["endpoint.timeout: 0", "longer than zero"]),
        ({"endpoint": {"proxy": "proxy:3128"}}, ["endpoint.proxy: 'proxy:3128'", "http://"]),
        ({"endpoint": {"headers": {"a b": "c"}}}, ["endpoint.headers", "'a b'"]),
        ({"endpoint": {"headers": {"a": "c\n"}}}, ["endpoint.headers", "control"]),
        ({"endpoint": {"idempotency_header": "a b"}}, ["idempotency_header: 'a b'"]),
        ({"output": {"report": "data.csv"}}, ["output.report: 'data.csv'", ".html"]),
        ({"notify": {"prometheus_textfile": "x.txt"}}, ["prometheus_textfile", ".prom"]),
        ({"prompt": {"input": " "}}, ["prompt.input: ' '", "empty"]),
        ({"endpoint": {"stream": "yes"}}, ["endpoint.stream: 'yes'", "true or false"]),
        ({"endpoint": {"headers": {"x": 1}}}, ["endpoint.headers", "must be text, in quotes"]),
        ({"limits": {"concurrency": 0}}, ["limits.concurrency: 0", '"4-200"']),
        ({"limits": {"concurrency": "9-3"}}, ["limits.concurrency: '9-3'"]),
        ({"limits": {"rpm": -1}}, ["limits.rpm: -1", "above zero"]),
        ({"limits": {"rpm": True}}, ["limits.rpm: True"]),
        ({"limits": {"max_cost": "much"}}, ["limits.max_cost: 'much'", "2.50"]),
        ({"limits": {"max_cost": math.inf}}, ["limits.max_cost: inf"]),
        ({"limits": {"max_errors": "101%"}}, ["limits.max_errors: '101%'", "more than 100%"]),
        ({"limits": {"max_errors": "few"}}, ["limits.max_errors: 'few'", "5%"]),
        ({"retry": {"attempts": 0}}, ["retry.attempts: 0", "1 or more"]),
        ({"retry": {"attempts": 2.5}}, ["retry.attempts: 2.5"]),
        ({"output": {"columns": "all"}}, ["output.columns: 'all'", '"full"']),
        ({"output": {"csv_formulas": "drop"}}, ["output.csv_formulas: 'drop'", '"escape"']),
        ({"output": {"path": " "}}, ["output.path: ' '", "empty"]),
        ({"json": {"columns": {"category": "c"}}}, ["json.columns", "'category'", "'/category'"]),
        ({"json": {"on_invalid": "warn"}}, ["json.on_invalid: 'warn'"]),
        ({"request": {"model": ""}}, ["request.model: ''", "empty"]),
        ({"request": {"max_output_tokens": 0}}, ["request.max_output_tokens: 0"]),
        ({"request": {"temperature": math.nan}}, ["request.temperature", "JSON"]),
        ({"request": {"metadata": {"day": dt.date(2024, 1, 2)}}}, ["request.metadata.day"]),
        ({"request": {"text": "json"}}, ["request.text: 'json'", "table"]),
        ({"request": {"input": "hi"}}, ["request.input", "prompt.input"]),
        ({"request": {"stream": True}}, ["request.stream", "endpoint.stream"]),
        ({"job": {"name": "a b"}}, ["job.name: 'a b'", "letters, digits"]),
        ({"job": "x"}, ["job: 'x'", "table"]),
        ({"prompt": {"messages": []}}, ["prompt.messages: []"]),
        ({"prompt": {"messages": "turns"}}, ["prompt.input and prompt.messages", "exactly one"]),
    ],
)
def test_a_wrong_value_is_named_with_its_place_and_what_would_be_right(tables, words):
    message = str(refusal(**tables))
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("table", "key"), [("input", "path"), ("output", "path"), ("request", "model")]
)
def test_what_is_missing_is_named_with_the_flag_that_gives_it(table, key):
    mapping = {name: dict(values) for name, values in SMALLEST.items()}
    del mapping[table][key]
    with pytest.raises(JobError, match=rf"a.toml: {table}\.{key}: missing") as caught:
        job_from_mapping(mapping, origin="a.toml", folder=Path("/jobs"), default_name="a")
    assert "or pass -" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "said"),
    [("modle", "request.model: missing, did you mean it by 'modle'?"), ("user", "model: missing")],
)
def test_a_slip_in_the_name_of_the_model_is_told(name, said):
    mapping = SMALLEST | {"request": {name: "m"}}
    with pytest.raises(JobError) as caught:
        job_from_mapping(mapping, origin="a.toml", folder=Path("/jobs"), default_name="a")
    assert str(caught.value).endswith(said)


def test_nothing_to_send_is_refused():
    mapping = SMALLEST | {"prompt": {}}
    with pytest.raises(JobError, match="nothing to send"):
        job_from_mapping(mapping, origin="a.toml", folder=Path("/jobs"), default_name="a")


SECRETS = ["sk-proj-abcdef1234567890", "Bearer sk-abcdef1234567890", "0123456789abcdef" * 3]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "place",
    [
        lambda s: {"endpoint": {"api_key_env": s}},
        lambda s: {"endpoint": {"headers": {"Authorization": s}}},
        lambda s: {"endpoint": {"headers": {"api-key": s}}},
        lambda s: {"endpoint": {"base_url": f"https://user:{s.replace(' ', '')}@host/v1"}},
        lambda s: {"endpoint": {"base_url": f"https://host/v1?key={s.replace(' ', '')}"}},
        lambda s: {"endpoint": {"base_url": s}},
        lambda s: {"endpoint": {"timeout": s}},
        lambda s: {"input": {"key": [s, 5]}},
        lambda s: {"notify": {"ping_url_env": f"https://hc-ping.example/{s}"}},
    ],
)
def test_a_secret_in_a_job_is_refused_without_being_shown(place, secret):
    error = refusal(**place(secret))
    assert "not shown" in str(error)
    assert secret[-10:] not in str(error) + error.hint


@pytest.mark.parametrize(
    "name",
    [
        "OPENAI_API_KEY", "a-very-long-model-name-with-many-parts-2024-07-18-and-a-suffix",
        "gpt-5-mini", "ft:gpt-4o-mini:acme::9aXyZ", "accounts/fireworks/models/llama-v3p1-405b",
        "THE_KEY_OF_OUR_GATEWAY_IN_PRODUCTION_2024", "summaries_of_all_articles_of_the_year_2024",
    ],
)  # fmt: skip
def test_a_name_is_not_taken_for_a_key(name):
    assert not looks_like_a_key(name)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("https://host", "https://host/v1"),
        ("https://host/", "https://host/v1"),
        ("https://host/v1", "https://host/v1"),
        ("https://host/v1/", "https://host/v1"),
        ("https://host/v1/responses", "https://host/v1"),
        ("https://host/v1/responses/", "https://host/v1"),
        (" http://127.0.0.1:8080 ", "http://127.0.0.1:8080/v1"),
        ("https://host/openai/v1", "https://host/openai/v1"),
        ("http://[::1]:80/v1", "http://[::1]:80/v1"),
    ],
)
def test_every_spelling_of_a_base_url_reaches_the_same_place(given, used):
    assert base_url(given) == used
    assert base_url(used) == used


@pytest.mark.parametrize(
    "given",
    ["", "host/v1", "ftp://host", "https://", "http://[::1", "http://h:port", "https://a b/v1"],
)
def test_what_is_no_base_url_is_refused(given):
    assert "endpoint.base_url" in str(refusal(endpoint={"base_url": given}))


def test_only_this_machine_is_loopback():
    assert all(map(is_loopback, ["localhost", "127.0.0.1", "127.9.9.9", "::1", "a.localhost"]))
    assert not any(
        map(is_loopback, ["localhost.example", "10.0.0.1", "0.0.0.0", "", "127.0.0.1.example"])
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("1.5h", 5400), (7, 7)],
)
def test_durations_read_as_people_write_them(text, seconds):
    assert duration_seconds(text) == seconds


@pytest.mark.parametrize("value", ["", "1 h", "-5s", "5x", "h", None, True, [], math.inf])
def test_what_is_no_duration_is_refused(value):
    with pytest.raises(WrongValueError):
        duration_seconds(value)


@pytest.mark.parametrize("given", ["127.0.0.1:18081", "localhost:8081/v1", "host.example"])
def test_a_base_url_without_its_scheme_is_told_what_it_lacks(given):
    told = str(refusal(endpoint={"base_url": given}))
    assert "must begin with http:// or https://" in told


def test_an_error_limit_is_a_number_or_a_share_of_enough_rows():
    number = job(limits={"max_errors": 3}).limits.max_errors
    assert not number.exceeded(3, 3)
    assert number.exceeded(4, 4)
    share = job(limits={"max_errors": "5%"}).limits.max_errors
    assert not share.exceeded(19, 19), "over the first rows a share says nothing"
    assert not share.exceeded(1, 20)
    assert share.exceeded(2, 20)
    assert not ErrorLimit().exceeded(10**6, 10**6)


def test_numbers_may_come_as_text_for_flags_know_nothing_else():
    spec = job(limits={"rpm": "60", "max_cost": "1.10", "concurrency": "4-200", "deadline": "4h"})
    assert spec.limits.rpm == 60
    assert spec.limits.max_cost == Decimal("1.10")
    assert (spec.limits.concurrency.minimum, spec.limits.concurrency.maximum) == (4, 200)
    assert spec.limits.deadline == 14400


def test_a_tab_may_be_typed_as_a_shell_can():
    assert job(input={"delimiter": "\\t"}).input.delimiter == "\t"
    assert job(input={"delimiter": "tab"}).input.delimiter == "\t"
