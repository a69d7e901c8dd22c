"""`BATCH_RUNNER_*`: what a flag says where it is not typed, and variables that nobody hears."""

import argparse
import os
from collections.abc import Iterator
from typing import Any

from batch_runner.spelling import nearest


_TYPED_ONLY = frozenset({"help", "fresh", "yes", "force_dedupe"})
_NOT_FROM_ENVIRONMENT = _TYPED_ONLY | {
    "input", "output", "model", "prompt", "base_url", "concurrency", "rpm", "tpm", "max_cost",
    "max_errors", "deadline", "grace", "settings", "job", "file", "models", "places",
}  # fmt: skip
"""Job values are laid over the job file by `jobfile`; dangerous answers are typed, not inherited."""


def default_from_environment(parser: argparse.ArgumentParser, action: argparse.Action) -> None:
    """What the variable of a flag says is what it says if it is not typed."""
    value: Any = os.environ.get(variable(action))
    if not value or action.dest in _NOT_FROM_ENVIRONMENT or not action.option_strings:
        return
    if action.nargs == 0:
        value = value.lower() in ("1", "true", "yes", "on")
    elif isinstance(action.default, list):
        value = value.split(",")
    parser.set_defaults(**{action.dest: value})


def variable(action: argparse.Action) -> str:
    """The name of a flag's variable."""
    return f"BATCH_RUNNER_{action.dest.upper()}"


def unheard(parser: argparse.ArgumentParser) -> Iterator[str]:
    """A note for each variable that looks like ours and means nothing."""
    made = parser._subparsers._group_actions[0].choices.values()  # type: ignore[union-attr]  # noqa: SLF001  # argparse has no public list
    actions = [action for command in made for action in command._actions]  # noqa: SLF001  # likewise
    flags = {variable(one) for one in actions if one.option_strings and one.dest != "settings"}
    typed = {f"BATCH_RUNNER_{name.upper()}" for name in _TYPED_ONLY}
    known = (flags | {"BATCH_RUNNER_SET"}) - typed
    for name in sorted(os.environ.keys() - known):
        if name in typed:
            yield f"{name} has no effect: --{name[13:].lower().replace('_', '-')} must be typed"
        elif name.startswith("BATCH_RUNNER_"):
            near = nearest(name, known, cutoff=0.85)
            yield f"{name} has no effect" + (f": did you mean {near}?" if near else "")
