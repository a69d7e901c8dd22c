"""All the server knows between two requests. No sockets here."""

import random
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs

from batch_runner.faultserver.admission import Admission
from batch_runner.faultserver.background import Jobs
from batch_runner.faultserver.faults import RESET_BEFORE, Plan, parse
from batch_runner.faultserver.head import HttpRequest
from batch_runner.faultserver.idempotency import Answers
from batch_runner.faultserver.ledger import Ledger
from batch_runner.faultserver.rules import Rule, first_to_strike
from batch_runner.faultserver.settings import Settings
from batch_runner.faultserver.text import MARKER


MODEL_PREFIX = "fault:"
FAULT_HEADER = "x-fault"
SEEN_REQUESTS = 100
SEEN_BODY_BYTES = 64 * 1024


@dataclass(slots=True, kw_only=True)
class Stats:
    """What has come in since the start or the last reset."""

    requests: Counter[str] = field(default_factory=Counter)
    """Endpoint to requests."""
    connections_opened: int = 0
    connections_open: int = 0
    in_flight: int = 0
    """Model calls received and not ended."""
    peak_in_flight: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Hidden limit ("rate", "concurrency") to 429s."""
    faults: Counter[str] = field(default_factory=Counter)
    """Spec to requests that met it."""
    resets_before: int = 0
    """Connections reset before a request was taken: those are in no ledger."""


class State:
    """Settings, rules, memory and the ledger."""

    def __init__(self, *, settings: Settings, ledger: Ledger, rules: tuple[Rule, ...]) -> None:
        self.ledger = ledger
        self.stats = Stats()
        self.rules = rules
        self.switched: tuple[Rule, ...] = ()
        """Faults switched on while running, newest first; they come before the script's."""
        self.seen: deque[HttpRequest] = deque(maxlen=SEEN_REQUESTS)
        """The last requests as received, keys included; see `note`."""
        self._first_settings = settings
        self._forget()

    def reset(self) -> None:
        """As after the start, with an empty ledger; open connections and calls go on."""
        self.ledger.reset()
        open_now, in_flight = self.stats.connections_open, self.stats.in_flight
        self.stats = Stats(connections_open=open_now, in_flight=in_flight)
        self.switched = ()
        self.rules = tuple(Rule(rule.match, rule.plan) for rule in self.rules)
        self.seen.clear()
        self._forget()

    def _forget(self) -> None:
        self.jobs = Jobs()
        self.answers = Answers()
        self._struck: Counter[tuple[str, str]] = Counter()
        self.settings = self._first_settings

    @property
    def settings(self) -> Settings:
        return self._settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self._settings = settings
        self.admission = Admission(settings, time.monotonic())
        self.idempotency_header = settings.idempotency_header.lower()
        self._chance = random.Random(settings.seed)  # noqa: S311  # repeatable on purpose

    def note(self, request: HttpRequest) -> None:
        """The request is among those seen, without its body where that is a large one."""
        large = len(request.body) > SEEN_BODY_BYTES
        self.seen.append(replace(request, body=b"") if large else request)

    def latency_seconds(self) -> float:
        """Of the next reply."""
        return self._settings.latency(self._chance)

    def hangs_up_on(self, head: HttpRequest, endpoint: str) -> bool:
        """Whether this request is reset before its body is read."""
        asked = _asked_for(head)
        if asked is not None:
            hangs_up = asked == RESET_BEFORE
        else:
            rules = (*self.switched, *self.rules)
            hangs_up = any(rule.strikes_early(endpoint=endpoint) for rule in rules)
        self.stats.resets_before += hangs_up
        return hangs_up

    def plan_for(
        self, request: HttpRequest, *, endpoint: str, key: str = "", body: Mapping[str, Any]
    ) -> Plan | None:
        """The fault this request meets, if any; UsageError when it asks for one that is unknown.

        In order: header or query, markers in the body, model name, switched faults, script.
        """
        model = str(body.get("model"))
        spec = _asked_for(request)
        if spec is None and b"[[fault:" in request.body:
            spec = "+".join(MARKER.findall(request.body.decode("utf-8", "replace")))
        if spec is None and model.startswith(MODEL_PREFIX):
            spec = model.removeprefix(MODEL_PREFIX)
        plan = parse(spec) if spec is not None else None
        if plan is None and (self.switched or self.rules):
            rules = (*self.switched, *self.rules)
            plan = first_to_strike(rules, endpoint=endpoint, key=key, body=body)
        if plan is None or not self._still_strikes(plan, key):
            return None
        self.stats.faults[plan.spec] += 1
        self.stats.resets_before += plan.resets_before
        return plan

    def _still_strikes(self, plan: Plan, key: str) -> bool:
        if plan.times is None:
            return True
        self._struck[plan.spec, key] += 1
        return self._struck[plan.spec, key] <= plan.times


def _asked_for(request: HttpRequest) -> str | None:
    """The spec in the header or the query `?fault=`."""
    if "fault=" in request.query:
        return parse_qs(request.query).get("fault", [None])[0]
    return request.headers.get(FAULT_HEADER)
