"""An output names the job that wrote it only while that job writes it: no other rows take its place."""

import shutil

import pytest

from batch_runner.faultserver import running
from batch_runner.jobfile import Overrides
from batch_runner.local import MODEL
from batch_runner.runner import run
from batch_runner.scripted import load_job
from tests.integration.job_text import job_text


BROKEN = "[[fault:500]]"
ONCE = ("--set", "retry.attempts=1", "--set", "retry.max_wait=10ms")
TAKERS = [("export",), ("export", "--partial"), ("reparse",), ("retry",), ("report",), ("check",)]


class Place:
    """A folder with a job file and two inputs; what was called for, since the last time."""

    def __init__(self, cli, server):
        self.cli, self.server, self.folder = cli, server, cli.folder
        self.write("in", "one", f"two {BROKEN}")
        self.write("in2", "three", "four")
        self.describe("in", "out1")
        (self.folder / "elsewhere").mkdir()

    def write(self, name, *texts, folder="."):
        lines = [f"{n},{text}\n" for n, text in enumerate(texts)]
        (self.folder / folder / f"{name}.csv").write_text("id,body\n" + "".join(lines))

    def describe(self, name, output):
        (self.folder / "m.toml").write_text(job_text(path=f"{name}.csv", output=f"{output}.csv"))

    def run(self, *words, url=None, **environment):
        there = () if url is None else ("--base-url", url)
        ran = self.cli("run", *words, *there, *ONCE, **environment)
        assert ran.code == 3, ran.err
        self.sent()

    def sent(self):
        self.server.settle()
        rows = self.server.ledger.rows()
        self.server.reset()
        return rows

    def files(self, folder="."):
        """Every output and what lies beside it."""
        return {
            file.name: file.read_bytes()
            for file in (self.folder / folder).glob("*")
            if file.is_file()
        }


@pytest.fixture
def place(main_cli, fault_server):
    return Place(main_cli, fault_server)


@pytest.mark.parametrize("words", TAKERS, ids=" ".join)
def test_an_output_is_not_overwritten_by_a_job_that_has_moved_on(place, words):
    place.run("m.toml", url=place.server.url)
    place.describe("in2", "out2")
    before = place.files()
    for named in (("out1.csv",), ("out1.csv.run",), ("-o", "out1.csv")):
        ran = place.cli(words[0], *named, *words[1:])
        assert ran.code == 2, ran
        assert "'out1.csv' was written by 'm.toml', which writes 'out2.csv' today\n" in ran.err
        assert (
            f"put the job file back, or name a job for it: batch-runner {words[0]} JOB -o"
            in ran.err
        )
    assert place.files() == before
    assert not place.sent()


@pytest.mark.parametrize("words", TAKERS, ids=" ".join)
@pytest.mark.parametrize("how", ["copied", "moved", "moved with its job", "by flags"])
def test_an_output_that_was_copied_or_moved_is_no_longer_of_its_job(place, words, how):
    job = ("m.toml",)
    if how == "by flags":
        job = ("-i", "in.csv", "-o", "out1.csv", "-m", "m1", "-p", "Say {{ body }}")
    place.run(*job, url=place.server.url)
    files = ["out1.csv", "out1.csv.run", "out1.csv.meta.json"]
    files += ["m.toml", "in.csv"] if how == "moved with its job" else []
    for name in files:
        source, target = place.folder / name, place.folder / "elsewhere" / name
        if how.startswith("moved"):
            source.rename(target)
        else:
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
    here, there = place.files(), place.files("elsewhere")
    ran = place.cli(words[0], "elsewhere/out1.csv", *words[1:])
    assert ran.code == 2, ran
    assert "'elsewhere/out1.csv' was written by" in ran.err
    assert ("a job given by flags" if how == "by flags" else "m.toml") in ran.err
    assert "since then it was copied or moved" in ran.err
    assert (place.files(), place.files("elsewhere")) == (here, there)
    assert not place.sent()


@pytest.mark.parametrize("words", TAKERS, ids=" ".join)
def test_a_run_folder_that_was_renamed_alone_is_to_be_put_back(place, words):
    place.run("m.toml", url=place.server.url)
    home, other = place.folder / "out1.csv.run", place.folder / "other.run"
    home.rename(other)
    ran = place.cli(words[0], "other.run", *words[1:])
    assert ran.code == 2
    assert "since then the folder 'other.run' was copied or moved\n" in ran.err
    assert ran.err.endswith("hint: put the folder back: mv other.run out1.csv.run\n")
    assert not place.sent()


