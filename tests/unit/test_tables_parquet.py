"""Parquet: types, metadata and compression stay; conversions to and from it."""

import datetime as dt
import io
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_runner.errors import InputError
from batch_runner.records import Column, ColumnKind
from batch_runner.tables import Format, WriteReport, open_table
from batch_runner.tables import arrow as tables_arrow
from batch_runner.tables import parquet as tables_parquet
from batch_runner.tables.chunks import CHUNK_ROWS


MOMENT = dt.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=dt.UTC)
YEAR_20000 = 568_971_820_800_000_000
NEW = [Column(name=f"llm_{kind}", kind=kind) for kind in ColumnKind]
CELLS = ("t\xe9\ud800", 2**40, 7, 0.5, True, MOMENT, {"k": [1]})
STORED = ["t\xe9\\ud800", 2**40, 7, 0.5, True, MOMENT, '{"k":[1]}']


def rich_table():
    n = 5
    fields = {
        "id": pa.array(range(n), pa.int64()),
        "nested": pa.array([[{"a": i, "b": ["x"]}] if i else None for i in range(n)]),
        "kind": pa.array(["p", "q", "p", None, "q"]).dictionary_encode(),
        "money": pa.array([Decimal("1.50")] * n, pa.decimal128(10, 2)),
        "at": pa.array([1_700_000_000_123_456_789] * n, pa.timestamp("ns", "Europe/Berlin")),
        "naive": pa.array([dt.datetime(2026, 1, 2)] * n, pa.timestamp("us")),  # noqa: DTZ001
        "nothing": pa.nulls(n),
        "raw": pa.array([b"\0\xff"] * n),
        "map": pa.array([[("k", i)] for i in range(n)], pa.map_(pa.string(), pa.int32())),
        "far": pa.array([YEAR_20000] * n, pa.timestamp("us")),
        "large": pa.array(["z"] * n, pa.large_string()),
    }
    table = pa.table(fields)
    table = table.set_column(
        0, pa.field("id", pa.int64(), nullable=False, metadata={"unit": "none"}), table["id"]
    )
    return table.replace_schema_metadata({"made by": "a test"})


@pytest.fixture
def rich(tmp_path):
    path = tmp_path / "rich.parquet"
    codecs = {"id": "gzip", "nested.list.element.a": "zstd", "money": "brotli", "raw": "lz4"}
    pq.write_table(rich_table(), path, row_group_size=3, compression=codecs)
    return path


def by_column(rows):
    return [*zip(*rows, strict=True)]


def written(table, format_=Format.PARQUET, answer=lambda _row: CELLS, columns=NEW):
    target = io.BytesIO()
    report = table.write_back(
        target, format=format_, columns=columns, answer=answer, cells=by_column
    )
    target.seek(0)
    return target, report


def test_schema_values_metadata_groups_and_compression_are_kept(rich):
    target, report = written(open_table([rich]))
    assert report == WriteReport(rows=5)
    before, after = pq.ParquetFile(rich), pq.ParquetFile(target)
    count = len(before.schema_arrow)
    kept = after.read().select(range(count))
    assert kept.schema.equals(before.schema_arrow, check_metadata=True)
    assert kept.equals(before.read())
    assert [after.metadata.row_group(i).num_rows for i in (0, 1)] == [3, 2]
    theirs, ours = codecs(before), codecs(after)
    assert len(set(theirs.values())) == 5, "the control: they differ"
    assert ours == theirs | {column.name: theirs["id"] for column in NEW}
    assert [str(after.schema_arrow.field(c.name).type) for c in NEW] == [
        "string",
        "int64",
        "int32",
        "double",
        "bool",
        "timestamp[us, tz=UTC]",
        "string",
    ]
    assert list(after.read(columns=[c.name for c in NEW]).to_pylist()[4].values()) == STORED


def codecs(file):
    group = file.metadata.row_group(0)
    chunks = [group.column(number) for number in range(group.num_columns)]
    return {chunk.path_in_schema: chunk.compression for chunk in chunks}


def test_null_cells_are_null_and_rows_left_out_are_gone(rich):
    target, report = written(
        open_table([rich]),
        answer=lambda row: None if row.index in (1, 3, 4) else (None,) * len(NEW),
    )
    assert report == WriteReport(rows=2)
    rows = pq.read_table(target)
    assert rows["id"].to_pylist() == [0, 2]
    assert all(rows[c.name].null_count == 2 for c in NEW)


