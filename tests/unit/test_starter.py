"""`init`: the job file it writes must work where it is put, whatever the columns are called."""

import gzip
import json
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from batch_runner.check import check
from batch_runner.errors import InputError
from batch_runner.jobfile import load_job
from batch_runner.starter import starter_job
from batch_runner.tables import expand


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Writes a data file and its job file in `jobs/`, and gives the loaded job and the text."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-a-test")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").mkdir()

    def started(name, content, *, write=None):
        file = tmp_path / "data" / name
        file.parent.mkdir(exist_ok=True)
        if write is not None:
            write(file)
        else:
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
        text = starter_job(Path("data") / name, folder=Path("jobs"))
        path = tmp_path / "jobs" / "job.toml"
        path.write_text(text)
        return load_job(path), text

    return started


CSV = "article_id,title,body\n" + "".join(f"a-{n},Same,A longer text {n}\n" for n in range(3))


def test_the_job_file_passes_check_from_where_it_lies(started, tmp_path):
    job, text = started("articles.csv", CSV)
    assert job.input.path == (str(tmp_path / "data" / "articles.csv"),)
    assert job.output_path == tmp_path / "data" / "articles_answers.csv"
    assert tomllib.loads(text)["input"]["path"] == "../data/articles.csv"
    assert check(job).to_send == 3


def test_the_limits_it_suggests_can_be_used_as_they_stand(started, tmp_path):
    _, text = started("articles.csv", CSV)
    head, heading, limits = text.partition("[limits]\n")
    suggested, blank, rest = limits.partition("\n\n")
    used = head + heading + suggested.replace("# ", "", 1).replace("\n# ", "\n") + blank + rest
    (tmp_path / "jobs" / "job.toml").write_text(used)
    found = load_job(tmp_path / "jobs" / "job.toml").limits
    assert (found.concurrency.maximum, found.concurrency.adaptive) == (4, False)
    assert found.max_cost == 5


def test_the_key_and_the_text_are_guessed(started):
    job, text = started("articles.csv", CSV)
    assert job.input.key == ("article_id",)
    assert job.prompt.input.endswith("{{ body }}")
    assert "#   title: 4 characters\n" in text
    assert "3 rows" in text
    assert '\n# on_bad_row = "skip"   # records that' in text


@pytest.mark.parametrize(
    ("last", "encoding"),
    [("Zoë: 5 €".encode("cp1252"), "cp1252"), (b"Zo\xeb \x81", "latin-1"), ("Zoë €".encode(), None),
     (b"Zo\xeb", "cp1252")],
)  # fmt: skip
@pytest.mark.parametrize("rows", [3, 100_000])
def test_a_file_that_is_not_utf_8_gets_a_job_that_reads_it(started, last, encoding, rows):
    """However far behind the first rows the first such byte stands."""
    content = b"id,body\n" + b"".join(b"%d,plain\n" % n for n in range(rows)) + b"x," + last + b"\n"
    job, text = started("old.csv", content)
    assert tomllib.loads(text)["input"].get("encoding") == encoding
    as_it_reads = "# it is not UTF-8; this is a guess, right if this reads well: Zoë"
    assert (as_it_reads in text) == (encoding is not None)
    assert check(job).to_send == rows + 1


def test_a_column_called_a_key_that_is_none_is_told_with_the_value_that_repeats(started):
    rows = "".join(f"{n // 2},A longer text {n}\n" for n in range(4))
    job, text = started("in.csv", f"id,body\n{rows}")
    assert job.input.key == ()
    assert "# id is no key: '0' comes twice\n" in text
    assert "is no key" not in started("articles.csv", CSV)[1]


def test_a_column_that_is_nearly_a_key_is_told_with_what_keeps_it_from_being_one(started):
    rows = [f"T-{max(n, 2):03},Jo,A longer text {n}\n" for n in range(20)]
    job, text = started("in.csv", "ticket,who,body\n" + "".join(rows))
    assert job.input.key == ()
    assert "# ticket is no key: 'T-002' comes 3 times\n" in text
    assert "who is no key" not in started("few.csv", "who,body\nJo,One text\nJo,Other text\n")[1]


