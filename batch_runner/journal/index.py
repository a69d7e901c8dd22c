"""Which results the journal holds and where: 38 to 45 bytes a row, 20 more for one that is superseded.

A dict of keys costs 150 to 200 bytes a row. Here keys lie end to end in one bytearray and a table
of 4-byte entry numbers finds them by open addressing. Keys are hashes already, so their own bits
choose the slot. numpy would not pay: rows come one at a time.
"""

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from sys import byteorder
from typing import NamedTuple, Self

from batch_runner.journal.packed import Packed
from batch_runner.records import ANSWERED, KEY_BYTES, RowStatus


_OFFSET_BITS = 44
_OFFSET_MASK = (1 << _OFFSET_BITS) - 1
_LENGTH_BITS = 32
_LENGTH_MASK = (1 << _LENGTH_BITS) - 1
_NO_RESULT = 0
_FIRST_SLOTS = 1024
_FILL = 0.7
"""The table grows when it is fuller than this; a miss then takes three steps."""


class Entry(NamedTuple):  # made for every row of an export: a third of a dataclass's time
    """The result that counts for one key: how it ended, and the line that holds the rest."""

    number: int
    """Stays the same while the index lives: 4 bytes are enough to remember it."""
    status: RowStatus
    code: str | None
    file: int
    """Position of the segment in `Index.files`."""
    offset: int
    length: int
    """Of the line, without its newline."""


