"""Which files are read, and how they are opened."""

import bz2
import gzip
import io
import lzma
import subprocess
import sys
from pathlib import Path

import pytest

from batch_runner.errors import InputError
from batch_runner.tables import Format, compressed, format_of, open_table


DATA = b"a,b\n1,x\n2,y\n"


def cells(table):
    return [dict(row.values) for row in table.rows()]


@pytest.mark.parametrize(
    ("name", "format_"),
    [
        ("a.csv", Format.CSV),
        ("a.TSV", Format.CSV),
        ("a.jsonl.gz", Format.JSONL),
        ("a.ndjson.zst", Format.JSONL),
        ("a.b.parquet", Format.PARQUET),
        ("a.pq", Format.PARQUET),
    ],
)
def test_a_suffix_names_the_format(name, format_):
    assert format_of(Path(name)) is format_


def test_an_unknown_suffix_is_answered_with_the_known_ones():
    with pytest.raises(InputError) as error:
        format_of(Path("x/report.xlsx.gz"))
    assert ".xlsx" in str(error.value)
    assert ".csv .tsv .jsonl .ndjson .parquet .pq" in error.value.hint


@pytest.mark.parametrize("path", ["none.csv", "*.csv", "deep/**/*.csv", "."])
def test_a_path_that_is_no_file_is_named(tmp_path, path):
    with pytest.raises(InputError, match=str(tmp_path / path).replace("*", r"\*")):
        open_table([str(tmp_path / path)])


def test_a_csv_of_no_bytes_is_refused_and_a_jsonl_of_no_bytes_has_no_rows(tmp_path):
    for name in ("a.csv", "a.jsonl"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"a\.csv: empty"):
        open_table([tmp_path / "a.csv"])
    assert cells(open_table([tmp_path / "a.jsonl"])) == []


def test_globs_are_sorted_and_rows_know_their_file(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.csv", "a.csv", "deep/c.csv"):
        (tmp_path / name).write_bytes(DATA)
    rows = list(open_table([f"{tmp_path}/**/*.csv"]).rows())
    assert [(row.index, row.line) for row in rows] == list(zip(range(6), [2, 3] * 3, strict=True))
    assert [Path(row.source).name for row in rows[::2]] == ["a.csv", "b.csv", "c.csv"]


def test_a_file_whose_name_looks_like_a_glob_is_itself(tmp_path):
    (tmp_path / "a[1].csv").write_bytes(DATA)
    assert len(cells(open_table([tmp_path / "a[1].csv"]))) == 2


def test_a_file_named_twice_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(DATA)
    with pytest.raises(InputError, match="named twice"):
        open_table([tmp_path / "a.csv", f"{tmp_path}/*.csv"])


def packed(data, suffix):
    if suffix == ".zst":
        raw = io.BytesIO()
        with compressed(raw, Path("x.zst")) as stream:
            stream.write(data)
        return raw.getvalue()
    return {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[suffix](data)


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_compression_is_seen_in_the_bytes_also_in_several_members(tmp_path, suffix):
    path = tmp_path / "misnamed.csv"
    path.write_bytes(packed(DATA[:6], suffix) + packed(DATA[6:], suffix))
    assert cells(open_table([path])) == [{"a": "1", "b": "x"}, {"a": "2", "b": "y"}]


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_a_cut_compressed_file_is_named_and_a_whole_one_is_not(tmp_path, suffix):
    path = tmp_path / f"a.csv{suffix}"
    whole = packed(DATA * 20_000, suffix)
    path.write_bytes(whole)
    assert sum(1 for _ in open_table([path]).rows()) == 3 * 20_000 - 1
    path.write_bytes(whole[:-9])
    with pytest.raises(InputError, match=str(path)):
        list(open_table([path]).rows())


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst", ""])
def test_compressed_output_leaves_the_file_below_open_and_is_repeatable(tmp_path, suffix):
    path = tmp_path / f"out.csv{suffix}"
    for _ in range(2):
        with path.open("wb") as raw:
            with compressed(raw, path) as stream:
                for _ in range(1000):
                    stream.write(DATA)
            assert not raw.closed
        first = path.read_bytes()
    assert first == path.read_bytes()
    assert sum(1 for _ in open_table([path]).rows()) == 2999


def test_a_full_disk_below_the_compression_is_an_error_of_the_output():
    with (
        open("/dev/full", "wb", buffering=0) as raw,  # noqa: PTH123
        pytest.raises(OSError, match="No space"),
        compressed(raw, Path("x.gz")) as stream,
    ):
        stream.write(DATA)


def test_formats_do_not_mix(tmp_path):
    (tmp_path / "a.csv").write_bytes(DATA)
    (tmp_path / "b.jsonl").write_bytes(b"{}\n")
    with pytest.raises(InputError, match=r"b\.jsonl: is jsonl, where .*a\.csv is csv"):
        open_table([tmp_path / "a.csv", tmp_path / "b.jsonl"])


def modules_after(code):
    script = (
        f"{code}\nimport sys\nprint(*(m for m in ('pyarrow', 'pandas', 'ray') if m in sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


COPY = """
import io
from batch_runner.records import Column, ColumnKind as K
from batch_runner.tables import open_table
t = open_table([{path!r}])
n = sum(1 for _ in t.rows())
new = [Column(name="o" + k, kind=k) for k in K]
t.write_back(io.BytesIO(), format=t.format, columns=new, answer=lambda r: r, cells=lambda rows: [[None] * len(rows) for _ in new])
"""


def test_csv_and_jsonl_load_neither_pyarrow_nor_pandas_and_parquet_no_pandas(tmp_path):
    (tmp_path / "a.csv").write_bytes(DATA)
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n')
    make_parquet = """
import pyarrow as pa, pyarrow.parquet as pq
ints = pa.Array.from_buffers(pa.int64(), 1, [None, pa.py_buffer(bytes(8))])
zoned = ints.cast(pa.timestamp("ns", "Europe/Berlin"))
pq.write_table(pa.Table.from_arrays([ints, zoned], names=["i", "t"]), {path!r})
"""
    parquet = str(tmp_path / "a.parquet")
    for name in ("a.csv", "a.jsonl"):
        assert modules_after(COPY.format(path=str(tmp_path / name))) == set()
    code = make_parquet.format(path=parquet) + COPY.format(path=parquet)
    assert modules_after(code) == {"pyarrow"}
    assert "pandas" in modules_after("import pyarrow as pa; pa.array([1])"), "the control"
