"""Text files as lines of raw bytes: encodings, byte order marks, ends of line.

Bytes, because what is decoded and encoded again need not be what was there (cp932, ISO-2022).
"""

import codecs
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from batch_runner.errors import InputError
from batch_runner.tables.files import open_bytes, reading


LINE_CAP = 64 << 20
"""Bytes of one line, or of one CSV record: a file without line ends must not fill the memory."""
_PIECE_BYTES = 1 << 20

_MARKS = (  # UTF-32 LE first: it begins with the mark of UTF-16 LE
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_WRITES_NO_MARK = {"utf-8-sig": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFile:
    """A file whose encoding is known."""

    path: Path
    encoding: str
    """Never one that writes a mark by itself."""
    mark: bytes
    """The byte order mark that the file begins with, or nothing."""
    line_feed: bytes = field(init=False)
    carriage_return: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "line_feed", "\n".encode(self.encoding))
        object.__setattr__(self, "carriage_return", "\r".encode(self.encoding))

    def lines(self) -> Iterator[bytes]:
        """Every line with its end, split at line feeds only, without the mark."""
        with reading(self.path), open_bytes(self.path) as file:
            file.read(len(self.mark))
            if len(self.line_feed) == 1:
                lines = iter(partial(file.readline, LINE_CAP + 1), b"")
            else:
                lines = _wide_lines(file, self.line_feed)
            for number, line in enumerate(lines, 1):
                if len(line) > LINE_CAP:
                    raise self.too_long(number, line)
                yield line

    def decode(self, raw: bytes, number: int) -> str:
        """The text of a line. An InputError names the first byte that is none."""
        try:
            return raw.decode(self.encoding)
        except UnicodeDecodeError as error:
            raise InputError(
                f"{self.path}:{number}: {self.undecodable(error, number)}",
                hint='set input.encoding = "latin-1", or whatever the file is in'
                if self.encoding == "utf-8"
                else f"is the file really in {self.encoding}?",
            ) from error

    def undecodable(self, error: UnicodeDecodeError, number: int) -> str:
        offset = error.start + (len(self.mark) if number == 1 else 0)
        byte = error.object[error.start]
        return f"byte 0x{byte:02x} at offset {offset} of the line is not {self.encoding}"

    def too_long(self, number: int, line: bytes) -> InputError:
        only_returns = self.carriage_return in line and self.line_feed not in line
        return InputError(
            f"{self.path}:{number}: more than {LINE_CAP >> 20} MiB without an end",
            hint=OLD_MAC_HINT
            if only_returns
            else "is this the right file, and is a quote missing?",
        )

    def cut_end(self, raw: bytes) -> tuple[bytes, bytes]:
        """The record, and its end of line: empty at the end of many files."""
        unit = len(self.line_feed)
        if unit == 1:
            record = raw.rstrip(b"\r\n")
            return record, raw[len(record) :]
        end = len(raw)
        while raw[end - unit : end] in (self.line_feed, self.carriage_return):
            end -= unit
        return raw[:end], raw[end:]


OLD_MAC_HINT = "its lines end with a carriage return alone; convert: tr '\\r' '\\n' < in > out"


def _wide_lines(file: io.BufferedReader, line_feed: bytes) -> Iterator[bytes]:
    """Lines of UTF-16 and UTF-32, where a byte 0x0A is not yet a line feed."""
    line = bytearray()
    while piece := file.readline(LINE_CAP + 1):
        line += piece
        line += file.read(-len(line) % len(line_feed))
        if line.endswith(line_feed) or len(line) > LINE_CAP:
            yield bytes(line)
            line.clear()
    if line:
        yield bytes(line)


def open_text(path: Path, declared: str) -> TextFile:
    """The file with its encoding: that of its byte order mark, else the declared one."""
    with reading(path), open_bytes(path) as file:
        head = file.read(4)
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return TextFile(path=path, encoding=encoding, mark=mark)
    return TextFile(path=path, encoding=_known(declared), mark=b"")


def likely_encoding(paths: Sequence[Path], *, most_bytes: int) -> str:
    """UTF-8 if the first bytes of the files can be that, else what Western files without it are in.

    A guess: in latin-1 every byte is a character, and cp1250 cannot be told from it by its bytes.
    """
    for guess in ("utf-8", "cp1252"):
        if all(_can_be(open_text(path, guess), most_bytes) for path in paths):
            return guess
    return "latin-1"


def _can_be(text: TextFile, most_bytes: int) -> bool:
    decoder = codecs.getincrementaldecoder(text.encoding)()
    with reading(text.path), open_bytes(text.path) as file:
        file.read(len(text.mark))
        left = most_bytes
        try:
            while left > 0 and (piece := file.read(min(left, _PIECE_BYTES))):
                left -= len(piece)
                decoder.decode(piece)
            decoder.decode(b"", final=left > 0)  # else the end may be in the middle of a character
        except UnicodeDecodeError:
            return False
    return True


def _known(declared: str) -> str:
    try:
        name = codecs.lookup(declared).name
        encoding = _WRITES_NO_MARK.get(name, name)
        line_feed = "\n".encode(encoding)
    except (LookupError, ValueError) as error:
        raise InputError(
            f"input.encoding = {declared!r} is not a text encoding",
            hint='for example "utf-8", "latin-1", "cp1252", "utf-16"',
        ) from error
    if line_feed.strip(b"\0") != b"\n":
        raise InputError(
            f"input.encoding = {declared!r} has no line feed as other encodings do",
            hint="convert the file with iconv",
        )
    return encoding


def open_alike(paths: tuple[Path, ...], declared: str) -> tuple[TextFile, ...]:
    """The files, all in one encoding: their records will stand in one output."""
    files = tuple(open_text(path, declared) for path in paths)
    for file in files[1:]:
        if file.encoding != files[0].encoding:
            raise InputError(
                f"{file.path}: in {file.encoding}, where {files[0].path} is in {files[0].encoding}",
                hint="convert one of them with iconv",
            )
    return files
