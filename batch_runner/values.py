"""Readers of single job values: what TOML, a flag or the environment gave becomes what is meant.

Each takes any value and returns it typed, or raises WrongValueError. Numbers and switches may come
as text, because flags and the environment know nothing else.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from batch_runner import hosts
from batch_runner.concurrency import Concurrency
from batch_runner.spelling import did_you_mean


Reader = Callable[[Any], Any]
E = TypeVar("E", bound=StrEnum)

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY_PREFIX = re.compile(r"(?:Bearer\s+)?(?:sk|rk|pk|key|gsk|xai|AIza)[-_][A-Za-z0-9_-]{12,}")
_KEY_LIKE = re.compile(r"(?=[^-_]*\d)(?=[^-_]*[A-Za-z])[A-Za-z0-9]{24,}")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NO_TEXT = 'must be text, in quotes: "..."'
_KEY_HEADERS = frozenset({"authorization", "proxy-authorization", "api-key", "x-api-key"})


class WrongValueError(ValueError):
    """A value does not fit its key; the message goes on after "table.key: <value> ..."."""

    def __init__(self, message: str, *, inside: str | None = None) -> None:
        super().__init__(message)
        self.inside = inside
        """The key inside a table whose value does not fit; None: the value itself."""


class SecretValueError(WrongValueError):
    """Like WrongValueError, for a value that must not be repeated."""


def anything(value: Any) -> Any:
    return value


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise WrongValueError("must be text")
    return value


def filled(value: Any) -> str:
    if not text(value).strip():
        raise WrongValueError("must not be empty")
    return cast("str", value)


def flag(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise WrongValueError("must be true or false")
    return value


def whole(value: Any, *, least: int = 0) -> int:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise WrongValueError(f"must be a whole number, {least} or more")
    return value


def positive(value: Any) -> int:
    return whole(value, least=1)


def rate(value: Any) -> float:
    """Events a minute."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if isinstance(value, bool) or not math.isfinite(number) or number <= 0:
        raise WrongValueError("must be a number above zero")
    return number


def money(value: Any) -> Decimal:
    """Dollars."""
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        amount = Decimal(-1)
    if isinstance(value, bool) or not amount.is_finite() or amount < 0:
        raise WrongValueError("must be an amount of dollars, such as 2.50")
    return amount


def spending_limit(value: Any) -> Decimal:
    """Dollars that may be spent; a limit of nothing would be a run of nothing."""
    if not money(value):
        raise WrongValueError("must be more than nothing; --dry-run sends nothing")
    return money(value)


def duration_seconds(value: Any) -> float:
    """Seconds of "10m", "1h30m", "250ms" or a plain number of seconds."""
    if (isinstance(value, (int, float)) and not isinstance(value, bool)) or (
        isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?", value)
    ):
        seconds = float(value)
    elif isinstance(value, str) and re.fullmatch(f"(?:{_DURATION.pattern})+", value):
        seconds = sum(float(n) * _SECONDS[unit] for n, unit in _DURATION.findall(value))
    else:
        raise WrongValueError('is not a duration such as "90s", "10m" or "1h30m"')
    if not math.isfinite(seconds) or seconds <= 0:
        raise WrongValueError("must be longer than zero")
    return seconds


@dataclass(frozen=True, slots=True)
class ErrorLimit:
    """`--max-errors`: a number of failed rows, or a share of the finished ones."""

    rows: int | None = None
    share: float | None = None

    SHARE_NEEDS_ROWS = 20
    """A share means nothing over the first few rows."""

    def exceeded(self, failed: int, finished: int) -> bool:
        if self.rows is not None:
            return failed > self.rows
        if self.share is not None and finished >= self.SHARE_NEEDS_ROWS:
            return failed > self.share * finished
        return False


def error_limit(value: Any) -> ErrorLimit:
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", value)):
        share = float(match[1]) / 100
        if share > 1:
            raise WrongValueError("is more than 100%")
        return ErrorLimit(share=share)
    try:
        return ErrorLimit(rows=whole(value))
    except WrongValueError:
        raise WrongValueError('must be a number of rows, or a share such as "5%"') from None


