"""Values of a row as templates may see and print them."""

import base64
import json
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any


def plain(value: Any) -> Any:
    """The value as templates may see it: no objects whose attributes they could reach."""
    match value:
        case bool() | int() | float() | str():
            return value
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case datetime() | date() | time():
            return value.isoformat()
        case bytes():
            return base64.b64encode(value).decode()
        case Decimal():
            return format(value, "f")
        case None:
            return None
        case _:
            return str(value)


def printed(value: Any) -> str:
    """What `{{ value }}` prints: text as it is, everything else as JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    return json.dumps(plain(value), ensure_ascii=False)


def is_encodable(value: Any) -> bool:
    """False for text with a lone surrogate: the template engine would replace it silently."""
    if isinstance(value, str):
        if value.isascii():
            return True
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
        return True
    if isinstance(value, Mapping):
        return all(map(is_encodable, value.values()))
    if isinstance(value, list):
        return all(map(is_encodable, value))
    return True
