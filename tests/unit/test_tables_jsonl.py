"""JSONL: new keys are spliced into lines that stay as they were."""

import io
import json

import pyarrow.parquet as pq
import pytest

from batch_runner.errors import InputError
from batch_runner.records import BadRecord, Column, ColumnKind
from batch_runner.tables import Format, TornLine, WriteReport, open_table
from batch_runner.tables import arrow as tables_arrow
from batch_runner.tables import chunks as tables_chunks
from batch_runner.tables import text as tables_text


OUT = Column(name="out", kind=ColumnKind.TEXT)


@pytest.fixture
def opened(tmp_path):
    def open_(*contents, **options):
        paths = []
        for number, content in enumerate(contents):
            paths.append(tmp_path / f"in{number}.jsonl")
            paths[-1].write_bytes(content)
        return open_table(paths, **options)

    return open_


def by_column(rows):
    return [*zip(*rows, strict=True)]


def written(table, answer=lambda row: (f"r{row.index}",), columns=(OUT,)):
    target = io.BytesIO()
    report = table.write_back(
        target, format=Format.JSONL, columns=columns, answer=answer, cells=by_column
    )
    return target.getvalue(), report


NASTY = [
    b'{"a": 1.50, "b":1e5}',
    b'{"n": 123456789012345678901234567890, "n2": 1E400}',
    b'{"d": 1, "d": 2}',
    rb'{"s": "\ud800 \u00e9 \/ \u2028"}',
    '{"s": "u\u2028v\u0085w \U0001f600 {{ x }} %s <|endoftext|>"}'.encode(),
    b'{"x": NaN, "y": [Infinity, -Infinity, null]}',
    b' {"z":{"k":[1,{}]} }  ',
    b'{"a": "changes type"}',
    b"\t{ }",
    b"{}",
]


def test_legal_lines_go_out_byte_for_byte_with_the_new_keys_before_the_last_brace(opened):
    table = opened(b"\n".join(NASTY))
    out, report = written(table)
    lines = out.split(b"\n")
    assert report == WriteReport(rows=len(NASTY))
    for number, (line, original) in enumerate(zip(lines, NASTY, strict=True)):
        assert json.loads(line)["out"] == f"r{number}"
        comma = b"" if number >= 8 else b","
        assert line.replace(comma + b'"out":"r%d"' % number, b"") == original


def test_values_are_those_of_python_and_the_last_of_equal_keys_wins(opened):
    rows = [row.values for row in opened(b"\n".join(NASTY)).rows()]
    assert rows[1]["n"] == 123456789012345678901234567890
    assert rows[2] == {"d": 2}
    assert rows[3]["s"] == "\ud800 \u00e9 / \u2028"
    assert rows[5]["x"] != rows[5]["x"]
    assert rows[9] == {}


def test_mark_blank_lines_and_ends_of_line_are_kept_or_are_no_rows(opened):
    table = opened(b'\xef\xbb\xbf{"a":1}\r\n\r\n  \n{"a":2}\n{"a":3}')
    assert [(row.index, row.line) for row in table.rows()] == [(0, 1), (1, 4), (2, 5)]
    assert written(table)[0] == (
        b'\xef\xbb\xbf{"a":1,"out":"r0"}\r\n{"a":2,"out":"r1"}\n{"a":3,"out":"r2"}'
    )


def test_utf_16_is_read_and_written_in_kind(opened):
    text = '{"a":"\u0a0a\u7d7d"}\n{"a":2}'
    table = opened("\ufeff".encode("utf-16-be") + text.encode("utf-16-be"))
    assert [row.values["a"] for row in table.rows()] == ["\u0a0a\u7d7d", 2]
    out, _ = written(table)
    assert out.decode("utf-16") == text.replace("}\n", ',"out":"r0"}\n')[:-1] + ',"out":"r1"}'


def test_new_values_are_typed_and_escaped_only_where_they_must_be(opened):
    columns = [Column(name="t", kind=ColumnKind.TEXT), Column(name="j", kind=ColumnKind.JSON)]
    answers = [("\xe9\u2028", {"k": [1, None]}), ("\ud800", None), (None, float("nan"))]
    out, _ = written(opened(b"{}\n" * 3), lambda row: answers[row.index], columns)
    assert out.decode().split("\n")[:3] == [
        '{"t":"\xe9\u2028","j":{"k":[1,null]}}',
        '{"t":"\\ud800","j":null}',
        '{"t":null,"j":null}',
    ]
    latin = opened(b'{"a":"\xe9"}\n', encoding="latin-1")
    assert written(latin, lambda _row: ("\u2019",))[0] == b'{"a":"\xe9","out":"\\u2019"}\n'