def table(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise WrongValueError("must be a table")
    return value


def texts(value: Any) -> tuple[str, ...]:
    """One text, or a list of some."""
    items = [value] if isinstance(value, str) else value
    if (
        not isinstance(items, (list, tuple))
        or not items
        or not all(isinstance(item, str) and item.strip() for item in items)
    ):
        raise WrongValueError("must be text or a list of texts")
    return tuple(items)


def text_table(value: Any) -> Mapping[str, str]:
    for name, item in table(value).items():
        if not isinstance(item, str):
            raise WrongValueError(_NO_TEXT, inside=name)
    return cast("Mapping[str, str]", value)


def one_of(choices: type[E]) -> Callable[[Any], E]:
    def read(value: Any) -> E:
        try:
            return choices(value)
        except ValueError:
            names = ", ".join(f'"{choice}"' for choice in choices)
            meant = did_you_mean(str(value), choices)
            raise WrongValueError(f"must be one of {names}{meant}") from None

    return read


def concurrency(value: Any) -> Concurrency:
    try:
        return Concurrency.parse(value)
    except ValueError:
        raise WrongValueError('must be "auto", a number such as 64, or a range "4-200"') from None


def delimiter(value: Any) -> str:
    r"""One character; `\t` and `tab` as people type them in a shell are a TAB."""
    return "\t" if text(value) in (r"\t", "tab") else cast("str", value)


def messages(value: Any) -> Any:
    """A list of message tables, or the name of a column that holds one."""
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        return value
    raise WrongValueError("must be a list of message tables, or the name of a column")


def job_name(value: Any) -> str:
    if not _NAME.fullmatch(text(value)):
        raise WrongValueError("must be 1 to 64 letters, digits, dots, dashes or underscores")
    return cast("str", value)


def variable(value: Any) -> str:
    """The name of an environment variable. A key pasted here by mistake is not repeated."""
    if looks_like_a_key(text(value)) or not _VARIABLE.fullmatch(value):
        raise SecretValueError("must be the name of an environment variable, never the key itself")
    return cast("str", value)


def key_variable(value: Any) -> str:
    """As `variable`, or empty: there is no key."""
    return "" if value == "" else variable(value)


def looks_like_a_key(word: str) -> bool:
    """True for text that is more likely a secret than a name: no long word of letters and digits."""
    if re.fullmatch(r"[A-Z][A-Z0-9_]*", word):
        return False
    return bool(_KEY_PREFIX.fullmatch(word)) or any(
        map(_KEY_LIKE.fullmatch, re.split(r"[-_]", word))
    )


def file_ending(*suffixes: str) -> Callable[[Any], str]:
    """A path with one of the suffixes: what is written there replaces what was there."""

    def read(value: Any) -> str:
        if not filled(value).lower().endswith(suffixes):
            raise WrongValueError(f"must end in {' or '.join(suffixes)}")
        return cast("str", value)

    return read


def proxy(value: Any) -> str:
    """The URL of a proxy; one with a password is not repeated."""
    url = urlsplit(text(value))
    if url.scheme not in ("http", "https") or not url.hostname:
        raise (SecretValueError if "@" in value else WrongValueError)(
            "must look like http://proxy:3128"
        )
    return cast("str", value)


def header_name(value: Any) -> str:
    if not _HEADER_NAME.fullmatch(text(value)):
        raise WrongValueError("is no name of a header")
    return cast("str", value)


def headers(value: Any) -> Mapping[str, str]:
    for name, content in table(value).items():
        if not isinstance(content, str):
            raise SecretValueError(_NO_TEXT, inside=name)
        if not _HEADER_NAME.fullmatch(name):
            raise SecretValueError(f"{name!r} is no name of a header")
        if not (content.isascii() and content.isprintable()):
            raise SecretValueError("holds control or non-ASCII characters", inside=name)
        if name.lower() in _KEY_HEADERS or _KEY_PREFIX.fullmatch(content):
            raise SecretValueError(
                f"must not carry a key ({name}): name the key's variable in api_key_env"
            )
    return cast("Mapping[str, str]", value)


def base_url(value: Any) -> str:
    """See `hosts.base_url`."""
    try:
        return hosts.base_url(text(value))
    except WrongValueError:
        raise
    except ValueError as error:
        kind = SecretValueError if "@" in value or "?" in value else WrongValueError
        raise kind(str(error)) from None
