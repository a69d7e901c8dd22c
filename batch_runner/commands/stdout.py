"""What a command prints as its result: one JSON object, or lines that steer no terminal."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from batch_runner.logs import shown_here
from batch_runner.printable import printable_json


def print_json(value: Mapping[str, Any]) -> None:
    print(printable_json(json.dumps(value, indent=2, ensure_ascii=False)))


def print_lines(lines: Iterable[str]) -> None:
    """Lines of the result, on stdout. Nothing that a file or an endpoint said steers the terminal."""
    print(shown_here("\n".join(lines)))
