"""Whether refusals follow the load at all: some gateways refuse at random, or each row once."""

import math


STRIKES = 7  # refusals, each forgiven by so many attempts that got in:
FORGIVEN_BY, UNPROVOKED_BY = 60, 600
ONCE_EACH = 4  # first attempts refused, and as many second ones served, without exception
DOUBTED_SECONDS, LONGEST_DOUBT_SECONDS = 60.0, 960.0  # twice as long each time that it holds
TELLING = 10  # refusals without which a share of them says nothing
SHARE_ONCE_EACH = 0.6  # more than an endpoint refuses that refuses each row once
SHARE_AT_RANDOM = 0.45  # more than one refuses that is of any use


class Doubt:
    """Refusals are not heeded for a minute, then for two, and so on, if they come whatever was cut.

    All the more if nothing had grown: what is held at what got in is refused by chance, or for what
    others send. The same if first attempts are refused and their repeats are not. More load then
    brings no more of them; if it does, the doubt was wrong and the next one needs twice as much.
    """

    def __init__(self) -> None:
        self._strikes = 0.0
        self._needed = 1
        self._first_refused = self._again_served = 0
        self._refused = self._begun = 0  # since the first strike, or since the doubt began
        self.each_once = False
        """Whether it doubts because each row was refused once."""
        self._share = 0.0  # of attempts refused, before the doubt
        self._until = -math.inf
        self._seconds = DOUBTED_SECONDS  # of the next

    def begin(self) -> None:
        self._begun += 1

    def served(self, *, again: bool) -> None:
        if again:
            self._again_served += 1
        else:
            self._first_refused = self._again_served = 0

    def count(self) -> None:
        """An attempt was refused."""
        self._refused += 1

    def judge(self, *, again: bool, got_in: int, provoked: bool, now: float) -> None:
        """The first refusal of an episode; `got_in` attempts since the one before were not.

        `provoked`: more had been tried than what got in before.
        """
        if again:
            self._first_refused = self._again_served = 0
        else:
            self._first_refused += 1
        if got_in:
            forgiven = got_in / (FORGIVEN_BY if provoked else UNPROVOKED_BY)
            self._strikes = max(0.0, self._strikes - forgiven) + 1
        if self._strikes == 1 and now >= self._until:
            self._refused, self._begun = 1, 1

    def begins(self, now: float) -> bool:
        """Whether refusals have lost their credit just now."""
        each_once = min(self._first_refused, self._again_served) >= ONCE_EACH * self._needed
        if now < self._until or not (each_once or self._strikes >= STRIKES * self._needed):
            return False
        self.each_once = each_once
        self._until = now + self._seconds
        self._seconds = min(2 * self._seconds, LONGEST_DOUBT_SECONDS)
        self._share = self._refused / max(1, self._begun)
        self._refused = self._begun = self._first_refused = self._again_served = 0
        return True

    def lasts(self, now: float) -> bool:
        return now < self._until

    def was_wrong(self, now: float) -> bool:
        """Whether more load has brought more refusals: then they are heeded from now on."""
        share = self._refused / max(1, self._begun)
        most = SHARE_ONCE_EACH if self.each_once else SHARE_AT_RANDOM
        if not self.lasts(now) or self._refused < TELLING or share <= min(2 * self._share, most):
            return False
        self._until, self._strikes = now, 0.0
        self._seconds = DOUBTED_SECONDS
        self._needed *= 2
        return True
