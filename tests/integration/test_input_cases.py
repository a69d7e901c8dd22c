"""Every kind of input file of which a user must see a stated outcome, through the command line."""

import bz2
import csv
import gzip
import io
import json
import lzma
import subprocess
import sys
from pathlib import Path

import pytest

from batch_runner.faultserver import FaultServer
from tests.integration.job_text import job_text


@pytest.fixture
def run(main_cli, fault_server):
    """A run over a file whose only new column is `llm_status`, against a server that answers."""

    def run(name, *more, prompt="{{ body }}", output=None):
        output = output or f"out{''.join(Path(name).suffixes)}"
        return main_cli(
            "run", "-i", name, "-o", output, "-m", "m1", "-p", prompt,
            "--base-url", fault_server.url, "--set", 'output.columns=["status"]', *more,
        )  # fmt: skip

    run.folder = main_cli.folder
    return run


def prompts(server: FaultServer) -> list[str]:
    """What the server was asked, in the order of the alphabet: calls overtake each other."""
    server.settle()
    return sorted(json.loads(request.body)["input"] for request in server.seen)


def calls(server: FaultServer) -> int:
    server.settle()
    return len(server.ledger.rows())


def refused(ran, server: FaultServer, *words: str) -> None:
    """Exit 2 with every one of `words` said, a way out, and not a single call."""
    assert ran.code == 2, ran.err
    assert "Traceback" not in ran.err
    for word in words:
        assert word in ran.err, (word, ran.err)
    assert calls(server) == 0


# 1. Values that other tools change


def test_numbers_dates_and_booleans_stay_the_text_they_are(run, fault_server):
    values = ["00123", "1e5", "12345678901234567890", "true", "2024-01-02", "1.50", " x ", "1,5"]
    lines = [f'{n},"{v}"' if "," in v else f"{n},{v}" for n, v in enumerate(values)]
    (run.folder / "in.csv").write_text("id,body\n" + "\n".join(lines) + "\n")

    assert run("in.csv").code == 0

    written = (run.folder / "out.csv").read_text().splitlines()
    assert written == ["id,body,llm_status", *(f"{line},ok" for line in lines)]
    assert prompts(fault_server) == sorted(values)


# 2. Records of several lines


def test_a_cell_may_hold_line_ends_and_quotes_and_is_one_row(run, fault_server):
    raw = b'id,body\r\n1,"one\ntwo"\r\n2,"say ""hi"""\r\n3,"four\r\nfive"\n4,plain'
    (run.folder / "in.csv").write_bytes(raw)

    assert run("in.csv").code == 0

    expected = (
        b'id,body,llm_status\r\n1,"one\ntwo",ok\r\n2,"say ""hi""",ok\r\n'
        b'3,"four\r\nfive",ok\n4,plain,ok'
    )
    assert (run.folder / "out.csv").read_bytes() == expected
    assert prompts(fault_server) == sorted(["one\ntwo", 'say "hi"', "four\r\nfive", "plain"])


# 3. Encodings


def test_a_byte_order_mark_is_no_part_of_the_first_name_and_is_kept(run, fault_server):
    (run.folder / "in.csv").write_bytes(b"\xef\xbb\xbfbody,n\nh\xc3\xa9llo,1\n")

    assert run("in.csv").code == 0

    assert (run.folder / "out.csv").read_bytes() == (
        b"\xef\xbb\xbfbody,n,llm_status\nh\xc3\xa9llo,1,ok\n"
    )
    assert prompts(fault_server) == ["héllo"]


def test_utf_16_is_recognised_by_its_mark_and_kept(run, fault_server):
    (run.folder / "in.csv").write_bytes("\ufeffbody,n\r\nhéllo,1\r\n".encode("utf-16-le"))

    assert run("in.csv").code == 0

    written = (run.folder / "out.csv").read_bytes().decode("utf-16-le")
    assert written == "\ufeffbody,n,llm_status\r\nhéllo,1,ok\r\n"
    assert prompts(fault_server) == ["héllo"]


def test_a_latin_1_byte_is_named_before_any_call(run, fault_server):
    (run.folder / "in.csv").write_bytes(b"body\nfine\nh\xe9llo\n")

    refused(run("in.csv"), fault_server, "in.csv:3", "0xe9", "encoding", "latin-1")

    assert run("in.csv", "--set", "input.encoding=latin-1").code == 0
    assert (run.folder / "out.csv").read_bytes() == b"body,llm_status\nfine,ok\nh\xe9llo,ok\n"
    assert prompts(fault_server) == ["fine", "héllo"]