def test_of_a_folder_the_file_that_is_not_utf_8_is_named(folder):
    (folder / "2.csv").write_bytes(b"line_no,uid,body\n1,u,Zo\xeb\n")
    assert (
        "# 2.csv is not UTF-8; this is a guess, right if this reads well: Zo\xeb\n"
        in starter_job(folder)
    )


def test_a_folder_packed_in_two_ways_is_one_pattern(folder):
    packed = gzip.compress((folder / "1.csv").read_bytes().replace(b"u1", b"u9"))
    (folder / "3.csv.gz").write_bytes(packed)
    path = folder.parent / "jobs/job.toml"
    path.write_text(starter_job(folder, folder=path.parent))
    job = load_job(path)
    assert check(job).to_send == 9
    assert job.output_path.name == "in[1]_answers.csv"


@pytest.mark.parametrize(("more", "pattern"), [((), "*.csv"), (("3.csv.gz",), "*.csv*")])
def test_a_folder_in_place_of_its_files_is_told_with_a_pattern_of_most(folder, more, pattern):
    for name in ("other.jsonl", "notes.md", *more):
        (folder / name).write_text("")
    with pytest.raises(InputError) as refused:
        expand([folder])
    assert refused.value.hint.endswith(f'/{pattern}"')


def test_old_jsonl_is_read_too(started):
    lines = [json.dumps({"id": n, "body": "Zoë"}, ensure_ascii=False) for n in range(3)]
    job, _ = started("old.jsonl", "\n".join(lines).encode("latin-1"))
    assert json.loads(check(job).shown[0].body)["input"].endswith("Zoë")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two nights of data, and `init` over what is named, to `jobs/job.toml`."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-a-test")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "in[1]").mkdir()
    for night in (1, 2):
        rows = "".join(f"{n},u{night}{n},A longer text {night} {n}\n" for n in range(3))
        (tmp_path / f"in[1]/{night}.csv").write_text(f"line_no,uid,body\n{rows}")
    (tmp_path / "in[1]/.hidden.jsonl").write_text("{}")
    (tmp_path / "in[1]/README").write_text("")
    return tmp_path / "in[1]"


@pytest.mark.parametrize("named", ["in[1]", "in[1]/", "*1]/*.csv"])
def test_a_folder_becomes_a_job_over_all_that_it_will_hold(folder, main_cli, named):
    assert main_cli("init", named, "-o", "jobs/job.toml").code == 0
    job = load_job("jobs/job.toml")
    assert check(job).to_send == 6
    folder_of_all = folder.parent if "*" in named else folder
    beside = folder_of_all.with_name(f"{folder_of_all.name}_answers.csv")
    assert job.output_path == beside, "outside: it is no input"
    assert job.input.key == ("uid",), "line_no names rows of one file only"
    (folder / "3.csv").write_text("line_no,uid,body\n0,u30,new\n")
    assert check(load_job("jobs/job.toml")).to_send == 7


def test_one_comment_taken_away_and_a_broken_file_stops_no_night(folder, main_cli):
    assert main_cli("init", "in[1]", "-o", "jobs/job.toml").code == 0
    (folder / "3.csv").write_bytes(b"")
    assert main_cli("check", "jobs/job.toml").code == 2, "a file that is missing is news at first"
    job = folder.parent / "jobs/job.toml"
    text = job.read_text()
    assert text.count('\n# on_bad_row = "skip"   # files and records') == 1
    job.write_text(text.replace("# on_bad_row", "on_bad_row"))
    assert check(load_job(job)).to_send == 6


def test_a_folder_with_a_broken_file_is_told_with_a_way_out(folder, main_cli):
    (folder / "3.csv").write_bytes(b"")
    told = main_cli("init", "in[1]")
    assert told.code == 2
    assert "3.csv: empty" in told.err
    assert "narrower pattern" in told.err


