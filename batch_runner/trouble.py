"""Says once that nothing comes back, and why, instead of repeating in silence."""

from collections.abc import Callable

from batch_runner.retry import Problem


FIRST_PATIENCE_SECONDS = 1.0
"""While no row has ever ended well: who has just started a run looks at it, and wonders."""
PATIENCE_SECONDS = 15.0
"""Later: an endpoint that stumbles for a moment is nobody's business."""
LONG_WAIT_SECONDS = 3.0


class Trouble:
    """Hears of every attempt that will be repeated. `tell` gets one sentence for each dry spell."""

    def __init__(
        self, url: str, *, tell: Callable[[str], None], clock: Callable[[], float]
    ) -> None:
        self._url = url
        self._tell = tell
        self._clock = clock
        self._patience = FIRST_PATIENCE_SECONDS
        self._since: float | None = None
        self._told = False

    def heard(self, problem: Problem, wait_seconds: float) -> None:
        """An attempt brought no answer; its row waits so long before the next one."""
        now = self._clock()
        if self._since is None:
            self._since = now
        lasted = now - self._since
        never_well = self._patience == FIRST_PATIENCE_SECONDS
        if self._told or (
            lasted < self._patience and not (never_well and wait_seconds >= LONG_WAIT_SECONDS)
        ):
            return
        self._told = True
        begun = "no answer in this run yet" if never_well else f"no answer for {lasted:.0f} s"
        when = f"next in {wait_seconds:.0f} s" if wait_seconds >= 0.5 else "at once"
        self._tell(f"{begun} from {self._url}: {problem.failure.message}; trying again ({when})")

    def answered(self) -> None:
        """A row has ended well."""
        self._since = None
        self._told = False
        self._patience = PATIENCE_SECONDS
