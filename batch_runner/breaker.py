"""Notices an endpoint that refuses everyone, before it becomes a million failed rows."""

from batch_runner.errors import GO_ON, RunStoppedError
from batch_runner.records import ErrorCode, Failure
from batch_runner.retry import Blame, Problem


ACCESS_IN_A_ROW = 3
"""401s and 403s: one may be a gateway's hiccup or a single forbidden row."""
SAME_IN_A_ROW = 20
"""Rows that failed alike before any row succeeded: a mistake of the job, not of the rows."""

_HINTS = {
    ErrorCode.AUTH: f"check the key and endpoint.api_key_env; finished rows are kept, {GO_ON}",
    ErrorCode.QUOTA: f"the account is out of credit or over its spend limit; {GO_ON}",
    ErrorCode.NOT_FOUND: "check request.model and endpoint.base_url",
    ErrorCode.CONNECTION: f"check endpoint.base_url, the proxy and the network; {GO_ON}",
    ErrorCode.BAD_REQUEST: "check the [request] table against what this endpoint accepts",
}


class Breaker:
    """Watches attempts and rows of one run; answers with the reason to stop, once there is one.

    `denied_hint` is the way out after 401s and 403s, where more is known than that the key is wrong.
    """

    def __init__(self, *, denied_hint: str = "") -> None:
        self._denied_hint = denied_hint
        self._any_success = False
        self._denials = 0
        self._denied_rows: set[int] = set()
        self._alike: tuple[str, str] | None = None
        self._alike_rows = 0

    def succeeded(self) -> None:
        self._any_success = True
        self._denials = 0
        self._denied_rows.clear()
        self._alike_rows = 0

    def attempt_failed(self, problem: Problem, row: int) -> RunStoppedError | None:
        """The reason to stop when this problem concerns every row."""
        if problem.blame is Blame.EVERYONE:
            return _stop(problem.failure, hint=problem.hint)
        if problem.blame is not Blame.ACCESS:
            self._denials = 0
            self._denied_rows.clear()
            return None
        self._denials += 1
        self._denied_rows.add(row)
        rows_needed = ACCESS_IN_A_ROW if self._any_success else 1
        if self._denials >= ACCESS_IN_A_ROW and len(self._denied_rows) >= rows_needed:
            return _stop(problem.failure, hint=self._denied_hint)
        return None

    def row_failed(self, failure: Failure) -> RunStoppedError | None:
        """The reason to stop when no row has succeeded and many failed alike.

        Rate limits never stop a run: they pass by themselves.
        """
        if self._any_success or failure.code not in _HINTS:
            return None
        alike = (failure.code, "" if failure.code == ErrorCode.CONNECTION else failure.message)
        self._alike_rows = self._alike_rows + 1 if alike == self._alike else 1
        self._alike = alike
        if self._alike_rows >= SAME_IN_A_ROW:
            return _stop(failure, f" ({SAME_IN_A_ROW} rows in a row, and none succeeded)")
        return None


def _stop(failure: Failure, detail: str = "", *, hint: str = "") -> RunStoppedError:
    known = failure.code in set(ErrorCode)
    hint = hint or (_HINTS.get(ErrorCode(failure.code), "") if known else "")
    return RunStoppedError(f"the endpoint refuses: {failure.message}{detail}", hint=hint)
