"""JSON as endpoints send it and the journal keeps it: orjson, and the standard library beyond it.

Not for the user's own data: orjson rounds whole numbers beyond 64 bits to floats.
"""

import json
import math
from typing import Any

import orjson


_SURELY_FLAT = 200
"""Brackets; orjson writes what is nested less than 255 deep."""


def decode(data: bytes) -> Any:
    """The value. What JSON cannot say (NaN, infinity) becomes its text, so `encode` never meets it.

    Raises ValueError for what is no JSON, RecursionError for what is nested too deeply.
    """
    # orjson reads deeper nesting than anything here can write, and what was paid for must be stored.
    # The standard library's reader gives up no later than its writer.
    if data.count(b"[") + data.count(b"{") <= _SURELY_FLAT:
        try:
            return orjson.loads(data)
        except ValueError:
            pass  # also what it only refuses: half a surrogate pair, NaN, 1e999
    return json.loads(data, parse_constant=str, parse_float=_number)


def decode_own(data: bytes) -> Any:
    """The value of what `encode` wrote: it is not nested too deeply, which `decode` has to look for."""
    try:
        return orjson.loads(data)
    except ValueError:
        return json.loads(data)


def encode(value: Any) -> bytes:
    """Compact JSON. Half a surrogate pair is escaped, as UTF-8 has no bytes for it."""
    try:
        return orjson.dumps(value)
    except TypeError:  # also for whole numbers beyond 64 bits
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def _number(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else text
