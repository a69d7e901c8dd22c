"""An endpoint that answers, refuses, breaks off and hangs by the dice, and knows what it worked on."""

import json
from dataclasses import dataclass, field
from decimal import Decimal
from email.utils import formatdate

import anyio
import httpx


MODEL = "sim"
DOLLARS_IN, DOLLARS_OUT = Decimal("1.25"), Decimal(10)  # per million tokens
CAP = 90
"""max_output_tokens of every request."""

FAULTS = (
    "rate_limit", "refused_connection", "reset", "server_error", "overloaded", "failed",
    "failed_rate_limit", "no_usage", "half_a_body", "cut_json", "hang", "cut_short", "in_progress",
)  # fmt: skip


@dataclass(kw_only=True)
class Call:
    """One request that arrived."""

    number: int
    key: str
    head: str
    process: int
    at: float
    cost: Decimal = Decimal(0)
    """What the endpoint charges; zero if it never worked on it."""
    answer: str | None = None
    in_flight: bool = True


@dataclass(kw_only=True)
class Endpoint(httpx.AsyncBaseTransport):
    """`weather` says how often each fault strikes, of all calls."""

    dice: object
    clock: object
    promises: object
    tell: object
    weather: dict = field(default_factory=dict)
    slowest_seconds: float = 3.0
    refuses_everyone: bool = False
    is_alive: bool = True
    process: int = 0
    calls: list = field(default_factory=list)
    background: dict = field(default_factory=dict)

    async def handle_async_request(self, request):
        if not self.is_alive:
            raise httpx.ReadError("the process is dead")
        if "/resp_" in request.url.path:
            return await self._ask_after(*request.url.path.split("/")[3:])
        call = self._arrives(request)
        try:
            return await self._treat(call, request)
        except anyio.get_cancelled_exc_class():
            self.promises.call_broken_off(call)
            raise
        finally:
            call.in_flight = False

    def _arrives(self, request):
        body = json.loads(request.content)
        call = Call(
            number=len(self.calls),
            key=request.headers["idempotency-key"].partition("-")[0],
            head=body["input"].split()[1],
            process=self.process,
            at=self.clock.now,
        )
        self.promises.call_arrives(call, self.calls)
        self.calls.append(call)
        return call

    async def _treat(self, call, request):
        if self.refuses_everyone:
            return httpx.Response(401, json={"error": {"code": "invalid_api_key"}})
        if call.head.startswith("poison"):
            return httpx.Response(400, json={"error": {"code": "bad", "message": call.head}})
        fault = self._fault()
        if fault:
            self.tell(f"call {call.number} {call.head}: {fault}")
        pause = 0.05 + self.slowest_seconds * self.dice.random() ** 3
        if fault == "refused_connection":
            raise httpx.ConnectError("nobody listens")
        if fault in ("rate_limit", "overloaded"):
            await anyio.sleep(0.03)
            return self._refusal(fault)
        usage = self._usage(request)
        if fault not in ("reset", "server_error", "hang", "failed") or self.dice.random() < 0.5:
            self._charge(call, usage)
        if fault == "hang":
            await anyio.sleep_forever()
        await anyio.sleep(pause)
        return self._reply(call, usage, fault, streams=b'"stream":true' in request.content)

    def _fault(self):
        for name, share in self.weather.items():
            if self.dice.random() < share:
                return name
        return None

    def _refusal(self, fault):
        headers = self.dice.choice((
            {},
            {"retry-after": str(self.dice.randint(0, 40))},
            {"retry-after": formatdate(self.clock.time() + 20, usegmt=True)},
            {"retry-after-ms": str(self.dice.randint(1, 5000))},
        ))  # fmt: skip
        status = 429 if fault == "rate_limit" else self.dice.choice((503, 529, 408))
        return httpx.Response(status, headers=headers, json={"error": {"code": fault}})

    def _usage(self, request):
        """Never more than a caller can foresee: a token for each byte sent, and the cap."""
        tokens_in = max(1, len(request.content) // self.dice.randint(1, 4))
        tokens_out = self.dice.randint(1, CAP - 1)
        return {
            "input_tokens": tokens_in,
            "output_tokens": tokens_out,
            "total_tokens": tokens_in + tokens_out,
        }

    def _charge(self, call, usage):
        call.cost = (
            usage["input_tokens"] * DOLLARS_IN + usage["output_tokens"] * DOLLARS_OUT
        ) / 1_000_000

    def _reply(self, call, usage, fault, *, streams):
        if fault == "reset":
            raise httpx.ReadError("connection reset by peer")
        if fault == "server_error":
            return httpx.Response(self.dice.choice((500, 502, 504)), text="<html>oops</html>")
        reply = self._completed(call, usage)
        if fault in ("failed", "failed_rate_limit"):
            code = "server_error" if fault == "failed" else "rate_limit_exceeded"
            reply |= {"status": "failed", "error": {"code": code, "message": "no"}, "output": []}
            if not call.cost or self.dice.random() < 0.5:
                del reply["usage"]
            return self._sent(reply, streams=streams)
        call.answer = reply["output"][0]["content"][0]["text"]
        if fault == "no_usage":
            del reply["usage"]
        if fault == "cut_short":
            reply |= {"status": "incomplete"}
            reply["incomplete_details"] = {"reason": "max_output_tokens"}
        if fault == "in_progress" and not streams:
            self.background[reply["id"]] = reply
            return self._sent({"id": reply["id"], "status": "in_progress"}, streams=False)
        response = self._sent(reply, streams=streams)
        if fault == "cut_json":
            return httpx.Response(200, content=response.content[: len(response.content) // 2])
        if fault == "half_a_body":
            return httpx.Response(200, stream=_BrokenStream(response.content))
        return response

    def _completed(self, call, usage):
        text = f"answer {call.number} to {call.head} " + "y" * self.dice.choice((0, 40, 10_000))
        return {
            "id": f"resp_{call.number}",
            "object": "response",
            "model": MODEL,
            "status": "completed",
            "output": [
                {
                    "type": "message",
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": text}],
                }
            ],
            "usage": usage,
        }

    def _sent(self, reply, *, streams):
        if not streams:
            return httpx.Response(200, json=reply)
        event = {"type": f"response.{reply['status']}", "response": reply}
        return httpx.Response(
            200,
            headers={"content-type": "text/event-stream"},
            content=b"event: x\ndata: " + json.dumps(event).encode() + b"\n\n",
        )

    async def _ask_after(self, response_id, action=None):
        """A background response: as it stands, or cancelled."""
        await anyio.sleep(0.1)
        reply = self.background[response_id]
        if action == "cancel":
            return self._sent({"id": response_id, "status": "cancelled"}, streams=False)
        if self.weather and self.dice.random() < 0.3:  # in a quiet run it is made by now
            return self._sent({"id": response_id, "status": "in_progress"}, streams=False)
        return self._sent(reply, streams=False)


class _BrokenStream(httpx.AsyncByteStream):
    """Half of the bytes, then a reset."""

    def __init__(self, content):
        self._content = content

    async def __aiter__(self):
        yield self._content[: len(self._content) // 2]
        raise httpx.ReadError("connection reset by peer")
