"""Naming faults: "429", "500x2-then-ok", "slow:0.2+failed:rate_limit_exceeded".

    SPEC = PLAN | PLAN[xCOUNT]-then-ok[:ARG]       PLAN = NAME[:ARG] joined by +

At most one part is an ending (what is answered, a good reply otherwise), the others are twists
(what happens to the reply). `then-ok` misbehaves COUNT times (once by default) to each body.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from batch_runner.errors import UsageError

# Importing these enters their faults into the register.
from batch_runner.faultserver import endings, rejections, sayings, twists  # noqa: F401
from batch_runner.faultserver.register import ENDINGS, TWISTS
from batch_runner.faultserver.rejections import HttpError
from batch_runner.faultserver.replies import Call, Reply
from batch_runner.spelling import nearest


OK = "ok"
RESET_BEFORE = "reset-before"
ALIASES = {
    "429-seconds": "429+retry-after:1",
    "429-date": "429+retry-after-date:1",
    "429-ms": "429+retry-after-ms:100",
    "429-zero": "429+retry-after:0",
    "429-negative": "429+retry-after:-5",
    "429-3h": "429+retry-after:10800",
    "400-should-retry": "400+x-should-retry:true",
    "429-should-not-retry": "429+x-should-retry:false",
    "500-should-not-retry": "500+x-should-retry:false",
    "content-filter": "incomplete:content_filter",
    "unknown-incomplete": "incomplete:steered_by_moonlight",
    "incomplete-no-details": "incomplete:none",
}
THEN_OK = re.compile(r"(?P<plan>.+?)(?:x(?P<times>\d+))?-then-ok(?::(?P<arg>.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A fault spec, understood."""

    spec: str
    ending: tuple[str, str] | None
    """Name and argument; None for a good reply."""
    twists: tuple[tuple[str, str], ...]
    times: int | None
    """How often to each body; None: always."""
    resets_before: bool
    """The connection is reset before the request is taken: nothing is received or billed."""

    def reply(self, call: Call) -> Reply:
        """What this call gets; ValueError when an argument does not fit its fault."""
        return self.bend(call.say(call.text()) if self.ending is None else _end(call, *self.ending))

    def bend(self, reply: Reply) -> Reply:
        """A reply made elsewhere, with the twists of this plan."""
        for name, arg in self.twists:
            reply = TWISTS[name](reply, arg)
        return reply


@lru_cache(maxsize=4096)
def parse(spec: str) -> Plan:
    """The plan behind a spec; UsageError, with a suggestion, when a name is unknown."""
    text, times = spec, None
    if recovered := THEN_OK.fullmatch(spec):
        text, times = recovered["plan"], int(recovered["times"] or 1)
        if recovered["arg"]:
            text = f"{text}:{recovered['arg']}"
    parts = [part for plan in text.split("+") for part in _expanded(plan).split("+")]
    named = [(name, arg) for name, _, arg in (part.partition(":") for part in parts)]
    for name, _ in named:
        _check_known(name, spec)
    ends = [(name, arg) for name, arg in named if _is_ending(name)]
    if len(ends) > 1:
        raise UsageError(
            f"fault {spec!r} names two endings, {ends[0][0]!r} and {ends[1][0]!r}",
            hint="a reply ends one way; combine an ending with twists, as in '500+slow:1'",
        )
    return Plan(
        spec=spec,
        ending=ends[0] if ends else None,
        twists=tuple((name, arg) for name, arg in named if name in TWISTS),
        times=times,
        resets_before=any(name == RESET_BEFORE for name, _ in named),
    )


def catalogue() -> dict[str, str]:
    """Every fault and alias with a line of explanation, endings first."""
    own = {OK: "A good reply.", RESET_BEFORE: "RST before the body is read; nothing is received."}
    said = {name: fault.__doc__ or "" for name, fault in ENDINGS.items()}
    said |= {name: f"{e.status} {e.code or ''} [ARG: Retry-After]" for name, e in _errors().items()}
    bent = {name: fault.__doc__ or "" for name, fault in TWISTS.items()}
    short = {name: f"= {spec}" for name, spec in ALIASES.items()}
    return {name: line.split("\n", 1)[0] for name, line in (own | said | bent | short).items()}


def _errors() -> dict[str, HttpError]:
    return {name: fault for name, fault in ENDINGS.items() if isinstance(fault, HttpError)}


def _expanded(part: str) -> str:
    """The alias resolved; an argument goes to its last part."""
    name, colon, arg = part.partition(":")
    if name not in ALIASES:
        return part
    return f"{ALIASES[name].rpartition(':')[0]}:{arg}" if colon else ALIASES[name]


def _is_ending(name: str) -> bool:
    return name in ENDINGS or _bare_status(name)


def _bare_status(name: str) -> bool:
    """Any error status is a fault, also one that has no entry of its own."""
    return len(name) == 3 and name.isdigit() and name[0] in "45"


def _end(call: Call, name: str, arg: str) -> Reply:
    if name in ENDINGS:
        return ENDINGS[name](call, arg)
    return HttpError(status=int(name), code=None, message=f"Status {name}.")(call, arg)


def _check_known(name: str, spec: str) -> None:
    known = [OK, RESET_BEFORE, *ENDINGS, *TWISTS, *ALIASES]
    if name in known or _bare_status(name):
        return
    near = nearest(name, known)
    raise UsageError(
        f"unknown fault {name!r} in {spec!r}",
        hint=f"did you mean {near!r}?" if near else "GET /admin/faults lists them",
    )
