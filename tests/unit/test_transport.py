import asyncio
import inspect
import ssl
from types import SimpleNamespace

import aiohttp
import httpx
import pytest

from batch_runner.errors import UsageError
from batch_runner.records import ErrorCode, UnknownBilling
from batch_runner.retry import Blame
from batch_runner.transport import judge_exchange_error, open_transport


def subclasses(kind):
    return {kind}.union(*(subclasses(child) for child in kind.__subclasses__()))


RAISED = sorted(
    {
        kind
        for base in (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, aiohttp.ClientError)
        for kind in subclasses(base)
        if kind.__module__.startswith(("httpx", "aiohttp"))
    },
    key=lambda kind: f"{kind.__module__}.{kind.__qualname__}",
)


def example(kind):
    """An instance, made without knowing what its constructor wants."""
    error = kind.__new__(kind)
    Exception.__init__(error, "broken")
    key = SimpleNamespace(host="h", port=1, ssl=None, is_ssl=False)
    vars(error).update(
        _conn_key=key, _os_error=OSError("broken"), _certificate_error=ssl.SSLError("broken"),
        status=500, message="m", request_info=SimpleNamespace(real_url="u"), _ssl=None,
        _description="", _url="u", _path="p",
    )  # fmt: skip
    return error


def test_the_walk_below_sees_the_classes_of_both_libraries():
    assert {httpx.ReadTimeout, httpx.RemoteProtocolError, aiohttp.ServerDisconnectedError} <= {
        *RAISED
    }
    exported = {
        kind
        for _, kind in inspect.getmembers(httpx, inspect.isclass)
        if issubclass(kind, httpx.HTTPError)
    }
    assert exported <= {*RAISED}


@pytest.mark.parametrize("kind", RAISED, ids=lambda kind: kind.__name__)
def test_every_error_of_a_transport_is_judged(kind):
    problem = judge_exchange_error(example(kind))
    assert problem is not None
    assert problem.failure.message
    may_be_billed = problem.blame is Blame.MAYBE_BILLED
    assert (problem.unknown is not None) == may_be_billed


@pytest.mark.parametrize(
    ("error", "code", "blame", "unknown"),
    [
        (httpx.ConnectError("refused"), ErrorCode.CONNECTION, Blame.FREE, None),
        (httpx.ConnectTimeout("slow"), ErrorCode.CONNECTION, Blame.FREE, None),
        (httpx.ReadTimeout("idle"), ErrorCode.TIMEOUT, Blame.MAYBE_BILLED, UnknownBilling.TIMEOUT),
        (httpx.ReadError("rst"), ErrorCode.CONNECTION, Blame.MAYBE_BILLED, UnknownBilling.RESET),
        (TimeoutError(), ErrorCode.TIMEOUT, Blame.MAYBE_BILLED, UnknownBilling.TIMEOUT),
        (ConnectionResetError(), ErrorCode.CONNECTION, Blame.MAYBE_BILLED, UnknownBilling.RESET),
        (
            httpx.DecodingError("gzip"),
            ErrorCode.BAD_REPLY,
            Blame.MAYBE_BILLED,
            UnknownBilling.BAD_REPLY,
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors_mean_what_they_cost(error, code, blame, unknown):
    problem = judge_exchange_error(error)
    assert (problem.failure.code, problem.blame, problem.unknown) == (code, blame, unknown)


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), AssertionError()])
def test_what_no_transport_raises_is_a_bug(error):
    assert judge_exchange_error(error) is None


def test_a_ca_file_that_cannot_be_read_is_named(tmp_path):
    async def main():
        with pytest.raises(UsageError, match=r"none\.pem"):
            open_transport("https://h/v1", proxy=None, ca_file=str(tmp_path / "none.pem"))

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:9/", "connection failed: Connection refused (127.0.0.1:9)"),
        ("http://nosuch.invalid/", "(nosuch.invalid:80)"),
    ],
)
def test_who_cannot_be_reached_is_said_in_plain_words(url, said):
    async def main():
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientConnectorError) as raised:
                await session.get(url)
        return judge_exchange_error(raised.value)

    assert said in asyncio.run(main()).failure.message
