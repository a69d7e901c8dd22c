"""What a job would send, counted while its input is read once: tokens in, and caps on tokens out."""

import json
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeVar

from batch_runner.bill import Biller
from batch_runner.pricing import PriceBook
from batch_runner.records import Request
from batch_runner.tokens import TokenCounter, counter_for, uncounted


Number = TypeVar("Number", int, Decimal)


@dataclass(frozen=True, slots=True)
class Kind:
    """What decides about the price of a request, as far as it is known before the call."""

    model: str
    max_output_tokens: int | None
    counted: int
    """Input tokens."""

    @property
    def tariff(self) -> tuple[str, int | None]:
        """Model and cap: of requests that agree in these, the longest may cost most."""
        return self.model, self.max_output_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """What requests cost before their answers, and at most with them. None: no bound, or no price."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens_at_most: int | None = 0
    input_usd: Decimal | None = Decimal(0)
    usd_at_most: Decimal | None = Decimal(0)


@dataclass(slots=True, kw_only=True)
class Survey:
    """Requests seen one at a time; 4 bytes for each, and one entry for each different kind."""

    counts: "array[int]" = field(default_factory=lambda: array("I"))
    """Counted input tokens of each request to be sent, in input order."""
    kinds: Counter[Kind] = field(default_factory=Counter)
    repeats: Counter[Kind] = field(default_factory=Counter)
    """Those of them that ask for the same as an earlier row."""
    uncounted: set[str] = field(default_factory=set)
    is_bounded: bool = True
    """Nothing but text goes in: no image, file or history adds tokens that only a server knows."""
    longest: dict[tuple[str, int | None], int] = field(default_factory=dict)
    """By tariff: bytes that bound the input of each request; of bounded ones only."""
    _counters: dict[str, TokenCounter] = field(default_factory=dict)

    def watch(self, request: Request, is_wanted: bool, occurrence: int) -> None:  # noqa: FBT001  # `plan.Watch`
        if not is_wanted:
            return
        body = json.loads(request.body)
        kind = Kind(
            request.model,
            request.max_output_tokens,
            self.counter(request.model).count_request(body),
        )
        self.counts.append(kind.counted)
        self.kinds[kind] += 1
        if occurrence:
            self.repeats[kind] += 1
        self.uncounted |= uncounted(body)
        size = request.input_bound_bytes
        self.is_bounded &= size is not None
        self.longest[kind.tariff] = max(size or 0, self.longest.get(kind.tariff, 0))

    def counter(self, model: str) -> TokenCounter:
        if model not in self._counters:
            self._counters[model] = counter_for(model)
        return self._counters[model]

    @property
    def models(self) -> frozenset[str]:
        return frozenset(kind.model for kind in self.kinds)

    @property
    def is_exact(self) -> bool:
        """Every text was counted with its model's own vocabulary."""
        return all(self.counter(model).exact for model in self.models)

    def dearest_row(self, prices: PriceBook) -> Decimal | None:
        """The most that one row can cost."""
        dearest: dict[tuple[str, int | None], Kind] = {}
        for kind in self.kinds:
            known = dearest.get(kind.tariff, kind)
            dearest[kind.tariff] = max(kind, known, key=lambda one: one.counted)
        most = [self.ceiling(prices, kinds={kind: 1}).usd_at_most for kind in dearest.values()]
        return None if None in most else max(filter(None, most), default=Decimal(0))

    def set_aside(self, biller: Biller) -> Decimal | None:
        """What `max_cost` sets aside at most for a call in flight; None: no bound, or no price."""
        sizes = self.longest.items()
        most = [biller.ceiling(model, size, cap) for (model, cap), size in sizes]
        if None in most or not self.is_bounded:
            return None
        return max(filter(None, most), default=Decimal(0))

    def ceiling(
        self,
        prices: PriceBook,
        *,
        overhead: Decimal | int = 0,
        service_tier: str | None = None,
        kinds: Mapping[Kind, int] | None = None,
    ) -> Ceiling:
        """All requests (or `kinds` of them) priced one by one, with `overhead` tokens added to each."""
        requests = 0
        tokens: Decimal | int = 0
        out: int | None = 0
        usd: Decimal | None = Decimal(0)
        most: Decimal | None = Decimal(0) if self.is_bounded else None
        for kind, times in (self.kinds if kinds is None else kinds).items():
            counted = kind.counted + overhead  # below zero it may be: all together they are right
            cap = kind.max_output_tokens
            requests += times
            tokens += counted * times
            out = _plus(out, None if cap is None else cap * times)
            before = prices.input_cost(
                model=kind.model, input_tokens=counted, service_tier=service_tier, at=None
            )
            usd = _plus(usd, _times(before, times))
            bound = prices.ceiling(
                model=kind.model,
                input_tokens=max(counted, 0),
                max_output_tokens=cap,
                service_tier=service_tier,
                at=None,
            )
            most = _plus(most, _times(bound, times))
        return Ceiling(
            requests=requests,
            input_tokens=max(0, round(tokens)),
            output_tokens_at_most=out,
            input_usd=usd,
            usd_at_most=most,
        )


def _times(amount: Decimal | None, times: int) -> Decimal | None:
    return None if amount is None else amount * times


def _plus(total: Number | None, more: Number | None) -> Number | None:
    return None if total is None or more is None else total + more
