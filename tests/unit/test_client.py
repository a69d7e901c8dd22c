import json

import anyio
import httpx
import pytest

from batch_runner import client as client_module
from batch_runner import exchange
from batch_runner.client import Client
from batch_runner.concurrency import Concurrency
from batch_runner.errors import StorageError
from batch_runner.job import IncompletePolicy, InvalidPolicy, RetrySpec
from batch_runner.limiter import Limiter
from batch_runner.records import Pending, Request, UnknownBilling
from batch_runner.redact import Redactor
from batch_runner.structured import AnswerSchema


pytestmark = pytest.mark.anyio
REQUEST = Request(
    row=7, key=b"k" * 16, body=b'{"input":"hi","model":"m"}', model="m", max_output_tokens=None
)


def answer(text="yes", **fields):
    content = [{"type": "output_text", "text": text}]
    body = {
        "id": "resp_1",
        "model": "m-2",
        "status": "completed",
        "output": [{"type": "message", "content": content}],
        "usage": {"input_tokens": 3, "output_tokens": 5},
        **fields,
    }
    return httpx.Response(200, json=body)


def refusal(status=500, **headers):
    return httpx.Response(status, json={"error": {"message": "no"}}, headers=headers)


class Server(httpx.AsyncBaseTransport):
    """Answers from a list: replies, errors to raise, or seconds to hang."""

    def __init__(self, *script):
        self.script = list(script)
        self.seen = []

    async def handle_async_request(self, request):
        self.seen.append(request)
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        if isinstance(step, float):
            await anyio.sleep(step)
            return answer()
        return step

    @property
    def bodies(self):
        return [json.loads(request.content) for request in self.seen if request.content]


def make(server, *, begin=None, concurrency=4, **options):
    options.setdefault("policy", RetrySpec(attempts=3, max_wait=0.01, maybe_billed_attempts=1))
    begun = []

    async def note(request, attempt):
        begun.append((attempt, len(request.body)))

    made = Client(
        base_url="http://h/v1",
        headers={"authorization": "Bearer key-12345678"},
        transport=server,
        limiter=Limiter(Concurrency.parse(concurrency)),
        timeout_seconds=options.pop("timeout_seconds", 5.0),
        redactor=Redactor(["key-12345678"]),
        begin=begin or note,
        on_stop=print,
        **options,
    )
    made.begun = begun
    return made


async def test_an_answer_is_told_with_all_that_it_took():
    result = await make(Server(answer())).call(REQUEST)
    assert (result.ending.text, result.attempts, result.model) == ("yes", 1, "m-2")
    assert (result.row, result.key, result.asked_model) == (7, REQUEST.key, "m")
    assert result.billed[0].usage == result.final_usage
    assert (result.response_id, result.finish_reason) == ("resp_1", "stop")
    assert result.latency_seconds >= 0
    assert result.finished_at >= result.started_at


async def test_the_bytes_sent_are_those_that_were_hashed_and_say_stream_false():
    server = Server(answer())
    await make(server).call(REQUEST)
    sent = server.seen[0]
    assert sent.content == REQUEST.body[:-1] + b',"stream":false}'
    assert sent.url == "http://h/v1/responses"
    assert sent.headers["authorization"] == "Bearer key-12345678"


async def test_only_a_stream_has_an_idle_limit_beside_its_deadline():
    allowed = []
    for stream, seconds in [(False, 600.0), (True, 600.0), (True, 30.0)]:
        server = Server(answer())
        await make(server, stream=stream, timeout_seconds=seconds).call(REQUEST)
        allowed.append(server.seen[0].extensions["timeout"]["read"])
    assert allowed == [None, 120.0, 30.0]


async def test_an_attempt_that_cannot_be_recorded_is_not_made():
    async def full(_request, _attempt):
        raise StorageError("disk full")

    server = Server(answer())
    assert await make(server, begin=full).call(REQUEST) is None
    assert server.seen == []


async def test_every_attempt_is_announced_with_its_number():
    client = make(Server(refusal(503), refusal(503), answer()))
    result = await client.call(REQUEST)
    assert [attempt for attempt, _ in client.begun] == [1, 2, 3]
    assert result.attempts == 3
    first, second = result.repeated_at
    assert result.started_at <= first < second <= result.finished_at


