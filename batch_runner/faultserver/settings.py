"""How the server behaves when no fault is chosen; every field may change while it runs."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any, Self

from batch_runner.errors import UsageError
from batch_runner.faultserver.usage import Prices


class LatencyShape(StrEnum):
    """How the times before a reply are spread around `latency_seconds`."""

    FIXED = "fixed"
    """Always `latency_seconds`."""
    UNIFORM = "uniform"
    """Evenly within `latency_seconds` +- `latency_spread` seconds."""
    LOGNORMAL = "lognormal"
    """Median `latency_seconds`, sigma `latency_spread`: a long tail, as real endpoints have."""


class Idempotency(StrEnum):
    """What the server does with a repeated idempotency key."""

    IGNORE = "ignore"
    """Works again and bills again, as most endpoints do."""
    HONOUR = "honour"
    """Gives the stored answer of the first success, billed once; another body gets 409."""
    REPLAY_500S = "replay-500s"
    """Likewise, and stored server errors are given again too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The server's manners."""

    latency_seconds: float = 0.0
    latency_shape: LatencyShape = LatencyShape.FIXED
    latency_spread: float = 0.0
    seed: int = 0
    """Of latencies. Equal seeds give equal sequences."""

    admit_rate: float | None = None
    """Model calls a second; above it 429. Hidden: no header tells."""
    admit_burst: float | None = None
    """Calls admitted at once after a pause; one second's worth (at least one) by default."""
    admit_concurrency: int | None = None
    """Model calls in flight; above it 429."""
    admit_retry_after: str | None = None
    """Retry-After of those 429s, as it stands; none by default."""

    limit_requests: int | None = None
    """Requests a minute shown in `x-ratelimit-*-requests`; shown, not enforced."""
    limit_tokens: int | None = None
    """Likewise for tokens."""

    cached_tokens: int = 0
    """Of every reply, at most its input tokens."""
    reasoning_tokens: int = 0
    """Of every reply, on top of the tokens of its text."""
    input_price: Decimal | None = None
    """Dollars per million tokens. With no input or output price the ledger has no dollars."""
    cached_price: Decimal | None = None
    """The input price by default."""
    output_price: Decimal | None = None

    idempotency: Idempotency = Idempotency.IGNORE
    idempotency_header: str = "Idempotency-Key"
    background_polls: int = 2
    """Polls until a background response is completed."""
    background_seconds: float | None = None
    """Set: completed after this time, however often it is asked for."""
    api_key: str | None = None
    """Set: any other key gets 401."""
    models: tuple[str, ...] = ("fault-model",)
    """What `GET /v1/models` lists. Any model name is answered all the same."""
    max_body_bytes: int = 64 * 1024 * 1024

    @property
    def prices(self) -> Prices | None:
        if self.input_price is None or self.output_price is None:
            return None
        cached = self.input_price if self.cached_price is None else self.cached_price
        return Prices(input=self.input_price, cached=cached, output=self.output_price)

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """These settings with some replaced; values may be as JSON or TOML spell them."""
        known = {field.name for field in fields(self)}
        if unknown := changes.keys() - known:
            raise UsageError(
                f"unknown fault server setting {min(unknown)!r}",
                hint=f"one of: {', '.join(sorted(known))}",
            )
        return replace(self, **{name: _typed(name, value) for name, value in changes.items()})

    def latency(self, source: random.Random) -> float:
        """Seconds to wait before the next reply."""
        match self.latency_shape:
            case LatencyShape.FIXED:
                return self.latency_seconds
            case LatencyShape.UNIFORM:
                away = source.uniform(-self.latency_spread, self.latency_spread)
                return max(0.0, self.latency_seconds + away)
            case LatencyShape.LOGNORMAL:
                return self.latency_seconds * source.lognormvariate(0.0, self.latency_spread)


def _typed(name: str, value: Any) -> Any:
    if value is None:
        return None
    try:
        match name:
            case "latency_shape":
                return LatencyShape(value)
            case "idempotency":
                return Idempotency(value)
            case "input_price" | "cached_price" | "output_price":
                return Decimal(str(value))
            case "models":
                return tuple(value.split(",") if isinstance(value, str) else value)
            case "admit_retry_after" | "api_key" | "idempotency_header":
                return str(value)
            case "latency_seconds" | "latency_spread" | "admit_rate" | "admit_burst":
                return _positive(float(value))
            case "background_seconds":
                return _positive(float(value))
            case _:
                return _positive(int(value))
    except (ValueError, TypeError, InvalidOperation) as error:
        raise UsageError(f"fault server setting {name} cannot be {value!r}: {error}") from error


def _positive(value: float) -> float:
    if value < 0:
        raise ValueError("it must not be negative")
    return value
