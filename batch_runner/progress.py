"""Shows a run while it lasts: one moving line on a terminal, a plain line a minute elsewhere."""

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol, TextIO

import anyio

from batch_runner.amounts import count, dollars_at_least, duration, pace, percent


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
    """Those, and all that this run is to send; without those it leaves for later."""
    ok: int
    failed: int
    in_flight: int
    oldest_seconds: float
    rows_per_second: float
    tokens_per_second: float
    cost: Decimal | None
    """Dollars known so far; None when the model has no price."""
    limit: int
    ends_at: int | None = None
    """Of `total`, the rows after which `max_cost` ends the run at their cost so far; None: not before."""
    is_ending: bool = False
    """No row is sent any more: only calls in flight are finished."""

    @property
    def eta_seconds(self) -> float | None:
        if self.rows_per_second <= 0 or self.is_ending:
            return None
        until = self.total if self.ends_at is None else self.ends_at
        return max(0, until - self.done) / self.rows_per_second

    @property
    def end_in_words(self) -> list[str]:
        """Of a run that its budget does not let come to the last row."""
        if self.ends_at is None or self.is_ending:
            return []
        return [f"max_cost ends at about {self.ends_at:,}"]

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
            "max_cost_ends_at_rows": self.ends_at,
            "eta_seconds": None if eta is None else round(eta),
        }


class Display(Protocol):
    """Where snapshots go."""

    def show(self, snapshot: Snapshot) -> None: ...

    def close(self, snapshot: Snapshot) -> None: ...


_SPARE_COLUMNS = 5
"""Left free at the right: the terminal prints ^C there, and must not begin a new line for it."""
_SHORTEST_BAR = 8
_LONGEST_BAR = 30


class Bar:
    """One tqdm line on a terminal, or a bar in a notebook."""

    def __init__(self, first: Snapshot, *, stream: TextIO) -> None:
        tqdm = _tqdm()
        tqdm.monitor_interval = 0  # its thread would outlive the run
        self._first_done = first.done
        self._stream = stream
        self._fits_itself = _in_notebook()
        self._bar = tqdm(
            total=first.total,
            initial=first.done,
            file=stream,
            delay=1e-9,
            ncols=None if self._fits_itself else self._columns(),
            bar_format=self._format(first),
            leave=False,
        )
        # Drawn by the first `show`: before that nobody would wipe it from the screen on Ctrl-C.
        self._bar.delay = 0
        if not self._fits_itself and os.environ.get("TERM") != "dumb":
            self._bar.sp = self._print

    def show(self, snapshot: Snapshot) -> None:
        if self._fits_itself:
            self._bar.set_postfix_str(", ".join(self._words(snapshot)), refresh=False)
        else:
            self._bar.ncols = self._columns()
        self._bar.bar_format = self._format(snapshot)
        self._bar.n = snapshot.done
        self._bar.refresh()

    def close(self, snapshot: Snapshot) -> None:
        self.show(snapshot)
        self._bar.close()

    def _print(self, text: str) -> None:
        """In the place of what was there, a ^C behind it included."""
        self._stream.write(f"\r{text}\x1b[K")
        self._stream.flush()

    def _columns(self) -> int:
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):  # it is no terminal, or has no descriptor
            columns = 0
        return max(1, (columns or 80) - _SPARE_COLUMNS)

    def _format(self, snapshot: Snapshot) -> str:
        """What tqdm fills in: of the words those that fit, and the bar gets what they leave."""
        # tqdm's own percentage rounds up to 100 before the end.
        share = f"{percent(snapshot.done, snapshot.total):>4}"
        if self._fits_itself:
            return f"{share}|{{bar}}| {{n_fmt}}/{{total_fmt}}{{postfix}}"
        counts = f" {snapshot.done}/{snapshot.total}"
        room = self._columns() - len("100%||") - len(counts) - _SHORTEST_BAR
        shown = ""
        for word in self._words(snapshot):
            if len(shown) + len(word) + 2 > room:
                break
            shown += f"{', ' if shown else '  '}{word}"
        bar = min(_LONGEST_BAR, _SHORTEST_BAR + max(0, room - len(shown)))
        return f"{share}|{{bar:{bar}}}| {{n_fmt}}/{{total_fmt}}{shown}"

    def _words(self, snapshot: Snapshot) -> list[str]:
        """What matters most comes first. What is not known yet is not said."""
        has_pace = snapshot.done > self._first_done
        eta = snapshot.eta_seconds
        return [
            *([f"{duration(eta)} left"] if has_pace and eta else []),
            *snapshot.end_in_words,
            *([pace(snapshot.rows_per_second)] if has_pace else []),
            *([f"{snapshot.failed:,} failed"] if snapshot.failed else []),
            *([dollars_at_least(snapshot.cost)] if snapshot.cost is not None else []),
            f"{snapshot.in_flight} in flight",
            *([f"{count(snapshot.tokens_per_second)} tok/s"] if has_pace else []),
        ]


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
    """What is not known is left out: a number without it would stand for something else."""
    eta = snapshot.eta_seconds
    oldest = duration(snapshot.oldest_seconds)
    words = [
        f"{snapshot.done:,}/{snapshot.total:,} {percent(snapshot.done, snapshot.total)}",
        f"ok {snapshot.ok:,} failed {snapshot.failed:,}",
        f"in flight {snapshot.in_flight} (oldest {oldest}, limit {snapshot.limit})",
        f"{pace(snapshot.rows_per_second)} {count(snapshot.tokens_per_second)} tok/s",
        *([dollars_at_least(snapshot.cost)] if snapshot.cost is not None else []),
        *([f"eta {duration(eta)}"] if eta is not None else []),
        *snapshot.end_in_words,
    ]
    return "  ".join(words)


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
