"""What a job will take, as values: with a sample of real rows, or without."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from batch_runner.bill import Bill
from batch_runner.errors import UsageError
from batch_runner.estimate import Caution, Point, Range
from batch_runner.expectation import Expectation
from batch_runner.pricing import PriceMatch
from batch_runner.prospect import Prospect
from batch_runner.survey import Ceiling


ASSUMED, MEASURED = "assumed", "measured"
"""Where the overhead of a request comes from, if not from the endpoint's own count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What rows that were really run say about all of them."""

    rows: int
    """Run, and kept as finished rows."""
    known: int
    """Of them, those whose cost or tokens are known and not owed to a passing failure."""
    bill: Bill
    output_tokens: Point | Range | None
    """Of all rows to send; None when no row told."""
    usd: Point | Range | None
    usd_of_longest: Decimal
    """Of the sampled row with most input; of a range it is the longest of all, alone in its kind."""
    seconds: Point | Range | None
    calls_at_a_time: int
    rows_left: int
    """That a run has still to send."""
    usd_left: Point | Range | None
    """What those cost; None when no row told."""
    in_doubt: Decimal = Decimal(0)
    """What attempts of unknown billing may add to the upper end of `usd`, for each row."""

    @property
    def cautions(self) -> tuple[Caution, ...]:
        told = [one for one in (self.usd or self.output_tokens,) if one is not None]
        return tuple(dict.fromkeys(caution for one in told for caution in one.cautions))


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a job will take. Tokens and dollars are those of the rows still to send."""

    job: str
    origin: str
    invocation: str
    models: Mapping[str, PriceMatch | None]
    """Model to its price; None: no price is known."""
    prospect: Prospect
    ceiling: Ceiling
    repeats: Ceiling
    """The part of it that rows take which ask for the same as an earlier row."""
    is_exact: bool
    """The texts were counted with the model's own vocabulary."""
    counted_with: str
    overhead_tokens: int
    """Added to each local count; 0 unless measured."""
    overhead_source: str
    uncounted: frozenset[str]
    max_cost: Decimal | None
    set_aside_each: Decimal | None
    """By a limit on the cost, at most, for a call in flight; None: no bound, or no price."""
    calls_in_flight: int
    """At most."""
    sample: Sample | None = None
    remembered: Expectation | None = None
    """What an earlier sample said of the same prompt."""
    refusal: UsageError | None = None
    """Why a run would not start."""
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def rows(self) -> int:
        return self.prospect.rows

    @property
    def done(self) -> int:
        return self.prospect.done

    @property
    def to_send(self) -> int:
        """The rows of the sample included."""
        return self.prospect.to_send

    @property
    def usd_as_remembered(self) -> Point | Range | None:
        """What the rows to send take, by a sample of before; None with one of now, or without any."""
        if self.sample is not None or self.remembered is None or not self.to_send:
            return None
        return self.remembered.total(self.to_send)

    @property
    def rows_left(self) -> int:
        """That a run has still to send."""
        return self.to_send if self.sample is None else self.sample.rows_left

    @property
    def usd_left(self) -> Point | Range | None:
        """What those take, by a sample of now or of before."""
        return self.usd_as_remembered if self.sample is None else self.sample.usd_left

    @property
    def most_in_flight(self) -> int:
        """Calls of the run that is left."""
        return min(self.calls_in_flight, self.rows_left)

    @property
    def set_aside(self) -> Decimal | None:
        """While as many calls are in flight as the job allows, and rows are left for."""
        each = self.set_aside_each
        return None if each is None else each * self.most_in_flight

    @property
    def max_cost_with_room(self) -> Decimal | None:
        """A limit that keeps no call waiting while rows cost, and may have cost, no more than is likely."""
        most = self._likely_at_most
        return None if most is None or self.set_aside is None else most + self.set_aside

    @property
    def max_cost_enough(self) -> Decimal | None:
        """A limit that is likely not reached: its last calls may have to go out one by one."""
        most = self._likely_at_most
        return None if most is None or self.set_aside_each is None else most + self.set_aside_each

    @property
    def _likely_at_most(self) -> Decimal | None:
        told, usd = self.sample or self.remembered, self.usd_left
        return None if told is None or usd is None else usd.upper + told.in_doubt * self.rows_left

    def rows_covered(self, limit: Decimal) -> int | None:
        """How many of the rows left a limit is good for, at their expected cost."""
        usd, each = self.usd_left, self.set_aside_each
        if usd is None or each is None or not usd.expected:
            return None
        if limit < each:
            return 0
        return min(self.rows_left, 1 + int((limit - each) * self.rows_left / usd.expected))

    @property
    def dedupe_saves_usd(self) -> Decimal | None:
        """About what one call for equal rows would save; at most, without a sample."""
        if self.sample is not None and self.sample.usd is not None and self.to_send:
            return self.sample.usd.expected * self.repeats.requests / self.to_send
        return self.repeats.usd_at_most
