"""CSV: everything is text, and what is not ours goes out byte for byte."""

import io
import json

import pytest

from batch_runner.errors import InputError
from batch_runner.records import BadRecord, Column, ColumnKind
from batch_runner.tables import Format, WriteReport, open_table, suggest_delimiter
from batch_runner.tables import csv as tables_csv


OUT = Column(name="out", kind=ColumnKind.TEXT)
BERLIN = "K\u00f6ln"


@pytest.fixture
def opened(tmp_path):
    def open_(*contents, suffix=".csv", **options):
        paths = []
        for number, content in enumerate(contents):
            paths.append(tmp_path / f"in{number}{suffix}")
            paths[-1].write_bytes(content)
        return open_table(paths, **options)

    return open_


def read(table, **options):
    return [list(row.values.values()) for row in table.rows(**options)]


def by_column(rows):
    return [*zip(*rows, strict=True)]


def written(table, answer=lambda row: (f"r{row.index}",), columns=(OUT,), **options):
    target = io.BytesIO()
    report = table.write_back(
        target, format=Format.CSV, columns=columns, answer=answer, cells=by_column, **options
    )
    return target.getvalue(), report


def test_every_value_is_the_text_of_the_file_and_goes_out_as_it_was(opened):
    content = (
        b'id,v\n00123,1e5\n12345678901234567890,true\n2024-01-02,1.50\n"",\n"a ""q"" b","x\r\ny"\n'
        + 'NUL\0,"u\u2028v\u0085w {{ x }} {0} %s <|endoftext|>"\n'.encode()
    )
    table = opened(content)
    assert read(table)[:4] == [
        ["00123", "1e5"],
        ["12345678901234567890", "true"],
        ["2024-01-02", "1.50"],
        ["", ""],
    ]
    assert read(table)[4:] == [
        ['a "q" b', "x\r\ny"],
        ["NUL\0", "u\u2028v\u0085w {{ x }} {0} %s <|endoftext|>"],
    ]
    out, report = written(table)
    assert report == WriteReport(rows=6)
    assert out == content.replace(b"id,v", b"id,v,out").replace(b"1e5\n", b"1e5,r0\n").replace(
        b"true\n", b"true,r1\n"
    ).replace(b"1.50\n", b"1.50,r2\n").replace(b'"",\n', b'"",,r3\n').replace(
        b'y"\n', b'y",r4\n'
    ).replace(b'>"\n', b'>",r5\n')


def test_each_record_keeps_its_own_end_of_line(opened):
    out, _ = written(opened(b"a\r\n1\r\n2\n3\r\r\n4"))
    assert out == b"a,out\r\n1,r0\r\n2,r1\n3,r2\r\r\n4,r3"


def test_a_row_left_out_leaves_no_trace(opened):
    out, report = written(opened(b"a\n1\n2\n3"), lambda row: ("x",) if row.index == 1 else None)
    assert out == b"a,out\n2,x\n"
    assert report == WriteReport(rows=1)


def test_a_header_alone_is_a_table_of_no_rows(opened):
    for content, wanted in ((b"a,b", b"a,b,out"), (b"a,b\r\n", b"a,b,out\r\n")):
        assert written(opened(content)) == (wanted, WriteReport(rows=0))


def test_short_rows_are_padded_long_rows_reported_blank_lines_no_rows(opened):
    table = opened(b"\n a,b,c\n1\n\n   \n1,2,3,4\n4,5\n\n")
    bad = []
    assert read(table, on_bad=bad.append) == [["1", "", ""], ["4", "5", ""]]
    assert [(b.line, b.reason) for b in bad] == [(6, "4 cells, where the header has 3")]
    with pytest.raises(InputError, match=r"in0\.csv:6: 4 cells"):
        read(table)
    assert written(table)[0] == b" a,b,c,out\n1,,,r0\n4,5,,r1\n"


def test_in_a_single_column_quotes_alone_are_an_empty_row(opened):
    table = opened(b'a\n""\n\n" "\n')
    assert read(table) == [[""], [" "]]
    assert written(table, lambda _row: (None,))[0] == b'a,out\n"",\n" ",\n'


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16-le", "utf-16-be", "utf-32-le"])
def test_a_byte_order_mark_wins_and_stays(opened, encoding):
    mark = b"" if encoding == "utf-8-sig" else "\ufeff".encode(encoding)
    text = 'a,b\r\n\u0a0a\u010a\u2028,"x\ny"\r\n\U0001f600,2'
    table = opened(mark + text.encode(encoding), encoding="latin-1")
    assert table.header == ("a", "b")
    assert read(table) == [["\u0a0a\u010a\u2028", "x\ny"], ["\U0001f600", "2"]]
    wanted = text.replace("b\r", "b,out\r").replace('y"', 'y",r0') + ",r1"
    assert written(table)[0] == mark + wanted.encode(encoding)


