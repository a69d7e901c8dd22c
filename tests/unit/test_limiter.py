"""The limiter on an event loop whose time is simulated: no test waits, and no test is late."""

import asyncio
import itertools
import random
import time

import anyio
import anyio.lowlevel
import pytest

from batch_runner.concurrency import Concurrency
from batch_runner.limiter import Limiter


class SimulatedTime(asyncio.SelectorEventLoop):
    """Jumps to the next timer when nothing else is left to do."""

    now = 0.0

    def time(self):
        return self.now

    def _run_once(self):
        if not self._ready and self._scheduled:
            self.now = max(self.now, self._scheduled[0].when())
        super()._run_once()


def play(story):
    return anyio.run(story, backend_options={"loop_factory": SimulatedTime})


def fixed(places, **options):
    return Limiter(Concurrency.parse(places), jitter=lambda: 0.5, **options)


async def send(limiter, sent, seconds=1.0, **options):
    async with limiter.slot(**options) as slot:
        sent.append(anyio.current_time())
        await anyio.sleep(seconds)
        slot.succeeded()


def test_no_more_attempts_run_than_there_are_places():
    async def story():
        limiter, running, most = fixed(3), 0, 0

        async def attempt():
            nonlocal running, most
            async with limiter.slot() as slot:
                running += 1
                most = max(most, running)
                assert limiter.in_flight == running
                await anyio.sleep(1)
                running -= 1
                slot.succeeded()

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(attempt)
        return most, limiter.in_flight, limiter.held, anyio.current_time()

    assert play(story) == (3, 0, 0, 4.0)


@pytest.mark.parametrize("concurrency", ["auto", 20])
def test_retry_after_is_a_floor_for_everybody(concurrency):
    async def story():
        limiter = Limiter(Concurrency.parse(concurrency), jitter=random.Random(1).random)
        sent = []
        async with anyio.create_task_group() as tasks:
            async with limiter.slot() as slot:
                for _ in range(5):
                    tasks.start_soon(send, limiter, sent, 30)
                await anyio.sleep(2)
                slot.rate_limited(7.0)
                refused = anyio.current_time()
            for _ in range(10):
                tasks.start_soon(send, limiter, sent)
        return refused, sent

    refused, sent = play(story)
    assert sum(at <= refused for at in sent) == 5
    assert min(at for at in sent if at > refused) >= refused + 7.0


def test_a_longer_wait_prolongs_the_cool_down_and_a_shorter_one_does_not_end_it():
    async def story():
        limiter, sent = fixed(5), []
        limiter.cool_down(3.0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send, limiter, sent)
            await anyio.sleep(2.9)
            limiter.cool_down(10.0)
            limiter.cool_down(1.0)
            assert limiter.cooling_seconds(anyio.current_time()) == pytest.approx(10.0)
        return sent

    assert play(story)[0] >= 12.9


def herd(jitter, callers=500):
    async def story():
        limiter, sent = Limiter(Concurrency.parse(callers), jitter=jitter), []
        limiter.cool_down(5.0)
        async with anyio.create_task_group() as tasks:
            for _ in range(callers):
                tasks.start_soon(send, limiter, sent)
        return sent

    sent = play(story)
    return max(sum(start <= at < start + 0.1 for at in sent) for start in sent), min(sent)


def test_callers_leave_a_cool_down_spread_out():
    most_in_100ms, first = herd(random.Random(1).random)
    assert most_in_100ms < 125
    assert first >= 5.0
    most_in_100ms, _ = herd(lambda: 0.0)
    assert most_in_100ms == 500  # the control: a herd would have been seen


def test_a_small_herd_leaves_together():
    most_in_100ms, first = herd(random.Random(1).random, callers=24)
    assert most_in_100ms == 24
    assert first >= 5.0


