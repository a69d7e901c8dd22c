"""Counting the tokens of a request before it is sent.

The words are counted with the model's own vocabulary where toktok (the extra `tokens`) carries it.
What servers wrap around them is not public and is taken as a fixed overhead; `estimate.overhead`
measures it from real replies.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


BYTES_PER_TOKEN = 4
"""Of UTF-8: off by -11 to +52 % over languages. By characters, Chinese would come out at half."""
BYTES_ENCODING = "utf-8 bytes / 4"
REQUEST_OVERHEAD = 8
MESSAGE_OVERHEAD = 4
"""For each message after the first; instructions are a message."""

_DEFAULT_ENCODING = "o200k_base"
_ENCODINGS: tuple[tuple[re.Pattern[str], str, bool], ...] = (
    (re.compile(r"gpt-oss"), "o200k_harmony", True),
    (re.compile(r"(gpt-4o|gpt-4\.[15]|gpt-[56]|chatgpt-4o|o\d)(?![0-9])"), "o200k_base", True),
    (re.compile(r"gpt-(4|3\.5|35)(?![0-9.])"), "cl100k_base", True),
    # Its vocabulary is right, but scripts with combining marks are split otherwise than by Qwen.
    (re.compile(r"qwen-?3\.5"), "qwen3.5", False),
)
"""Beginning of a bare model name, its vocabulary, and whether the count is then exact."""

_TEXT_PARTS = frozenset({"input_text", "output_text", "text", "refusal", "summary_text"})
_TEXT_FIELDS = ("arguments", "output", "input")
"""Where the items that are not messages (tool calls and their results) keep their text."""
_HIDDEN = ("tools", "previous_response_id", "conversation", "prompt")
"""Parts of a body that become input tokens only a server can count."""


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """Counts text with one vocabulary. `exact` is False where the model's own is another."""

    encoding: str
    exact: bool

    def count(self, text: str) -> int:
        try:
            return self._count(text)
        except UnicodeEncodeError:  # a lone surrogate: the row will fail, the count need not
            return self._count(text.encode("utf-8", "replace").decode())

    def _count(self, text: str) -> int:
        if self.encoding == BYTES_ENCODING:
            return -(-len(text.encode()) // BYTES_PER_TOKEN)
        import toktok  # noqa: PLC0415 -- an optional extra

        # One thread: a pool costs more than it saves on texts as short as one request.
        return int(toktok.batch_count([text], self.encoding, threads=1)[0])

    def count_request(self, body: Mapping[str, Any]) -> int:
        """Input tokens of a request: its words plus the usual overhead; see `uncounted`."""
        reading = _Reading.of(body)
        extra_messages = max(reading.messages - 1, 0)
        overhead = REQUEST_OVERHEAD + MESSAGE_OVERHEAD * extra_messages
        return overhead + sum(map(self.count, reading.texts))


def counter_for(model: str) -> TokenCounter:
    """The best counter here for a model; without toktok, or for a stranger, an approximate one."""
    try:
        import toktok  # noqa: F401, PLC0415 -- an optional extra; loaded in 6 ms
    except ImportError:
        return TokenCounter(BYTES_ENCODING, exact=False)
    bare = model.lower().removeprefix("ft:").rpartition("/")[2]
    for beginning, encoding, exact in _ENCODINGS:
        if beginning.match(bare):
            return TokenCounter(encoding, exact)
    return TokenCounter(_DEFAULT_ENCODING, exact=False)


def uncounted(body: Mapping[str, Any]) -> frozenset[str]:
    """What adds input tokens that no local count knows: images, files, tools, a schema, history.

    Empty when `count_request` has counted everything. Calibration from a sample covers whatever is
    the same in each row.
    """
    return frozenset(_Reading.of(body).uncounted)


@dataclass(slots=True)
class _Reading:
    """A request body taken apart."""

    texts: list[str] = field(default_factory=list)
    messages: int = 0
    uncounted: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> "_Reading":
        reading = cls()
        reading._message(body.get("instructions"))
        given = body.get("input")
        if isinstance(given, str):
            reading._message(given)
        else:
            for item in _items(given):
                reading._item(item)
        reading.uncounted.update(name for name in _HIDDEN if body.get(name))
        wanted = text.get("format") if isinstance(text := body.get("text"), Mapping) else None
        if isinstance(wanted, Mapping) and "schema" in wanted:
            reading.uncounted.add("text.format")
        return reading

    def _message(self, content: object) -> None:
        if content is None:
            return
        self.messages += 1
        if isinstance(content, str):
            self.texts.append(content)
        for part in _items(content):
            self._part(part)

    def _item(self, item: Mapping[str, Any]) -> None:
        if item.get("type", "message") == "message":
            self._message(item.get("content"))
            return
        written = [item[name] for name in _TEXT_FIELDS if isinstance(item.get(name), str)]
        self.messages += 1
        self.texts += written
        if not written:
            self.uncounted.add(str(item["type"]))

    def _part(self, part: Mapping[str, Any]) -> None:
        text = part.get("text", part.get("refusal"))
        if part.get("type") in _TEXT_PARTS and isinstance(text, str):
            self.texts.append(text)
        else:
            self.uncounted.add(str(part.get("type")))


def _items(value: object) -> Iterable[Mapping[str, Any]]:
    items = value if isinstance(value, list | tuple) else ()
    return (item for item in items if isinstance(item, Mapping))
