"""An input that lost its rows: whatever the output showed is kept, and there is an output at any time."""

import json
import stat

import pytest

from batch_runner import emptied


PROMPT = ("-m", "m1", "-p", "Say {{ x }}")
ROWS = {f"r{n}": f"text {n}" for n in range(4)}


class Place:
    """A job given by flags, over an input of any format and encoding."""

    def __init__(self, cli, server):
        self.cli, self.server, self.folder = cli, server, cli.folder
        self.source, self.output, self.encoding = "in.csv", "out.csv", "utf-8"

    def write(self, rows):
        if self.source.endswith(".jsonl"):
            lines = [json.dumps({"id": name, "x": text}) for name, text in rows.items()]
        else:
            lines = ["id,x", *(f"{name},{text}" for name, text in rows.items())]
        text = "".join(f"{line}\n" for line in lines)
        (self.folder / self.source).write_text(text, encoding=self.encoding)

    def __call__(self, command="run", *words, code=0):
        flags = ("-i", self.source, "-o", self.output, "--base-url", self.server.url, *PROMPT)
        encoding = ("--set", f"input.encoding={self.encoding}")
        ran = self.cli(command, *flags, *encoding, *words)
        assert ran.code == code, ran
        return ran

    def shown(self):
        return (self.folder / self.output).read_bytes()

    def kept(self):
        return {f.name: f.read_bytes() for f in self.folder.glob(f"{self.output}.run/emptied-*")}

    def calls(self):
        self.server.settle()
        return len(self.server.ledger.rows())


@pytest.fixture
def place(main_cli, fault_server):
    return Place(main_cli, fault_server)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
@pytest.mark.parametrize(
    "output", ["out.csv", "out.tsv", "out.jsonl", "out.jsonl.gz", "out.parquet"]
)
@pytest.mark.parametrize("source", ["in.csv", "in.jsonl"])
def test_what_an_output_of_any_kind_showed_is_kept_once(place, source, output, encoding):
    place.source, place.output, place.encoding = source, output, encoding
    place.write(ROWS)
    place()
    answered = place.shown()
    place.write({})
    place()
    assert place.kept() == {f"emptied-{output}": answered}
    emptied_output = place.shown()
    assert place("run", "-q").err == "", "the next empty night"
    assert place.shown() == emptied_output
    assert place.kept() == {f"emptied-{output}": answered}
    place.write(ROWS)
    place()
    assert place.shown() == answered
    assert place.calls() == len(ROWS)


@pytest.mark.parametrize("command", ["run", "export", "reparse", "retry"])
@pytest.mark.parametrize("meta", [None, "{}", '{"statuses": {}, "duplicates": 0, "run_id": ""}'])
def test_what_is_shown_is_kept_whatever_the_meta_file_says(place, command, meta):
    place.write(ROWS)
    place()
    answered = place.shown()
    file = place.folder / "out.csv.meta.json"
    file.unlink()
    if meta is not None:
        file.write_text(meta)
    place.write({})
    ran = place(command)
    assert "the input has no rows, and the output showed rows: " in ran.err
    assert place.kept() == {"emptied-out.csv": answered}
    assert place.shown().count(b"\n") == 1


def test_another_output_that_is_emptied_is_kept_beside_the_first(place):
    place.write(ROWS)
    place()
    first = place.shown()
    place.write({})
    place()
    place.write({"other": "another text"})
    place()
    second = place.shown()
    place.write({})
    told = place("check").out
    assert "emptied-2-out.csv" in told
    assert "emptied-2-out.csv" in place().err
    both = {"emptied-out.csv": first, "emptied-2-out.csv": second}
    assert place.kept() == both
    place.write(ROWS)
    place()
    place.write({})
    assert "emptied-out.csv" in place().err
    assert place.kept() == both, "what is there already is not kept twice"


def test_the_emptied_output_has_the_permissions_of_the_old_one_and_the_copy_is_its_owners(place):
    place.write(ROWS)
    place()
    (place.folder / "out.csv").chmod(0o640)
    place.write({})
    place()
    assert stat.S_IMODE((place.folder / "out.csv").stat().st_mode) == 0o640
    copy = place.folder / "out.csv.run" / "emptied-out.csv"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600


