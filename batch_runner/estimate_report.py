"""An estimate in words, and as JSON."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from batch_runner.amounts import count, dollars, dollars_at_least, dollars_at_most, duration, many
from batch_runner.estimate import Point, Range, describe
from batch_runner.estimated import ASSUMED, MEASURED, Estimate, Sample
from batch_runner.expectation import Expectation
from batch_runner.money_view import at_most_words, bound_words
from batch_runner.pricing import price_advice
from batch_runner.prospect import Prospect
from batch_runner.remedy import command


SAMPLE = 30
"""Rows that give a likely range; of fewer, running them all tells as much."""


def estimate_lines(found: Estimate) -> Iterator[str]:
    """For people: what is known, what is likely, and what to do next."""
    yield f"{found.job}: {_rows(found)}"
    for model, match in found.models.items():
        price = f"no price is known; {price_advice(model)}" if match is None else match.describe()
        yield f"model    {model}: {price}"
    if not found.to_send and found.sample is None:
        yield "cost     nothing is left to send"
        yield from (f"note     {note}" for note in found.notes)
        return
    yield from _ceilings(found)
    if found.repeats.requests:
        yield f"dedupe   {_dedupe(found)}"
    if found.sample is not None:
        yield from _sample_lines(found, found.sample)
    elif (usd := found.usd_as_remembered) is not None and found.remembered is not None:
        rows = many(found.to_send, "row")
        yield f"cost     {describe(usd, dollars)}, for {rows}, {_by_sample(found.remembered)}"
        for caution in usd.cautions:
            yield f"caution  {caution}"
    elif found.to_send > SAMPLE:
        yield f"         estimate --sample {SAMPLE} runs {SAMPLE} real rows (and keeps them) for a likely range"
    for note in found.notes:
        yield f"note     {note}"
    yield from _limits(found)
    if found.refusal is not None:
        yield f"next     a run would refuse to start: {found.refusal}"
        yield from [f"         {found.refusal.hint}"] * bool(found.refusal.hint)
    elif found.to_send:
        yield f"next     {command('run', found.invocation)}"


def _limits(found: Estimate) -> Iterator[str]:
    """The one that the job has, one that does no harm, and what either does."""
    limit, room, enough = found.max_cost, found.max_cost_with_room, found.max_cost_enough
    if limit is not None:
        yield f"limit    max_cost {dollars(limit)} {_kept(found)}{_sufficing(found, limit)}"
    typed = [None if n is None else dollars_at_most(n).lstrip("$").replace(",", "")
             for n in (enough, room)]  # fmt: skip
    if enough and (limit is None or limit < enough) and typed[0] != typed[1]:
        yield f"limit    --max-cost {typed[0]} {_enough(found, enough)}"
    if room and (limit is None or limit < room):
        yield f"limit    --max-cost {typed[1]} {_ROOM}"
    each, calls = found.set_aside_each, found.most_in_flight
    if each and (room or limit is not None):
        all_of_them = f" ({dollars_at_most(found.set_aside)} for {calls:,})" if calls > 1 else ""
        yield (
            f"         each call in flight sets {dollars_at_most(each)} aside{all_of_them}: "
            "reckoned with a token for each byte sent, more than the total counts"
        )


_ROOM = "leaves room: likely it is not reached, and no call waits for it"


def _enough(found: Estimate, limit: Decimal) -> str:
    """What a limit does that is likely not reached: whether only the last calls wait, or all do."""
    each, most = found.set_aside_each, found.most_in_flight
    at_first = int(limit / each) if each else most
    if at_first >= most:
        return "is likely enough: the last calls may have to wait for one another"
    return (
        f"is likely enough, but from the start calls may wait: of {most:,} at a time there is room "
        f"for about {at_first:,} of the largest"
    )


def _sufficing(found: Estimate, limit: Decimal) -> str:
    """Whether the limit is likely to let the run end by itself; nothing where no sample tells."""
    room, enough, rows = found.max_cost_with_room, found.max_cost_enough, found.rows_covered(limit)
    if not room or not enough:
        return ""
    if limit >= enough:
        return f", and {_ROOM if limit >= room else _enough(found, limit)}"
    if rows is None or rows >= found.rows_left:
        return ", and may be too little"
    if not rows:
        return ", and is less than one call may cost"
    return f", likely after about {rows:,} of {many(found.rows_left, 'row')}"


def _kept(found: Estimate) -> str:
    """How a run keeps to the limit of the job."""
    if found.to_send and None in found.models.values():
        return "cannot be kept without a price"
    if found.set_aside_each is None:
        return "ends a run; as nothing bounds what a call costs, those in flight may pass it"
    return "stops a run before it spends more"


def sample_question(found: Estimate, sample: int, most: Decimal | None) -> str:
    """Asks for leave to spend: `most` is what the sample can cost at most."""
    cost = "a cost that nothing bounds" if most is None else at_most_words(most)
    rows = many(min(sample, found.to_send), "row")
    return f"run {rows} of {found.job} {'' if most == 0 else 'for '}{cost}?"


def _rows(found: Estimate) -> str:
    plan = found.prospect
    sending = plan.sending() + (" before the sample" if found.sample is not None else "")
    return ", ".join([many(plan.rows, "row"), sending, *plan.resting(), *_others(plan)])


def _others(plan: Prospect) -> Iterator[str]:
    if plan.copies:
        yield f"{plan.copies:,} answered by the call of another"
    if plan.without_request:
        yield f"{plan.without_request:,} without a request"


def _ceilings(found: Estimate) -> Iterator[str]:
    ceiling = found.ceiling
    about = "" if found.is_exact else "about "
    usd = ceiling.input_usd
    price = "" if usd is None else f": {about}{dollars(usd)} before any cache discount"
    yield f"input    {about}{count(ceiling.input_tokens)} tokens ({_how_counted(found)}){price}"
    if found.uncounted:
        yield f"         not counted: {', '.join(sorted(found.uncounted))}"
    out = ceiling.output_tokens_at_most
    cap = "no upper bound: request.max_output_tokens is not set"
    yield f"output   {cap if out is None else f'at most {count(out)} tokens, by max_output_tokens'}"
    if any(found.models.values()):
        asked_once = ", with one call for each row" if ceiling.usd_at_most else ""
        yield f"total    {at_most_words(ceiling.usd_at_most)}{asked_once}"


def _how_counted(found: Estimate) -> str:
    here = f"counted with {found.counted_with}"
    if found.overhead_source == ASSUMED:
        return f"{here}; what the endpoint adds to each request is assumed"
    who = (
        "the sampled requests took" if found.overhead_source == MEASURED else "the endpoint counts"
    )
    more = found.overhead_tokens
    if not more:
        return f"{here}; {who} as many"
    return f"{here}; {who} {many(abs(more), 'token')} {'more' if more > 0 else 'fewer'} each"


def _dedupe(found: Estimate) -> str:
    saved = found.dedupe_saves_usd
    same = found.repeats.requests
    rows = f"{many(same, 'row')} {'asks' if same == 1 else 'ask'} for the same as another"
    if saved is None:
        return f"{rows}: --dedupe would save so many calls, {dollars(found.repeats.input_usd)} of input alone"
    is_sampled = found.sample is not None and found.sample.usd is not None
    amount = f"about {dollars(saved)}" if is_sampled else f"at most {dollars_at_most(saved)}"
    return f"{rows}: --dedupe would save {amount}"


def _sample_lines(found: Estimate, sample: Sample) -> Iterator[str]:
    bill = sample.bill
    share = (
        f", {100 * bill.tokens.cached / bill.tokens.input:.0f} % of their input from the cache"
        if bill.tokens.cached
        else ""
    )
    were = "row was run and is" if sample.rows == 1 else "rows were run and are"
    yield f"sample   {sample.rows:,} {were} kept as finished, for {bound_words(bill)}{share}"
    if silent := sample.rows - sample.known:
        yield f"         {silent:,} of them tell nothing of the others: no known cost, or bad luck"
    of_all = f"for all {found.to_send:,}" if found.to_send > 1 else "for the row"
    included = ", those of the sample included" if found.to_send > 1 else ""
    tokens = _projection(sample.output_tokens, lambda n: count(float(n)))
    yield f"tokens   out: {tokens}, {of_all}{included}"
    if sample.usd is not None:
        # Of a sample that was all rows nothing is projected.
        is_known = sample.known == found.to_send
        usd = dollars_at_least(sample.usd.expected) if is_known else describe(sample.usd, dollars)
        yield f"cost     {usd}, {of_all}"
    yield f"left     {_left(sample)}"
    yield f"time     {_projection(sample.seconds, lambda s: duration(float(s)))}, {of_all}"
    if sample.seconds is not None:
        yield f"         {_time_rests_on(sample)}"
    for caution in sample.cautions:
        yield f"caution  {caution}"


def _by_sample(remembered: Expectation) -> str:
    at = remembered.at
    when = "before" if at is None else f"on {datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
    return (
        f"by {many(remembered.sampled, 'row')} sampled {when} with this prompt, at the prices of then; "
        "other rows may differ"
    )


def _left(sample: Sample) -> str:
    """What is still to be paid."""
    if not sample.rows_left:
        return "no row to pay for: the run only writes the output"
    rows = f"{many(sample.rows_left, 'row')} to pay for"
    return rows if sample.usd_left is None else f"{rows}: {describe(sample.usd_left, dollars)}"


def _time_rests_on(sample: Sample) -> str:
    """Endpoints answer more slowly the more they are asked, and how much is not known before."""
    calls = f"{many(sample.calls_at_a_time, 'call')} at a time"
    fewer = min(sample.rows, sample.calls_at_a_time)
    but = f", which had {fewer:,} at a time" if fewer < sample.calls_at_a_time else ""
    return f"with {calls}, as quick as the sample's{but}; repeats and waits for rate limits come on top"


def _projection(amount: Point | Range | None, show: Callable[[Decimal], str]) -> str:
    return "unknown: no sampled row told" if amount is None else describe(amount, show)


def estimate_json(found: Estimate) -> dict[str, Any]:
    """For `--json`; dollars as numbers."""
    sample = found.sample
    return {
        "job": found.job,
        "rows": found.rows,
        "to_send": found.to_send,
        "done": found.done,
        "copies": found.prospect.copies,
        "without_request": found.prospect.without_request,
        "plan": found.prospect.to_json(),
        "duplicates": found.repeats.requests,
        "dedupe_saves_usd": _number(found.dedupe_saves_usd),
        "input_tokens": found.ceiling.input_tokens,
        "input_tokens_exact": found.is_exact,
        "counted_with": found.counted_with,
        "overhead_tokens": found.overhead_tokens,
        "overhead_source": found.overhead_source,
        "not_counted": sorted(found.uncounted),
        "output_tokens_at_most": found.ceiling.output_tokens_at_most,
        "input_usd": _number(found.ceiling.input_usd),
        "usd_at_most": _number(found.ceiling.usd_at_most),
        "prices": {
            model: None if match is None else match.to_json()
            for model, match in found.models.items()
        },
        "max_cost": _number(found.max_cost),
        "max_cost_enough": _number(found.max_cost_enough),
        "max_cost_with_room": _number(found.max_cost_with_room),
        "max_cost_set_aside_each": _number(found.set_aside_each),
        "sample": None if sample is None else _sample_json(sample),
        "usd_as_remembered": _projection_json(found.usd_as_remembered),
        "remembered_sample": None if found.remembered is None else found.remembered.to_json(),
        "refusal": None if found.refusal is None else str(found.refusal),
        "notes": list(found.notes),
    }


def _sample_json(sample: Sample) -> dict[str, Any]:
    return {
        "rows": sample.rows,
        "known_rows": sample.known,
        "output_tokens": _projection_json(sample.output_tokens),
        "usd": _projection_json(sample.usd),
        "seconds": _projection_json(sample.seconds),
        "rows_left": sample.rows_left,
        "usd_left": _projection_json(sample.usd_left),
        "calls_at_a_time": sample.calls_at_a_time,
        "cautions": [caution.name.lower() for caution in sample.cautions],
        "bill": sample.bill.to_json(),
    }


def _projection_json(amount: Point | Range | None) -> dict[str, float | None] | None:
    if amount is None:
        return None
    ends = (amount.low, amount.high) if isinstance(amount, Range) else (None, None)
    return {"low": _number(ends[0]), "expected": _number(amount.expected), "high": _number(ends[1])}


def _number(amount: Decimal | None) -> float | None:
    return None if amount is None else float(amount)
