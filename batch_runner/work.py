"""A job with everything opened that its commands share, and what its manifest keeps of it."""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import compress
from typing import Any

from batch_runner.bill import Biller
from batch_runner.columns import OutputColumns
from batch_runner.disk import identity_of
from batch_runner.fingerprint import fingerprint
from batch_runner.grown import digests_of
from batch_runner.job import IncompletePolicy, JobSpec
from batch_runner.journal import (
    Damage,
    Manifest,
    Replay,
    RunDirectory,
    read_manifest,
    write_manifest,
)
from batch_runner.kept import KeptRows, write_kept
from batch_runner.logs import here
from batch_runner.output_place import is_ours
from batch_runner.outset import MARK, Outset, outset_of, unmet
from batch_runner.plan import Dedupe, Plan, requests
from batch_runner.pricing import PriceBook
from batch_runner.prompt import PromptBuilder
from batch_runner.prospect import Prospect
from batch_runner.reask import with_more_room
from batch_runner.records import ErrorCode, Request
from batch_runner.shortcut import Shortcut
from batch_runner.structured import AnswerSchema
from batch_runner.tables import Table


SEEN_BY = "runs"
"""The name under which the manifest remembers the runs whose positions are those of its input."""
DIGESTS = "digests"
"""The name under which it remembers what stood in the files, where nothing else names their rows."""
KEPT = "kept"
"""The name under which the manifest remembers `Work.kept`."""
RERUN = "rerun"
"""The name under which it remembers `Work.may_repay`."""


@dataclass(kw_only=True)
class Work:
    """One job, opened: see `opening`."""

    job: JobSpec
    table: Table
    builder: PromptBuilder
    columns: OutputColumns
    schema: AnswerSchema | None
    biller: Biller
    replay: Replay
    plan: Plan
    dedupe: Dedupe
    before: Manifest | None
    """What the last run left word of."""
    damage: Sequence[Damage]
    """Places of the journal that cannot be read, those at its end that are gone among them."""
    damaged_before: Sequence[list[Any]]
    """Those that the last run has met: see `places_of`."""
    shortcut: Shortcut | None
    """The one that was taken."""
    plan_made_of: str | None
    """A digest of all that the plan depends on; None where that cannot be told."""
    run_id: str
    started_at: float
    input_identity: list[list[Any]]
    """Of the input files, taken before they were read: see `identity_of`."""
    prospect: Prospect | None = None
    """What the run is about to send, once that is settled."""
    endings_before: "array[int] | None" = None
    """How each row to send stood before this run, where somebody wants to know: see `news`."""
    outset: Outset | None = None
    """How the rows stood before this run, once somebody has asked."""
    may_repay: bool = False
    """`--on-change rerun` was said, now or to a run that did not come to the end of it."""
    kept: Mapping[str, Any] | None = None
    """Changed rows show the answers they had before: see `keeping`."""
    kept_rows: KeptRows | None = None
    """Which ones, where rows have labels."""
    kept_rows_are_new: bool = False
    """The run folder does not know them yet."""
    kept_count: int = 0
    """How many rows of the plan show such an answer."""
    warnings: list[str] = field(default_factory=list)

    @property
    def prices(self) -> PriceBook:
        return self.biller.prices

    def requests(self) -> Iterator[Request]:
        """The requests to send, in input order; of rows that were cut off before with more room.

        Reads the input a second time, and raises as `plan.requests` does.
        """
        found = requests(self.plan, self.table, self.builder, self.replay.index)
        return map(self._with_room, found) if self._gives_room else found

    @property
    def cut_before(self) -> int:
        """How many rows to send were cut off at a cap before, and begin with a higher one."""
        if not self._gives_room:
            return 0
        sent = self.replay.index.endings(compress(self.plan.entries, self.plan.wanted))
        return sum(n for (_, code), n in sent.items() if code == ErrorCode.MAX_OUTPUT_TOKENS)

    @property
    def _gives_room(self) -> bool:
        return self.job.retry.on_incomplete is IncompletePolicy.RETRY

    def _with_room(self, request: Request) -> Request:
        """The cap that cut the last answer off would cut the next one off, too, and be paid for."""
        entry = self.replay.find(request.key)
        if entry is None or entry.code != ErrorCode.MAX_OUTPUT_TOKENS:
            return request
        told = self.replay.told(entry, with_reply=False) or {}
        cap = told.get("answer_cap", told.get("max_output_tokens"))
        return with_more_room(request, than=cap) or request

    @property
    def new_damage(self) -> int:
        """Damaged places that the last run has not met."""
        return unmet(self.damage, self.damaged_before)

    @property
    def was_moved(self) -> bool:
        """The last run wrote its output to another place: the run folder was moved since, or copied."""
        before = {} if self.before is None else self.before.job
        now = str(self.job.output_path)
        return bool(before.get("output", now) != now)

    @property
    def same_prompt(self) -> bool:
        """Prompt and parameters are those of the last run."""
        return self.before is not None and self.before.fingerprint == fingerprint(self.job)