def test_an_output_that_is_a_link_stays_one_and_what_it_names_is_kept(place):
    place.write(ROWS)
    place()
    (place.folder / "store").mkdir()
    link, real = place.folder / "out.csv", place.folder / "store" / "real.csv"
    link.rename(real)
    link.symlink_to(real)
    answered = real.read_bytes()
    place.write({})
    place()
    assert link.is_symlink()
    assert real.read_bytes().count(b"\n") == 1
    copy = place.folder / "out.csv.run" / "emptied-out.csv"
    assert not copy.is_symlink()
    assert copy.read_bytes() == answered


def test_there_is_an_output_even_if_the_empty_one_is_never_written(place, monkeypatch):
    place.write(ROWS)
    place()
    answered = place.shown()
    place.write({})

    def die(*_arguments, **_options):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("batch_runner.conclusion.export", die)
        assert place.cli("run", "-i", "in.csv", "-o", "out.csv", *PROMPT,
                         "--base-url", place.server.url).code != 0  # fmt: skip
    assert place.shown() == answered
    place()
    assert place.kept() == {"emptied-out.csv": answered}


def test_an_output_that_somebody_takes_away_meanwhile_is_no_error(place, monkeypatch):
    place.write(ROWS)
    place()
    place.write({})
    found = emptied._aside

    def taken(job, path):
        place_found = found(job, path)
        path.unlink()
        return place_found

    monkeypatch.setattr(emptied, "_aside", taken)
    place()
    assert place.kept() == {}
    assert place.shown().count(b"\n") == 1


UNREADABLE = {
    "bad": ('{"id": \nno\n', ("--set", "input.on_bad_row=skip"), "in.jsonl:1: not JSON"),
    "torn": ('{"id": "r0", "x', (), "in.jsonl:1: not JSON"),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_an_input_of_which_nothing_can_be_read_has_not_lost_its_rows(place, what):
    text, options, told = UNREADABLE[what]
    place.source, place.output = "in.jsonl", "out.jsonl"
    place.write(ROWS)
    place("run", *options)
    answered = place.shown()
    (place.folder / "in.jsonl").write_text(text)
    for words in (
        ("run",), ("run", "--fresh"), ("run", "--on-change", "keep"), ("run", "--dry-run"),
        ("retry",), ("export",), ("export", "--partial"), ("reparse",), ("check",),
    ):  # fmt: skip
        ran = place(words[0], *words[1:], *options, code=2)
        assert told in ran.err
        assert "no record of the input can be read" in ran.err
        assert place.shown() == answered
    assert place.kept() == {}
    place("run", "--on-change", "rerun", *options)
    assert place.shown() == b""
    assert place.kept() == {"emptied-out.jsonl": answered}


@pytest.mark.parametrize("command", ["run", "export"])
def test_the_failures_of_a_batch_are_kept_as_well(place, command):
    def write(*texts):
        lines = [
            {"custom_id": str(n), "method": "POST", "url": "/v1/responses",
             "body": {"model": "m1", "input": text}}
            for n, text in enumerate(texts)
        ]  # fmt: skip
        file = place.folder / "in.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))

    flags = ("-i", "in.jsonl", "--set", "input.format=openai-batch", "-o", "out.jsonl",
             "--base-url", place.server.url)  # fmt: skip
    place.output = "out.jsonl"
    once = ("--set", "retry.attempts=1", "--set", "retry.max_wait=10ms")
    write("one", "two [[fault:500]]")
    assert place.cli("run", *flags, *once).code == 3
    answered, failed = place.shown(), (place.folder / "out.errors.jsonl").read_bytes()
    assert answered
    assert failed
    write()
    ran = place.cli(command, *flags)
    assert ran.code == 0, ran.err
    assert place.kept() == {"emptied-out.jsonl": answered, "emptied-out.errors.jsonl": failed}
    assert not (place.folder / "out.errors.jsonl").exists()


def test_status_after_an_emptied_output_speaks_of_the_input_of_now(place):
    place.write(ROWS)
    place("run", "-q")
    place.write({})
    place("run", "-q")
    told = place("status").out
    assert "0 of 0 rows ended" in told
    assert "the input has changed:" not in told
    place.write(ROWS)
    assert "the input has changed:" in place("status").out
