"""What to do about rows without a full answer: for each error code a sentence and a command."""

import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from batch_runner.invocation import Invocation
from batch_runner.plan import TRANSIENT, WITHOUT_REQUEST
from batch_runner.records import ErrorCode, RowStatus, other
from batch_runner.run_place import is_of_frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """The way out for the rows with one error code."""

    words: str
    command: str
    first: str = ""
    """What has to be done before the command is of use, so that it is never shown alone."""

    @property
    def short(self) -> str:
        return f"{self.first}, then {self.command}" if self.first else self.command


_SENDERS = ("run", "retry", "check", "estimate")
_ABOUT_SENDING = ("limits", "retry", "notify")
"""Tables of a job that say nothing to a command that sends nothing."""


def command(verb: str, invocation: str, *options: str) -> str:
    """What to type. `invocation` means the job (`JobSpec.invocation`) and is quoted already.

    What the options set takes the place of what it sets. A job without a file may have a prompt of
    any length: every command but `run` knows it by its output. A frame is run by Python alone, which
    writes the input.
    """
    meant = Invocation.read(invocation)
    settings = tuple(value for flag, value in pairwise(options) if flag == "--set")
    if meant is not None and verb == "run" and is_of_frame(meant):
        if "--dry-run" not in options:
            return _call_again(settings)
        verb, options = "check", ()
    if meant is not None:
        output = meant.flags.get("output")
        if verb != "run" and meant.job is None and isinstance(output, str):
            invocation = shlex.quote(output)
        else:
            needless = () if verb in _SENDERS else _ABOUT_SENDING
            invocation = str(meant.without({*Invocation(settings=settings).keys_set(), *needless}))
    return " ".join(["batch-runner", verb, invocation, *map(shlex.quote, options)])


def _call_again(settings: Iterable[str]) -> str:
    pairs = [f'"{key}": "{value}"' for key, _, value in (one.partition("=") for one in settings)]
    changed = f", with settings {{{', '.join(pairs)}}}" if pairs else ""
    return f"make the same call of run_frame again{changed}"


def remedy(code: str, invocation: str, *more: str) -> Remedy:
    """For the rows with one error code; `more` are options that its command has besides."""
    words, verb, options = _REMEDIES.get(code) or _unnamed(code)
    first = _mend([code]) if code in WITHOUT_REQUEST else ""
    return Remedy(words=words, command=command(verb, invocation, *more, *options), first=first)


def all_pass(codes: Iterable[str]) -> bool:
    """Every error may pass by itself: the next run sends these rows."""
    return all(code in TRANSIENT for code in codes)


def way_out(codes: Counter[str], statuses: Counter[RowStatus], invocation: str) -> str:
    """One for all rows without a full answer: what to type, and where that needs it, why.

    What helps most of them comes first.
    """
    again = command("run", invocation)
    if all_pass(codes):
        return f"a later run sends them again: {again}"
    lacking = Counter({code: n for code, n in codes.items() if code in WITHOUT_REQUEST})
    if lacking:  # `retry` has nothing to send for them
        others = codes - lacking
        mend, are_most = f"{_mend(lacking)}, then {again}", lacking.total() >= others.total()
        rest, named = way_out(others, statuses, invocation), ", ".join(sorted(lacking))
        if all_pass(others):  # the one command does both
            return mend if are_most else f"{rest}; for {named} {_mend(lacking)} first"
        return f"{mend}; for the others {rest}" if are_most else f"{rest}; for {named} {mend}"
    return _asked_again(codes, statuses, invocation)


def _asked_again(codes: Counter[str], statuses: Counter[RowStatus], invocation: str) -> str:
    """For rows that have a request."""
    curable = sorted(code for code in codes if code != ErrorCode.BAD_REQUEST)
    options = [
        word
        for kind in (RowStatus.INCOMPLETE, RowStatus.REFUSED)
        if statuses[kind]
        for word in ("--include", str(kind))
    ]
    if codes[ErrorCode.BAD_REQUEST] and curable and not any("," in code for code in curable):
        options += ["--only", ",".join(curable)]
    if statuses[RowStatus.INCOMPLETE] and codes[ErrorCode.MAX_OUTPUT_TOKENS]:
        # The same cap would cut them off again.
        options += ["--set", "retry.on_incomplete=retry"]
    again = command("retry", invocation, *options)
    if "--only" in options and 2 * codes[ErrorCode.BAD_REQUEST] > codes.total():
        probe = remedy(ErrorCode.BAD_REQUEST, invocation)
        return f"{probe.command} shows what is refused; for the others {again}"
    return again


def _mend(codes: Iterable[str]) -> str:
    """What to do about rows without a request."""
    return "fill the empty cells" if {*codes} == {ErrorCode.MISSING_VALUE} else "mend these cells"


def _unnamed(code: str) -> tuple[str, str, tuple[str, ...]]:
    if code in TRANSIENT:
        return "may pass by itself; a later run sends these rows again", "run", ()
    return "see the message; then ask again for these rows only", "retry", ("--only", code)


_AGAIN = "a later run sends these rows again"
_INCLUDE = ("--include", "incomplete")
_REMEDIES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    ErrorCode.RATE_LIMITED: (_AGAIN, "run", ()),
    ErrorCode.TIMEOUT: (
        f"{_AGAIN}; give each call more time",
        "run",
        ("--set", "endpoint.timeout=20m"),
    ),
    ErrorCode.CONNECTION: (f"{_AGAIN}, once the endpoint can be reached", "run", ()),
    ErrorCode.SERVER_ERROR: (_AGAIN, "run", ()),
    ErrorCode.BAD_REPLY: (_AGAIN, "run", ()),
    ErrorCode.AUTH: (f"set a valid key; {_AGAIN}", "run", ()),
    ErrorCode.QUOTA: (f"top the account up; {_AGAIN}", "run", ()),
    ErrorCode.NOT_FOUND: (f"mend model or base URL (check --probe asks once); {_AGAIN}", "run", ()),
    ErrorCode.BAD_REQUEST: (
        "the endpoint does not accept the request; one real call shows",
        "check",
        ("--probe",),
    ),
    ErrorCode.BAD_INPUT: ("mend these cells of the input; changed rows are sent", "run", ()),
    ErrorCode.MISSING_VALUE: (
        "fill the cells (--set prompt.missing=skip leaves such rows out); filled rows are sent",
        "run",
        (),
    ),
    ErrorCode.MAX_OUTPUT_TOKENS: (
        "cut off at the cap; ask once more, with four times the room",
        "retry",
        (*_INCLUDE, "--set", "retry.on_incomplete=retry"),
    ),
    ErrorCode.CONTENT_FILTER: ("stopped by the provider's filter; ask again", "retry", _INCLUDE),
    ErrorCode.JSON_INVALID: (
        "the answer does not fit the schema; ask again",
        "retry",
        ("--only", ErrorCode.JSON_INVALID),
    ),
    ErrorCode.EMPTY_OUTPUT: (
        "the model said nothing; ask again",
        "retry",
        ("--only", ErrorCode.EMPTY_OUTPUT),
    ),
    other("refusal"): ("the model declined; ask again", "retry", ("--include", "refused")),
}