def test_only_the_columns_asked_for_are_read(rich):
    table = open_table([rich])
    assert [dict(row.values) for row in table.rows(columns=["money", "id", "unknown"])] == [
        {"id": i, "money": Decimal("1.50")} for i in range(5)
    ]
    assert [(row.values, row.line) for row in table.rows(columns=[])] == [
        ({}, line) for line in range(1, 6)
    ]


def test_values_are_plain_python_objects(rich):
    row = list(open_table([rich]).rows())[1]
    assert row.values["at"].isoformat() == "2023-11-14T23:13:20.123456+01:00"
    assert type(row.values["at"]) is dt.datetime
    assert row.values["nested"] == [{"a": 1, "b": ["x"]}]
    assert row.values["kind"] == "q"
    assert row.values["map"] == {"k": 1}
    assert row.values["far"].startswith("20000-")
    assert row.values["nothing"] is None
    seen = []
    written(open_table([rich]), answer=lambda r: seen.append(dict(r.values)) or CELLS)
    assert seen[1] == row.values


def test_a_value_is_the_same_however_its_neighbours_are_batched(tmp_path, monkeypatch):
    path = tmp_path / "far.parquet"
    far = pa.array([0, YEAR_20000, None, 1], pa.timestamp("us", "UTC"))
    nested = pa.StructArray.from_arrays([far], names=["t"])
    pq.write_table(pa.table({"far": far, "nested": nested}), path)
    table = open_table([path])
    by_size = []
    for size in (1, 2, 500):
        monkeypatch.setattr(tables_parquet, "ROWS_AT_ONCE", size)
        by_size.append([dict(row.values) for row in table.rows()])
    written(table, answer=lambda row: by_size[-1].append(dict(row.values)) or CELLS)
    assert by_size[0] == by_size[1] == by_size[2][:4] == by_size[2][4:]
    assert [type(values["far"]) for values in by_size[0]] == [
        dt.datetime,
        str,
        type(None),
        dt.datetime,
    ]


def test_a_giant_row_group_is_copied_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(tables_parquet, "BATCH_ROWS", 200)
    monkeypatch.setattr(tables_arrow, "BATCH_BYTES", 1000)
    path = tmp_path / "giant.parquet"
    pq.write_table(pa.table({"i": pa.array(range(1050))}), path)
    column = [Column(name="o", kind=ColumnKind.TEXT)]
    target, _ = written(open_table([path]), answer=lambda _row: ("x" * 30,), columns=column)
    after = pq.ParquetFile(target)
    groups = [after.metadata.row_group(i).num_rows for i in range(after.num_row_groups)]
    assert max(groups) == CHUNK_ROWS  # all that comes together beyond so many bytes
    assert after.read()["i"].to_pylist() == list(range(1050))


def test_no_rows_give_the_schema_and_no_rows(tmp_path):
    path = tmp_path / "empty.parquet"
    pq.write_table(rich_table().slice(0, 0), path)
    table = open_table([path])
    assert list(table.rows()) == []
    target, report = written(table)
    assert (report.rows, len(pq.read_schema(target))) == (0, len(rich_table().schema) + len(NEW))


def test_a_pandas_index_survives(tmp_path):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"v": [1, 2]}, index=pd.Index(["x", "y"], name="who"))
    frame.to_parquet(tmp_path / "a.parquet")
    target, _ = written(open_table([tmp_path / "a.parquet"]))
    pd.testing.assert_frame_equal(pd.read_parquet(target)[["v"]], frame)


def test_several_files_of_one_schema_are_one_table(tmp_path, rich):
    (tmp_path / "s.parquet").write_bytes(rich.read_bytes())
    table = open_table([f"{tmp_path}/*.parquet"])
    assert [(r.index, r.line) for r in table.rows(columns=["id"])][4:6] == [(4, 5), (5, 1)]
    assert pq.read_table(written(table)[0]).num_rows == 10
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"t\.parquet: its schema differs from that of .*id: str"):
        open_table([f"{tmp_path}/*.parquet"])


