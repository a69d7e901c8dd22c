"""Answers of another endpoint stay, for gateways move; that they do is said, and of which they are."""

import pytest

from batch_runner.faultserver import running
from batch_runner.journal import Index
from tests.integration.job_text import job_text


HOSTED = "https://api.openai.com/v1"
KEY = {"OPENAI_API_KEY": "key-of-somebody"}


@pytest.fixture
def servers():
    with running() as first, running() as second:
        yield first, second


@pytest.fixture
def cli(main_cli):
    rows = "".join(f"{n},text {n}\n" for n in range(10))
    (main_cli.folder / "in.csv").write_text("id,body\n" + rows)
    (main_cli.folder / "job.toml").write_text(job_text(cap=50))
    return main_cli


def told(cli, *words):
    ran = cli(*words, **KEY)
    assert ran.code == 0, ran.err
    return ran.out + ran.err


LOOKS = [("run", "job.toml", "--dry-run"), ("check", "job.toml"), ("estimate", "job.toml")]


def test_whoever_would_go_on_elsewhere_hears_whose_answers_stay_and_the_way_out(cli, servers):
    first, _ = servers
    there = ("--base-url", first.url)
    assert cli("estimate", "job.toml", "--sample", "4", "--yes", *there).code == 0
    for look in LOOKS:
        said = told(cli, *look)
        note = f"4 answers that stay were given by {first.url}; the job asks {HOSTED}: --fresh asks"
        assert said.count(note) == 1, look
        assert "-o with another output" in said
        assert "given by" not in told(cli, *look, *there), look
        assert "given by" not in told(cli, *look, "-o", "other.csv"), look
    assert "given by" not in told(cli, "run", "job.toml", "--dry-run", "--fresh")


def test_of_several_endpoints_each_is_told_with_what_it_gave(cli, servers):
    first, second = servers
    assert cli("run", "job.toml", "--limit", "4", "--base-url", first.url).code == 0
    ran = cli("run", "job.toml", "--base-url", second.url)
    assert f"4 answers that stay were given by {first.url}; the job asks {second.url}" in ran.err
    for look in LOOKS:
        both = f"6 answers that stay were given by {second.url}, 4 by {first.url}; the job asks {HOSTED}"
        assert both in told(cli, *look), look
        one = f"6 answers that stay were given by {second.url}; the job asks {first.url}"
        assert one in told(cli, *look, "--base-url", first.url), look


def test_an_endpoint_that_gave_nothing_that_stays_is_not_told(cli, servers):
    first, second = servers
    first.misbehave("400")
    assert cli("run", "job.toml", "--base-url", first.url).code == 3
    there = ("--base-url", second.url)
    assert cli("retry", "job.toml", *there).code == 0
    for look in LOOKS:
        assert "given by" not in told(cli, *look, *there), look


def test_another_path_on_the_same_host_and_port_is_the_same_endpoint(cli, servers):
    first, _ = servers
    assert cli("run", "job.toml", "--base-url", first.url).code == 0
    moved = first.url.removesuffix("/v1") + "/gateway/v1"
    for look in LOOKS:
        assert "given by" not in told(cli, *look, "--base-url", moved), look


def test_a_run_where_it_always_ran_looks_at_no_row_for_that(cli, servers, monkeypatch):
    first, _ = servers
    there = ("--base-url", first.url)
    assert cli("run", "job.toml", *there).code == 0

    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr(Index, "answers_by_file", refuse)
    assert cli("run", "job.toml", *there).code == 0