def test_a_copy_of_a_run_folder_is_advised_a_name_that_can_be_typed(place):
    place.run("m.toml", url=place.server.url)
    shutil.copytree(place.folder / "out1.csv.run", place.folder / "other.run")
    told = place.cli("report", "other.run").err
    way = "(mv other.run other.csv.run), and name a job for it: batch-runner report JOB -o "
    assert told.endswith(f"{way}other.csv\n")
    (place.folder / "other.run").rename(place.folder / "other.csv.run")
    assert "1 ok" in place.cli("report", "m.toml", "-o", "other.csv").out


def test_an_output_named_by_the_environment_of_the_run_is_not_guessed_without_it(place):
    place.run("m.toml", url=place.server.url, BATCH_RUNNER_OUTPUT="night.csv")
    before = place.files()
    ran = place.cli("export", "night.csv")
    assert ran.code == 2
    assert "which writes" in ran.err
    assert "moved" not in ran.err
    assert place.files() == before
    assert place.cli("export", "night.csv", BATCH_RUNNER_OUTPUT="night.csv").code == 0


def test_no_setting_names_another_output_beside_the_one_that_is_named(place):
    place.run("m.toml", url=place.server.url)
    for option in ("output.path=p.csv", "output={path='p.csv'}"):
        ran = place.cli("export", "out1.csv", "--set", option)
        assert ran.code == 2
        assert "--set output.path: 'out1.csv' says already which run is meant" in ran.err


FLAGS = {
    "input": ("--set", "input.path=in.csv", "-p", "Say {{ body }}"),
    "prompt": ("-i", "in.csv", "--set", "prompt.input_file=prompt.txt"),
}


@pytest.mark.parametrize("kind", FLAGS)
def test_paths_of_a_job_given_by_flags_are_those_of_its_run_from_any_folder(place, kind):
    (place.folder / "prompt.txt").write_text("Say {{ body }}")
    place.run(*FLAGS[kind], "-o", "out1.csv", "-m", "m1", url=place.server.url)
    place.write("in", "dear", "dearer", folder="elsewhere")
    (place.folder / "elsewhere" / "prompt.txt").write_text("Shout {{ body }}")
    place.cli.folder = place.folder / "elsewhere"
    told = place.cli("estimate", "../out1.csv").out
    assert told == place.cli("estimate", f"{place.folder}/out1.csv").out
    assert "1 to send, 1 reused" in place.cli("retry", "../out1.csv").err
    assert len(place.sent()) == 1
    place.cli.folder = place.folder
    assert "1 to send, 1 reused" in place.cli("retry", "out1.csv", "--dry-run").err


@pytest.mark.parametrize("kind", FLAGS)
def test_advice_about_a_job_given_by_flags_can_be_typed_in_another_folder(place, kind):
    (place.folder / "prompt.txt").write_text("Say {{ body }}")
    place.run(*FLAGS[kind], "-o", "out1.csv", "-m", "m1", url=place.server.url)
    place.cli.folder = place.folder / "elsewhere"
    file = place.folder / ("in.csv" if kind == "input" else "prompt.txt")
    assert str(file) in place.cli("status", "../out1.csv").out


def test_the_endpoint_and_the_model_of_a_run_hold_whatever_the_environment_says_later(place):
    flags = ("-i", "in.csv", "-p", "Say {{ body }}", "-o", "out1.csv")
    place.run(*flags, BATCH_RUNNER_BASE_URL=place.server.url, BATCH_RUNNER_MODEL="m7")
    with running() as other:
        later = {"OPENAI_BASE_URL": other.url, "BATCH_RUNNER_MODEL": "m8"}
        later["BATCH_RUNNER_BASE_URL"] = other.url
        ran = place.cli("retry", "out1.csv", **later)
        assert "1 to send, 1 reused" in ran.err
        other.settle()
        assert not other.ledger.rows()
    assert [row.received.model for row in place.sent()] == ["m7"]


