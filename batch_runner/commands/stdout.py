"""What a command prints as its result: one JSON object, or lines that steer no terminal."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from batch_runner.logs import here
from batch_runner.printable import printable, printable_json, seen_from


def print_json(value: Mapping[str, Any]) -> None:
    print(printable_json(json.dumps(value, indent=2, ensure_ascii=False)))


def print_lines(lines: Iterable[str]) -> None:
    """Lines of the result, on stdout. Nothing that a file or an endpoint said steers the terminal.

    Paths are named from the present folder, as on stderr.
    """
    print(seen_from(here(), printable("\n".join(lines))))
