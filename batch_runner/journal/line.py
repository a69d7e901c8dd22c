"""One line of the journal: a JSON object whose last two fields are its number and its checksum.

    {"result":"<key>", ... ,"n":17,"crc":"9f0c11d2"}

`n` counts the lines of a segment, so that a lost line shows; `crc` is the CRC-32 of every byte
before `,"crc"`, so that a damaged line is never believed.
"""

from zlib import crc32


SEAL_BYTES = len(b',"crc":"00000000"}')


def seal(body: bytes, n: int) -> bytes:
    """The finished line, newline included. `body` is a JSON object without its closing brace."""
    return with_checksum(b'%b,"n":%d' % (body, n))


def with_checksum(body: bytes) -> bytes:
    """The JSON object closed by the checksum of all before it, and a newline."""
    return b'%b,"crc":"%08x"}\n' % (body, crc32(body))


def is_line(line: bytes, n: int) -> bool:
    """True when the line is intact and its number is `n`: the usual case, told in one comparison."""
    return line.endswith(b',"n":%d,"crc":"%08x"}' % (n, crc32(line[:-SEAL_BYTES])))


def is_intact(line: bytes) -> bool:
    """True when every byte is as it was written. `line` comes without its newline."""
    return line[-SEAL_BYTES:] == b',"crc":"%08x"}' % crc32(line[:-SEAL_BYTES])


def number(line: bytes) -> int | None:
    """The line's `n`; None when the line is damaged."""
    if not is_intact(line):
        return None
    _, _, digits = line[:-SEAL_BYTES].rpartition(b',"n":')
    return int(digits) if digits.isdigit() else None