def test_an_answer_that_the_encoding_of_the_output_cannot_hold_is_told_each_time(run):
    (run.folder / "in.csv").write_bytes(b"body\nh\xe9llo\n")
    flags = ("--set", "input.encoding=latin-1", "--set", 'output.columns=["output"]')

    for _ in range(2):  # sent, and left as it is
        told = run("in.csv", *flags, prompt="{{ body }} [[fault:surrogate]]")
        assert told.code == 0
        assert "1 answer with characters that latin-1 cannot hold" in told.err

    assert b"\\ud800 alone" in (run.folder / "out.csv").read_bytes()


# 4. Rows of the wrong length, and no rows


def test_short_rows_are_padded_and_blank_lines_are_no_rows(run, fault_server):
    (run.folder / "in.csv").write_text("body,a,b\nx\n\ny,1\n\n")

    assert run("in.csv").code == 0

    assert (run.folder / "out.csv").read_text() == "body,a,b,llm_status\nx,,,ok\ny,1,,ok\n"
    assert calls(fault_server) == 2


def test_long_rows_stop_the_job_before_any_call_and_five_are_named(run, fault_server):
    lines = [f"t{n},1,2,3" for n in range(2, 9)]
    (run.folder / "in.csv").write_text("body,a\n" + "\n".join(lines) + "\n")

    ran = run("in.csv")

    refused(ran, fault_server, *(f"in.csv:{n}: 4 cells" for n in range(2, 7)), "on_bad_row")
    assert "in.csv:7" not in ran.err
    assert not (run.folder / "out.csv").exists()


def test_long_rows_are_left_out_counted_and_named_if_the_job_says_so(run, fault_server):
    (run.folder / "in.csv").write_text("body,a\nx,1\ny,1,2\nz,1\n")

    ran = run("in.csv", "--set", "input.on_bad_row=skip")

    assert ran.code == 0
    assert "1 record could not be read" in ran.err
    assert (run.folder / "out.csv").read_text() == "body,a,llm_status\nx,1,ok\nz,1,ok\n"
    meta = json.loads((run.folder / "out.csv.meta.json").read_text())
    assert meta["bad_records"] == 1
    assert meta["bad_record_places"] == [f"{run.folder}/in.csv:3"]


@pytest.mark.parametrize(
    ("name", "content", "written"),
    [
        ("in.csv", "body,a\n", "body,a,llm_status\n"),
        ("in.csv", "body,a", "body,a,llm_status"),
        ("in.jsonl", "", ""),
        ("in.jsonl", "\n\n", ""),
    ],
)
def test_an_input_without_rows_is_done_at_once(run, fault_server, name, content, written):
    (run.folder / name).write_text(content)

    ran = run(name)

    assert ran.code == 0, ran.err
    assert (run.folder / f"out{Path(name).suffix}").read_text() == written
    assert calls(fault_server) == 0


def test_files_that_are_not_there_or_hold_nothing_are_named(run, fault_server):
    (run.folder / "empty.csv").write_bytes(b"")
    (run.folder / "folder").mkdir()

    refused(run("empty.csv"), fault_server, "empty.csv", "empty")
    refused(run("gone.csv"), fault_server, "gone.csv", "no such file")
    refused(run("folder", output="out.csv"), fault_server, "folder", "directory", "folder/*")
    refused(run("no*.csv", output="out.csv"), fault_server, "no*.csv", "no file matches")
    refused(run("notes.docx", output="out.csv"), fault_server, "notes.docx")


@pytest.mark.parametrize("text", ["", "other\ny\n"])
def test_a_file_among_several_that_does_not_fit_comes_with_a_way_out(run, fault_server, text):
    (run.folder / "part1.csv").write_text("body\nx\n")
    (run.folder / "part2.csv").write_text(text)
    words = ("each needs the same header, also without a row", "leave it out")
    refused(run("part*.csv", output="out.csv"), fault_server, "part2.csv", *words)
    (run.folder / "part2.csv").write_text("body\n")
    assert run("part*.csv", output="out.csv").code == 0


# 5. Headers and quotes


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("body,a,a", ["'a'", "2, 3"]),
        ("body,,b", ["no column name", "2"]),
        ('body,"a', ["unbalanced quote"]),
    ],
)
def test_a_header_that_does_not_name_each_column_is_refused(run, fault_server, header, words):
    (run.folder / "in.csv").write_text(header + "\nx,1,2\n")
    refused(run("in.csv"), fault_server, "in.csv", *words)


