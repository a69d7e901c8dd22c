"""Without new cells, what is written back is what was read."""

import csv
import io
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batch_runner.records import Column, ColumnKind
from batch_runner.tables import open_table


NASTY = st.sampled_from(
    [
        *("", "00123", "1e5", "12345678901234567890", "1.50", "true", "2024-01-02", "NA", "NaN"),
        *("a,b", "a;b", 'say ""', '"', "\n", "\r\n", "\r", "x\ny", " ", "\t", "\0", "\u2028"),
        *("\u0085", "\ufeff", "\x0b\x0c\x1c", "=1+1", "{{ x }}", "{0}", "%s", "<|endoftext|>"),
        *("\u0a0a\u010a", "\U0001f600", "e\u0301"),
    ]
)
TEXT = NASTY | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
QUOTED = st.tuples(TEXT, st.booleans())
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"])
ENDS = st.sampled_from(["\n", "\r\n"])
NEW = [Column(name="llm_output", kind=ColumnKind.TEXT), Column(name="llm_n", kind=ColumnKind.COUNT)]


def cell(text, is_quoted):
    if is_quoted or set(text) & set(',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


def table_of(content, suffix, folder, **options):
    path = Path(folder) / f"in{suffix}"
    path.write_bytes(content)
    return open_table([path], **options)


def by_column(rows):
    return [*zip(*rows, strict=True)]


def written(table, columns, answer):
    target = io.BytesIO()
    table.write_back(target, format=table.format, columns=columns, answer=answer, cells=by_column)
    return target.getvalue()


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(QUOTED, QUOTED, QUOTED), max_size=6),
    ends=st.lists(ENDS, min_size=7, max_size=7),
    encoding=ENCODINGS,
    last_end=st.booleans(),
)
def test_csv_is_copied_byte_for_byte_and_new_cells_come_after(rows, ends, encoding, last_end):
    records = [["a", '"b"', "c"], *([cell(*field) for field in row] for row in rows)]
    parts = [",".join(record) for record in records]
    ends = ends[: len(parts)]
    if not last_end:
        ends[-1] = ""
    content = "".join(map("".join, zip(parts, ends, strict=True))).encode(encoding)
    with tempfile.TemporaryDirectory() as folder:
        table = table_of(content, ".csv", folder, encoding=encoding)
        assert written(table, [], lambda _row: ()) == content
        texts = [[text for text, _ in row] for row in rows]
        assert [list(row.values.values()) for row in table.rows()] == texts
        nothing = written(table, NEW, lambda _row: (None, None)).decode(encoding)
        bare = [parts[0] + ",llm_output,llm_n", *(part + ",," for part in parts[1:])]
        assert nothing == "".join(map("".join, zip(bare, ends, strict=True)))
        told = written(table, NEW, lambda row: (row.values["a"], row.index)).decode(encoding)
        again = list(csv.reader(io.StringIO(told, newline=""), strict=True))[1:]
        assert again == [[*row, row[0], str(i)] for i, row in enumerate(texts)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
LINE = st.builds(
    lambda value, ascii_, spaced: json.dumps(
        value, ensure_ascii=ascii_ or "\\ud800" in json.dumps(value), indent=None,
        separators=(" , ", ": ") if spaced else (",", ":"),
    ),
    st.dictionaries(TEXT, JSON, max_size=4),
    st.booleans(),
    st.booleans(),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    lines=st.lists(LINE, max_size=5),
    end=ENDS,
    encoding=ENCODINGS,
    last_end=st.booleans(),
)
@example(lines=['{"a":1.50,"a":1e5}', "{ }"], end="\n", encoding="utf-8", last_end=False)
def test_jsonl_is_copied_byte_for_byte_and_new_keys_come_last(lines, end, encoding, last_end):
    text = end.join(lines) + (end if last_end and lines else "")
    content = text.encode(encoding)
    with tempfile.TemporaryDirectory() as folder:
        table = table_of(content, ".jsonl", folder, encoding=encoding)
        assert written(table, [], lambda _row: ()) == content
        assert [repr(row.values) for row in table.rows()] == [repr(json.loads(x)) for x in lines]
        out = written(table, NEW, lambda row: ("x", row.index)).decode(encoding)
        stripped = out
        for number, line in enumerate(lines):
            comma = "," if json.loads(line) else ""
            new = f'{comma}"llm_output":"x","llm_n":{number}}}'
            assert new in stripped
            stripped = stripped.replace(new, "}", 1)
        assert stripped == text.removeprefix("\ufeff")


ARROW = st.sampled_from(
    [
        (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
        (pa.string(), TEXT),
        (pa.dictionary(pa.int32(), pa.string()), TEXT),
        (pa.bool_(), st.booleans()),
        (pa.binary(), st.binary(max_size=4)),
        (pa.list_(pa.int32()), st.lists(st.integers(0, 9), max_size=3)),
        (pa.struct([("s", pa.string())]), st.fixed_dictionaries({"s": TEXT})),
        (pa.decimal128(9, 2), st.decimals(-9999, 9999, places=2)),
        (pa.timestamp("ns", "Asia/Tokyo"), st.integers(-(2**60), 2**60)),
        (pa.null(), st.none()),
    ]
)


@st.composite
def arrow_tables(draw):
    count = draw(st.integers(0, 7))
    columns = {}
    for number, (kind, values) in enumerate(draw(st.lists(ARROW, min_size=1, max_size=4))):
        cells = draw(st.lists(st.none() | values, min_size=count, max_size=count))
        columns[f"c{number}"] = pa.array(cells, kind)
    return pa.table(columns).replace_schema_metadata({"k": "v"})


@settings(max_examples=80, deadline=None)
@given(before=arrow_tables(), group=st.integers(1, 4), kept=st.sets(st.integers(0, 6)))
def test_parquet_keeps_schema_and_values(before, group, kept):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.parquet"
        pq.write_table(before, path, row_group_size=group)
        before = pq.read_table(path)
        table = open_table([path])
        same = pq.read_table(io.BytesIO(written(table, [], lambda _row: ())))
        assert same.schema.equals(before.schema, check_metadata=True)
        assert same.equals(before)
        some = written(table, NEW, lambda r: ("x", r.index) if r.index in kept else None)
        after = pq.read_table(io.BytesIO(some))
        indexes = sorted(kept & set(range(before.num_rows)))
        assert after["llm_n"].to_pylist() == indexes
        assert after.drop_columns(["llm_output", "llm_n"]).equals(
            before.take(pa.array(indexes, pa.int64()))
        )