def test_a_turn_that_comes_during_a_cool_down_is_not_taken():
    async def story():
        limiter, sent = fixed(10, rpm=60), []
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(send, limiter, sent)
            await anyio.sleep(0.5)
            limiter.cool_down(4.0)
        return sent

    sent = play(story)
    assert sent[0] == 0.0
    assert sent[1] >= 4.5
    assert sent[2] >= sent[1] + 1.0 - 1e-6


def test_rpm_spreads_attempts_evenly():
    async def story():
        limiter, sent = fixed(50, rpm=600), []
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(send, limiter, sent)
        return sent

    gaps = [after - before for before, after in itertools.pairwise(play(story))]
    assert all(gap == pytest.approx(0.1) for gap in gaps)


def test_tpm_counts_what_was_used_in_the_end():
    async def story():
        limiter, sent = fixed(1, tpm=6000), []
        for actual in (100, 1000, 100):
            async with limiter.slot(tokens=500) as slot:
                sent.append(anyio.current_time())
                slot.succeeded(tokens=actual)
        return sent

    assert play(story) == pytest.approx([0.0, 1.0, 11.0])


def test_a_request_larger_than_the_minute_is_sent_all_the_same():
    async def story():
        limiter, sent = fixed(4, tpm=600), []
        async with anyio.create_task_group() as tasks:
            for tokens in (6000, 10):
                tasks.start_soon(lambda n=tokens: send(limiter, sent, tokens=n))
        return sent

    assert play(story) == pytest.approx([0.0, 600.0])


@pytest.mark.parametrize("stage", ["cool-down", "place", "turn", "attempt"])
def test_a_cancelled_caller_gives_everything_back(stage):
    async def story():
        limiter = fixed(1, rpm=6, tpm=600)
        sent = []
        if stage == "cool-down":
            limiter.cool_down(100.0)
        if stage in ("place", "turn"):
            async with limiter.slot(tokens=10) as slot:
                slot.succeeded(tokens=10)
                if stage == "place":
                    with anyio.move_on_after(1):
                        await send(limiter, sent, tokens=100)
        with anyio.move_on_after(2):
            await send(limiter, sent, seconds=50, tokens=100 if stage != "attempt" else 10)
        assert limiter.held == limiter.in_flight == 0
        assert limiter.places.borrowed_tokens == 0
        begun = anyio.current_time()
        await send(limiter, sent, tokens=10)
        return sent[-1] - begun

    waited = play(story)
    if stage == "cool-down":
        assert waited == pytest.approx(98.0)  # what is left of it
    else:
        # Ten seconds after the one attempt that was sent, not after the cancelled ones.
        assert waited <= 8.0 + 1e-6


def test_a_caller_that_was_cancelled_while_waiting_does_not_hold_up_the_next():
    async def story():
        limiter, sent = fixed(1), []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send, limiter, sent, 5.0)
            await anyio.lowlevel.checkpoint()
            with anyio.move_on_after(1):
                await send(limiter, sent)
            await send(limiter, sent)
        return sent

    assert play(story) == pytest.approx([0.0, 5.0])


def test_an_exception_in_the_attempt_gives_the_place_back():
    async def story():
        limiter = fixed(1)
        with pytest.raises(OSError, match="gone"):
            async with limiter.slot():
                raise OSError("gone")
        return limiter.held, limiter.in_flight, limiter.places.borrowed_tokens

    assert play(story) == (0, 0, 0)


def test_only_the_first_word_about_an_attempt_counts():
    async def story():
        limiter = fixed(2)
        async with limiter.slot() as slot:
            slot.succeeded()
            slot.rate_limited(100.0)
            slot.server_error()
        return limiter.rate_limited, limiter.in_flight, limiter.cooling_seconds(0.0)

    assert play(story) == (0, 0, 0)


@pytest.mark.parametrize("said", [None, 0.0, -5.0, float("nan"), float("inf")])
def test_without_a_usable_retry_after_the_limiter_has_a_pause_of_its_own(said):
    async def story():
        limiter = fixed(2)
        async with limiter.slot() as good:
            good.succeeded()
        async with limiter.slot() as slot:
            slot.rate_limited(said)
        return limiter.cooling_seconds(anyio.current_time()), limiter.rate_limited

    assert play(story) == (1.0, 1)