def test_an_unbalanced_quote_early_in_a_long_file_is_found_before_any_call(run, fault_server):
    with (run.folder / "in.csv").open("w") as file:
        file.write('body,n\n"never closed,1\n')
        file.writelines(f"text {n},{n}\n" for n in range(200_000))
    refused(run("in.csv"), fault_server, "in.csv", "unbalanced quote", "line 2")


def test_a_cell_above_the_cap_is_refused_by_line(run, fault_server):
    with (run.folder / "in.csv").open("w") as file:
        file.write("body,n\n" + "x" * ((16 << 20) + 1) + ",1\n")
    refused(run("in.csv"), fault_server, "in.csv:2", "16 MiB")


# 6. The wrong delimiter, the wrong name


@pytest.mark.parametrize(("mark", "shown"), [(";", '";"'), ("\t", r'"\t"')])
def test_another_delimiter_is_suggested(run, fault_server, mark, shown):
    (run.folder / "in.csv").write_text(f"id{mark}body\n1{mark}x\n")

    refused(run("in.csv"), fault_server, "'body'", f"input.delimiter = {shown}")

    assert run("in.csv", "--set", f"input.delimiter={shown}").code == 0
    assert (
        run.folder / "out.csv"
    ).read_text() == f"id{mark}body{mark}llm_status\n1{mark}x{mark}ok\n"


def test_a_column_of_another_spelling_is_suggested(run, fault_server):
    (run.folder / "in.csv").write_text("title,body\na,b\n")
    (run.folder / "in.jsonl").write_text('{"title": "a"}\n')
    refused(run("in.csv", prompt="{{ Title }}"), fault_server, "'Title'", "did you mean 'title'")
    refused(run("in.csv", prompt="{{ boddy }}"), fault_server, "did you mean 'body'")
    refused(run("in.jsonl", prompt="{{ Title }}"), fault_server, "did you mean 'title'")
    refused(run("in.csv", prompt="{{ title"), fault_server, "prompt.input", "line 1")


def test_a_prompt_without_columns_is_told_for_every_row_asks_the_same(run, fault_server):
    (run.folder / "in.csv").write_text("body\na\nb\n")
    told = run("in.csv", prompt="Summarize body").err
    before, _, after = told.partition(f"m1 at {fault_server.url}")
    assert "names no column" in before, "before the first call"
    assert "names no column" in after
    assert "names no column" not in run("in.csv", output="out2.csv").err


def test_a_filter_that_does_not_exist_is_found_before_any_call(run, fault_server):
    (run.folder / "in.csv").write_text("body\na\nb\n")
    refused(run("in.csv", prompt="{{ body | sumarize }}"), fault_server, "prompt.input", "sumarize")


# 7. Text that looks like something else


def test_values_that_look_like_templates_or_markup_are_literal_text(run, fault_server):
    values = [
        "{{ x }}", "{% if %}", "{0}", "%s", "$HOME", "<|endoftext|>", "a\0b", "a\u2028b", "a\u0085b",
        "</script>", "\\n", "a\vb\fc", "🙂", "\ufeff",
    ]  # fmt: skip
    (run.folder / "in.jsonl").write_text("".join(json.dumps({"body": v}) + "\n" for v in values))
    assert run("in.jsonl").code == 0
    assert prompts(fault_server) == sorted(values)

    fault_server.reset()
    text = "body,n\n" + "".join(f"{v},1\n" for v in values)
    (run.folder / "in.csv").write_text(text, newline="")
    ran = run("in.csv")
    assert ran.code == 0, ran.err
    assert prompts(fault_server) == sorted(values)
    assert (run.folder / "out.csv").read_text() == "body,n,llm_status\n" + "".join(
        f"{v},1,ok\n" for v in values
    )


def test_a_row_that_cannot_be_encoded_fails_alone(run, fault_server):
    (run.folder / "in.jsonl").write_bytes(b'{"body":"a\\ud800b"}\n{"body":"fine"}\n{"body":NaN}\n')

    ran = run("in.jsonl", "--set", "output.columns=['status','error_code']")

    assert ran.code == 3
    assert (run.folder / "out.jsonl").read_bytes() == (
        b'{"body":"a\\ud800b","llm_status":"failed","llm_error_code":"bad_input"}\n'
        b'{"body":"fine","llm_status":"ok","llm_error_code":null}\n'
        b'{"body":NaN,"llm_status":"ok","llm_error_code":null}\n'
    )
    assert prompts(fault_server) == ["NaN", "fine"]


