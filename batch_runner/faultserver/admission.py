"""Hidden limits: whether a call is let in now, and what the rate-limit headers say."""

from dataclasses import dataclass

from batch_runner.faultserver.settings import Settings


@dataclass(slots=True, kw_only=True)
class Bucket:
    """A token bucket on a clock that is passed in."""

    capacity: float
    per_second: float
    level: float
    at: float

    @classmethod
    def full(cls, *, capacity: float, per_second: float, now: float) -> "Bucket":
        return cls(capacity=capacity, per_second=per_second, level=capacity, at=now)

    def refill(self, now: float) -> None:
        self.level = min(self.capacity, self.level + (now - self.at) * self.per_second)
        self.at = now

    def take(self, amount: float, now: float) -> bool:
        """Taken, or not there."""
        self.refill(now)
        if self.level < amount:
            return False
        self.level -= amount
        return True

    def drain(self, amount: float, now: float) -> None:
        """Taken as far as it is there."""
        self.refill(now)
        self.level = max(0.0, self.level - amount)

    @property
    def seconds_to_full(self) -> float:
        return (self.capacity - self.level) / self.per_second if self.per_second else 0.0


class Admission:
    """The limits of some settings; changed settings mean a new Admission."""

    def __init__(self, settings: Settings, now: float) -> None:
        self._concurrency = settings.admit_concurrency
        self._rate: Bucket | None = None
        if settings.admit_rate is not None:
            burst = settings.admit_burst or max(1.0, settings.admit_rate)
            self._rate = Bucket.full(capacity=burst, per_second=settings.admit_rate, now=now)
        self._requests = _per_minute(settings.limit_requests, now)
        self._tokens = _per_minute(settings.limit_tokens, now)

    def refuses(self, in_flight: int, now: float) -> str | None:
        """Why this call is not let in ("concurrency" or "rate"); None admits it."""
        if self._concurrency is not None and in_flight >= self._concurrency:
            return "concurrency"
        if self._rate is not None and not self._rate.take(1, now):
            return "rate"
        return None

    def headers(self, tokens: int, now: float) -> tuple[tuple[str, str], ...]:
        """`x-ratelimit-*` of a reply that took this many tokens; none without shown limits."""
        shown: list[tuple[str, str]] = []
        for name, bucket, amount in (
            ("requests", self._requests, 1),
            ("tokens", self._tokens, tokens),
        ):
            if bucket is not None:
                bucket.drain(amount, now)
                shown += [
                    (f"x-ratelimit-limit-{name}", str(int(bucket.capacity))),
                    (f"x-ratelimit-remaining-{name}", str(int(bucket.level))),
                    (f"x-ratelimit-reset-{name}", duration(bucket.seconds_to_full)),
                ]
        return tuple(shown)


def duration(seconds: float) -> str:
    """As OpenAI writes it: 12ms, 1.5s, 6m0s."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    if seconds < 60:
        return f"{round(seconds, 3):g}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s"


def _per_minute(limit: int | None, now: float) -> Bucket | None:
    if limit is None:
        return None
    return Bucket.full(capacity=limit, per_second=limit / 60, now=now)