async def test_an_idempotency_key_stays_until_the_server_has_said_a_definite_no():
    server = Server(httpx.ReadError("rst"), refusal(503), answer())
    await make(server, idempotency_header="Idempotency-Key").call(REQUEST)
    keys = [request.headers["idempotency-key"] for request in server.seen]
    assert keys[0] == keys[1] != keys[2]


async def test_each_attempt_has_a_deadline_of_its_own():
    result = await make(Server(9.0, 9.0), timeout_seconds=0.03).call(REQUEST)
    assert (result.code, result.attempts) == ("timeout", 2)
    assert result.unknown == {UnknownBilling.TIMEOUT: 2}


async def test_an_endless_reply_is_cut_off(monkeypatch):
    monkeypatch.setattr(exchange, "LARGEST_REPLY", 100)
    result = await make(Server(answer("x" * 200), answer("x" * 200))).call(REQUEST)
    assert (result.code, result.attempts) == ("bad_reply", 2)
    assert "larger than 100 bytes" in result.ending.message


async def test_a_key_in_an_error_is_masked():
    echo = httpx.Response(400, json={"error": {"message": "bad key key-12345678!"}})
    result = await make(Server(echo)).call(REQUEST)
    assert result.ending.message == "HTTP 400: bad key [redacted]!"


async def test_a_fault_of_our_own_is_raised_not_told():
    with pytest.raises(ZeroDivisionError):
        await make(Server(ZeroDivisionError())).call(REQUEST)


# Ending early


async def in_flight(client, server, request=REQUEST):
    """Starts a call; gives a function that waits for its result."""
    box = []

    async def call():
        box.append(await client.call(request))

    return call, box


async def test_a_drain_lets_calls_in_flight_finish_and_wakes_those_that_wait():
    server = Server(0.05, refusal(503))
    client = make(server, policy=RetrySpec(attempts=3, max_wait=60.0))
    async with anyio.create_task_group() as tasks:
        flying, got = await in_flight(client, server)
        tasks.start_soon(flying)
        await anyio.sleep(0.01)
        waiting, gave_up = await in_flight(client, server)
        tasks.start_soon(waiting)
        await anyio.sleep(0.02)
        client.drain()
    assert got[0].ending.text == "yes"
    assert gave_up == [None]
    assert await client.call(REQUEST) is None


async def test_a_row_given_up_after_it_may_have_been_billed_is_told():
    client = make(Server(refusal(500)), policy=RetrySpec(max_wait=60.0))
    async with anyio.create_task_group() as tasks:
        call, box = await in_flight(client, None)
        tasks.start_soon(call)
        await anyio.sleep(0.02)
        client.drain()
    assert box[0].code == "other:stopped"
    assert box[0].unknown == {UnknownBilling.SERVER_ERROR: 1}


async def test_a_cancelled_call_is_of_unknown_billing():
    client = make(Server(9.0))
    async with anyio.create_task_group() as tasks:
        call, box = await in_flight(client, None)
        tasks.start_soon(call)
        await anyio.sleep(0.02)
        assert client.oldest_seconds > 0
        client.cancel()
    assert box[0].code == "other:cancelled"
    assert box[0].unknown == {UnknownBilling.CANCELLED: 1}
    assert client.oldest_seconds == 0


async def test_rows_that_wait_for_a_place_do_not_sit_out_a_pause_beyond_patience():
    later = refusal(429, **{"retry-after": "10800"})
    client = make(Server(later), concurrency=1, policy=RetrySpec(rate_limit_patience=60.0))
    results = []

    async def call():
        results.append(await client.call(REQUEST))

    with anyio.fail_after(2):
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(call)
    assert [result.code for result in results] == ["rate_limited"] * 5
    assert sorted(result.attempts for result in results) == [0, 0, 0, 0, 1]


# Asked differently


SCHEMA = AnswerSchema({"type": "object", "required": ["a"]}, origin="job")
CORRECTING = {"schema": SCHEMA, "on_invalid": InvalidPolicy.RETRY}


async def test_a_correction_keeps_the_rows_key_and_has_a_budget_of_its_own():
    server = Server(answer("{}"), refusal(503), answer("{}"), answer('{"a": 1}'))
    client = make(server, idempotency_header="Idempotency-Key", **CORRECTING)
    result = await client.call(REQUEST)
    assert (result.ending.text, result.key, result.attempts) == ('{"a": 1}', REQUEST.key, 4)
    assert len(result.billed) == 3
    assert "'a' is a required property" in server.bodies[1]["input"]
    assert client.begun[1][1] > client.begun[0][1]
    keys = [request.headers["idempotency-key"] for request in server.seen]
    assert len({*keys}) == 4


