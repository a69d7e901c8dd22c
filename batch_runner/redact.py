"""Keeps secrets out of logs, error columns, the journal and reports."""

import json
import re
from collections.abc import Iterable, Mapping


MASK = "[redacted]"
SHORTEST_SECRET = 8
"""Local servers take keys such as "none"; masking those would eat ordinary words."""
LONGEST_MESSAGE = 500

_PATTERNS = (
    re.compile(r"(?i)\bbearer\s+[A-Za-z0-9._~+/=-]{6,}"),
    re.compile(r"\b(?:sk|rk|pk|gsk|xai)-[A-Za-z0-9_*-]{6,}"),
    re.compile(r"(?i)\b(?:api[-_]?key|access[-_]?token)[\"']?\s*[=:]\s*[\"']?[^\s\"'&,}]{6,}"),
    re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"),
)


_SECRET_NAME = re.compile(
    r"(?i)(?!.*_env$).*(?:authori[sz]ation|api[-_. ]?key|passw|secret|headers|token$)", re.DOTALL
)
"""`max_output_tokens` is none, nor is `api_key_env`, which says where a secret lies."""


def names_a_secret(name: object) -> bool:
    """The value under a key of this name may be a secret, whatever it looks like."""
    return _SECRET_NAME.match(str(name).strip()) is not None


def holds_secret_names(value: object) -> bool:
    """A key somewhere in the value looks like the name of a secret."""
    if isinstance(value, Mapping):
        return any(names_a_secret(k) or holds_secret_names(v) for k, v in value.items())
    return isinstance(value, list | tuple) and any(map(holds_secret_names, value))


def without_passwords(text: str) -> str:
    """The text with everything that looks like a secret masked, and nothing else changed."""
    for pattern in _PATTERNS:
        text = pattern.sub(MASK, text)
    return text


class Redactor:
    """Masks the secrets of one run, wherever they turn up."""

    def __init__(self, secrets: Iterable[str]) -> None:
        kept = sorted({s for s in secrets if len(s) >= SHORTEST_SECRET}, key=len, reverse=True)
        self._secrets = tuple(kept)
        escaped = {json.dumps(s)[1:-1] for s in kept} | {
            json.dumps(s)[1:-1].replace("/", "\\/") for s in kept
        }
        self._spellings = tuple(
            spelling.encode() for spelling in sorted(escaped, key=len, reverse=True)
        )

    def body(self, body: bytes) -> bytes:
        """The bytes of a JSON reply with every known secret masked, escaped ones too."""
        for spelling in self._spellings:
            if spelling in body:
                body = body.replace(spelling, MASK.encode())
        return body

    def text(self, text: str) -> str:
        """The text with every known secret masked."""
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text

    def message(self, text: str) -> str:
        """A message fit to be stored and shown: secrets and what looks like one masked, one line."""
        text = self.text(text)
        text = without_passwords(text)
        text = " ".join(text.split())
        return text if len(text) <= LONGEST_MESSAGE else text[: LONGEST_MESSAGE - 1] + "…"
