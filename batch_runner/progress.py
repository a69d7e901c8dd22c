"""Shows a run while it lasts: one moving line on a terminal, a plain line a minute elsewhere."""

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol, TextIO

import anyio


HEARTBEAT_SECONDS = 60.0
REFRESH_SECONDS = 0.5


class ProgressStyle(StrEnum):
    """`--progress`."""

    AUTO = "auto"
    """A bar on a terminal, a log elsewhere."""
    BAR = "bar"
    LOG = "log"
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A run at one moment."""

    done: int
    """Rows finished, those of earlier runs included."""
    total: int
    ok: int
    failed: int
    in_flight: int
    oldest_seconds: float
    rows_per_second: float
    tokens_per_second: float
    cost: Decimal | None
    """Dollars known so far; None when the model has no price."""
    limit: int

    @property
    def eta_seconds(self) -> float | None:
        if self.rows_per_second <= 0:
            return None
        return (self.total - self.done) / self.rows_per_second

    def to_json(self) -> dict[str, Any]:
        eta = self.eta_seconds
        return {
            "rows_done": self.done,
            "rows": self.total,
            "ok": self.ok,
            "failed": self.failed,
            "in_flight": self.in_flight,
            "oldest_seconds": round(self.oldest_seconds, 1),
            "concurrency_limit": self.limit,
            "rows_per_second": round(self.rows_per_second, 2),
            "tokens_per_second": round(self.tokens_per_second, 1),
            "cost_usd": None if self.cost is None else float(self.cost),
            "eta_seconds": None if eta is None else round(eta),
        }


class Display(Protocol):
    """Where snapshots go."""

    def show(self, snapshot: Snapshot) -> None: ...

    def close(self, snapshot: Snapshot) -> None: ...


def duration(seconds: float) -> str:
    """`412ms`, `2.1s`, `41s`, `12m 41s`, `3h 05m`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f}s" if seconds < 9.95 else f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def count(number: float) -> str:
    """`812`, `18.2k`, `31.2M`."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e4)):
        if number >= 0.9995 * size:  # what would round up to the unit has it
            scaled = number / (1e3 if unit == "k" else size)
            return f"{scaled:#.3g}".rstrip(".") + unit
    return f"{number:,.0f}"


def dollars(amount: Decimal | None) -> str:
    """`$8.43`; small amounts keep three significant digits; `unknown` for None."""
    if amount is None:
        return "unknown"
    if amount == 0 or amount >= 1:
        return f"${amount:,.2f}"
    return (
        f"${amount:.{2 - min(amount.adjusted(), -1)}f}"
        if amount.adjusted() < -1
        else f"${amount:.3f}"
    )


def dollars_at_most(amount: Decimal | None) -> str:
    """Like `dollars`, rounded up: a bound must not be rounded down. `no bound` for None."""
    if amount is None:
        return "no bound"
    step = Decimal(1).scaleb(min(amount.adjusted() - 2, -2)) if amount else Decimal("0.01")
    return dollars(amount.quantize(step, rounding="ROUND_UP"))


_BAR_FORMAT = (
    "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{remaining} left, {rate_fmt}{postfix}]"
)
"""The bar gives way first; what a narrow terminal cuts off at the right matters least."""


class Bar:
    """One tqdm line on a terminal."""

    def __init__(self, first: Snapshot, *, stream: TextIO) -> None:
        tqdm = _tqdm()
        tqdm.monitor_interval = 0  # its thread would outlive the run
        self._bar = tqdm(
            total=first.total,
            initial=first.done,
            file=stream,
            mininterval=0.1,
            smoothing=0.05,
            dynamic_ncols=True,
            unit="row",
            bar_format=_BAR_FORMAT,
            leave=False,
        )

    def show(self, snapshot: Snapshot) -> None:
        words = [
            *([dollars(snapshot.cost)] if snapshot.cost is not None else []),
            *([f"{snapshot.failed} failed"] if snapshot.failed else []),
            f"{snapshot.in_flight} in flight",
            f"{count(snapshot.tokens_per_second)} tok/s",
        ]
        self._bar.set_postfix_str(", ".join(words), refresh=False)
        self._bar.update(snapshot.done - self._bar.n)
        self._bar.refresh()

    def close(self, snapshot: Snapshot) -> None:
        self.show(snapshot)
        self._bar.close()


class Heartbeat:
    """A plain line every minute, for logs that keep no carriage returns."""

    def __init__(self, log: logging.Logger, *, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._next = clock() + HEARTBEAT_SECONDS

    def show(self, snapshot: Snapshot) -> None:
        if self._clock() < self._next:
            return
        self._next = self._clock() + HEARTBEAT_SECONDS
        extra = {"event": "progress", "fields": snapshot.to_json()}
        self._log.info("%s", heartbeat(snapshot), extra=extra)

    def close(self, snapshot: Snapshot) -> None:
        pass


class Silence:
    """No progress at all."""

    def show(self, snapshot: Snapshot) -> None:
        pass

    def close(self, snapshot: Snapshot) -> None:
        pass


def heartbeat(snapshot: Snapshot) -> str:
    share = 100 * snapshot.done / snapshot.total if snapshot.total else 100.0
    eta = snapshot.eta_seconds
    return (
        f"{snapshot.done:,}/{snapshot.total:,} {share:.0f}%  ok {snapshot.ok:,} "
        f"failed {snapshot.failed:,}  in flight {snapshot.in_flight} "
        f"(oldest {duration(snapshot.oldest_seconds)}, limit {snapshot.limit})  "
        f"{snapshot.rows_per_second:.1f} rows/s {count(snapshot.tokens_per_second)} tok/s  "
        f"{dollars(snapshot.cost)}  eta {duration(eta) if eta is not None else 'unknown'}"
    )


def display_for(
    style: ProgressStyle,
    first: Snapshot,
    *,
    log: logging.Logger,
    clock: Callable[[], float],
    stream: TextIO | None = None,
) -> Display:
    """What `style` means here: AUTO is a bar on a terminal and in a notebook, a log elsewhere."""
    stream = stream or sys.stderr
    if style is ProgressStyle.AUTO:
        seen = stream.isatty() or _in_notebook()
        style = ProgressStyle.BAR if seen else ProgressStyle.LOG
    if style is ProgressStyle.BAR:
        return Bar(first, stream=stream)
    return Heartbeat(log, clock=clock) if style is ProgressStyle.LOG else Silence()


async def keep_showing(display: Display, snapshot: Callable[[], Snapshot]) -> None:
    """Shows a snapshot twice a second until cancelled."""
    while True:
        await anyio.sleep(REFRESH_SECONDS)
        display.show(snapshot())


def _tqdm() -> Any:
    """The tqdm class: 80 ms that a run in a pipe need not spend."""
    if _in_notebook():
        from tqdm.auto import tqdm  # noqa: PLC0415

        return tqdm
    from tqdm import tqdm as line  # noqa: PLC0415

    return line


def _in_notebook() -> bool:
    """Whether a notebook's kernel runs us; IPython in a terminal has no kernel."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")
