"""Files as bytes: globs, compression, end of input. Errors name the file."""

import bz2
import gzip
import io
import lzma
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import escape, glob, has_magic
from pathlib import Path
from typing import Any, BinaryIO, cast

from batch_runner.errors import InputError
from batch_runner.spelling import nearest
from batch_runner.tables.formats import FORMAT_OF_SUFFIX, inner_suffix


BUFFER_BYTES = 1 << 18
_NEAR = 0.7
"""Likeness from which on a name is taken for a slip."""


def expand(paths: Sequence[str | Path], *, place: str = "") -> tuple[Path, ...]:
    """The regular files that paths and globs name: the order given, each glob sorted.

    `place` is where they were asked for; what is wrong with them is told with it.
    """
    before = f"{place}: " if place else ""
    found = [file for path in paths for file in _matches(path, before)]
    if not found:
        raise InputError("no input file is named", hint="set input.path")
    if len(set(found)) < len(found):
        twice = next(file for file in found if found.count(file) > 1)
        raise InputError(
            f"{before}{twice}: named twice, so each of its rows would be sent twice",
            hint="name it once; globs may overlap",
        )
    return tuple(found)


def _matches(path: str | Path, before: str) -> list[Path]:
    literal = Path(path)
    if literal.is_dir():
        raise InputError(
            f"{before}{path}: a directory, not a file",
            hint=f'name its files: "{escape(str(path))}/*{_usual_suffix(literal)}"',
        )
    if literal.is_file():
        return [literal]
    if literal.exists():
        raise InputError(
            f"{before}{path}: not a regular file, and the input is read twice",
            hint="save it to a file first",
        )
    if not has_magic(str(path)):
        raise InputError(f"{before}{path}: no such file", hint=_instead_of(literal))
    # A folder that is there is meant by its name, whatever is in that.
    steady = next(folder for folder in literal.parents if folder.is_dir())
    pattern = str(literal.relative_to(steady))
    names = sorted(glob(pattern, root_dir=steady, recursive=True))  # noqa: PTH207  Path.glob shows hidden files
    files = [steady / name for name in names if (steady / name).is_file()]
    if not files:
        raise InputError(
            f"{before}{path}: no file matches this pattern", hint="is the folder there, and filled?"
        )
    return files


def _usual_suffix(folder: Path) -> str:
    """That of most data files there, `.csv*` where some are packed; none without such files."""
    seen = (file for file in _listed(folder) if not file.name.startswith("."))  # by no pattern
    files = [file for file in seen if inner_suffix(file) in FORMAT_OF_SUFFIX]
    if not files:
        return ""
    [(usual, _)] = Counter(map(inner_suffix, files)).most_common(1)
    is_packed = any(inner_suffix(file) == usual != file.suffix.lower() for file in files)
    return f"{usual}*" if is_packed else usual


def _instead_of(missing: Path) -> str:
    """What may have been meant by the name of a file that is not there."""
    folder = next(parent for parent in missing.absolute().parents if parent.is_dir())
    if folder == missing.absolute().parent:
        there = [file.name for file in _listed(folder) if file.is_file()]
        if near := nearest(missing.name, there, cutoff=_NEAR):
            return f"did you mean {near!r}?"
    here = Path(missing.name)
    if here.is_file():
        return f"{str(here.absolute())!r} is there; a path in a job file starts at the job file"
    if folder != missing.absolute().parent:
        return f"there is no folder {str(missing.absolute().parent)!r}"
    return ""


def _listed(folder: Path) -> list[Path]:
    try:
        return [*folder.iterdir()]
    except OSError:
        return []


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong while reading inside becomes an InputError that names the file.

    Wrap the reads alone: an OSError of the output must not be blamed on the input.
    """
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path}: compressed data is cut short or damaged ({error})",
            hint="copy or download it again",
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def open_bytes(path: Path) -> io.BufferedReader:
    """The decompressed content. The first bytes decide about compression, not the name."""
    file: io.BufferedReader = io.BufferedReader(io.FileIO(path), BUFFER_BYTES)
    head = file.peek(6)[:6]
    stream: Any
    if head.startswith(b"\x1f\x8b"):
        stream = gzip.GzipFile(fileobj=file)
    elif head.startswith(b"BZh"):
        stream = bz2.BZ2File(file)
    elif head.startswith(b"\xfd7zXZ\0"):
        stream = lzma.LZMAFile(file)  # noqa: SIM115  closed with what wraps it
    elif head.startswith(b"\x28\xb5\x2f\xfd"):
        import pyarrow as pa  # noqa: PLC0415  0.2 s that only zstd needs

        file.close()
        stream = pa.input_stream(str(path), compression="zstd")
        return io.BufferedReader(stream, BUFFER_BYTES)
    else:
        return file
    return _Decompressed(stream, file)


class _Decompressed(io.BufferedReader):
    """Buffered, so that lines are cut in C; closes the file below, which gzip leaves open."""

    def __init__(self, stream: Any, below: io.BufferedReader) -> None:
        super().__init__(stream, BUFFER_BYTES)
        self._below = below

    def close(self) -> None:
        super().close()
        self._below.close()


@contextmanager
def compressed(raw: BinaryIO, path: Path) -> Iterator[BinaryIO]:
    """A stream into `raw`, compressed as the suffix of `path` says. `raw` stays open.

    The same content gives the same bytes: no time and no name go into the file.
    """
    stream: Any
    match path.suffix.lower():
        case ".gz":
            stream = gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0)
        case ".bz2":
            stream = bz2.BZ2File(raw, "wb")
        case ".xz":
            stream = lzma.LZMAFile(raw, "wb")  # noqa: SIM115  closed below
        case ".zst":
            import pyarrow as pa  # noqa: PLC0415  0.2 s that only zstd needs

            stream = pa.CompressedOutputStream(pa.PythonFile(_StaysOpen(raw), mode="w"), "zstd")
        case _:
            yield raw
            return
    with stream:
        buffered = io.BufferedWriter(stream, BUFFER_BYTES)
        yield cast("BinaryIO", buffered)
        buffered.flush()
        buffered.detach()


class _StaysOpen(io.RawIOBase):
    """pyarrow closes what it writes to; the caller still has to sync it."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._raw.write(data)

    def flush(self) -> None:
        self._raw.flush()