def test_the_reader_waits_until_there_is_room():
    async def story():
        limiter, log = fixed(2), []
        async with anyio.create_task_group() as tasks:
            for row in range(5):
                await limiter.room()
                log.append((row, anyio.current_time()))
                tasks.start_soon(send, limiter, [], 1.0)
                await anyio.lowlevel.checkpoint()
        return log

    assert play(story) == [(0, 0.0), (1, 0.0), (2, 1.0), (3, 1.0), (4, 2.0)]


def test_the_reader_is_called_when_the_limit_grows():
    async def story():
        limiter = Limiter(Concurrency(minimum=1, start=2, maximum=50))
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                with anyio.fail_after(30):
                    await limiter.room()
                tasks.start_soon(send, limiter, [])
                await anyio.lowlevel.checkpoint()
        return limiter.limit

    assert play(story) > 10


# --- headers


def with_headers(headers, replies=3):
    async def story():
        limiter, sent = fixed(1), []
        for _ in range(replies):
            async with limiter.slot(tokens=50) as slot:
                sent.append(anyio.current_time())
                slot.succeeded(headers=headers)
        return sent

    return play(story)


def test_an_exhausted_budget_is_waited_for_instead_of_refused():
    empty = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2s"}
    sent = with_headers(empty)
    assert sent[1] - sent[0] >= 2.0
    tokens = {"x-ratelimit-remaining-tokens": "49", "x-ratelimit-reset-tokens": "4s"}
    assert with_headers(tokens)[1] >= 4.0


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "60s"},
        {"x-ratelimit-remaining-requests": "-1", "x-ratelimit-reset-requests": "60"},
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "-1"},
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "tomorrow"},
        {"x-ratelimit-remaining-requests": "0"},
    ],
)
def test_headers_that_say_nothing_hold_nothing_up(headers):
    assert with_headers(headers) == [0.0, 0.0, 0.0]


def test_no_header_holds_the_run_up_for_more_than_a_minute():
    year = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "8760h"}
    sent = with_headers(year, replies=2)
    assert 60 <= sent[1] - sent[0] <= 61


def test_a_server_that_always_says_none_left_is_not_believed_for_ever():
    stuck = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "60s"}
    sent = with_headers(stuck, replies=60)
    assert sent[-1] - sent[30] == 0.0


# --- the whole, against an endpoint


class Endpoint:
    """Admits `places` at once, or `per_second` with one second's burst, in simulated time."""

    def __init__(self, *, places=None, per_second=None):
        self.places, self.per_second = places, per_second
        self.busy = self.refused = 0
        self.tokens, self.at = per_second or 0.0, 0.0
        self.random = random.Random(1)

    def admits(self):
        if self.places is not None:
            return self.busy < self.places
        now = anyio.current_time()
        self.tokens = min(self.per_second, self.tokens + (now - self.at) * self.per_second)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    async def answer(self):
        await anyio.sleep(0.02)
        if not self.admits():
            self.refused += 1
            await anyio.sleep(0.02)
            return 429
        self.busy += 1
        await anyio.sleep(self.random.lognormvariate(0, 0.5) / 1.133)
        self.busy -= 1
        return 200