class Index:
    """Key to the result that counts: the latest answer, or the latest failure if there is none."""

    def __init__(self) -> None:
        self.files: list[str] = []
        """Names of the segments that entries point into."""
        self._keys = bytearray()
        self._places = array("Q")  # file number above the lowest 44 bits, offset in them
        self._shapes = array("Q")  # ending number above the lowest 32 bits, length in them
        self._endings: list[tuple[RowStatus, str | None]] = [(RowStatus.PENDING, None)]
        self._ending_numbers = {self._endings[0]: _NO_RESULT}
        self._is_answer = [False]  # by ending
        self._table = array("I", bytes(4 * _FIRST_SLOTS))  # entry number + 1; 0: free
        self._others = array("I")  # entry number of each result that does not count
        self._other_places = array("Q")
        self._other_shapes = array("Q")
        self._by_number: array[int] | None = None  # their positions, by entry number

    def __len__(self) -> int:
        """Keys known, with a result or without."""
        return len(self._places)

    def add(self, key: bytes) -> int:
        """The key's entry number: a new one, counting from 0, if the key is new."""
        slot = self._slot(key)
        if taken := self._table[slot]:
            return taken - 1
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
        self._keys += key
        self._places.append(0)
        self._shapes.append(_NO_RESULT)
        count = self._table[slot] = len(self._places)
        if count > _FILL * len(self._table):
            self._grow()
        return count - 1

    def number(self, key: bytes) -> int | None:
        """The key's entry number; None when the key was never added."""
        taken = self._table[self._slot(key)]
        return taken - 1 if taken else None

    def key(self, number: int) -> bytes:
        return bytes(self._keys[number * KEY_BYTES : (number + 1) * KEY_BYTES])

    def entry(self, number: int) -> Entry | None:
        """None when the key has no result yet."""
        shape = self._shapes[number]
        return None if shape == _NO_RESULT else self._entry(number, self._places[number], shape)

    @property
    def has_superseded(self) -> bool:
        return bool(self._others)

    def superseded(self, number: int) -> Iterator[Entry]:
        """The key's results that do not count, in the order they were written; they were paid for."""
        others, places = self._others, self._other_places
        if self._by_number is None:
            positions = sorted(range(len(others)), key=lambda at: (others[at], places[at]))
            self._by_number = array("I", positions)
        order = self._by_number
        at = bisect_left(order, number, key=others.__getitem__)
        while at < len(order) and others[position := order[at]] == number:
            yield self._entry(number, places[position], self._other_shapes[position])
            at += 1

    def _entry(self, number: int, place: int, shape: int) -> Entry:
        status, code = self._endings[shape >> _LENGTH_BITS]
        file, offset = place >> _OFFSET_BITS, place & _OFFSET_MASK
        return Entry(number, status, code, file, offset, shape & _LENGTH_MASK)

    def last_placed(self) -> Entry | None:
        """The entry whose line lies last in the journal; None before the first result.

        Not always of the result written last: a failure after an answer leaves the entry where it is.
        """
        number = max(range(len(self)), key=self._places.__getitem__, default=None)
        return None if number is None else self.entry(number)

    def endings(self, numbers: Iterable[int]) -> Counter[tuple[RowStatus, str | None]]:
        """How these entries ended, counted; those without a result are pending."""
        shapes = self._shapes
        found = Counter(shapes[number] >> _LENGTH_BITS for number in numbers)
        return Counter({self._endings[ending]: count for ending, count in found.items()})

    def answers_by_file(self, numbers: Iterable[int]) -> Counter[int]:
        """How many of these entries are answers, by the file number of their segment."""
        places, shapes, is_answer = self._places, self._shapes, self._is_answer
        return Counter(
            places[n] >> _OFFSET_BITS for n in numbers if is_answer[shapes[n] >> _LENGTH_BITS]
        )

    def ending_of(self, number: int) -> int:
        """The number of an entry's ending: see `ending` and `named`."""
        return self._shapes[number] >> _LENGTH_BITS

    def file_of(self, number: int) -> int:
        """The file number of the segment that holds an entry's result; 0 without a result, too."""
        return self._places[number] >> _OFFSET_BITS

    @property
    def known_endings(self) -> Sequence[tuple[RowStatus, str | None]]:
        """By number; PENDING for entries without a result comes first."""
        return self._endings

    def named(self, ending: int) -> tuple[RowStatus, str | None]:
        return self._endings[ending]

    def find(self, key: bytes) -> Entry | None:
        number = self.number(key)
        return None if number is None else self.entry(number)

    def open_file(self, name: str) -> int:
        """The file number of a segment from which results are recorded next."""
        self.files.append(name)
        return len(self.files) - 1

    def ending(self, status: RowStatus, code: str | None) -> int:
        """A number for the pair: a job has few different ones."""
        number = self._ending_numbers.get((status, code))
        if number is None:
            number = self._ending_numbers[status, code] = len(self._endings)
            self._endings.append((status, code))
            self._is_answer.append(status in ANSWERED)
        return number

    def record(self, key: bytes, ending: int, file: int, offset: int, length: int) -> int:
        """The key's entry number; this result is its entry now, unless a failure follows an answer."""
        number = self.add(key)
        place, shape = file << _OFFSET_BITS | offset, ending << _LENGTH_BITS | length
        before = self._shapes[number]
        if not self._is_answer[before >> _LENGTH_BITS] or self._is_answer[ending]:
            self._places[number], place = place, self._places[number]
            self._shapes[number], shape = shape, before
        if shape != _NO_RESULT:
            self._others.append(number)
            self._other_places.append(place)
            self._other_shapes.append(shape)
            self._by_number = None
        return number

    def packed(self) -> Packed:
        """All of it, for `unpacked`."""
        return Packed(
            facts={"files": self.files, "endings": self._endings[1:]},
            arrays={
                "keys": array("B", self._keys),
                "places": self._places,
                "shapes": self._shapes,
                "table": self._table,
                "others": self._others,
                "other_places": self._other_places,
                "other_shapes": self._other_shapes,
            },
        )

    @classmethod
    def unpacked(cls, packed: Packed) -> Self:
        """The index that was packed, with the same entry numbers."""
        index = cls()
        index.files = list(packed.facts["files"])
        for status, code in packed.facts["endings"]:
            index.ending(RowStatus(status), code)
        arrays = packed.arrays
        index._keys = bytearray(arrays["keys"])
        index._places, index._shapes = arrays["places"], arrays["shapes"]
        index._table, index._others = arrays["table"], arrays["others"]
        index._other_places, index._other_shapes = arrays["other_places"], arrays["other_shapes"]
        return index

    def _slot(self, key: bytes) -> int:
        """Where the table holds the key's entry, or would."""
        table = self._table
        keys = self._keys
        mask = len(table) - 1
        slot = int.from_bytes(key[:8], byteorder) & mask
        step = 1
        while (taken := table[slot]) and keys[(taken - 1) * KEY_BYTES : taken * KEY_BYTES] != key:
            slot = (slot + step) & mask  # steps of 1, 2, 3 ... reach every slot of a power of two
            step += 1
        return slot

    def _grow(self) -> None:
        """The table has twice the slots."""
        size = 2 * len(self._table)
        self._table = table = array("I", bytes(4 * size))
        mask = size - 1
        with memoryview(self._keys) as keys, keys.cast("Q") as halves:
            for count, bits in enumerate(halves[::2], 1):
                slot = bits & mask
                step = 1
                while table[slot]:
                    slot = (slot + step) & mask
                    step += 1
                table[slot] = count
