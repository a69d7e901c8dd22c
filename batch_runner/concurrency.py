"""How hard an endpoint may be pressed: by the job, by the minute, and by its own headers."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self


AUTO = (1, 20, 512)  # minimum, start, maximum
_PREFIX = "x-ratelimit-"
_REMAINING_REQUESTS = _PREFIX + "remaining-requests"
_REMAINING_TOKENS = _PREFIX + "remaining-tokens"
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?", re.ASCII)
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|h|m|s))+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)", re.ASCII)
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Concurrency:
    """Bounds of the attempts in flight. All equal: fixed."""

    minimum: int
    start: int
    maximum: int

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.start <= self.maximum:
            bounds = f"{self.minimum}-{self.start}-{self.maximum}"
            raise ValueError(
                f"concurrency must keep 1 <= minimum <= start <= maximum, not {bounds!r}"
            )

    @property
    def adaptive(self) -> bool:
        return self.minimum < self.maximum

    def at_most(self, calls: int) -> Self:
        """Likewise, where no more than so many can be in flight."""
        return type(self)(
            minimum=min(self.minimum, calls),
            start=min(self.start, calls),
            maximum=min(self.maximum, calls),
        )

    @classmethod
    def parse(cls, value: int | str) -> Self:
        """The bounds that `auto`, `64`, `4-200` (starts at 20 if it may) or `4-20-200` mean."""
        if value == "auto":
            return cls(minimum=AUTO[0], start=AUTO[1], maximum=AUTO[2])
        numbers = str(value).replace(" ", "").split("-")
        if all(part.isascii() and part.isdigit() and len(part) < 10 for part in numbers):
            match [int(part) for part in numbers]:
                case [fixed]:
                    return cls(minimum=fixed, start=fixed, maximum=fixed)
                case [low, high]:
                    return cls(minimum=low, start=max(low, min(AUTO[1], high)), maximum=high)
                case [low, start, high]:
                    return cls(minimum=low, start=start, maximum=high)
        raise ValueError(
            f"concurrency must be auto, a number, MIN-MAX or MIN-START-MAX, not {value!r}"
        )


class Pacer:
    """Spaces calls evenly: the generic cell rate algorithm, with bursts of one call only.

    More would overdraw the first minute of a server that counts whole minutes. A call waits for
    those before it, never for its own cost: one that asks for more than a whole minute's budget
    goes when its turn comes, and the next one waits the longer.
    """

    def __init__(self, per_second: float) -> None:
        self.per_second = per_second
        self._free_at = -math.inf

    def reserve(self, now: float, amount: float = 1.0) -> float:
        """The next turn is booked. Returns the seconds until it comes."""
        turn = max(self._free_at, now)
        self._free_at = turn + amount / self.per_second
        return turn - now

    def correct(self, amount: float) -> None:
        """`amount` more (negative: less) than was reserved is counted."""
        self._free_at += amount / self.per_second


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """What `x-ratelimit-*` headers say. None: absent, negative or not to be read."""

    limit_requests: float | None = None
    remaining_requests: float | None = None
    reset_requests_seconds: float | None = None
    limit_tokens: float | None = None
    remaining_tokens: float | None = None
    reset_tokens_seconds: float | None = None

    def exhausted_seconds(self, tokens: float) -> float:
        """How long an attempt of about `tokens` would be refused."""
        requests_left, tokens_left = self.remaining_requests, self.remaining_tokens
        wait_seconds = 0.0
        if requests_left is not None and requests_left < 1:
            wait_seconds = self.reset_requests_seconds or 0.0
        if tokens_left is not None and tokens_left < max(1.0, tokens):
            wait_seconds = max(wait_seconds, self.reset_tokens_seconds or 0.0)
        return wait_seconds


def read_rate_limits(headers: Mapping[str, str]) -> RateLimits:
    """What the headers (names in lower case, or looked up without case) say. Never fails."""

    def read(name: str) -> float | None:
        return _seconds_or_count(headers.get(_PREFIX + name))

    return RateLimits(
        limit_requests=read("limit-requests"),
        remaining_requests=read("remaining-requests"),
        reset_requests_seconds=read("reset-requests"),
        limit_tokens=read("limit-tokens"),
        remaining_tokens=read("remaining-tokens"),
        reset_tokens_seconds=read("reset-tokens"),
    )


def exhausted_seconds(headers: Mapping[str, str], tokens: float) -> float:
    """How long the headers say that an attempt of about `tokens` would be refused."""
    if _REMAINING_REQUESTS not in headers and _REMAINING_TOKENS not in headers:
        return 0.0
    return read_rate_limits(headers).exhausted_seconds(tokens)


def _seconds_or_count(text: str | None) -> float | None:
    """`12`, `59.5s`, `12ms` or `6m0s` as a number that is finite and not negative."""
    if text is None or len(text) > 40:
        return None
    text = text.strip().lower()
    if _NUMBER.fullmatch(text):
        value = float(text)
    elif _DURATION.fullmatch(text):
        parts = _DURATION_PART.findall(text)
        value = sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)
    else:
        return None
    return value if 0 <= value < math.inf else None
