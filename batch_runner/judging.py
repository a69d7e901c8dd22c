"""What came back, or did not, in terms of the row: an answer, a problem, or a response being made."""

from collections.abc import Mapping
from dataclasses import replace

from batch_runner import responses
from batch_runner.course import Course
from batch_runner.exchange import Reply
from batch_runner.records import Completion, ErrorCode, Failure, UnknownBilling, other
from batch_runner.retry import Blame, Problem, judge_failed_reply, judge_status


def judge_reply(
    reply: Reply, course: Course, *, at: float, now: float, shared_model: bool
) -> Completion | Problem | responses.Unfinished:
    """What a whole reply means. The course has heard what it used, or that this is unknown.

    `at` is the Unix time at which the attempt began.
    """
    body = reply.object()
    course.http_status = reply.status
    course.request_id = reply.headers.get("x-request-id")
    if not 200 <= reply.status < 300:
        course.edition += 1
        problem = judge_status(
            reply.status,
            responses.read_error(body),
            reply.headers,
            now=now,
            shared_model=shared_model,
        )
        return still_pending(problem, course, is_gone=reply.status in (404, 410))
    if not isinstance(body, Mapping):
        return still_pending(_unreadable(reply), course)
    ending = responses.read_reply(body, cap=course.asked.max_output_tokens)
    if isinstance(ending, responses.Unfinished):
        return ending
    usage = responses.read_usage(body)
    course.heard(body, usage, at=at)
    if isinstance(ending, Failure):
        return judge_failed_reply(ending, billed=usage is not None)
    if usage is None:
        course.unknown[UnknownBilling.BAD_REPLY] += 1
    return ending


def still_pending(problem: Problem, course: Course, *, is_gone: bool = False) -> Problem:
    """The problem, or what it means while a background response is being made: little.

    That response has been paid for and can be asked for again, unless the endpoint forgot it.
    """
    if course.response_id is None:
        return problem
    if is_gone:
        course.response_id = None
        return replace(problem, blame=Blame.MAYBE_BILLED, unknown=UnknownBilling.SERVER_ERROR)
    blame = Blame.FREE if problem.blame is Blame.MAYBE_BILLED else problem.blame
    return replace(problem, blame=blame, unknown=None)


BROKEN_OFF = Problem(
    failure=Failure(code=other("cancelled"), message="broken off when the run was stopped"),
    blame=Blame.MAYBE_BILLED,
    unknown=UnknownBilling.CANCELLED,
)


def out_of_time(timeout_seconds: float) -> Problem:
    message = f"no whole reply within endpoint.timeout ({timeout_seconds:g} s)"
    return Problem(
        failure=Failure(code=ErrorCode.TIMEOUT, message=message),
        blame=Blame.MAYBE_BILLED,
        unknown=UnknownBilling.TIMEOUT,
    )


def still_being_made(response_id: str) -> Problem:
    """A background response that goes on at the endpoint."""
    message = f"response {response_id} is still being made; the next run asks for it"
    return Problem(failure=Failure(code=ErrorCode.TIMEOUT, message=message), blame=Blame.ROW)


def _unreadable(reply: Reply) -> Problem:
    """A 200 that holds no response object."""
    if reply.is_stream:
        what = "the stream ended before the response did"
    else:
        what = (
            f"but the body is not a response object: {reply.body[:80].decode(errors='replace')!r}"
        )
    failure = Failure(code=ErrorCode.BAD_REPLY, message=f"HTTP {reply.status}, {what}")
    return judge_failed_reply(failure, billed=False)
