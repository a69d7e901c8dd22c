"""The name that was probably meant by one that is none."""

import difflib
from collections.abc import Iterable


NEAR = 0.6


def nearest(word: str, choices: Iterable[str], *, cutoff: float = NEAR) -> str | None:
    """The choice that is most like the word, capitals aside; None where none is like it."""
    spelled = {choice.lower(): str(choice) for choice in choices}
    near = difflib.get_close_matches(word.lower(), spelled, n=1, cutoff=cutoff)
    return spelled[near[0]] if near else None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """What a message about the word goes on with: that choice, or nothing."""
    near = nearest(word, choices)
    return "" if near is None else f", did you mean {near!r}?"