@pytest.mark.parametrize("damage", ["empty", "cut", "bytes"])
def test_a_damaged_file_is_named(rich, damage):
    whole = rich.read_bytes()
    broken = {
        "empty": b"",
        "cut": whole[:-20],
        "bytes": whole[:4] + b"\xff" * (len(whole) // 3) + whole[4 + len(whole) // 3 :],
    }
    rich.write_bytes(broken[damage])
    with pytest.raises(InputError, match=r"rich\.parquet"):
        list(open_table([rich]).rows())


def test_parquet_becomes_jsonl(rich):
    target, _ = written(open_table([rich]), Format.JSONL)
    assert target.readlines()[1].decode() == (
        '{"id":1,"nested":[{"a":1,"b":["x"]}],"kind":"q","money":"1.50",'
        '"at":"2023-11-14T23:13:20.123456+01:00","naive":"2026-01-02T00:00:00","nothing":null,'
        '"raw":"AP8=","map":{"k":1},"far":"20000-01-01 00:00:00.000000","large":"z",'
        '"llm_text":"t\\u00e9\\ud800","llm_integer":1099511627776,"llm_count":7,"llm_number":0.5,'
        '"llm_boolean":true,"llm_timestamp":"2026-01-02T03:04:05.678901Z","llm_json":{"k":[1]}}\n'
    )


def test_parquet_becomes_csv(rich):
    target, _ = written(open_table([rich]), Format.CSV, lambda _row: ("=x",), NEW[:1])
    lines = target.read().decode().split("\n")
    assert lines[0] == "id,nested,kind,money,at,naive,nothing,raw,map,far,large,llm_text"
    assert lines[2] == (
        '1,"[{""a"":1,""b"":[""x""]}]",q,1.50,2023-11-14T23:13:20.123456+01:00,'
        '2026-01-02T00:00:00,,AP8=,"{""k"":1}",20000-01-01 00:00:00.000000,z,=x'
    )


def test_csv_becomes_parquet_of_text_and_jsonl_of_text(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"id,v\n007,\n1e5,x\n")
    table = open_table([tmp_path / "a.csv"])
    rows = pq.read_table(written(table)[0])
    assert [str(rows.schema.field(name).type) for name in ("id", "v")] == ["string", "string"]
    assert rows.select(["id", "v"]).to_pylist() == [{"id": "007", "v": ""}, {"id": "1e5", "v": "x"}]
    target, _ = written(table, Format.JSONL, lambda _row: (None,), NEW[:1])
    assert target.readline() == b'{"id":"007","v":"","llm_text":null}\n'


JSONL = b"""{"t":"x","i":1,"f":1,"b":true,"m":1,"w":1}
{"t":null,"i":9223372036854775807,"f":1.5,"b":false,"m":"x","w":123456789012345678901}
{"late":[1],"null":null,"mix":9007199254740993}
{"mix":0.5}
"""


def test_jsonl_becomes_parquet_typed_where_all_values_agree(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(JSONL)
    table = open_table([tmp_path / "a.jsonl"])
    rows = pq.read_table(written(table, columns=[], answer=lambda _row: ())[0])
    assert {field.name: str(field.type) for field in rows.schema} == {
        "t": "string",
        "i": "int64",
        "f": "double",
        "b": "bool",
        "m": "string",
        "w": "string",
        "late": "string",
        "null": "string",
        "mix": "string",
    }
    assert rows["m"].to_pylist() == ["1", '"x"', None, None]
    assert rows["w"].to_pylist()[1] == "123456789012345678901"
    assert rows["mix"].to_pylist()[2] == "9007199254740993"
    assert rows["late"].to_pylist()[2] == "[1]"


def test_jsonl_becomes_csv_with_every_key_in_the_order_seen(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(JSONL)
    target, _ = written(
        open_table([tmp_path / "a.jsonl"]), Format.CSV, lambda row: (row.index,), NEW[1:2]
    )
    assert target.read().decode().split("\n")[:4] == [
        "t,i,f,b,m,w,late,null,mix,llm_integer",
        "x,1,1,true,1,1,,,,0",
        ",9223372036854775807,1.5,false,x,123456789012345678901,,,,1",
        ",,,,,,[1],,9007199254740993,2",
    ]


def test_a_single_empty_cell_is_still_a_row_after_conversion(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"a":""}\n{"a":"x"}\n')
    target, _ = written(open_table([tmp_path / "a.jsonl"]), Format.CSV, lambda _row: (), [])
    assert target.read() == b'a\n""\nx\n'


def test_a_parquet_table_is_not_turned_into_requests(rich):
    with pytest.raises(InputError, match="openai-batch"):
        written(open_table([rich]), Format.OPENAI_BATCH)
