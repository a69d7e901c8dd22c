"""Job files: what is laid over what, and which folder a path means."""

import shlex
from decimal import Decimal
from pathlib import Path

import pytest

from batch_runner.errors import JobError, UsageError
from batch_runner.jobfile import KEYS_OF_FLAGS, Overrides, load_job


JOBS = Path(__file__).parents[2] / "jobs"
TEXT = """
[input]
path = "in.csv"
[prompt]
input = "{{ body }}"
[request]
model = "from-file"
[output]
path = "out.csv"
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    """A job file in `jobs/` of an empty folder, which is not the current one."""
    (tmp_path / "jobs").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def load(text=TEXT, *, settings=(), environment=None, **flags):
        file = tmp_path / "jobs" / "a.toml"
        file.write_text(text)
        overrides = Overrides(
            flags={k.replace("__", "."): v for k, v in flags.items()}, settings=settings
        )
        return load_job(file, overrides, environment=environment or {})

    load.folder = tmp_path
    return load


@pytest.mark.parametrize("file", sorted(JOBS.glob("*.toml")), ids=lambda file: file.name)
def test_every_ready_made_job_loads(file):
    job = load_job(file, environment={})
    assert job.name
    assert job.input.path


def test_there_are_the_ready_made_jobs_that_are_promised():
    assert {
        "demo.toml", "summarize_articles.toml", "classify_tickets.toml", "score_reviews.toml",
        "ccapi.toml", "nightly.toml",
    } <= {file.name for file in JOBS.glob("*.toml")}  # fmt: skip
    gateway = load_job(JOBS / "ccapi.toml", environment={})
    assert gateway.endpoint.base_url == "https://api.ccapi.ai/v1"
    assert gateway.endpoint.api_key_env == "CCAPI_API_KEY"


# What is laid over what


def test_a_flag_beats_set_beats_the_environment_beats_the_file_beats_the_default(load):
    environment = {"BATCH_RUNNER_MODEL": "from-env", "BATCH_RUNNER_RPM": "20"}
    settings = ["request.model=from-set"]

    assert load().model == "from-file"
    assert load(environment=environment).model == "from-env"
    assert load(environment=environment, settings=settings).model == "from-set"
    assert (
        load(environment=environment, settings=settings, request__model="from-flag").model
        == "from-flag"
    )
    assert load().limits.rpm is None
    assert load(TEXT + "[limits]\nrpm = 10\n").limits.rpm == 10
    assert load(TEXT + "[limits]\nrpm = 10\n", environment=environment).limits.rpm == 20
    assert load(environment=environment, limits__rpm="30").limits.rpm == 30


def test_every_job_flag_has_its_environment_variable(load):
    values = {
        "input": "e.csv", "output": "o.csv", "model": "e", "prompt": "E {{ x }}",
        "base_url": "http://127.0.0.1:1", "concurrency": "7", "rpm": "8", "tpm": "9",
        "max_cost": "1.5", "max_errors": "4%", "deadline": "5m", "grace": "6s",
    }  # fmt: skip
    assert values.keys() == KEYS_OF_FLAGS.keys()
    job = load(environment={f"BATCH_RUNNER_{name.upper()}": v for name, v in values.items()})
    assert job.input.path == (str(load.folder / "here/e.csv"),)
    assert job.output.path == str(load.folder / "here/o.csv")
    assert (job.model, job.prompt.input) == ("e", "E {{ x }}")
    assert job.endpoint.base_url == "http://127.0.0.1:1/v1"
    assert (job.limits.concurrency.maximum, job.limits.rpm, job.limits.tpm) == (7, 8, 9)
    assert (job.limits.max_cost, job.limits.max_errors.share) == (Decimal("1.5"), 0.04)
    assert (job.limits.deadline, job.limits.grace) == (300, 6)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"limits__rpm": "fast"}, "--rpm: limits.rpm: 'fast' must be"),
        ({"limits__max_cost": "much"}, "--max-cost: limits.max_cost: 'much' must be"),
        ({"environment": {"BATCH_RUNNER_RPM": "fast"}}, "BATCH_RUNNER_RPM: limits.rpm: 'fast'"),
        ({"settings": ["limits.rpm=fast"]}, "--set: limits.rpm: 'fast'"),
        ({"text": TEXT + "[limits]\nrpm = 'fast'"}, "a.toml: limits.rpm: 'fast'"),
        (
            {"environment": {"BATCH_RUNNER_SET": "limits.rpm=fast"}},
            "BATCH_RUNNER_SET: limits.rpm: 'f",
        ),
        ({"environment": {"BATCH_RUNNER_SET": "rpm"}}, "BATCH_RUNNER_SET 'rpm': must look like"),
        ({"environment": {"OPENAI_BASE_URL": "foo"}}, "OPENAI_BASE_URL: endpoint.base_url: 'foo'"),
        ({"settings": ["request.model.x=1"]}, "--set: request.model.x: request.model is a value"),
        ({"settings": ["prices.m1.input=x"]}, "--set: prices.\"m1\".input: 'x' must be"),
        ({"settings": ["limits.rmp=5"]}, "--set: limits.rmp: unknown key"),
        ({"settings": ["foo.x=5"]}, "--set: [foo]: unknown table"),
        (
            {"settings": ["endpoint.headers.x=1"]},
            "--set: endpoint.headers.x: (value not shown) must be text",
        ),
        (
            {"settings": ["endpoint.headers.ok=a"], "text": TEXT + "[endpoint.headers]\nx = 1"},
            "a.toml: endpoint.headers.x: (value not shown) must be text",
        ),
        ({"settings": ["json.schema_file=gone.json"]}, "--set: json.schema_file: "),
        ({"settings": ["prompt.input_file=p.txt"]}, "--set: prompt: both input and"),
    ],
)
def test_a_wrong_value_is_traced_to_who_gave_it(load, how, said):
    with pytest.raises(UsageError) as caught:
        load(**how)
    assert said in str(caught.value)


def test_a_number_where_text_belongs_is_told_with_the_quotes_a_shell_needs(load):
    with pytest.raises(JobError) as caught:
        load(settings=["endpoint.headers.x=1"])
    command = shlex.split(caught.value.hint.partition(": ")[2])
    assert load(settings=command[1:]).endpoint.headers == {"x": "..."}


def test_an_output_that_cannot_be_is_traced_to_who_gave_it(main_cli, tmp_path):
    (tmp_path / "in.csv").write_text("body\none\n")
    (tmp_path / "theirs.csv").write_text("precious\n")
    (tmp_path / "a.toml").write_text(TEXT)
    url = "--base-url=http://127.0.0.1:9"
    for options, environment, who in [
        (["-o", "theirs.csv"], {}, "--output"),
        (["--set", "output.path=theirs.csv"], {}, "--set"),
        ([], {"BATCH_RUNNER_OUTPUT": "theirs.csv"}, "BATCH_RUNNER_OUTPUT"),
        ([], {"BATCH_RUNNER_SET": "output.path=theirs.csv"}, "BATCH_RUNNER_SET"),
    ]:
        ran = main_cli("run", "a.toml", url, *options, **environment)
        assert ran.code == 2
        assert f"{who}: output.path: " in ran.err
        assert "theirs.csv' exists and was not written by this job" in ran.err
        assert "a.toml" not in ran.err


def test_a_missing_column_is_traced_to_the_template_that_names_it(main_cli, tmp_path):
    (tmp_path / "in.csv").write_text("body\none\n")
    (tmp_path / "a.toml").write_text(TEXT)
    assert "a.toml: prompt.input: " not in main_cli("check", "a.toml", "-p", "{{ title }}").err
    assert "--prompt: prompt.input: " in main_cli("check", "a.toml", "-p", "{{ title }}").err
    (tmp_path / "a.toml").write_text(TEXT.replace("from-file", "{{ title }}"))
    assert "a.toml: request.model: " in main_cli("check", "a.toml", "-p", "{{ body }}").err


def test_a_variable_holds_settings_one_a_line_below_all_that_is_more_exact(load):
    lines = "limits.rpm=5\n\n request.metadata = { a = 'b, c' }\nrequest.model=m1\n"
    environment = {"BATCH_RUNNER_SET": lines}
    job = load(environment=environment)
    assert (job.limits.rpm, job.model) == (5, "m1")
    assert job.request["metadata"] == {"a": "b, c"}
    assert load(environment={**environment, "BATCH_RUNNER_MODEL": "m2"}).model == "m2"
    assert load(environment=environment, settings=["request.model=m3"]).model == "m3"
    with pytest.raises(UsageError) as caught:
        load(environment={"BATCH_RUNNER_SET": "request.model=sk-abcdefghijklmnop"})
    assert "abcdefgh" not in str(caught.value)


def test_an_empty_variable_says_nothing(load):
    assert load(environment={"BATCH_RUNNER_MODEL": ""}).model == "from-file"


def test_flags_alone_describe_a_job(load):
    flags = {
        "input.path": ["in.csv"], "output.path": "folder/o.csv", "request.model": "m",
        "prompt.input": "{{ x }}",
    }  # fmt: skip
    job = load_job(None, Overrides(flags=flags), environment={})
    assert (job.name, job.origin) == ("o", "command line")


def test_paths_mean_the_folder_of_whoever_wrote_them(load):
    assert load().output.path == str(load.folder / "jobs/out.csv")
    assert load(output__path="out.csv").output.path == str(load.folder / "here/out.csv")
    assert load(input__path=["a.csv"]).input.path == (str(load.folder / "here/a.csv"),)
    assert load(settings=["output.path=x.csv"]).output.path == str(load.folder / "jobs/x.csv")
    assert load(output__path="~/out.csv").output.path == str(Path("~/out.csv").expanduser())


def test_another_output_leaves_the_report_of_the_jobs_own_alone(load):
    text = TEXT + 'report = "out.html"\n'
    folder = load.folder
    assert load(text).output.report == f"{folder}/jobs/out.html"
    moved = load(text, output__path="elsewhere.csv").output.report
    assert moved == f"{folder}/here/elsewhere.csv.html"
    assert load(text, settings=["output.path=b.csv"]).output.report == f"{folder}/jobs/b.csv.html"
    same = load(text, output__path="../jobs/out.csv")
    assert same.output.report == f"{folder}/jobs/out.html", "the same output by another name"
    named = load(text, settings=["output.report=r.html"], output__path="b.csv")
    assert named.output.report == f"{folder}/jobs/r.html"
    assert load(output__path="b.csv").output.report is None


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("request.x=text of words", "text of words"),
        ('request.x="quoted = sign"', "quoted = sign"),
        ("request.x=5", 5),
        ("request.x=-0.5", -0.5),
        ("request.x=true", True),
        ("request.x=[1, 2]", [1, 2]),
        ('request.x={ effort = "low" }', {"effort": "low"}),
        ("request.x = spaced", "spaced"),
        ("request.x=a=b", "a=b"),
        ("request.x={{ body }}", "{{ body }}"),
    ],
)
def test_set_takes_every_type_of_toml_and_bare_words_as_text(load, setting, value):
    assert load(settings=[setting]).request["x"] == value


def test_set_reaches_into_tables_and_quoted_names(load):
    job = load(
        settings=[
            "request.reasoning.effort=low",
            'prices."my.model".input=1',
            'prices."my.model".output=2',
        ]
    )
    assert job.request["reasoning"] == {"effort": "low"}
    assert job.prices["my.model"].output == 2


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("rpm=5", "table.key=value"),
        ("limits.rpm", "table.key=value"),
        (".rpm=5", "table.key=value"),
        ("limits.rmp=5", "limits.rmp: unknown key, did you mean 'rpm'"),
        ("request.model.name=5", "is a value, not a table"),
        ("limits.rpm=fast", "limits.rpm: 'fast' must be a number"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(load, setting, message):
    with pytest.raises(UsageError) as caught:
        load(settings=[setting])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "secret", ["sk-abcdefghijklmnop", "'sk-abcdefghijklmnop'", "f" * 20 + "0" * 20]
)
@pytest.mark.parametrize(
    "key", ["endpoint.api_key", "endpoint.api_key_env", "request.metadata.k", "request.model"]
)
def test_a_key_typed_as_a_setting_is_refused_without_being_shown(load, key, secret):
    with pytest.raises(UsageError) as caught:
        load(settings=[f"{key}={secret}"])
    assert secret.strip("'")[3:] not in str(caught.value) + caught.value.hint
    assert "api_key_env" in str(caught.value) + caught.value.hint


def test_a_prompt_flag_replaces_whatever_the_job_would_send(load):
    text = TEXT.replace('input = "{{ body }}"', 'messages = [{ role = "user", content = "x" }]')
    job = load(text, prompt__input="Other {{ body }}")
    assert job.prompt.messages is None
    assert job.prompt.input == "Other {{ body }}"


# Files


def test_a_prompt_and_a_schema_may_stand_in_files_of_their_own(load):
    (load.folder / "jobs/p.txt").write_text("From a file: {{ body }}")
    (load.folder / "jobs/s.json").write_text('{"type": "object"}')
    text = TEXT.replace('input = "{{ body }}"', 'input_file = "p.txt"') + (
        '[json]\nschema_file = "s.json"\n'
    )
    job = load(text)
    assert job.prompt.input == "From a file: {{ body }}"
    assert job.json.schema == {"type": "object"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT + "[input", "a.toml: not TOML"),
        (
            TEXT + '[json]\nschema_file = "gone.json"',
            "json.schema_file: .*gone.json.* No such file",
        ),
        (TEXT + '[json]\nschema_file = "bad.json"', "json.schema_file: 'bad.json' is not JSON"),
        (TEXT.replace("input =", 'input_file = "x"\ninput ='), "both input and input_file"),
        (TEXT.replace('input = "', 'input_file = "'), "prompt.input_file: .* cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_place(load, text, message):
    (load.folder / "jobs/bad.json").write_text("{")
    with pytest.raises(JobError, match=message):
        load(text)


@pytest.mark.parametrize(
    ("line", "under", "hint"),
    [
        ("path = in.csv", "in.csv", "quotes"),
        ("path 5", "5", ""),
        ('\tpath = "C:\\data"', "ata", "single quotes"),
        ("x" * 200 + " y", "y", ""),
    ],
)
def test_what_is_no_toml_is_shown_with_a_caret_under_the_place(load, line, under, hint):
    with pytest.raises(JobError) as caught:
        load(f"[job]\n{line}\nname = 'x'\n")
    _, shown, caret = str(caught.value).split("\n")
    assert shown[caret.index("^") :].startswith(under)
    assert hint in caught.value.hint
    assert len(shown) < 150


@pytest.mark.parametrize(
    "line", ["api_key = hunter2", "x = sk-abcdefghijklmnop", "proxy = http://me:hunter2@proxy:1"]
)
def test_a_line_that_may_hold_a_key_is_not_shown(load, line):
    with pytest.raises(JobError, match=r"not TOML.*line 2") as caught:
        load(f"[endpoint]\n{line}\n")
    assert "hunter2" not in str(caught.value)
    assert "abcdefg" not in str(caught.value)


def test_a_missing_input_is_told_with_its_place_and_what_may_be_meant(main_cli, tmp_path):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/articles.csv").write_text("body\none\n")
    (tmp_path / "here.csv").write_text("body\none\n")
    job = tmp_path / "jobs/a.toml"
    job.write_text(TEXT.replace("in.csv", "artcles.csv"))
    told = main_cli("check", "jobs/a.toml").err
    assert "jobs/a.toml: input.path: jobs/artcles.csv: no such file" in told
    assert "did you mean 'articles.csv'?" in told
    job.write_text(TEXT.replace("in.csv", "here.csv"))
    told = main_cli("check", "jobs/a.toml").err
    assert "'here.csv' is there; a path in a job file starts at the job file" in told
    assert "--input: input.path: " in main_cli("check", "jobs/a.toml", "-i", "gone.csv").err
    assert "no folder 'x/y'" in main_cli("check", "jobs/a.toml", "-i", "x/y/z.csv").err


def test_a_command_that_names_no_job_says_how_to_name_one(main_cli):
    for words in ((), ("-m", "m1"), ("-i", "in.csv")):
        refused = main_cli("run", *words)
        assert refused.code == 2
        assert "name a job file, or give -i, -o, -m and -p" in refused.err
        assert "[input]" not in refused.err


def test_a_missing_job_file_is_named_with_one_that_is_there(load):
    load()
    with pytest.raises(JobError, match=r"no such job file") as caught:
        load_job(load.folder / "jobs/b.toml")
    assert "a.toml" in caught.value.hint
    with pytest.raises(JobError, match=r"cannot be read"):
        load_job(load.folder / "jobs")


def test_the_job_file_beats_the_url_of_the_environment(load):
    environment = {"OPENAI_BASE_URL": "https://proxy.example"}
    assert load(environment=environment).endpoint.base_url == "https://proxy.example/v1"
    text = TEXT + '[endpoint]\nbase_url = "https://gateway.example/v1"\n'
    assert load(text, environment=environment).endpoint.base_url == "https://gateway.example/v1"