# 8. Nothing in a cell


def test_empty_and_null_cells_follow_the_rule_and_na_is_text(run, fault_server):
    (run.folder / "in.jsonl").write_text(
        '{"n":1,"body":""}\n{"n":2,"body":null}\n{"n":3,"body":"NA"}\n{"n":4}\n{"n":5,"body":0}\n'
    )
    columns = "output.columns=['status','error_code']"

    failed = run("in.jsonl", "--set", columns)
    assert failed.code == 3
    assert statuses(run.folder / "out.jsonl") == [
        ("failed", "missing_value"), ("failed", "missing_value"), ("ok", None),
        ("failed", "missing_value"), ("ok", None),
    ]  # fmt: skip
    assert prompts(fault_server) == ["0", "NA"]

    skipped = run("in.jsonl", "--set", columns, "--set", "prompt.missing=skip")
    assert skipped.code == 0
    assert [s for s, _ in statuses(run.folder / "out.jsonl")] == [
        "skipped", "skipped", "ok", "skipped", "ok",
    ]  # fmt: skip
    assert calls(fault_server) == 2

    emptied = run("in.jsonl", "--set", columns, "--set", "prompt.missing=empty")
    assert emptied.code == 0
    assert {s for s, _ in statuses(run.folder / "out.jsonl")} == {"ok"}
    assert prompts(fault_server) == ["", "", "", "0", "NA"]


def statuses(path: Path) -> list[tuple[str, str | None]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(row["llm_status"], row["llm_error_code"]) for row in rows]


# 9. JSONL


def test_every_legal_json_line_keeps_its_bytes(run, fault_server):
    lines = [
        b'\xef\xbb\xbf{"body": "first"}\r\n',
        b"\r\n",
        b'  {"n": 123456789012345678901234567890, "body":"big" }\n',
        b'{"body":"twice","body":"second wins","x":1e5}\n',
        b"   \n",
        b'{"body":["now","a list"],"x":{"deep":[1.0,1.50]}}\n',
        b'{"body":"last"}',
    ]
    (run.folder / "in.jsonl").write_bytes(b"".join(lines))

    ran = run("in.jsonl")

    assert ran.code == 0, ran.err
    assert (run.folder / "out.jsonl").read_bytes() == (
        b'\xef\xbb\xbf{"body": "first","llm_status":"ok"}\r\n'
        b'  {"n": 123456789012345678901234567890, "body":"big" ,"llm_status":"ok"}\n'
        b'{"body":"twice","body":"second wins","x":1e5,"llm_status":"ok"}\n'
        b'{"body":["now","a list"],"x":{"deep":[1.0,1.50]},"llm_status":"ok"}\n'
        b'{"body":"last","llm_status":"ok"}'
    )
    assert prompts(fault_server) == sorted(
        ["first", "big", "second wins", '["now", "a list"]', "last"]
    )


def test_a_line_still_being_written_waits_for_the_next_run(run, fault_server):
    whole = b'{"body":"a"}\n{"body":"b"}\n'
    (run.folder / "in.jsonl").write_bytes(whole + b'{"body":"c')

    first = run("in.jsonl")

    assert first.code == 0
    assert "in.jsonl:3" in first.err
    assert prompts(fault_server) == ["a", "b"]

    (run.folder / "in.jsonl").write_bytes(whole + b'{"body":"c"}\n')
    assert run("in.jsonl").code == 0
    assert prompts(fault_server) == ["a", "b", "c"]


def test_a_number_stays_as_long_as_it_is_written(run, fault_server):
    (run.folder / "in.jsonl").write_text('{"body":123456789012345678901234567890}\n{"body":1e5}\n')
    assert run("in.jsonl").code == 0
    assert prompts(fault_server) == ["100000", "123456789012345678901234567890"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('[{"body":"a"},{"body":"b"}]\n', ["array", "jq -c '.[]'"]),
        ('[\n  {"body":"a"}\n]\n', ["several lines", "jq -c '.[]'"]),
        ('{\n  "body": "a"\n}\n', ["several lines", "jq -c ."]),
        ('{"body":"a"}\n["b"]\n', ["in.jsonl:2", "array", "jq"]),
        ('{"body":"a"}\n17\n', ["in.jsonl:2", "jq"]),
        ('{"body":"a"}\n{"body":oops}\n{"body":"c"}\n', ["in.jsonl:2", "not JSON", "on_bad_row"]),
    ],
)
def test_json_of_another_shape_is_named_with_a_way_to_convert(run, fault_server, content, words):
    (run.folder / "in.jsonl").write_text(content)
    refused(run("in.jsonl"), fault_server, "in.jsonl", *words)


