"""Replies that are not 200: the shapes of OpenAI, llama.cpp, LiteLLM, FastAPI and bare proxies."""

from dataclasses import dataclass, replace

from batch_runner.faultserver.register import ending
from batch_runner.faultserver.replies import Call, Reply, encode, error_reply


HTML = (
    b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpError:
    """An error reply; `message` may name {model} and {key}."""

    status: int
    code: str | None
    message: str
    kind: str = "invalid_request_error"
    billed: bool = False
    """True behind a gateway: it lost the reply of a model that may have worked."""

    def __call__(self, call: Call, retry_after: str) -> Reply:
        message = self.message.format(model=call.model, key=call.api_key or "none")
        reply = error_reply(self.status, message, kind=self.kind, code=self.code)
        if self.billed:
            reply = replace(reply, billed=True, usage=call.count(call.text()))
        return reply.with_headers(("retry-after", retry_after)) if retry_after else reply


LIMIT = "Rate limit reached for {model}. Please slow down."
HTTP_ERRORS = {
    "400": HttpError(status=400, code="invalid_value", message="Invalid value: 'temperature'."),
    "401": HttpError(
        status=401, code="invalid_api_key", message="Incorrect API key provided: {key}."
    ),
    "403": HttpError(
        status=403,
        code="unsupported_country_region_territory",
        kind="request_forbidden",
        message="Country, region, or territory not supported",
    ),
    "404": HttpError(
        status=404,
        code="model_not_found",
        message="The model `{model}` does not exist or you do not have access to it.",
    ),
    "408": HttpError(status=408, code="request_timeout", message="Request timed out."),
    "409": HttpError(
        status=409, code="conflict", kind="conflict_error", message="Try again, please."
    ),
    "413": HttpError(status=413, code="request_too_large", message="Request body is too large."),
    "422": HttpError(status=422, code="unprocessable", message="This input cannot be processed."),
    "429": HttpError(status=429, code="rate_limit_exceeded", kind="requests", message=LIMIT),
    "429-too-large": HttpError(
        status=429,
        code="rate_limit_exceeded",
        kind="tokens",
        message="Request too large for {model} on tokens per min (TPM): Limit 1000, Requested 2000.",
    ),
    "slow-down": HttpError(status=429, code="slow_down", kind="rate_limit_error", message=LIMIT),
    "flex-unavailable": HttpError(
        status=429, code="resource_unavailable", kind="resource_unavailable", message="No capacity."
    ),
    "500": HttpError(
        status=500,
        code="server_error",
        kind="server_error",
        message="The server had an error while processing your request.",
    ),
    "502": HttpError(
        status=502, code=None, kind="server_error", message="Bad gateway.", billed=True
    ),
    "503": HttpError(
        status=503,
        code="server_is_overloaded",
        kind="service_unavailable_error",
        message="The server is overloaded.",
    ),
    "504": HttpError(
        status=504, code=None, kind="server_error", message="Gateway timeout.", billed=True
    ),
    "529": HttpError(status=529, code="overloaded", kind="overloaded_error", message="Overloaded."),
}
for _name, _error in HTTP_ERRORS.items():
    ending(_name)(_error)


@ending("quota")
def quota(_call: Call, code: str) -> Reply:
    """429 that no wait will cure; ARG: its error code."""
    code = code or "insufficient_quota"
    message = "You exceeded your current quota, please check your plan and billing details."
    return error_reply(429, message, kind="insufficient_quota", code=code)


@ending("502-html")
def bad_gateway_page(call: Call, _arg: str) -> Reply:
    """502 with a proxy's HTML page."""
    usage = call.count(call.text())
    return Reply(status=502, body=HTML, content_type="text/html", billed=True, usage=usage)


@ending("503-loading")
def loading(_call: Call, _arg: str) -> Reply:
    """503 of llama.cpp while it loads the model, without Retry-After."""
    return _llama(503, "Loading model", "unavailable_error")


@ending("llama")
def llama(_call: Call, status: str) -> Reply:
    """An error whose code is an integer; ARG: the status, 401 by default."""
    return _llama(int(status or 401), "Invalid API Key", "authentication_error")


@ending("litellm")
def litellm(_call: Call, status: str) -> Reply:
    """An error whose code is the status as text and whose type is "None"; ARG: the status, 429."""
    status = status or "429"
    reply = error_reply(int(status), "litellm.RateLimitError: slow down", kind="None", code=status)
    return reply.with_headers(("llm_provider-retry-after", "60"))


@ending("litellm-bad-key")
def litellm_bad_key(_call: Call, _arg: str) -> Reply:
    """400 where others send 401: a proxy that cannot look keys up."""
    return error_reply(400, "No connected db.", kind="no_db_connection", code="400")


@ending("detail")
def detail(_call: Call, status: str) -> Reply:
    """FastAPI's error shape; ARG: the status, 422 by default."""
    return Reply(status=int(status or 422), body=encode({"detail": "input: field required"}))


@ending("plain")
def plain(_call: Call, status: str) -> Reply:
    """An error in text/plain; ARG: the status, 500 by default."""
    return Reply(
        status=int(status or 500), body=b"Internal Server Error", content_type="text/plain"
    )


@ending("redirect")
def redirect(_call: Call, status: str) -> Reply:
    """3xx to /health of this server; ARG: the status, 307 by default."""
    return Reply(status=int(status or 307), headers=(("location", "/health"),))


def _llama(status: int, message: str, kind: str) -> Reply:
    body = {"error": {"code": status, "message": message, "type": kind}}
    return Reply(status=status, body=encode(body))