def test_a_folder_of_which_no_job_can_be_made_is_told(folder, main_cli):
    for name, said in {
        "of no data": ("a folder without a data file", ".parquet"),
        "of two": ("a folder of several formats: 2 .csv, 1 .jsonl", "init 'in[1]/*.csv'"),
        "of outputs": ("'1.csv' is the output of a run", "move it"),
        "jobs/*.csv": ("no file matches", "filled"),
    }.items():
        if name == "of two":
            (folder / "3.jsonl").write_text("{}\n")
        elif name == "of outputs":
            (folder / "3.jsonl").unlink()
            (folder / "1.csv.run").mkdir()
        told = main_cli("init", {"of no data": "jobs"}.get(name, name if "*" in name else "in[1]"))
        assert told.code == 2
        assert all(words in told.err for words in said), told.err


def test_the_output_never_lies_where_it_would_be_taken_for_input(tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.csv").write_text("x\n1\n")
    monkeypatch.setattr("os.access", lambda path, _mode: path != tmp_path)
    with pytest.raises(InputError, match="would be taken for input") as caught:
        starter_job(data, folder=data)
    assert "init" in caught.value.hint
    assert 'path = "data_answers.csv"' in starter_job(data, folder=tmp_path / "elsewhere")


def test_a_folder_named_by_dots_gives_the_output_its_real_name(tmp_path, monkeypatch):
    (tmp_path / "data" / "in").mkdir(parents=True)
    (tmp_path / "data" / "a.csv").write_text("x\n1\n")
    monkeypatch.chdir(tmp_path / "data" / "in")
    assert "/data_answers.csv" in starter_job(Path(".."))


def test_without_a_folder_paths_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text(CSV)
    tables = tomllib.loads(starter_job(Path("a.csv")))
    assert tables["input"]["path"] == str(tmp_path / "a.csv")
    assert tables["output"]["path"] == str(tmp_path / "a_answers.csv")


def test_the_output_lies_beside_the_input_wherever_init_was_typed(started, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a.csv").write_text(CSV)
    monkeypatch.chdir(tmp_path / "elsewhere")
    text = starter_job(Path("../a.csv"), folder=tmp_path / "elsewhere")
    assert tomllib.loads(text)["output"]["path"] == "../a_answers.csv"
    assert "[output]   # beside the input" in text


def test_where_the_input_cannot_be_written_to_the_output_goes_beside_the_job(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text(CSV)
    monkeypatch.setattr("batch_runner.starter.os.access", lambda *_: False)
    text = starter_job(tmp_path / "a.csv", folder=tmp_path / "jobs")
    assert tomllib.loads(text)["output"]["path"] == "a_answers.csv"
    assert "cannot be written to" in text


@pytest.mark.parametrize(
    "name",
    ["body text", "Größe", "it's", 'say "hi"', "in", "row", "true", "a.b", "x\\y", "{{ x }}", "1st",
     "#no comment", "tab\there", "naïve", "both ' and \"", "new\nline", "\x7f"],
)  # fmt: skip
def test_awkward_column_names_make_no_awkward_job_files(started, name):
    lines = [json.dumps({name: f"some longer text {n}", "n": "x" * n}) for n in range(1, 4)]
    job, _ = started("data.jsonl", "".join(line + "\n" for line in lines))
    report = check(job)
    assert report.to_send == 3
    if "\\" not in name and not ("'" in name and '"' in name):
        assert "some longer text 1" in json.loads(report.shown[0].body)["input"]


@pytest.mark.parametrize("name", ["naïve file.csv", 'quo"ted.csv', "back\\slash.csv", "#1.csv"])
def test_awkward_file_names_make_no_awkward_job_files(started, name):
    job, _ = started(name, CSV)
    assert check(job).to_send == 3


def test_the_output_has_the_format_and_compression_of_the_input(started):
    import gzip

    job, _ = started("a.b.jsonl.gz", gzip.compress(b'{"text": "hello"}\n'))
    assert job.output_path.name == "a.b_answers.jsonl.gz"


def test_a_parquet_file_is_looked_at_too(started):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {"review_id": [1, 2], "stars": [5, 1], "text": ["good thing", "bad"], "tags": [["a"], []]}
    )
    job, _ = started("r.parquet", None, write=frame.to_parquet)
    assert job.input.key == ("review_id",)
    assert "{{ text }}" in job.prompt.input
    assert check(job).to_send == 2


def test_another_delimiter_is_noticed(started):
    job, _ = started("a.csv", "id;body\n1;hello, you\n2;hello, me\n")
    assert job.input.delimiter == ";"
    assert check(job).to_send == 2
    assert started("a.tsv", "id\tbody\n1\thello\n")[0].input.delimiter is None


def test_gaps_in_the_text_are_skipped_from_the_start(started):
    job, text = started("a.csv", "id,body\n1,hello there\n2,\n")
    assert job.prompt.missing == "skip"
    assert "empty in 1 of 2" in text


def test_texts_that_happen_not_to_repeat_are_no_keys(started):
    rows = "".join(f"{'long text ' * 10}{n},x\n" for n in range(3))
    assert started("a.csv", "body,kind\n" + rows)[0].input.key == ()


def test_a_file_without_rows_still_gets_a_job_file(started):
    job, _ = started("a.csv", "id,body\n")
    assert check(job).rows == 0


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.csv"):
        starter_job(tmp_path / "gone.csv")


def test_init_writes_for_the_place_it_is_sent_to(main_cli, run_cli, tmp_path):
    (tmp_path / "a.csv").write_text(CSV)
    ran = main_cli("init", "a.csv", "-o", "jobs/a.toml")
    assert (ran.code, ran.out) == (0, "")
    assert tomllib.loads((tmp_path / "jobs/a.toml").read_text())["input"]["path"] == "../a.csv"
    again = main_cli("init", "a.csv", "-o", "jobs/a.toml")
    assert again.code == 2
    assert "--yes" in again.err
    with (tmp_path / "jobs" / "b.toml").open("w") as stdout:
        call = [sys.executable, "-m", "batch_runner", "init", "a.csv"]
        subprocess.run(call, cwd=tmp_path, env=run_cli.environment, stdout=stdout, check=True)
    if sys.platform == "linux":
        assert tomllib.loads((tmp_path / "jobs/b.toml").read_text())["input"]["path"] == "../a.csv"
    printed = main_cli("init", "a.csv").out
    assert tomllib.loads(printed)["input"]["path"] == str(tmp_path / "a.csv")


def test_the_next_command_can_be_typed_as_it_is_shown(main_cli, run_cli, tmp_path):
    (tmp_path / "a.csv").write_text(CSV)
    key = {"OPENAI_API_KEY": "sk-of-a-test"}
    said = main_cli("init", "a.csv", "-o", "my jobs/first job.toml").err
    words = shlex.split(said.partition("next: ")[2])
    assert words == ["batch-runner", "check", "my jobs/first job.toml"]
    assert main_cli(*words[1:], **key).code == 0
    with (tmp_path / "second job.toml").open("w") as stdout:
        call = [sys.executable, "-m", "batch_runner", "init", "a.csv"]
        ran = subprocess.run(
            call, cwd=tmp_path, env=run_cli.environment, stdout=stdout, stderr=subprocess.PIPE,
            text=True, check=True,
        )  # fmt: skip
    if sys.platform == "linux":
        words = shlex.split(ran.stderr.partition("next: ")[2])
        assert words == ["batch-runner", "check", "second job.toml"]
        assert main_cli(*words[1:], **key).code == 0


@pytest.mark.parametrize(
    ("target", "said"),
    [("a.csv", "is the data file"), (".", "is a directory"), ("a.csv/b.toml", "cannot write")],
)
def test_init_never_writes_over_the_data_and_is_no_bug_where_it_cannot_write(
    main_cli, tmp_path, target, said
):
    (tmp_path / "a.csv").write_text(CSV)
    ran = main_cli("init", "a.csv", "-o", target, "--yes")
    assert ran.code == 2
    assert said in ran.err
    assert (tmp_path / "a.csv").read_text() == CSV


def test_init_in_json_is_one_object(main_cli, tmp_path):
    (tmp_path / "in.csv").write_text("id,text\na,one\nb,two\n")
    shown = json.loads(main_cli("init", "in.csv", "--json").out)
    assert shown["output"] is None
    assert shown["job"] == main_cli("init", "in.csv").out
    written = json.loads(main_cli("init", "in.csv", "--json", "-o", "job.toml").out)
    assert written["output"] == "job.toml"
    assert written["job"] == (tmp_path / "job.toml").read_text()