def test_an_encoding_that_is_not_one_to_one_still_goes_out_byte_for_byte(opened):
    content = b"a\n\x87\x90\n\x81\xe0\n"  # two codes of one sign
    assert b"\x87\x90".decode("cp932") == b"\x81\xe0".decode("cp932")
    out, _ = written(opened(content, encoding="cp932"), lambda _row: ("\u4e2d",))
    assert out == b"a,out\n\x87\x90,\x92\x86\n\x81\xe0,\x92\x86\n"


def test_an_undecodable_byte_is_named_by_line_offset_and_value(opened):
    table = opened(b'a,b\n1,"x\ny"\n2,K\xf6ln\n')
    rows = table.rows()
    assert next(rows).line == 2
    with pytest.raises(InputError, match=r"in0\.csv:4: byte 0xf6 at offset 3 .* utf-8") as error:
        next(rows)
    assert 'input.encoding = "latin-1"' in error.value.hint
    assert read(opened(b"a\nK\xf6ln\n", encoding="latin-1")) == [[BERLIN]]


@pytest.mark.parametrize("encoding", ["utf-9", "rot13", "cp037", "hex", "idna\0"])
def test_an_encoding_that_cannot_be_used_is_refused(opened, encoding):
    with pytest.raises(InputError, match=r"input\.encoding"):
        opened(b"a\n", encoding=encoding)


def test_what_the_encoding_lacks_is_escaped_and_counted(opened):
    table = opened(b"a\n1\n2\n", encoding="latin-1")
    out, report = written(table, lambda row: ("\u2019\xe9" if row.index else "\xe9",))
    assert out == b"a,out\n1,\xe9\n2,\\u2019\xe9\n"
    assert report.unencodable_rows == 1


def test_lone_surrogates_in_an_answer_do_not_stop_the_output(opened):
    out, report = written(opened(b"a\n1\n"), lambda _row: ("\ud800",))
    assert (out, report.unencodable_rows) == (b"a,out\n1,\\ud800\n", 1)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"a,b,a", "'a' stands at positions 1, 3"),
        (b"a,,b, ", "no column name at position 2, 4"),
        (b"a\r1\r2\r", "carriage return"),
        (b'a,"b', "unbalanced quote starting near line 1"),
        (b"\xef\xbb\xbf", "empty, without even a header"),
        (b"\n\n", "empty, without even a header"),
        ("a,b\n".encode("utf-16-le"), "NUL"),
    ],
)
def test_a_header_that_names_no_columns_is_refused(opened, header, message):
    with pytest.raises(InputError, match=message):
        opened(header)


@pytest.mark.parametrize(
    ("rest", "line"),
    [
        (b'1,"x\n2,y\n3,z\n', 2),  # never closed
        (b'1,x\n2,"y\n3,"z"\n', 3),  # closed by the quote of a later row
        (b'1,"x"y"\n2,z\n', 2),  # closed, and opened again
        (b'1,"x\n2,"y",z"\n', 2),
    ],
)
def test_an_unbalanced_quote_is_fatal_for_it_has_swallowed_rows(opened, rest, line):
    table = opened(b"a,b\n" + rest)
    with pytest.raises(InputError, match=f"unbalanced quote starting near line {line} "):
        read(table, on_bad=lambda _bad: None)


def test_text_after_a_closed_quote_spoils_one_row_only(opened):
    bad = []
    table = opened(b'a,b\n1,"x" y\n2,z\r3,w\n4,v\n')
    assert read(table, on_bad=bad.append) == [["4", "v"]]
    assert [record.line for record in bad] == [2, 3]
    assert "carriage return" in bad[1].reason
    assert all(type(record) is BadRecord for record in bad)


@pytest.mark.parametrize("filler", [b"\0", b"x,y" * 100 + b"\n"])
def test_an_endless_cell_is_given_up_at_the_cap(tmp_path, filler):
    path = tmp_path / "endless.csv"
    with path.open("wb") as file:
        file.write(b'a,b\n1,"')
        if filler == b"\0":
            file.truncate(1 << 36)  # a hole of 64 GiB: reading it all would take minutes
        else:
            file.write(filler * (20 << 12))
            file.truncate(1 << 36)
    with pytest.raises(InputError, match=r"endless\.csv"):
        next(open_table([path]).rows())


def test_a_cell_below_the_cap_is_read_and_one_above_is_not(opened, monkeypatch):
    assert len(read(opened(b"a,b\n1," + b"x" * (5 << 20) + b"\n"))[0][1]) == 5 << 20
    import csv

    limit = csv.field_size_limit(1000)
    monkeypatch.setattr(tables_csv, "CELL_CAP", 1000)
    try:
        table = opened(b"a,b\n1," + b"x" * 1001 + b"\n")
        with pytest.raises(InputError, match=r"in0\.csv:2: a cell of more than"):
            read(table)
    finally:
        csv.field_size_limit(limit)


