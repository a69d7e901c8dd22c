"""Background responses: queued, in progress, done, asked for by id."""

from dataclasses import dataclass, replace
from typing import Any

from batch_runner.faultserver.replies import JSON, STUCK, Reply, encode
from batch_runner.faultserver.settings import Settings


KEPT_JOBS = 100_000  # the oldest is forgotten first, as providers forget after minutes

HOLLOW: dict[str, Any] = {
    "output": [],
    "usage": None,
    "completed_at": None,
    "error": None,
    "incomplete_details": None,
}


@dataclass(slots=True, kw_only=True)
class Job:
    """A response in the making."""

    n: int
    """Ledger number of the call that asked for it."""
    end: Reply
    response: dict[str, Any]
    status: str
    """queued | in_progress | stuck | cancelled, or done when `end` may be told."""
    accepted_at: float
    polls: int = 0
    usage_told: bool = False

    def poll(self, settings: Settings, now: float) -> None:
        """One step further, by count or by time."""
        if self.status not in {"queued", "in_progress"}:
            return
        self.polls += 1
        if settings.background_seconds is None:
            done = self.polls >= settings.background_polls
        else:
            done = now - self.accepted_at >= settings.background_seconds
        self.status = "done" if done else "in_progress"

    def reply(self) -> Reply:
        """The Response as it stands."""
        if self.status == "done":
            return replace(self.end, body=encode(self.response), content_type=JSON, chunked=False)
        status = "in_progress" if self.status == STUCK else self.status
        return Reply(body=encode({**self.response, **HOLLOW, "status": status}))


class Jobs:
    """Background responses by id."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}

    def accept(self, n: int, end: Reply, now: float) -> Reply:
        """The first reply: not done yet. What the provider bills is the same, unseen so far."""
        if end.response is None or end.job_status is None:
            raise AssertionError("a background reply has a Response and a first status")
        plain = replace(end, delay_seconds=0.0, job_status=None)
        job = Job(n=n, end=plain, response=end.response, status=end.job_status, accepted_at=now)
        if len(self._jobs) >= KEPT_JOBS:
            del self._jobs[next(iter(self._jobs))]
        self._jobs[end.response["id"]] = job
        begun = job.reply().body
        return replace(
            end, body=begun, content_type=JSON, chunked=False, usage_delivered=False, response=None
        )

    def find(self, response_id: str) -> Job | None:
        return self._jobs.get(response_id)

    def cancel(self, job: Job) -> None:
        """Cancelled, unless it was done before; asking twice changes nothing."""
        if job.status != "done":
            job.status = "cancelled"
