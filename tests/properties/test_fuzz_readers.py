"""Whatever bytes a file holds, its reader gives rows, bad records or an InputError: nothing else."""

import csv
import gzip
import io
import tempfile
import tracemalloc
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from batch_runner.disk import REAL_DISK
from batch_runner.errors import InputError, StorageError, UsageError
from batch_runner.journal import Journal, RunDirectory, replay
from batch_runner.journal.verify import verify
from batch_runner.records import Completion, RowResult
from batch_runner.tables import open_table


QUICK = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])

PIECES = st.sampled_from(
    [
        *(
            b"a,b\n",
            b"1,2\n",
            b'"',
            b'""',
            b",",
            b"\n",
            b"\r\n",
            b"\r",
            b"\0",
            b" ",
            b"\xef\xbb\xbf",
        ),
        *(b"\xff\xfe", b"\xfe\xff", b"a\0,\0b\0\n\0", b"\xe9", b"\xed\xa0\x80", b"\x1f\x8b\x08"),
        *(
            b'{"a":1}\n',
            b'{"a":',
            b"[",
            b"]",
            b"{",
            b"}",
            b"null\n",
            b'"x"\n',
            b"NaN\n",
            b"1e999\n",
        ),
        *(b'{"a":{"a":[1,"\\ud800"]}}\n', b"[" * 3000, b'{"a":' * 3000, b"9" * 5000 + b"\n"),
        *(b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"PAR1", b"\xc2\x85", b"\xe2\x80\xa8"),
    ]
)
CONTENT = st.lists(PIECES | st.binary(max_size=12), max_size=12).map(b"".join)


def read_all(content, suffix, **options):
    """How many rows and bad records were read; None where the file is refused."""
    bad = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"in{suffix}"
        path.write_bytes(content)
        try:
            table = open_table([path], **options)
            rows = sum(1 for row in table.rows(on_bad=bad.append) if row.values is not None)
        except InputError:
            return None
    return rows, len(bad)


@settings(QUICK, max_examples=400)
@example("a\r\r\n")
@example('a,5"\nb,c')
@given(st.text(st.sampled_from('ab,," \r\n\n\0\u2028\u00e9'), max_size=30))
def test_lines_without_quotes_are_cut_as_the_standard_reader_would(text):
    content = "x,y,z\n" + text
    lines = io.StringIO(content, newline="\n")
    try:
        records = [cells for cells in csv.reader(lines, strict=True) if cells][1:]
    except csv.Error:
        assume(False)
    bad = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.csv"
        path.write_bytes(content.encode())
        rows = [list(row.values.values()) for row in open_table([path]).rows(on_bad=bad.append)]
    # Rows of nothing but white space have a rule of their own; short rows are padded.
    read = [[cell for cell in row if cell] for row in rows if "".join(row).strip()]
    assert read == [
        [cell for cell in cells if cell]
        for cells in records
        if len(cells) <= 3 and "".join(cells).strip()
    ]
    assert len(bad) == sum(len(cells) > 3 for cells in records)


@QUICK
@example(b"a,b\n1,\0\n")
@example(b"\xff\xfea\0,\0")
@given(CONTENT)
def test_any_bytes_as_csv(content):
    read_all(content, ".csv")


@QUICK
@example(b'{"a":' * 100_000)
@example(b"[" * 100_000 + b"]" * 100_000 + b"\n")
@given(CONTENT)
def test_any_bytes_as_jsonl(content):
    read_all(content, ".jsonl")


@QUICK
@given(CONTENT, st.sampled_from(["utf-8", "utf-16", "latin-1", "cp932", "utf-7", "ascii"]))
def test_any_bytes_in_any_encoding(content, encoding):
    read_all(content, ".csv", encoding=encoding)
    read_all(content, ".jsonl", encoding=encoding)


def parquet_bytes():
    file = BytesIO()
    table = pa.table({"id": [1, 2, 3], "text": ["a", None, "b" * 300], "n": [[1], [], [2, 3]]})
    pq.write_table(table, file, compression="zstd", row_group_size=2)
    return file.getvalue()


PARQUET = parquet_bytes()


@QUICK
@given(
    st.lists(st.tuples(st.integers(0, len(PARQUET) - 1), st.integers(0, 255)), max_size=6),
    st.integers(0, len(PARQUET)),
)
def test_any_damage_to_a_parquet_file(changes, length):
    content = bytearray(PARQUET)
    for at, value in changes:
        content[at] = value
    read_all(bytes(content), ".parquet")
    read_all(bytes(content[:length]), ".parquet")


GZIPPED = gzip.compress(b"a,b\n" + b"1,2\n" * 50, mtime=0)


@QUICK
@given(st.integers(0, len(GZIPPED) - 1), st.integers(0, 255), st.integers(0, len(GZIPPED)))
def test_any_damage_to_a_compressed_file(at, value, length):
    content = bytearray(GZIPPED)
    content[at] = value
    read_all(bytes(content), ".csv.gz")
    read_all(bytes(content[:length]), ".csv.gz")


def journal_bytes():
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory(Path(folder) / "out.run")
        directory.create()
        with Journal(directory, run_id="r", reserve_bytes=0) as journal:
            for n in range(6):
                ending = Completion(text=f"answer {n}")
                journal.finish(RowResult(key=bytes([n]) * 16, row=n, ending=ending))
        return directory.segment(0).read_bytes()


JOURNAL = journal_bytes()


@settings(max_examples=60, deadline=None)
@example([], b'{"result":"', len(JOURNAL))
@example([], b'{"header":{"format":99}', 0)
@given(
    st.lists(st.tuples(st.integers(0, len(JOURNAL) - 1), st.integers(0, 255)), max_size=4),
    st.binary(max_size=60),
    st.integers(0, len(JOURNAL)),
)
def test_any_damage_to_a_journal_gives_true_answers_or_none(changes, inserted, at):
    content = bytearray(JOURNAL)
    for place, value in changes:
        content[place] = value
    content[at:at] = inserted
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory(Path(folder) / "out.run")
        directory.create()
        directory.segment(0).write_bytes(content)
        try:
            verify(directory, disk=REAL_DISK)
            with replay(directory) as found:
                results = [*found.results()]
                for n in range(6):
                    entry = found.find(bytes([n]) * 16)
                    result = entry and found.load(entry)
                    assert result is None or result.ending.text == f"answer {n}"
        except (UsageError, StorageError):
            return
    assert all(result.ending.text == f"answer {result.row}" for result in results)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_long_file_is_read_in_little_memory(suffix, tmp_path):
    """40 MB of rows pass through; what is held is a few buffers."""
    line = b"1,%s\n" % (b"x" * 1000) if suffix == ".csv" else b'{"a":"%s"}\n' % (b"x" * 1000)
    path = tmp_path / f"in{suffix}"
    path.write_bytes((b"a,b\n" if suffix == ".csv" else b"") + line * 40_000)
    tracemalloc.start()
    rows = sum(1 for _ in open_table([path]).rows())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows == 40_000
    assert peak < 4_000_000