def test_files_of_one_header_are_one_table_with_one_header(opened):
    table = opened(b"\xef\xbb\xbfa,b\r\n1,2", b"a,b\n", b"\xef\xbb\xbfb,a\n"[:3] + b"a,b\n3,4\n")
    assert [(row.index, row.line) for row in table.rows()] == [(0, 2), (1, 2)]
    assert written(table)[0] == b"\xef\xbb\xbfa,b,out\r\n1,2,r0\r\n3,4,r1\n"


@pytest.mark.parametrize(
    ("other", "difference"),
    [(b"a,c\n", r"lacks \['b'\], adds \['c'\]"), (b"b,a\n", "another order, with 'b'")],
)
def test_headers_that_differ_are_named_with_both_files(opened, other, difference):
    with pytest.raises(InputError, match=rf"in1\.csv: .* {'.*'}in0\.csv: {difference}"):
        opened(b"a,b\n", other)


def test_files_in_different_encodings_are_refused(opened):
    with pytest.raises(InputError, match=r"in1\.csv: in utf-16-le, where .*in0\.csv is in utf-8"):
        opened(b"a\n", "\ufeffa\n".encode("utf-16-le"))


def test_tsv_is_split_at_tabs_unless_told_otherwise(opened):
    assert read(opened(b"a\tb\n1\t2,3\n", suffix=".tsv")) == [["1", "2,3"]]
    assert read(opened(b"a;b\n1;2\n", suffix=".tsv", delimiter=";")) == [["1", "2"]]
    assert written(opened(b"a;b\n1\n", delimiter=";"), lambda _row: ("x;y",))[0] == (
        b'a;b;out\n1;;"x;y"\n'
    )


def test_another_delimiter_rewrites_the_file(opened):
    out, _ = written(opened(b'a,b\n"1",2\t3\n'), delimiter="\t")
    assert out == b'a\tb\tout\n1\t"2\t3"\tr0\n'


@pytest.mark.parametrize("delimiter", ["", ",,", '"', "\n", " "])
def test_a_delimiter_that_cannot_be_one_is_refused(opened, delimiter):
    with pytest.raises(InputError):
        opened(b"a\n1\n", delimiter=delimiter)


def test_a_delimiter_is_suggested_for_a_header_of_one_column():
    assert [suggest_delimiter(h) for h in ("a;b,c;d", "a\tb", "a|b", "title")] == [
        ";",
        "\t",
        "|",
        None,
    ]


def test_new_cells_are_quoted_typed_and_formulas_counted(opened):
    columns = [Column(name=f"c,{kind}", kind=kind) for kind in ColumnKind]
    import datetime as dt

    moment = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    answers = [
        ('=1+"2"', 7, 3, 0.000012, True, moment, {"k": [1, "\xe9"]}),
        ("-", -7, -3, -1.5, False, moment, None),
        (None,) * 7,
    ]
    for escape, sign in ((False, b""), (True, b"'")):
        out, report = written(
            opened(b"a\n1\n2\n3\n"),
            lambda row: answers[row.index],
            columns,
            escape_formulas=escape,
        )
        first, second, third = out.split(b"\n")[1:4]
        assert first == (
            b'1,"'
            + sign
            + b'=1+""2""",7,3,0.000012,true,2026-01-02T03:04:05Z,'
            + '"{""k"":[1,""\xe9""]}"'.encode()
        )
        assert second == b"2," + sign + b"-,-7,-3,-1.5,false,2026-01-02T03:04:05Z,"
        assert third == b"3,,,,,,,"
        assert report.formula_cells == 2


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1.2e-05, b"0.000012"),
        (-1.2e-05, b"-0.000012"),
        (-1e-07, b"-0.0000001"),
        (-1e-300, b"-1e-300"),
    ],
)
def test_small_numbers_are_written_in_full_on_either_side_of_zero(tmp_path, number, text):
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps({"own": number}) + "\n")
    column = Column(name="new", kind=ColumnKind.NUMBER)
    target = io.BytesIO()
    open_table([path]).write_back(
        target, format=Format.CSV, columns=[column], answer=lambda _: (number,), cells=by_column
    )
    assert target.getvalue() == b"own,new\n" + text + b"," + text + b"\n"


def test_a_column_that_is_there_already_is_refused(opened):
    with pytest.raises(InputError, match="'out'"):
        written(opened(b"a,out\n1,2\n"))


def test_each_reading_gives_the_same_rows(opened):
    table = opened(b"a\n1\n2\n")
    first = table.rows()
    next(first)
    assert list(table.rows()) == list(table.rows())
    assert next(first).index == 1