@pytest.mark.parametrize(
    ("endpoint", "ideal"), [({"places": 5}, 4.8), ({"places": 30}, 28.8), ({"per_second": 50}, 50)]
)
def test_the_limiter_reaches_a_hidden_limit_without_running_into_it(endpoint, ideal):
    async def story():
        limiter = Limiter(Concurrency.parse("auto"), jitter=random.Random(2).random)
        server, served = Endpoint(**endpoint), []
        most = 0

        async def caller():
            nonlocal most
            while anyio.current_time() < 60:
                async with limiter.slot() as slot:
                    assert limiter.cooling_seconds(anyio.current_time()) == 0
                    most = max(most, limiter.in_flight)
                    if await server.answer() == 200:
                        served.append(anyio.current_time())
                        slot.succeeded()
                    else:
                        slot.rate_limited(1.0)

        async with anyio.create_task_group() as tasks:
            for _ in range(120):
                tasks.start_soon(caller)
        return served, server.refused, limiter, most

    served, refused, limiter, most = play(story)
    assert sum(30 <= at < 60 for at in served) / 30 >= 0.9 * ideal
    assert refused / (refused + len(served)) < 0.03
    assert limiter.rate_limited == refused
    assert most <= 120
    assert limiter.events


def drained(rows, seconds, refusals=0, concurrency="auto"):
    """Seconds that so many rows take, each refused so often before it is served."""

    async def story():
        limiter = Limiter(Concurrency.parse(concurrency), jitter=random.Random(1).random)

        async def row():
            for attempt in range(refusals + 1):
                async with limiter.slot(again=attempt > 0) as slot:
                    await anyio.sleep(0.002)
                    if attempt < refusals:
                        slot.rate_limited(1.0)
                    else:
                        await anyio.sleep(seconds)
                        slot.succeeded()

        async with anyio.create_task_group() as tasks:
            for _ in range(rows):
                await limiter.room()
                tasks.start_soon(row)
                await anyio.lowlevel.checkpoint()
        return anyio.current_time()

    return play(story)


def test_the_opening_pace_grows_by_round_trips_not_by_the_second():
    assert drained(200, 0.005) < 0.5
    assert drained(200, 0.3) < 5


def test_an_endpoint_that_refuses_each_row_once_does_not_cost_a_pause_a_row():
    assert drained(100, 0.02, refusals=1) < 30


def test_a_long_run_against_such_an_endpoint_finds_a_pace_of_its_own():
    assert drained(1000, 1.0, refusals=1) < 80


def test_refusals_at_random_hold_nobody_back_for_long():
    """A herd that leaves a cool-down one by one would be sent back by the first of them refused."""

    async def story():
        source = random.Random(1)
        limiter = Limiter(Concurrency.parse("auto"), jitter=random.Random(2).random)
        served = []

        async def caller():
            again = False
            while anyio.current_time() < 240:
                async with limiter.slot(again=again) as slot:
                    await anyio.sleep(0.04)
                    again = source.random() < 0.2
                    if again:
                        slot.rate_limited(1.0)
                        continue
                    await anyio.sleep(0.3)
                    slot.succeeded()
                    served.append(anyio.current_time())

        async with anyio.create_task_group() as tasks:
            for _ in range(200):
                tasks.start_soon(caller)
        return served

    assert sum(at > 120 for at in play(story)) / 120 > 40  # it was 1


@pytest.mark.benchmark
def test_cost_of_an_uncontended_attempt(capsys):
    async def story(limiter, headers):
        begun = time.process_time()
        for _ in range(20_000):
            async with limiter.slot(tokens=100) as slot:
                slot.succeeded(tokens=100, headers=headers)
        return (time.process_time() - begun) / 20_000 * 1e6

    import httpx

    plain = {
        f"x-ratelimit-{k}-{w}": "100"
        for k in ("limit", "remaining", "reset")
        for w in ("requests", "tokens")
    }
    big = httpx.Headers({**plain, **{f"x-{n}": "v" for n in range(12)}})
    for name, headers in (("none", None), ("dict", plain), ("httpx", big)):
        limiter = Limiter(Concurrency.parse(64))
        cost = anyio.run(story, limiter, headers)
        adaptive = Limiter(Concurrency.parse("auto"))
        adaptive.adaptive._pace = 1e9
        cost_adaptive = anyio.run(story, adaptive, headers)
        with capsys.disabled():
            print(  # noqa: T201 - a benchmark reports
                f"\nslot, headers {name}: fixed {cost:.1f} us, auto {cost_adaptive:.1f} us"
            )
