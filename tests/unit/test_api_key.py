"""Which key goes where."""

import pytest

import batch_runner as br
from batch_runner.api_key import api_key, key_source
from batch_runner.errors import UsageError
from batch_runner.jobfile import Overrides, load_job
from tests.integration.job_text import job_text


KEY = {"OPENAI_API_KEY": "default-key", "OTHER_KEY": "other-key"}
ELSEWHERE = "https://gateway.example/v1"
HERE = "http://127.0.0.1:8080/v1"


@pytest.fixture
def described(tmp_path):
    """The job of a file that says this of its endpoint."""

    def described(*endpoint, environment=None, settings=()):
        file = tmp_path / "job.toml"
        file.write_text("\n".join([job_text(), "[endpoint]", *endpoint]))
        return load_job(file, Overrides(settings=settings), environment=environment or {})

    return described


@pytest.fixture
def keyed(described):
    """The key that goes to `url`."""

    def keyed(*, url=None, variable=None, environment=None, settings=()):
        lines = [f'base_url = "{url}"'] if url else []
        lines += [f'api_key_env = "{variable}"'] if variable else []
        job = described(*lines, environment=environment, settings=settings)
        return api_key(job, environment or {})

    return keyed


def test_the_default_key_goes_to_the_default_host(keyed):
    assert keyed(environment=KEY) == "default-key"
    assert keyed(url="https://api.openai.com", environment=KEY) == "default-key"


def test_another_host_gets_a_key_only_if_the_job_names_its_variable(keyed):
    with pytest.raises(UsageError, match=r"gateway.example") as caught:
        keyed(url=ELSEWHERE, environment=KEY)
    assert "api_key_env" in caught.value.hint
    assert keyed(url=ELSEWHERE, variable="OTHER_KEY", environment=KEY) == "other-key"
    with pytest.raises(UsageError, match=r"evil.example"):
        keyed(settings=["endpoint.base_url=https://evil.example"], environment=KEY)


def test_the_default_key_follows_the_url_that_its_owner_set_beside_it(keyed):
    environment = {**KEY, "OPENAI_BASE_URL": "https://proxy.example"}
    assert keyed(environment=environment) == "default-key"
    assert keyed(url="https://proxy.example/v1", environment=environment) == "default-key"
    with pytest.raises(UsageError, match=r"gateway.example"):
        keyed(url=ELSEWHERE, environment=environment)


def test_this_machine_needs_no_key_and_gets_none_that_is_not_meant_for_it(keyed):
    assert keyed(url=HERE) is None
    assert keyed(url=HERE, environment=KEY) is None
    assert keyed(environment={"OPENAI_BASE_URL": HERE}) is None
    assert keyed(environment={"OPENAI_BASE_URL": HERE, "OPENAI_API_KEY": ""}) is None
    assert keyed(environment={"OPENAI_BASE_URL": HERE, **KEY}) == "default-key"


@pytest.mark.parametrize("url", [HERE, ELSEWHERE, None])
@pytest.mark.parametrize("environment", [{}, {"OTHER_KEY": ""}, {"OTHER_KEY": " \n"}])
def test_a_named_key_must_be_there_wherever_it_goes(keyed, url, environment):
    with pytest.raises(UsageError, match=r"OTHER_KEY is (not set|empty)"):
        keyed(url=url, variable="OTHER_KEY", environment=environment)


def test_a_key_is_stripped_and_one_that_cannot_be_sent_is_not_shown(keyed):
    assert keyed(environment={"OPENAI_API_KEY": " sk-good\n"}) == "sk-good"
    for bad in ("sk-secret one", "sk-secret\nx", "sk-secret\0", "sk-secreté"):
        with pytest.raises(UsageError, match=r"OPENAI_API_KEY") as caught:
            keyed(environment={"OPENAI_API_KEY": bad})
        assert "secret" not in str(caught.value) + caught.value.hint


def test_a_job_can_say_that_its_endpoint_takes_no_key(keyed, described):
    with pytest.raises(UsageError) as caught:
        keyed(url=ELSEWHERE, environment=KEY)
    assert 'api_key_env = ""' in caught.value.hint
    none = ["endpoint.api_key_env="]
    assert keyed(url=ELSEWHERE, environment=KEY, settings=none) is None
    assert keyed(url=HERE, environment={"OPENAI_BASE_URL": HERE, **KEY}, settings=none) is None
    job = described('base_url = "http://gpu.lan:8000"', 'api_key_env = ""', environment=KEY)
    assert api_key(job, KEY) is None
    assert key_source(job, None) == 'no key, as endpoint.api_key_env = "" says'


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("-i", "inn.csv"), "did you mean 'in.csv'?"),
        (("-o", "o.xlsx"), "the suffix '.xlsx' names no format"),
        (("-p", "{{ boddy }}"), "has no column 'boddy'"),
        (("-o", "in.csv"), "is also the input"),
    ],
    ids=["input", "suffix", "template", "output"],
)
@pytest.mark.parametrize("command", ["run", "estimate"])
def test_a_key_is_asked_for_last(main_cli, command, words, told):
    (main_cli.folder / "in.csv").write_text("body\none\n")
    described = ("-i", "in.csv", "-o", "o.csv", "-m", "m", "-p", "{{ body }}")
    flags = dict(zip(described[::2], described[1::2], strict=True)) | dict([words])
    sample = ("--sample", "1", "--yes") if command == "estimate" else ()
    ran = main_cli(command, *(word for pair in flags.items() for word in pair), *sample)
    assert (ran.code, told in ran.err, "API_KEY" in ran.err) == (2, True, False), ran.err
    assert [path.name for path in main_cli.folder.iterdir()] == ["in.csv"]


def test_nobody_is_asked_for_a_yes_before_the_key(main_cli):
    (main_cli.folder / "in.csv").write_text("body\none\n")
    described = ("-i", "in.csv", "-o", "o.csv", "-m", "gpt-5-mini", "-p", "{{ body }}")
    ran = main_cli("estimate", *described, "--sample", "1")
    assert "OPENAI_API_KEY is not set" in ran.err
    assert "--yes" in main_cli("estimate", *described, "--sample", "1", OPENAI_API_KEY="k" * 20).err


def test_the_way_without_a_key_is_told_in_words_of_python_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.csv").write_text("body\none\n")
    flags = {"input.path": "in.csv", "output.path": "o.csv", "request.model": "m"}
    job = br.load_job(None, br.Overrides(flags=flags | {"prompt.input": "{{ body }}"}))
    with pytest.raises(br.UsageError) as caught:
        br.run(job)
    assert "endpoint.base_url" in caught.value.hint
    assert "batch-runner serve" in caught.value.hint
