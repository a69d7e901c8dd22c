"""Which requests misbehave: rules of a script file or an admin call, tried in order."""

import json
import random
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

from batch_runner.errors import UsageError
from batch_runner.faultserver.faults import Plan, parse
from batch_runner.faultserver.text import prompt_text


ENDPOINTS = ("responses", "poll", "cancel", "input_tokens", "models", "health")
KEY_SPAN = 16**8  # share compares the first 8 hex digits of a body key


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """All conditions that are set must hold. Counting is done among requests that meet the others.

    A condition on model, input or share needs the body; the rest can be decided before it is read.
    """

    endpoint: str = "responses"
    """responses | poll | cancel | input_tokens | models | health"""
    model: str | None = None
    """A name, or a pattern with * and ?."""
    input_contains: str | None = None
    """A text within the instructions or the input."""
    share: float | None = None
    """This share of all bodies, chosen by body: a repeat meets the same fate."""
    rate: float | None = None
    """This share of requests, chosen by chance from `seed`."""
    seed: int = 0
    nth: tuple[int, ...] = ()
    """Only these, counted from 1."""
    every: int | None = None
    first: int | None = None

    @property
    def needs_body(self) -> bool:
        return not (self.model is None and self.input_contains is None and self.share is None)

    def fits(self, *, endpoint: str, key: str, body: Mapping[str, Any]) -> bool:
        """Whether the conditions that look at the request hold."""
        return (
            endpoint == self.endpoint
            and (self.model is None or fnmatchcase(str(body.get("model")), self.model))
            and (self.input_contains is None or self.input_contains in prompt_text(body))
            and (self.share is None or self._shares(key))
        )

    def counts(self, number: int, chance: random.Random) -> bool:
        """Whether the conditions that look at the count hold for the request of this number."""
        return (
            (not self.nth or number in self.nth)
            and (self.every is None or number % self.every == 0)
            and (self.first is None or number <= self.first)
            and (self.rate is None or chance.random() < self.rate)
        )

    def _shares(self, key: str) -> bool:
        point = int(key[:8] or "0", 16) ^ (self.seed * 2654435761 % KEY_SPAN)
        return point < (self.share or 0) * KEY_SPAN


class Rule:
    """A fault and when it strikes, with the count of requests it has seen."""

    def __init__(self, match: Match, plan: Plan) -> None:
        self.match = match
        self.plan = plan
        self.seen = 0
        self._chance = random.Random(match.seed)  # noqa: S311  # repeatable on purpose

    @classmethod
    def of_mapping(cls, rule: Mapping[str, Any]) -> Self:
        """The rule as a script spells it: `{match: {...}, fault: NAME, args: ...}`."""
        if not isinstance(rule, Mapping):
            raise UsageError(f"fault rule {rule!r} is no table", hint="{match, fault, args}")
        if unknown := rule.keys() - {"match", "fault", "args"}:
            raise UsageError(
                f"unknown key {min(unknown)!r} in fault rule", hint="match, fault and args"
            )
        if not isinstance(rule.get("fault"), str):
            raise UsageError(f"fault rule {dict(rule)!r} has no `fault`", hint="name one as text")
        args = rule.get("args", [])
        spec = ":".join(map(str, [rule["fault"], *(args if isinstance(args, list) else [args])]))
        return cls(match_of(rule.get("match", {})), parse(spec))

    def strikes(self, *, endpoint: str, key: str, body: Mapping[str, Any]) -> bool:
        """Whether this request misbehaves; asking counts it."""
        if not self.match.fits(endpoint=endpoint, key=key, body=body):
            return False
        self.seen += 1
        return self.match.counts(self.seen, self._chance)

    def strikes_early(self, *, endpoint: str) -> bool:
        """Whether it resets a request of which only the head is known.

        False for a rule that needs the body: that is asked by `strikes`, later.
        """
        return self.resets_early and self.strikes(endpoint=endpoint, key="", body={})

    @property
    def resets_early(self) -> bool:
        return self.plan.resets_before and self.plan.times is None and not self.match.needs_body


def match_of(conditions: Mapping[str, Any]) -> Match:
    if not isinstance(conditions, Mapping):
        raise UsageError(f"match = {conditions!r} in a fault rule is no table")
    known = {field.name for field in fields(Match)}
    if unknown := conditions.keys() - known:
        raise UsageError(
            f"unknown condition {min(unknown)!r} in fault rule",
            hint=f"one of: {', '.join(sorted(known))}",
        )
    given = dict(conditions)
    if "nth" in given:
        given["nth"] = tuple(given["nth"] if isinstance(given["nth"], list) else [given["nth"]])
    for name, value in given.items():
        wanted, fits = _CONDITIONS[name]
        values = value if isinstance(value, tuple) else (value,)
        if value is not None and not (values and all(map(fits, values))):
            raise UsageError(f"{name} = {value!r} in a fault rule: must be {wanted}")
    return Match(**given)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


_CONDITIONS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "endpoint": (f"one of {', '.join(ENDPOINTS)}", ENDPOINTS.__contains__),
    "model": ("a name or a pattern", _is_text),
    "input_contains": ("text", _is_text),
    "share": ("a number from 0 to 1", _is_share),
    "rate": ("a number from 0 to 1", _is_share),
    "seed": ("a whole number", lambda value: isinstance(value, int)),
    "nth": ("whole numbers from 1 on", _is_count),
    "every": ("a whole number from 1 on", _is_count),
    "first": ("a whole number from 1 on", _is_count),
}
"""What each condition must be, in words and as a test."""


def first_to_strike(
    rules: Iterable[Rule], *, endpoint: str, key: str, body: Mapping[str, Any]
) -> Plan | None:
    """The plan of the first rule that strikes; later rules do not count this request."""
    for rule in rules:
        if not rule.resets_early and rule.strikes(endpoint=endpoint, key=key, body=body):
            return rule.plan
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A script file: how the server behaves from the start."""

    settings: Mapping[str, Any]
    rules: tuple[Rule, ...]


def read_script(path: Path) -> Script:
    """The script in a .json or .toml file: a list of rules, or a table with settings and rules."""
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read fault script {str(path)!r}: {error}") from error
    if isinstance(content, list):
        content = {"rules": content}
    is_script = isinstance(content, dict) and not content.keys() - {"settings", "rules"}
    if not (
        is_script
        and isinstance(content.get("settings", {}), dict)
        and isinstance(content.get("rules", []), list)
    ):
        raise UsageError(
            f"fault script {str(path)!r} is neither a list of rules nor a table of both",
            hint="[settings] and [[rules]], as batch-runner faults --help shows",
        )
    return Script(
        settings=content.get("settings", {}),
        rules=tuple(Rule.of_mapping(rule) for rule in content.get("rules", [])),
    )