def test_a_job_file_that_would_ask_another_endpoint_is_not_taken_up_to_send(place):
    place.run("m.toml", BATCH_RUNNER_BASE_URL=place.server.url)
    with running() as other:
        asking = (("estimate", "--sample", "1", "--yes"), ("estimate", "--count", "api"))
        for words in (("retry",), *asking, ("check", "--probe")):
            ran = place.cli(words[0], "out1.csv", *words[1:], OPENAI_BASE_URL=other.url)
            assert ran.code == 2, words
            told = f"the last run asked {place.server.url}, and the job asks {other.url} today"
            assert told in ran.err
        assert place.cli("export", "out1.csv", OPENAI_BASE_URL=other.url).code == 0
        assert other.ledger.totals.received == 0
        assert not place.sent()
        place.cli("retry", "out1.csv", "--base-url", other.url)
        other.settle()
        assert len(other.ledger.rows()) == 1, "what is typed now is meant"


def test_a_header_of_a_job_given_by_flags_is_asked_for_even_if_the_environment_gave_it(place):
    flags = ("-i", "in.csv", "-p", "Say {{ body }}", "-o", "out1.csv", "-m", "m1")
    header = "endpoint.headers.x-gate=s3cret-s3cret"
    place.run(*flags, url=place.server.url, BATCH_RUNNER_SET=header)
    ran = place.cli("retry", "out1.csv")
    assert ran.code == 2
    assert "what may be a secret and is not kept: endpoint.headers.x-gate" in ran.err
    assert not place.sent()
    assert "1 to send" in place.cli("retry", "out1.csv", "--set", header).err
    assert place.cli("export", "out1.csv").code == 0, "it calls nobody"


@pytest.mark.parametrize(("inside", "name"), [(".", "."), ("journal", "..")])
def test_a_run_folder_is_named_by_dots_too(place, inside, name):
    place.run("m.toml", url=place.server.url)
    place.cli.folder = place.folder / "out1.csv.run" / inside
    assert place.cli("export", name).code == 0
    assert "1 to send" in place.cli("retry", name, "--dry-run").err
    assert "1 ok" in place.cli("report", name).out
    assert place.cli("costs", name).code == 0
    told = place.cli("run", name).err
    assert "is a run folder" in told
    assert "name the job that wrote it" in told


def test_a_local_run_given_by_flags_is_local_again_when_its_output_is_named(place, monkeypatch):
    begun = []

    class Endpoint:
        """In the place of the small model: what tells that it was started, and on which port."""

        slots = 2

        def __init__(self):
            self._running = running()

        def __enter__(self):
            self.server = self._running.__enter__()
            self.url = self.server.url
            begun.append(self)
            return self

        def __exit__(self, *error):
            self.asked = [row.received.model for row in self.server.ledger.rows()]
            self._running.__exit__(*error)

    monkeypatch.setattr("batch_runner.local.LocalEndpoint", Endpoint)
    flags = ("-i", "in.csv", "-p", "Say {{ body }}", "-o", "out1.csv", "-m", "m1")
    place.run(*flags, "--local")
    assert "1 ok" in place.cli("report", "out1.csv").out
    assert place.cli("export", "out1.csv").code == 0
    assert len(begun) == 1, "whoever calls nobody starts none"
    assert "1 to send, 1 reused" in place.cli("retry", "out1.csv").err
    assert begun[0].url != begun[1].url
    assert begun[1].asked == [MODEL]


@pytest.mark.parametrize("by_flags", [True, False])
def test_a_secret_in_a_parameter_is_neither_kept_nor_left_out_of_what_is_sent(place, by_flags):
    flags = ("-i", "in.csv", "-p", "Say {{ body }}", "-o", "out1.csv", "-m", "m1")
    setting = ("--set", 'request.extra_body={gate_token="s3cret-s3cret"}')
    place.run(*(flags if by_flags else ("m.toml",)), *setting, url=place.server.url)
    for file in (place.folder / "out1.csv.run").glob("manifest*"):
        assert "s3cret" not in file.read_text()
    told = place.cli("status", "out1.csv")
    assert "s3cret" not in told.out + told.err
    assert place.cli("retry", "out1.csv").code == 2
    assert not place.sent()


def test_an_output_of_a_job_made_in_python_is_known_by_its_name(place, monkeypatch):
    monkeypatch.chdir(place.folder)
    flags = {
        "input.path": "in2.csv", "output.path": "out1.csv", "prompt.input": "Say {{ body }}",
        "request.model": "m1", "endpoint.base_url": place.server.url,
    }  # fmt: skip
    run(load_job(None, Overrides(flags=flags)))
    place.sent()
    assert "2 rows: 2 ok" in place.cli("report", "out1.csv").out
    assert place.cli("export", "out1.csv").code == 0
    assert "0 to send" in place.cli("retry", "out1.csv").err
    assert not place.sent()
