"""A file of facts and arrays: written whole, believed only whole."""

import json
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from sys import byteorder
from typing import Any
from zlib import crc32

from batch_runner.atomic import publish


_CRC_BYTES = 4
_HOME = {"format": 1, "byteorder": byteorder}
"""What the arrays were written by: anything else cannot read them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """JSON values, and long rows of numbers beside them."""

    facts: Mapping[str, Any]
    arrays: "Mapping[str, array[int]]"


def write_packed(path: Path, packed: Packed) -> None:
    """The file holds all of it, or what it held before. Raises StorageError."""
    arrays = packed.arrays
    shapes = [[name, values.typecode, len(values)] for name, values in arrays.items()]
    head = json.dumps({**_HOME, "arrays": shapes, "facts": packed.facts}).encode() + b"\n"
    with publish(path, mode=0o600) as file:
        crc = crc32(head)
        file.write(head)
        for values in arrays.values():
            with memoryview(values) as view:
                crc = crc32(view, crc)
                file.write(view)
        file.write(crc.to_bytes(_CRC_BYTES, "little"))


def read_packed(path: Path) -> Packed | None:
    """None where there is no such file, or one that is damaged, cut, or from another kind of machine."""
    try:
        with path.open("rb") as file:
            head = file.readline()
            told = json.loads(head)
            if {name: told[name] for name in _HOME} != _HOME:
                return None
            crc = crc32(head)
            arrays = {}
            for name, typecode, count in told["arrays"]:
                values = arrays[name] = array(typecode)
                values.fromfile(file, count)
                with memoryview(values) as view:
                    crc = crc32(view, crc)
            if file.read() != crc.to_bytes(_CRC_BYTES, "little"):
                return None
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None
    return Packed(facts=told["facts"], arrays=arrays)
