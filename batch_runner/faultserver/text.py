"""What the server says to whom: a text that can only be the answer to this request."""

import json
import re
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

from batch_runner.faultserver.schema import instance


FIRST_WORDS = 6
WORD_LENGTH = 24  # keeps a good reply near 20 tokens whatever the input looks like
MARKER = re.compile(r"\[\[fault:([^\]]*)\]\]")

Body = Mapping[str, Any]


def expected_text(body: Body | bytes) -> str:
    """The text a good reply to this request carries.

    "summary of <first words> #<hash of model, instructions and input>", or, where `text.format`
    asks for JSON, an instance of the schema whose strings are that text.
    """
    request: Body = json.loads(body) if isinstance(body, bytes) else body
    summary, digest = _summary(request)
    wanted = (request.get("text") or {}).get("format") or {}
    match wanted.get("type"):
        case "json_schema":
            return json.dumps(
                instance(wanted.get("schema", {}), words=summary, number=int(digest, 16))
            )
        case "json_object":
            return json.dumps({"summary": summary})
        case _:
            return summary


def prompt_text(body: Body) -> str:
    """Instructions and every text of the input: what is counted as input tokens."""
    prompt = body.get("input")
    instructions = body.get("instructions") or ""
    if isinstance(prompt, str):
        return f"{instructions}{prompt}"
    return f"{instructions}{''.join(_texts(prompt))}"


def _summary(body: Body) -> tuple[str, str]:
    prompt = body.get("input")
    last = prompt if isinstance(prompt, str) else next(reversed([*_texts(prompt)]), "")
    exact = prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True)
    said = f"{body.get('model')}\0{body.get('instructions') or ''}\0{exact}"
    digest = blake2b(said.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
    opening = last[: FIRST_WORDS * 100]
    if "[[" in opening:
        opening = MARKER.sub("", opening)
    words = (word[:WORD_LENGTH] for word in opening.split(None, FIRST_WORDS)[:FIRST_WORDS])
    return f"summary of {' '.join(words)} #{digest}", digest


def _texts(part: Any) -> Iterator[str]:
    """Strings under `text` and `content`, in order, wherever they lie among input items."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, list):
        for item in part:
            yield from _texts(item)
    elif isinstance(part, Mapping):
        yield from _texts(part.get("text"))
        yield from _texts(part.get("content"))