@pytest.mark.parametrize("torn", [b'{"a": 1', b'{"a":"K\xc3', b"[1,", b"{"])
def test_a_last_line_still_being_written_is_no_row_and_nobodys_mistake(opened, torn):
    table = opened(b'{"a":0}\n' + torn)
    bad = []
    assert len(list(table.rows(on_bad=bad.append))) == 1
    assert [(type(record), record.line) for record in bad] == [(TornLine, 2)]
    assert len(list(table.rows())) == 1, "no policy refuses it"
    assert written(table)[0] == b'{"a":0,"out":"r0"}\n'


def test_lines_that_are_no_objects_are_reported_with_a_way_out(opened):
    bad_lines = [b'{"a": }', b"[1,2]", b'"text"', b"12", b"null", b'{"a":"\xe9"}', b'{"a":1} x']
    deep, long = b"[" * 100_000, b'{"a":' + b"1" * 5000 + b"}"
    table = opened(b'{"a":0}\n' + b"\n".join([*bad_lines, deep, long]) + b"\n" + b'{"a":9}\n')
    bad = []
    assert [(row.index, row.line) for row in table.rows(on_bad=bad.append)] == [(0, 1), (1, 11)]
    assert {type(record) for record in bad} == {BadRecord}
    reasons = {record.line: record.reason for record in bad}
    assert reasons[2] == "not JSON: Expecting value at column 7"
    assert reasons[3].startswith("a JSON array, not an object; convert: jq -c")
    assert reasons[7] == "byte 0xe9 at offset 6 of the line is not utf-8"
    assert sorted(reasons) == list(range(2, 11))
    with pytest.raises(InputError, match=r"in0\.jsonl:2: not JSON"):
        list(table.rows())


@pytest.mark.parametrize(
    ("content", "jq"),
    [
        (b'{\n  "a": 1\n}\n', "jq -c . "),
        (b'{"a": {\n  "b": 1}\n}\n', "jq -c . "),
        (b'[\n{"a": 1},\n{"a": 2}\n]\n', "jq -c '.[]'"),
        (b'\xef\xbb\xbf\n[{"a": 1},\n{"a": 2}]', "jq -c '.[]'"),
        (b'[{"a": 1},{"a": 2}]', "jq -c '.[]'"),
    ],
)
def test_a_file_of_another_shape_is_refused_with_a_way_to_convert(opened, content, jq):
    with pytest.raises(InputError) as error:
        list(opened(content).rows(on_bad=lambda _bad: None))
    assert jq in error.value.hint


def test_a_key_that_a_new_column_would_repeat_is_named_with_its_place(opened):
    with pytest.raises(InputError, match=r"in0\.jsonl:2: has a key 'out'"):
        written(opened(b'{"a":1}\n{"out":1}\n'))


def test_an_endless_line_is_given_up_at_the_cap(tmp_path, monkeypatch):
    monkeypatch.setattr(tables_text, "LINE_CAP", 1 << 20)
    path = tmp_path / "endless.jsonl"
    with path.open("wb") as file:
        file.write(b'{"a":"')
        file.truncate(1 << 36)
    with pytest.raises(InputError, match=r"endless\.jsonl:1: more than 1 MiB"):
        next(open_table([path]).rows())
    path.write_bytes(b'{"a":"' + b"x" * 1_000_000 + b'"}\n')
    assert len(next(open_table([path]).rows()).values["a"]) == 1_000_000


def test_files_are_joined_with_an_end_of_line_between_them(opened):
    table = opened(b'\xef\xbb\xbf{"a":1}', b'\xef\xbb\xbf{"a":2}', b'{"a":3}\n{"torn')
    assert written(table)[0] == (
        b'\xef\xbb\xbf{"a":1,"out":"r0"}\n{"a":2,"out":"r1"}\n{"a":3,"out":"r2"}\n'
    )


@pytest.mark.parametrize("format_", [Format.CSV, Format.PARQUET])
def test_rows_that_are_large_within_do_not_gather_in_memory(opened, monkeypatch, format_):
    monkeypatch.setattr(tables_chunks, "CHUNK_BYTES", 3_000)
    monkeypatch.setattr(tables_arrow, "BATCH_BYTES", 3_000)
    lines = [json.dumps({"deep": {"in": [["x" * 1_000]]}}).encode() for _ in range(20)]
    together, target = [], io.BytesIO()

    def cells(told):
        together.append(len(told))
        return by_column(told)

    opened(b"\n".join(lines)).write_back(
        target, format=format_, columns=[OUT], answer=lambda _: ("a",), cells=cells
    )
    assert max(together) == 3
    if format_ is Format.PARQUET:
        file = pq.ParquetFile(target)
        groups = [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)]
        assert max(groups) == 3
