"""Stored answers for repeated idempotency keys."""

from dataclasses import dataclass, replace

from batch_runner.faultserver.protocol import Then
from batch_runner.faultserver.replies import Reply, error_reply
from batch_runner.faultserver.settings import Idempotency


KEPT_ANSWERS = 100_000  # the oldest is forgotten first


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An answer, and the body it answers."""

    body_key: str
    reply: Reply


class Answers:
    """First answers by idempotency key."""

    def __init__(self) -> None:
        self._stored: dict[str, Stored] = {}

    def again(self, key: str, body_key: str) -> Reply | None:
        """The stored answer, not billed again; 409 where the key came with another body."""
        stored = self._stored.get(key)
        if stored is None:
            return None
        if stored.body_key != body_key:
            message = f"Idempotency key {key!r} was used for another request."
            return error_reply(409, message, kind="idempotency_error", code="idempotency_mismatch")
        replayed = replace(stored.reply, billed=False, replayed=True)
        return replayed.with_headers(("idempotent-replayed", "true"))

    def keep(self, key: str, body_key: str, reply: Reply, mode: Idempotency) -> None:
        """Stored if the mode stores such a reply: only what the provider began to work on."""
        worth_it = reply.status < 400 or (mode is Idempotency.REPLAY_500S and reply.status >= 500)
        if mode is Idempotency.IGNORE or not worth_it:
            return
        if len(self._stored) >= KEPT_ANSWERS:
            del self._stored[next(iter(self._stored))]
        self._stored[key] = Stored(body_key=body_key, reply=_as_made(reply))


def _as_made(reply: Reply) -> Reply:
    """The reply before the network got hold of it: an answer is stored, its accident is not."""
    return replace(
        reply,
        usage_delivered=bool(reply.response and reply.response.get("usage")),
        delay_seconds=0.0,
        silent=False,
        sent_share=1.0,
        drip_seconds=None,
        then=Then.KEEP,
    )
