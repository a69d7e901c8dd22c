"""Text from outside, made fit to be shown: nothing in it can steer a terminal or a reader's eye."""

import json
import re


_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, ESC among them, but for tab and newline
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction marks: they reorder what is read
    "\u2028\u2029\ufeff\ufff9-\ufffb"  # line ends that are none, invisible marks
    "\U000e0000-\U000e007f"  # tags: invisible text
    "\ud800-\udfff]"  # halves of surrogate pairs: no encoding can carry them
)


_COMMAND = "batch-runner "


def printable(text: str) -> str:
    """The text with every character that steers rather than shows written as an escape.

    Tabs and newlines stay; `one_line` takes those, too.
    """
    return _STEERING.sub(_escaped, text)


def seen_from(folder: str, text: str) -> str:
    """Paths below the folder are named from there. Commands stay as they are: a prompt may be in one."""
    if folder in ("", "/"):
        return text
    below = re.compile(rf"(?<![\w./~-]){re.escape(folder)}/(?=[^\s/'\"])")
    lines = (line.partition(_COMMAND) for line in text.split("\n"))
    return "\n".join(f"{below.sub('', told)}{name}{words}" for told, name, words in lines)


def one_line(text: str, longest: int) -> str:
    """The text on one line, at most `longest` characters of it; an ellipsis tells that it was cut."""
    # A prefix is enough to fill the line, and a reply may have megabytes.
    return shortened(" ".join(printable(text[: 8 * longest]).split()), longest)


def shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape", "surrogatepass").decode("ascii")


def printable_json(text: str) -> str:
    """JSON that means the same, with every character that steers escaped as JSON does it."""
    return _STEERING.sub(lambda match: json.dumps(match[0])[1:-1], text)