async def test_messages_get_the_correction_as_a_message():
    body = b'{"input":[{"content":"hi","role":"user"}],"model":"m"}'
    server = Server(answer("no"), answer('{"a": 1}'))
    await make(server, **CORRECTING).call(
        Request(row=0, key=REQUEST.key, body=body, model="m", max_output_tokens=None)
    )
    assert [item["role"] for item in server.bodies[1]["input"]] == ["user", "user"]


async def test_an_answer_stands_when_its_correction_cannot_be_asked():
    server = Server(answer("no"), refusal(400))
    result = await make(server, **CORRECTING).call(REQUEST)
    assert (result.code, result.ending.text) == ("json_invalid", "no")
    assert result.final_usage.output_tokens == 5


async def test_refused_and_cut_answers_are_not_corrected():
    cut = answer("half", status="incomplete")
    result = await make(Server(cut), **CORRECTING).call(REQUEST)
    assert (result.status, result.attempts) == ("incomplete", 1)


async def test_more_room_is_given_once():
    body = b'{"input":"hi","max_output_tokens":5,"model":"m"}'
    request = Request(row=0, key=REQUEST.key, body=body, model="m", max_output_tokens=5)
    policy = RetrySpec(on_incomplete=IncompletePolicy.RETRY)
    cut = {"usage": {"output_tokens": 20}}
    server = Server(answer("half"), answer("more", **cut))
    result = await make(server, policy=policy).call(request)
    assert [body["max_output_tokens"] for body in server.bodies] == [5, 20]
    assert (result.code, result.ending.text) == ("max_output_tokens", "more")
    assert result.max_output_tokens == 20


# Background responses


QUEUED = {"status": "queued", "output": [], "usage": None}


@pytest.fixture
def quick_polls(monkeypatch):
    monkeypatch.setattr(client_module, "FIRST_POLL_SECONDS", 0.005)
    monkeypatch.setattr(client_module, "LONGEST_POLL_SECONDS", 0.01)


@pytest.mark.usefixtures("quick_polls")
async def test_an_id_is_noted_once_and_asked_for_until_the_end():
    noted = []

    async def accepted(request, attempt, response_id):
        noted.append((request.key, attempt, response_id))

    server = Server(answer(**QUEUED), answer(**QUEUED), httpx.ReadError("rst"), answer())
    client = make(server, accepted=accepted)
    result = await client.call(REQUEST)
    assert noted == [(REQUEST.key, 1, "resp_1")]
    assert [request.method for request in server.seen] == ["POST", "GET", "GET", "GET"]
    assert server.seen[-1].url == "http://h/v1/responses/resp_1"
    assert (result.ending.text, result.attempts, result.unknown) == ("yes", 1, {})


@pytest.mark.parametrize("untold", [0, 1])
async def test_a_response_of_an_earlier_run_is_asked_for_not_paid(untold):
    server = Server(answer())
    pending = Pending(response_id="resp_0", attempts_untold=untold)
    client = make(server, pending=lambda _request: pending)
    result = await client.call(REQUEST)
    assert [(seen.method, seen.url.path) for seen in server.seen] == [
        ("GET", "/v1/responses/resp_0")
    ]
    assert (result.attempts, client.begun) == (untold, [])


@pytest.mark.parametrize("second_signal", [True, False])
async def test_breaking_off_cancels_and_running_out_of_time_leaves_it_for_later(second_signal):
    server = Server(answer(**QUEUED), answer(status="cancelled"))
    client = make(server)
    async with anyio.create_task_group() as tasks:
        call, box = await in_flight(client, server)
        tasks.start_soon(call)
        await anyio.sleep(0.02)
        (client.cancel if second_signal else client.out_of_time)()
    result = box[0]
    if second_signal:
        assert server.seen[-1].url.path == "/v1/responses/resp_1/cancel"
        assert (result.code, result.response_id) == ("other:cancelled", None)
        assert result.unknown == {UnknownBilling.CANCELLED: 1}
    else:
        assert len(server.seen) == 1
        assert (result.code, result.response_id) == ("timeout", "resp_1")
        assert result.unknown == {UnknownBilling.TIMEOUT: 1}
