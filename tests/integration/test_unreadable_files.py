"""One file of several that cannot be read: with `on_bad_row = "skip"` the night goes on without it."""

import gzip
import json
import os
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


SKIP = ("--set", "input.on_bad_row=skip")
MANY = 3_000
"""Rows of a file that breaks off after the reader has come well into it."""


def csv_of(*rows):
    return "".join(f"{line}\n" for line in ("id,body", *(f"{row},text {row}" for row in rows)))


def cut_gzip(rows):
    whole = gzip.compress(csv_of(*rows).encode(), mtime=0)
    return whole[: len(whole) // 2]


def parquet(path, rows, **more):
    pq.write_table(pa.table({"id": rows, "body": [f"text {r}" for r in rows], **more}), path)


class Night:
    """A job given by flags over the files of a folder."""

    def __init__(self, cli, server):
        self.cli, self.server = cli, server
        self.inbox = cli.folder / "inbox"
        self.inbox.mkdir()
        self.source, self.output = "inbox/*", cli.folder / "out.csv"

    def __call__(self, *words, command="run", code=0):
        ran = self.cli(
            command, "-i", self.source, "-o", str(self.output), "-m", "m1", "-p", "{{ body }}",
            "--base-url", self.server.url, *words,
        )  # fmt: skip
        assert ran.code == code, ran
        assert "Traceback" not in ran.err
        return ran

    def add(self, name, content):
        path = self.inbox / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def calls(self):
        self.server.settle()
        return len(self.server.ledger.rows())

    def meta(self):
        return json.loads((self.output.parent / f"{self.output.name}.meta.json").read_text())

    def rows(self):
        """The ids that the output shows, all of them answered."""
        lines = [line.split(",") for line in self.output.read_text().splitlines()[1:]]
        assert all("ok" in line for line in lines), lines
        return [line[0] for line in lines]


@pytest.fixture
def night(main_cli, fault_server):
    return Night(main_cli, fault_server)


BROKEN = {
    "cut short": ("b.csv.gz", cut_gzip(range(MANY)), "cut short"),
    "in another encoding": ("b.csv", csv_of(*range(MANY)).encode() + b"9,h\xe9llo\n", "0xe9"),
    "marked as another encoding": ("b.csv", csv_of(9).encode("utf-16"), "utf-16"),
    "under another header": ("b.csv", "id,text\n9,text 9\n", "lacks ['body']"),
    "empty": ("b.csv", "", "without even a header"),
    "with a quote that never ends": ("b.csv", csv_of(8) + '9,"text\n' + csv_of(10), "quote"),
    "of another format": ("b.jsonl", '{"id": 9, "body": "text 9"}\n', "jsonl"),
    "of no format": ("notes.txt", "mind the gap\n", ".txt"),
    "no parquet file": ("b.parquet", b"PAR1 and then nothing", "parquet"),
}


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("first", [False, True], ids=["among", "first"])
def test_a_file_that_cannot_be_read_is_left_out_and_named(night, broken, first):
    name, content, word = BROKEN[broken]
    night.add("b0.csv", csv_of(1, 2))
    night.add("c.csv", csv_of(3))
    bad = night.add(f"a-{name}" if first else name, content)

    for command in ("run", "estimate"):
        refused = night(command=command, code=2)
        assert 'on_bad_row = "skip"' in refused.err
    assert night.calls() == 0

    ran = night(*SKIP, code=3)
    assert night.rows() == ["1", "2", "3"]
    assert night.calls() == 3, "no row of the broken file was asked about"
    assert "1 file of 3 could not be read and was left out" in ran.err
    [told] = night.meta()["bad_files"]
    assert bad.name in told
    assert word in told
    assert night.meta()["rows"] == 3
    assert told[:200] in "".join(night.meta()["warnings"])
    assert bad.name in night(*SKIP, command="check", code=0).out
    assert night(*SKIP, "-q").err == "", "the run before has told of it"
    assert "has changed" not in night(*SKIP, command="status").out, "nobody has written to a file"
    for command in ("status", "report"):
        afterwards = night(*SKIP, command=command).out
        named = told.replace(f"{night.cli.folder}/", "")
        assert named.startswith("inbox/")
        assert f"1 file of 3 could not be read and was left out, rows and all: {named[:60]}" in (
            afterwards
        )


@pytest.mark.parametrize("fail_on", [(), ("--fail-on", "new"), ("--fail-on", "100%")], ids=str)
def test_the_exit_code_tells_once_of_a_file_that_is_left_out(night, fail_on):
    quiet = (*SKIP, "-q", *fail_on)
    night.add("a.csv", csv_of(1))
    night(*quiet)
    night.add("b.csv", "mind\n")
    night(*quiet, "--dry-run")
    assert "b.csv: its header differs" in night(*quiet, code=3).err
    assert night(*quiet).err == ""
    night.add("c.csv.gz", cut_gzip(range(MANY)))
    told = night(*quiet, code=3).err
    assert told.index("c.csv.gz") < told.index("b.csv"), "the one that nobody knows comes first"
    night.add("a.csv", csv_of(1, 2))
    assert night(*quiet).err == ""
    night.add("b.csv", "another\n")
    assert "b.csv" in night(*quiet, code=3).err, "another file under the same name"
    night.add("c.csv.gz", gzip.compress(csv_of(3).encode()))
    night.add("b.csv", csv_of(4))
    assert night(*quiet).err == ""
    assert night.rows() == ["1", "2", "4", "3"]
    night.add("b.csv", "another\n")
    night(*quiet, code=3)
    assert night.calls() == 4


@pytest.mark.parametrize(
    "junk",
    ["<html><body>\n<h1>502 Bad Gateway</h1>\n</body></html>\n", "[1,2\n", "\0\0\n"],
    ids=["page", "cut array", "zeros"],
)
def test_a_file_of_which_no_record_can_be_read_is_left_out_as_a_whole(night, junk):
    quiet = (*SKIP, "-q", "--fail-on", "new")
    rows = [f'{{"id": {n}, "body": "text {n}"}}\n' for n in range(6)]
    night.output = night.output.with_name("out.jsonl")
    night.add("a.jsonl", "".join(rows[:3]))
    night.add("b.jsonl", "".join(rows[3:]))
    night(*quiet)
    night.add("a.jsonl", junk)
    told = night(*quiet, code=3).err
    assert "1 file of 2 could not be read and was left out, rows and all" in told
    assert "a.jsonl:1" in told
    assert night(*quiet).err == ""
    night.add("a.jsonl", rows[0] + junk)  # one row is a row
    assert night(*quiet).err == ""
    night.add("a.jsonl", "".join(rows[:3]))
    night(*quiet)
    assert len(night.output.read_text().splitlines()) == night.calls() == 6


def test_a_file_that_is_empty_now_is_told_as_one_that_is_gone(night):
    night.output = night.output.with_name("out.jsonl")
    night.add("a.jsonl", '{"body": "text 1"}\n')
    night.add("b.jsonl", '{"body": "text 2"}\n')
    night()
    night.add("b.jsonl", "")
    assert "1 file that the output showed is gone, rows and all" in night().err
    night.add("b.jsonl", '{"body": "text 2"}\n')
    assert "is gone" not in night().err
    assert night.calls() == 2


def test_a_file_that_is_gone_is_told_with_the_way_back(night):
    night.add("a.csv", csv_of(1))
    lost = night.add("b.csv", csv_of(2))
    (night.add("c.csv", csv_of(3))).rename(night.inbox / "d.csv")
    night()
    (night.inbox / "d.csv").rename(night.inbox / "c.csv")
    lost.unlink()
    told = (
        "1 file that the output showed is gone, rows and all; once it is back, a run shows its "
        "answers again without a call: inbox/b.csv"
    )
    assert told in night("--dry-run").err
    assert told in night(command="report").out
    assert night("-q").err == "", "files are taken away on purpose, too"
    assert night.rows() == ["1", "3"]
    assert night("-q").err == ""
    for command in ("status", "report"):
        assert told in night(command=command).out, "nobody has read it in between"
    night.add("a.csv", csv_of(1, 4))
    assert told in night("--on-change", "rerun").err
    night.add("b.csv", csv_of(2))
    assert "is gone, rows" not in night().err
    assert (night.rows(), night.calls()) == (["1", "4", "2", "3"], 4)


def test_a_file_that_is_gone_for_good_is_not_told_of_for_ever(night, monkeypatch):
    night.add("a.csv", csv_of(1))
    night.add("b.csv", csv_of(2))
    night()
    (night.inbox / "b.csv").unlink()
    now = time.time()
    days = 86_400.0
    for passed, is_told in ((1, True), (7, True), (8.5, False)):
        monkeypatch.setattr(
            "batch_runner.opening.time.time", lambda passed=passed: now + passed * days
        )
        assert ("is gone, rows and all" in night().err) is is_told, passed


def test_a_file_left_out_anew_is_no_input_that_has_changed_since(night):
    night.add("a.csv", csv_of(1))
    night(*SKIP)
    before = night.output.stat().st_mtime_ns
    night.add("b.csv", "mind\n")
    assert "has changed:" in night(*SKIP, command="status").out
    night(*SKIP, code=3)
    assert "has changed:" not in night(*SKIP, command="status").out
    assert night.output.stat().st_mtime_ns == before


def test_whoever_wants_no_exit_code_for_rows_gets_none_for_files(night):
    night.add("a.csv", csv_of(1))
    night.add("b.csv", "mind\n")
    assert night(*SKIP, "-q", "--fail-on", "none").err == ""


def test_the_rows_of_a_file_that_broke_are_back_without_a_call_once_it_is_mended(night):
    night.add("a.csv", csv_of(1, 2))
    whole = csv_of(3, 4)
    bad = night.add("b.csv", whole)
    night.add("c.csv", csv_of(5))
    night(*SKIP)
    before = night.output.read_bytes()

    night.add("b.csv", whole + '6,"text\n')
    night(*SKIP, code=3)
    assert night.rows() == ["1", "2", "5"]
    night(*SKIP, command="export")
    assert night.rows() == ["1", "2", "5"]
    assert night(*SKIP, "--json", command="report").out.count("b.csv") >= 1

    bad.write_text(whole)
    night(*SKIP)
    assert night.output.read_bytes() == before
    assert night.calls() == 5
    assert night.meta()["bad_files"] == []


@pytest.mark.parametrize(
    ("command", "target"), [("export", "out.csv"), ("reparse", "o.csv"), ("convert", "o.jsonl")]
)
def test_whoever_writes_a_file_without_those_rows_says_so(night, command, target):
    night.add("a.csv", csv_of(1))
    broken = night.add("b.csv", csv_of(2))
    night(*SKIP)
    broken.write_bytes(b"id,body\n2,h\xe9llo\n")
    night.output = night.cli.folder / target
    told = night(*SKIP, command=command)
    assert "1 file of 2 could not be read and was left out" in told.err


def test_the_header_that_most_files_have_is_the_right_one(night):
    night.add("a.csv", "name;note\nx;y\n")
    for number, name in enumerate(["b.csv", "c.csv", "d.csv"]):
        night.add(name, csv_of(number))
    ran = night(*SKIP, code=3)
    assert night.rows() == ["0", "1", "2"]
    assert "a.csv: its header differs from that of" in ran.err


@pytest.mark.parametrize("skip", [SKIP, ()], ids=["skip", "fail"])
def test_files_without_a_row_do_not_say_which_header_is_right(night, skip):
    for number in range(3):
        night.add(f"a{number}.csv", "ident;text\n")
    good, also_good = night.add("b.csv", csv_of(1)), night.add("c.csv", csv_of(2))
    ran = night(*skip, code=3 if skip else 2)
    told = [ran.err, *(night.meta()["bad_files"] if skip else ())]
    differs = "a0.csv: its header differs from that of {}: lacks ['id', 'body']"
    assert any(differs.format(name) in one for one in told for name in (good, "inbox/b.csv"))
    assert not any(f"{also_good.name}: its header" in one for one in told)
    if skip:
        assert night.rows() == ["1", "2"]


def test_parquet_files_that_are_cut_or_have_another_schema_are_left_out(night):
    night.output = night.output.with_suffix(".parquet")
    for name, rows in {"a": [1, 2], "b": [3], "c": [4]}.items():
        parquet(night.inbox / f"{name}.parquet", rows)
    parquet(night.inbox / "d.parquet", [5], more=["x"])
    cut = night.inbox / "b.parquet"
    cut.write_bytes(cut.read_bytes()[:-20])
    night(code=2)
    night(*SKIP, code=3)
    assert pq.read_table(night.output)["id"].to_pylist() == [1, 2, 4]
    cut_told, other_told = sorted(night.meta()["bad_files"])
    assert "b.parquet: not a whole Parquet file" in cut_told
    assert "d.parquet: its schema differs" in other_told
    assert night.calls() == 3


def test_a_page_of_parquet_that_is_damaged_leaves_out_its_file(night):
    night.output = night.output.with_suffix(".parquet")
    for name in "ab":
        parquet(night.inbox / f"{name}.parquet", [*range(MANY)])
    damaged = night.inbox / "b.parquet"
    with pq.ParquetFile(damaged) as file:
        at = file.metadata.row_group(0).column(1).data_page_offset
    data = bytearray(damaged.read_bytes())
    data[at : at + 200] = b"\xff" * 200
    damaged.write_bytes(data)
    night(*SKIP, "-n", "3", code=3)
    assert pq.read_table(night.output).num_rows == MANY
    assert "b.parquet" in night.meta()["bad_files"][0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_left_out(night):
    night.add("a.csv", csv_of(1))
    night.add("b.csv", csv_of(2)).chmod(0)
    night(*SKIP, code=3)
    assert night.rows() == ["1"]


@pytest.mark.parametrize("several", [False, True], ids=["one file", "all of several"])
def test_nothing_to_go_on_with_is_an_error_and_empties_nothing(night, several):
    files = [night.add("a.csv", csv_of(1)), *([night.add("b.csv", csv_of(2))] if several else [])]
    night(*SKIP)
    before = night.output.read_bytes()
    for file in files:
        file.write_text(file.read_text() + '9,"text\n')
    ran = night(*SKIP, code=2)
    assert "unbalanced quote" in ran.err
    assert ("none of the 2 input files can be read" in ran.err) is several
    for file in files:
        file.write_text("")
    night(*SKIP, code=2)
    assert night.output.read_bytes() == before


def test_an_output_is_not_emptied_by_the_file_that_has_all_the_rows_being_unreadable(night):
    night.add("a.csv", csv_of())
    full = night.add("b.csv", csv_of(1, 2))
    night(*SKIP)
    before = night.output.read_bytes()
    full.write_text("")
    assert "it would be emptied" in night(*SKIP, code=2).err
    assert night.output.read_bytes() == before


def test_a_file_that_breaks_while_the_rows_are_sent_leaves_the_output_as_it_was(
    night, fault_server
):
    night.add("a.csv", csv_of(1))
    bad = night.add("b.csv.gz", gzip.compress(csv_of(2).encode()))
    night(*SKIP)
    before = night.output.read_bytes()
    whole = gzip.compress(csv_of(*range(2, MANY)).encode())
    bad.write_bytes(whole)

    def cut(_result):
        bad.write_bytes(whole[: len(whole) // 2])

    import batch_runner as br
    from batch_runner.run_options import RunOptions
    from batch_runner.runner import run

    job = br.load_job(
        None,
        br.Overrides(
            flags={
                "input.path": [str(night.inbox / "*")],
                "input.on_bad_row": "skip",
                "output.path": str(night.output),
                "request.model": "m1",
                "prompt.input": "{{ body }}",
                "endpoint.base_url": fault_server.url,
            }
        ),
    )
    with pytest.raises(br.StorageError, match=r"b\.csv\.gz.* what was answered is kept"):
        run(job, RunOptions(on_result=cut, limit=3))
    assert night.output.read_bytes() == before

    asked = night.calls()
    night(*SKIP, code=3)
    assert night.rows() == ["1"]
    bad.write_bytes(whole)
    night(*SKIP, "-n", "1")
    assert night.calls() == asked + 1, "what was answered that night is not asked again"


def test_an_output_among_the_files_of_a_glob_is_still_refused(night):
    night.add("a.csv", csv_of(1))
    night.output = night.inbox / "out.csv"
    night(*SKIP)
    assert "is also the input" in night(*SKIP, code=2).err


def test_an_estimate_counts_the_files_that_can_be_read(night):
    night.add("a.csv", csv_of(1, 2))
    night.add("b.csv.gz", cut_gzip(range(MANY)))
    ran = night(*SKIP, "--json", command="estimate")
    assert json.loads(ran.out)["to_send"] == 2
    assert "b.csv.gz" in json.loads(ran.out)["notes"][0]