def claim_output(work: Work) -> None:
    """Later runs know the output for this job's own, even if it was exported before the first one."""
    if not is_ours(work.job):
        RunDirectory(work.job.run_path).create()
        remember_job(work)


def remember_job(work: Work) -> None:
    """The manifest says which prompt and input the journal was last used with.

    What else it says stays: `freshness` sees for itself whether its part still holds.
    """
    directory = RunDirectory(work.job.run_path)
    if work.kept_rows is not None and work.kept_rows_are_new:
        # First: without the file, what the manifest says keeps any row.
        write_kept(directory, work.kept_rows)
        work.kept_rows_are_new = False
    found, new = read_manifest(directory.manifest), manifest_of(work)
    seen_before: Mapping[str, Any] = {}
    if isinstance(found, Manifest):
        # A run that sends nothing has not used the journal with this prompt.
        used = new.fingerprint if work.plan.to_send else found.fingerprint
        new = replace(new, fingerprint=used, extra={**found.extra, **new.extra})
        seen_before = found.input
    new = replace(new, input=_input_seen(work, new.input, before=seen_before))
    write_manifest(directory.manifest, new)


def _input_seen(
    work: Work, seen: Mapping[str, Any], *, before: Mapping[str, Any]
) -> dict[str, Any]:
    """What the manifest says of the input, and goes on saying while the files are the same."""
    if before.get("files") == work.input_identity:
        runs = [*before.get(SEEN_BY, ()), work.run_id]
        seen = {**before, **seen, SEEN_BY: runs}
    if not work.builder.label_columns and DIGESTS not in seen:
        seen = {**seen, DIGESTS: digests_of(work.input_identity)}
    return dict(seen)


def manifest_of(work: Work) -> Manifest:
    job = work.job
    # Flags that may hold a secret describe nothing with that left out.
    can_be_typed = job.typed and (job.given or job.has_file)
    return Manifest(
        fingerprint=fingerprint(job),
        job={
            "name": job.name,
            "model": job.model,
            "file": job.origin,
            "output": str(job.output_path),
            **({"given": asdict(job.given)} if job.given else {}),
            # What to type to mean this run once more, with its endpoint: see `last_invocation`.
            **({"typed": job.typed, "typed_in": here()} if can_be_typed else {}),
        },
        input={"files": work.input_identity, "rows": work.plan.rows, SEEN_BY: [work.run_id]},
        extra={
            "dedupe": work.dedupe,
            KEPT: work.kept,
            RERUN: work.may_repay,
            # What the calls cost must be known without the job file, too.
            "prices": {model: asdict(price) for model, price in work.prices.overrides.items()},
            "base_url": job.endpoint.base_url,
            "service_tier": job.request.get("service_tier"),
            MARK: _outset(work).to_json(),
        },
    )


def _outset(work: Work) -> Outset:
    """Taken once: from the first call on, the index knows results of this run."""
    if work.outset is None:
        work.outset = outset_of(
            work.plan,
            work.replay.index,
            run_id=work.run_id,
            made_of=work.plan_made_of,
            files=work.input_identity,
            left_out=identity_of(file.path for file in work.table.left_out),
            damage=work.damage,
            damaged_before=work.damaged_before,
        )
    return work.outset


def journal_settings(job: JobSpec) -> dict[str, str]:
    """What the journal remembers of a run besides its rows."""
    return {"model": job.model, "base_url": job.endpoint.base_url}