def test_a_field_may_show_up_late(run, fault_server):
    lines = [json.dumps({"n": n}) for n in range(5000)] + ['{"n":5000,"body":"here"}']
    (run.folder / "in.jsonl").write_text("\n".join(lines) + "\n")
    assert run("in.jsonl", "--set", "prompt.missing=skip").code == 0
    assert prompts(fault_server) == ["here"]


# 10. Parquet


def test_parquet_keeps_schema_metadata_and_values_and_gets_typed_columns(run, fault_server):
    import datetime as dt
    from decimal import Decimal

    import pyarrow as pa
    import pyarrow.parquet as pq

    moment = dt.datetime(2024, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    table = pa.table(
        {
            "body": pa.array(["a", "b", "a"]).dictionary_encode(),
            "price": pa.array([Decimal("1.50"), None, Decimal("2.00")], pa.decimal128(10, 2)),
            "at": pa.array([moment, None, moment], pa.timestamp("ns", tz="Europe/Berlin")),
            "tags": pa.array([["x"], [], None], pa.list_(pa.string())),
            "deep": pa.array([{"k": 1}, {"k": None}, None], pa.struct([("k", pa.int8())])),
            "nothing": pa.nulls(3),
        }
    ).replace_schema_metadata({"owner": "us"})
    pq.write_table(table, run.folder / "in.parquet")

    ran = run("in.parquet", "--set", 'output.columns=["status","input_tokens","attempts"]')

    assert ran.code == 0, ran.err
    written = pq.read_table(run.folder / "out.parquet")
    assert written.select(table.column_names).equals(table)
    assert written.schema.metadata[b"owner"] == b"us"
    assert written.schema.field("llm_input_tokens").type == pa.int64()
    assert written.schema.field("llm_attempts").type == pa.int32()
    assert written["llm_status"].to_pylist() == ["ok"] * 3
    assert prompts(fault_server) == ["a", "a", "b"]


def test_a_pandas_index_survives_and_no_rows_are_fine(run, fault_server):
    import pandas as pd
    import pyarrow.parquet as pq

    frame = pd.DataFrame({"body": ["a", "b"]}, index=pd.Index([7, 9], name="id"))
    frame.to_parquet(run.folder / "in.parquet")
    assert run("in.parquet").code == 0
    back = pd.read_parquet(run.folder / "out.parquet")
    assert list(back.index) == [7, 9]
    assert list(back["llm_status"]) == ["ok", "ok"]

    frame.iloc[:0].to_parquet(run.folder / "none.parquet")
    ran = run("none.parquet", output="none_out.parquet")
    assert ran.code == 0, ran.err
    assert pq.read_table(run.folder / "none_out.parquet").column_names[-1] == "llm_status"
    assert calls(fault_server) == 2


# 11. The input of tomorrow


def rows_of(path: Path) -> dict[str, str]:
    with path.open(newline="") as file:
        return {row["body"]: row["llm_output"] for row in csv.DictReader(file)}


@pytest.fixture
def again(main_cli, fault_server):
    """A run whose outputs can be told apart; returns how many calls it made."""

    def again(*bodies, more=(), prompt="Say: {{ body }}", code=0):
        before = calls(fault_server)
        with (main_cli.folder / "in.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["id", "body"], *([b.split()[0], b] for b in bodies)])
        again.ran = main_cli(
            "run", "-i", "in.csv", "-o", "out.csv", "-m", "m1", "-p", prompt,
            "--base-url", fault_server.url, "--set", "input.key=id", *more,
        )  # fmt: skip
        assert again.ran.code == code, again.ran.err
        return calls(fault_server) - before

    again.outputs = lambda: rows_of(main_cli.folder / "out.csv")
    return again


def test_rows_inserted_removed_and_reordered_cost_only_the_new_ones(again):
    bodies = [f"id{n} text" for n in range(10)]
    assert again(*bodies) == 10
    first = again.outputs()

    assert again("new row", *reversed(bodies[2:])) == 1

    second = again.outputs()
    assert list(second) == ["new row", *reversed(bodies[2:])]
    assert all(second[body] == first[body] for body in bodies[2:])
    assert "new row" in second["new row"]


def test_edited_rows_are_sent_again_up_to_a_fifth(again):
    bodies = [f"id{n} text" for n in range(10)]
    assert again(*bodies) == 10
    edited = ["id0 changed", "id1 changed", *bodies[2:]]
    assert again(*edited) == 2
    assert "changed" in again.outputs()["id0 changed"]

    more = [f"id{n} altered" for n in range(3)] + bodies[3:]
    assert again(*more, code=2) == 0
    assert "3 of" in again.ran.err
    assert "--on-change rerun" in again.ran.err
    assert again(*more, more=["--on-change", "rerun"]) == 3
    assert "altered" in again.outputs()["id1 altered"]


def test_another_prompt_or_model_asks_before_everything_is_paid_again(again):
    bodies = [f"id{n} text" for n in range(6)]
    assert again(*bodies) == 6
    assert again(*bodies, prompt="Shout: {{ body }}", code=2) == 0
    assert again(*bodies, more=["-m", "m2"], code=2) == 0
    assert again(*bodies, more=["--on-change", "rerun"], prompt="Shout: {{ body }}") == 6
    assert again(*bodies) == 0, "the first answers are still there"


def test_identical_rows_are_separate_rows(again):
    assert again("a x", "b x", more=["--set", "input.key=body"], prompt="{{ 'same' }}") == 2


def test_a_key_that_names_two_rows_is_refused_with_examples(run, fault_server):
    (run.folder / "in.csv").write_text("id,body\n1,a\n2,b\n1,c\n,d\n")
    refused(
        run("in.csv", "--set", "input.key=id"),
        fault_server,
        "input.key",
        "in.csv:4",
        "'1'",
        "in.csv:5",
    )
    refused(run("in.csv", "--set", "input.key=nr"), fault_server, "input.key", "'nr'")


# 12. Outputs that would harm something


def test_an_output_that_would_harm_something_is_refused(run, fault_server):
    text = "id,body\n1,a\n"
    (run.folder / "in.csv").write_text(text)
    (run.folder / "folder").mkdir()
    (run.folder / "theirs.csv").write_text("precious\n")
    (run.folder / "link.csv").symlink_to("in.csv")

    refused(run("in.csv", output="in.csv"), fault_server, "output.path", "in.csv", "input")
    refused(run("in.csv", output="link.csv"), fault_server, "output.path", "link.csv")
    refused(run("in.csv", output="folder"), fault_server, "output.path", "folder", "directory")
    refused(run("in.csv", output="theirs.csv"), fault_server, "output.path", "theirs.csv")
    refused(run("in.csv", output="out.docx"), fault_server, "output.path", ".docx")
    refused(run("in.csv", output="in.csv/out.csv"), fault_server, "in.csv")

    assert (run.folder / "in.csv").read_text() == text
    assert (run.folder / "theirs.csv").read_text() == "precious\n"
    assert sorted(p.name for p in run.folder.iterdir()) == [
        "folder", "in.csv", "link.csv", "theirs.csv",
    ]  # fmt: skip


def test_a_folder_that_cannot_be_written_is_found_before_any_call(run, fault_server):
    (run.folder / "in.csv").write_text("body\na\n")
    refused(run("in.csv", output="/proc/nowhere/out.csv"), fault_server, "/proc/nowhere")


def test_an_input_that_has_the_new_column_already_is_refused(run, fault_server):
    (run.folder / "in.csv").write_text("body,llm_status\na,b\n")
    (run.folder / "in.jsonl").write_text('{"body":"a"}\n{"body":"b","llm_status":1}\n')
    refused(run("in.csv"), fault_server, "'llm_status'", "prefix")
    refused(run("in.jsonl"), fault_server, "'llm_status'", "prefix")
    assert run("in.csv", "--set", "output.prefix=new_").code == 0


def test_a_json_column_that_the_input_has_already_is_to_be_called_otherwise(run, fault_server):
    (run.folder / "in.csv").write_text("body,category\na [[fault:json]],b\n")
    taken = ("--set", 'json.columns={"/category" = "category"}')
    ran = run("in.csv", *taken)
    refused(ran, fault_server, "'category'", "under [json]", '"/category" = "new_category"')
    assert "prefix" not in ran.err
    assert run("in.csv", "--set", 'json.columns={"/category" = "new_category"}').code == 0

    both = ("--set", 'json.columns={"/a" = "x", "/b" = "x"}')
    assert "call it otherwise under [json]" in run("in.csv", *both).err
    twice = ("--set", 'output.columns=["output", "output"]')
    assert "name it once under [output]" in run("in.csv", *twice).err


def test_a_missing_folder_is_made(run, fault_server):
    (run.folder / "in.csv").write_text("body\na\n")
    assert run("in.csv", output="deep/er/out.csv").code == 0
    assert (run.folder / "deep/er/out.csv").exists()


# 13. Many, large, compressed


def test_compressed_files_of_several_members_are_read_and_written(run, fault_server):
    (run.folder / "in.csv.gz").write_bytes(gzip.compress(b"body\na\n") + gzip.compress(b"b\n"))
    (run.folder / "in.csv.bz2").write_bytes(bz2.compress(b"body\nc\n") + bz2.compress(b"d\n"))
    (run.folder / "in.csv.xz").write_bytes(lzma.compress(b"body\ne\n") + lzma.compress(b"f\n"))
    for suffix, unpack in (("gz", gzip), ("bz2", bz2), ("xz", lzma)):
        assert run(f"in.csv.{suffix}").code == 0
        written = unpack.decompress((run.folder / f"out.csv.{suffix}").read_bytes())
        assert written.startswith(b"body,llm_status\n")
        assert written.count(b",ok\n") == 2
    assert prompts(fault_server) == list("abcdef")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet", "csv.gz", "jsonl.zst"])
@pytest.mark.parametrize("source", ["csv", "jsonl", "parquet"])
def test_any_format_can_be_written_as_any_other(run, fault_server, source, suffix):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from batch_runner.tables import open_table

    (run.folder / "in.csv").write_text('id,body\n007,"a\tb"\n008,"c\nd"\n')
    (run.folder / "in.jsonl").write_text(
        '{"id":"007","body":"a\\tb"}\n{"id":"008","body":"c\\nd"}\n'
    )
    columns = {"id": ["007", "008"], "body": ["a\tb", "c\nd"]}
    pq.write_table(pa.table(columns), run.folder / "in.parquet")

    ran = run(f"in.{source}", output=f"out.{suffix}")

    assert ran.code == 0, ran.err
    written = [dict(row.values) for row in open_table([run.folder / f"out.{suffix}"]).rows()]
    assert written == [
        {"id": "007", "body": "a\tb", "llm_status": "ok"},
        {"id": "008", "body": "c\nd", "llm_status": "ok"},
    ]


def test_a_damaged_archive_is_named_before_any_call(run, fault_server):
    whole = gzip.compress(b"body\n" + b"a\n" * 1000)
    (run.folder / "in.csv.gz").write_bytes(whole[:-9])
    refused(run("in.csv.gz"), fault_server, "in.csv.gz", "cut short or damaged")


def test_files_named_by_a_glob_are_one_input_and_say_where_rows_came_from(run, fault_server):
    (run.folder / "b.csv").write_text("body\nthree\n")
    (run.folder / "a.csv").write_text("body\none\ntwo\n")
    ran = run("?.csv", "--set", 'output.columns=["status","source_file"]', output="out.csv")
    assert ran.code == 0, ran.err
    assert (run.folder / "out.csv").read_text() == (
        "body,llm_status,llm_source_file\none,ok,a.csv\ntwo,ok,a.csv\nthree,ok,b.csv\n"
    )

    (run.folder / "c.csv").write_text("body,extra\nx,1\n")
    before = calls(fault_server)
    ran = run("?.csv", output="out2.csv")
    assert ran.code == 2
    assert "c.csv" in ran.err
    assert "'extra'" in ran.err
    assert calls(fault_server) == before


@pytest.mark.parametrize("typed", [True, False], ids=["flags", "job file"])
def test_the_name_of_a_folder_is_no_pattern_and_a_tilde_may_begin_a_name(
    main_cli, fault_server, tmp_path, typed
):
    folder = tmp_path / "last [final]"
    folder.mkdir()
    (folder / "data[1].csv").write_text("body\none\n")
    (folder / "~old.csv").write_text("body\ntwo\n")
    (folder / "job.toml").write_text(job_text(url=fault_server.url))
    main_cli.folder = folder if typed else tmp_path

    def run(source, output):
        flags = ("-i", source, "-o", output, "-m", "m1", "-p", "{{ body }}")
        job = ("job.toml",) if typed else ("last [final]/job.toml",)
        settings = ("--set", f"input.path={source}", "--set", f"output.path={output}")
        words = (*flags, "--base-url", fault_server.url) if typed else (*job, *settings)
        ran = main_cli("run", *words)
        assert ran.code == 0, ran
        return (folder / output).read_text()

    assert "source_file" not in run("data[1].csv", "one.csv"), "it is one file, whatever its name"
    assert "two" in run("~old.csv", "~new.csv")
    assert "source_file" in run("da*", "pattern.csv")


def test_a_folder_that_moves_with_its_job_keeps_its_output_and_pays_for_nothing(
    run, main_cli, fault_server
):
    place = run.folder / "place"
    (place / "in").mkdir(parents=True)
    (place / "in/a.csv").write_text("body\none\n")
    job = job_text(path="in/*.csv", url=fault_server.url)
    (place / "job.toml").write_text(job)
    assert main_cli("run", "place/job.toml").code == 0
    before = (place / "out.csv").read_bytes()
    assert b",in/a.csv\n" in before
    moved = place.rename(run.folder / "elsewhere")
    (moved / "in/b.csv").write_text("body\ntwo\n")
    sent = calls(fault_server)
    assert main_cli("run", "elsewhere/job.toml").code == 0
    assert calls(fault_server) == sent + 1, "only what is new"
    assert (moved / "out.csv").read_bytes().startswith(before)


@pytest.mark.filterwarnings("ignore:Sending a large body")  # aiohttp on bytes above 1 MB
def test_cells_of_five_megabytes_are_sent_whole(run, fault_server):
    cells = ["a" * 5_000_000, "b" * 5_000_000]
    (run.folder / "in.csv").write_text("body\n" + "\n".join(cells) + "\n")
    assert run("in.csv").code == 0
    fault_server.settle()
    sizes = [int(request.headers["content-length"]) for request in fault_server.seen]
    assert min(sizes) > 5_000_000
    assert len(sizes) == 2


def test_memory_does_not_grow_with_the_rows(tmp_path):
    """Planning is all that touches every row; 50,000 of them may take 128 bytes each."""
    small, large = (peak_of_a_dry_run(tmp_path, rows) for rows in (1_000, 51_000))
    assert (large - small) / 50_000 < 128


def peak_of_a_dry_run(folder: Path, rows: int) -> int:
    text = io.StringIO()
    text.write("body,n\n")
    text.writelines(f"text number {n} {'x' * 100},{n}\n" for n in range(rows))
    (folder / "in.csv").write_text(text.getvalue())
    code = (
        "import resource, sys\nfrom batch_runner.cli import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, "run", "--dry-run", "-q", "-i", "in.csv", "-o", f"out{rows}.csv",
         "-m", "m", "-p", "{{ body }}", "--base-url", "http://127.0.0.1:9/v1"],
        cwd=folder, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    unit = 1 if sys.platform == "darwin" else 1024
    return int(ended.stdout.split()[-1]) * unit


def test_a_job_of_flags_writes_the_same_wherever_it_is_typed(main_cli, fault_server):
    place = main_cli.folder
    (place / "in").mkdir()
    (place / "elsewhere").mkdir()
    for name in "ab":
        (place / f"in/{name}.csv").write_text(f"body\n{name}\n")

    def run(folder, back):
        main_cli.folder = folder
        ran = main_cli("run", "-i", f"{back}in/*.csv", "-o", f"{back}out.csv", "-m", "m1", "-p", "{{ body }}",
                       "--base-url", fault_server.url)  # fmt: skip
        assert ran.code == 0, ran.err
        return (place / "out.csv").read_text()

    first = run(place, "")
    assert "in/a.csv" in first
    assert run(place / "elsewhere", "../") == first
    assert calls(fault_server) == 2


def test_a_key_that_comes_again_in_another_file_stops_the_job_whatever_is_skipped(
    main_cli, fault_server, tmp_path
):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("id,body\n1,one\n")
    text = job_text(path="*.csv", key="id", url=fault_server.url, output="out.jsonl")
    (tmp_path / "job.toml").write_text(text.replace("[prompt]", 'on_bad_row = "skip"\n[prompt]'))
    ran = main_cli("run", "job.toml")
    assert ran.code == 2
    assert "'1' again" in ran.err
    assert not fault_server.seen


def test_a_cell_of_blanks_is_a_text(main_cli, fault_server, tmp_path):
    (tmp_path / "in.csv").write_text('body\n   \n""\none\n')
    (tmp_path / "job.toml").write_text(job_text(url=fault_server.url))
    assert main_cli("run", "job.toml").code == 3
    assert "1 missing_value" in main_cli("report", "job.toml").out
