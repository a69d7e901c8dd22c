"""Calls in flight as the journal tells of them: begun, queued at the endpoint, answered, lost."""

from binascii import unhexlify

from batch_runner.journal import record
from batch_runner.journal.scan import Segment
from batch_runner.records import Pending


Attempts = list[tuple[object, bytes]]
"""Writers, and the line of the intent that each wrote."""


class Flights:
    """Attempts begun and not yet answered, of one process at a time."""

    def __init__(self) -> None:
        self.open: dict[bytes, list[bytes]] = {}
        """Key to intent lines. A result ends all attempts of its key: it tells of them itself."""
        self.queued: dict[bytes, str] = {}
        """Key to the id of the background response that its last attempt brought."""
        self.waiting: dict[bytes, Attempts] = {}
        """Key to such attempts, until a result tells of them."""
        self.lost: Attempts = []
        """They were in flight when their process died."""
        self.unread: Attempts = []
        """Their process closed in order: it had told of them where there is damage."""
        self.ended: set[object] = set()
        """Writers that closed in order."""
        self._writer: object = None

    @property
    def undecided(self) -> int:
        """Attempts that a living process may still tell of."""
        return sum(map(len, self.open.values())) + sum(map(len, self.waiting.values()))

    def enter(self, segment: Segment) -> None:
        """Attempts of an earlier process that are still open will never be answered."""
        if segment.writer != self._writer:
            self.land()
        self._writer = segment.writer

    def close(self) -> None:
        """The process that is read now closed in order."""
        self.ended.add(self._writer)

    def begin(self, name: bytes, line: bytes) -> None:
        """Whoever is asked anew no longer waits for the response of before."""
        self.open.setdefault(name, []).append(line)
        self.queued.pop(name, None)

    def queue(self, name: bytes, line: bytes) -> None:
        """The last attempt is no longer in flight: whoever asks for its id hears the end of it."""
        self.queued[name] = record.read_queued(line)
        if intents := self.open.get(name):
            self.waiting.setdefault(name, []).append((self._writer, intents.pop()))

    def told(self, name: bytes, line: bytes) -> None:
        """A result ends the waiting, unless it says that the response is still being made."""
        self.waiting.pop(name, None)
        if name not in self.queued:
            return
        result = record.read_result(line)
        if result.reply is not None or result.response_id != self.queued[name]:
            del self.queued[name]

    def pending(self) -> dict[bytes, Pending]:
        return {
            unhexlify(name): Pending(
                response_id=response_id, attempts_untold=int(name in self.waiting)
            )
            for name, response_id in self.queued.items()
        }

    def untold(self) -> tuple[Attempts, Attempts]:
        """`lost` and `unread` as they are if the process that is read now writes no more."""
        lost, unread = [*self.lost], [*self.unread]
        for name, intents in self.open.items():
            # One that is still waited for was told of by nobody, however its process closed.
            was_told = self._writer in self.ended and name not in self.queued
            kind = unread if was_told else lost
            kind.extend((self._writer, intent) for intent in intents)
        return lost, unread

    def land(self) -> None:
        self.lost, self.unread = self.untold()
        self.open.clear()
        # Of several, a later process asks for the last one only, and its result tells of no other.
        for name, attempts in tuple(self.waiting.items()):
            self.waiting[name] = attempts[-1:] if name in self.queued else []
            self.lost.extend(attempts[: len(attempts) - len(self.waiting[name])])
            if not self.waiting[name]:
                del self.waiting[name]
