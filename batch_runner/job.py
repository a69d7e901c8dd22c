"""What a person describes in a job file, as checked values: one spec for each table.

`jobmapping.job_from_mapping` is the only way in; what a value may be is said by its reader.
"""

import shlex
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

from batch_runner import values as read
from batch_runner.concurrency import Concurrency
from batch_runner.hosts import is_loopback_url
from batch_runner.values import ErrorLimit, Reader


DEFAULT_BASE_URL = "https://api.openai.com/v1"
URL_VARIABLE = "OPENAI_BASE_URL"
"""Names another one, where the job says nothing of it."""
COMMAND_LINE = "command line"
"""The origin of a job that flags describe."""
OVERRIDES = "Overrides"
"""Of one that Python describes."""
RUN_FRAME = "run_frame"
"""Of one over a frame."""
_NO_FILES = frozenset({COMMAND_LINE, OVERRIDES, RUN_FRAME})
META_SUFFIX = ".meta.json"
"""Behind the name of an output: the numbers of its last run."""


class InputFormat(StrEnum):
    """How the records of the input lie in their files."""

    AUTO = "auto"
    """As the suffix says."""
    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"
    OPENAI_BATCH = "openai-batch"
    """Whole requests, as the hosted batch API takes them."""


class BadRowPolicy(StrEnum):
    """What a record that cannot be read does to the job."""

    FAIL = "fail"
    """Nothing is sent; the first places are named."""
    SKIP = "skip"
    """It is left out, counted, and its line is kept in the meta file."""


class MissingPolicy(StrEnum):
    """What an empty or null cell does to a row whose prompt refers to it."""

    FAIL = "fail"
    SKIP = "skip"
    EMPTY = "empty"
    """It reads as empty text."""


class IncompletePolicy(StrEnum):
    """What happens to an answer that was cut at max_output_tokens."""

    KEEP = "keep"
    RETRY = "retry"
    """Asked once more with a larger cap."""


class InvalidPolicy(StrEnum):
    """What happens to an answer that does not fit the JSON schema."""

    RETRY = "retry"
    FAIL = "fail"
    KEEP = "keep"
    """The row is `ok`; its JSON columns stay empty."""


class FormulaPolicy(StrEnum):
    """What happens to an answer in a CSV that a spreadsheet would run as a formula."""

    KEEP = "keep"
    """Written as it is, counted and warned of."""
    ESCAPE = "escape"
    """Written behind an apostrophe."""


class Durability(StrEnum):
    """How long after a row is finished it must survive a power cut."""

    NOW = "now"
    MS_100 = "100ms"
    S_1 = "1s"
    OFF = "off"
    """Left to the operating system. A killed process still loses nothing."""


class ColumnSet(StrEnum):
    """A named choice of output columns."""

    MINIMAL = "minimal"
    STANDARD = "standard"
    FULL = "full"


def _columns(value: Any) -> ColumnSet | tuple[str, ...]:
    if isinstance(value, str):
        return read.one_of(ColumnSet)(value)
    return read.texts(value)


def _key(reader: Reader, default: Any = MISSING, factory: Any = MISSING) -> Any:
    """A field of a spec: how its value is read, and what it is when absent."""
    if factory is not MISSING:
        return field(default_factory=factory, metadata={"read": reader})
    return field(default=default, metadata={"read": reader})


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """[input]: the rows."""

    path: tuple[str, ...] = _key(read.texts)
    """Files or globs; absolute once the job is loaded."""
    format: InputFormat = _key(read.one_of(InputFormat), InputFormat.AUTO)
    key: tuple[str, ...] = _key(read.texts, ())
    """Columns that name a row: unique together; a label and join key, never the proof of payment."""
    encoding: str = _key(read.filled, "utf-8")
    delimiter: str | None = _key(read.delimiter, None)
    on_bad_row: BadRowPolicy = _key(read.one_of(BadRowPolicy), BadRowPolicy.FAIL)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSpec:
    """[prompt]: templates that turn a row into the input of a request."""

    instructions: str | None = _key(read.text, None)
    input: str | None = _key(read.filled, None)
    input_file: str | None = _key(read.text, None)
    """Read and put into `input` before the mapping gets here; kept for messages."""
    messages: Any = _key(read.messages, None)
    """A list of messages whose strings are templates, or the name of a column that holds one."""
    body: str | None = _key(read.filled, None)
    """A column that holds a whole request body."""
    missing: MissingPolicy = _key(read.one_of(MissingPolicy), MissingPolicy.FAIL)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSpec:
    """[endpoint]: where and how to call."""

    base_url: str = _key(read.base_url, DEFAULT_BASE_URL)
    api_key_env: str | None = _key(read.key_variable, None)
    """None: as the host has it (`api_key`). Empty: no key is sent."""
    timeout: float = _key(read.duration_seconds, 600.0)
    """Seconds of wall clock for one attempt."""
    stream: bool = _key(read.flag, False)
    headers: Mapping[str, str] = _key(read.headers, factory=dict)
    idempotency_header: str | None = _key(read.header_name, None)
    ca_file: str | None = _key(read.filled, None)
    proxy: str | None = _key(read.proxy, None)

    @property
    def is_local(self) -> bool:
        """It is on this machine, so it may do without a key."""
        return is_loopback_url(self.base_url)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSpec:
    """[limits]: how hard to press, and when to stop."""

    concurrency: Concurrency = _key(read.concurrency, Concurrency.parse("auto"))
    rpm: float | None = _key(read.rate, None)
    tpm: float | None = _key(read.rate, None)
    max_cost: Decimal | None = _key(read.spending_limit, None)
    max_errors: ErrorLimit = _key(read.error_limit, ErrorLimit())
    deadline: float | None = _key(read.duration_seconds, None)
    """Seconds after the start at which no new row is begun."""
    grace: float = _key(read.duration_seconds, 25.0)
    """Seconds a drain may take: docker and Kubernetes kill after 10 and 30."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySpec:
    """[retry]: three budgets, because failures differ in what they cost."""

    attempts: int = _key(read.positive, 6)
    """Calls of one row that may fail without having cost anything."""
    max_wait: float = _key(read.duration_seconds, 60.0)
    """Longest wait of our own choosing, seconds; a server's Retry-After may be longer."""
    rate_limit_patience: float = _key(read.duration_seconds, 3600.0)
    """Seconds one row may spend waiting for rate limits; such waits use up no attempts."""
    maybe_billed_attempts: int = _key(read.whole, 2)
    """Repeats after a failure that may have been billed."""
    on_incomplete: IncompletePolicy = _key(read.one_of(IncompletePolicy), IncompletePolicy.KEEP)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSpec:
    """[output]: the same rows with the new columns."""

    path: str = _key(read.filled)
    columns: ColumnSet | tuple[str, ...] = _key(_columns, ColumnSet.STANDARD)
    prefix: str = _key(read.text, "llm_")
    csv_formulas: FormulaPolicy = _key(read.one_of(FormulaPolicy), FormulaPolicy.KEEP)
    report: str | None = _key(read.file_ending(".html", ".htm"), None)
    durability: Durability = _key(read.one_of(Durability), Durability.MS_100)


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonSpec:
    """[json]: structured output, checked here and turned into columns."""

    schema_file: str | None = _key(read.filled, None)
    schema: Mapping[str, Any] | None = _key(read.table, None)
    """The schema itself; what schema_file holds is put here before the mapping gets here."""
    on_invalid: InvalidPolicy = _key(read.one_of(InvalidPolicy), InvalidPolicy.RETRY)
    columns: Mapping[str, str] = _key(read.text_table, factory=dict)
    """JSON pointer into the answer -> column name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceSpec:
    """[prices."model"]: dollars per million tokens; wins over the built-in table."""

    input: Decimal = _key(read.money)
    output: Decimal = _key(read.money)
    cached_input: Decimal | None = _key(read.money, None)
    cache_write: Decimal | None = _key(read.money, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifySpec:
    """[notify]: who hears of a run's end."""

    ping_url_env: str | None = _key(read.variable, None)
    prometheus_textfile: str | None = _key(read.file_ending(".prom"), None)


def giver(key: str, given_by: Mapping[str, str]) -> str | None:
    """Who gave a key, or a table that it stands in, or a part of it; None: the job file."""
    if key in given_by:
        return given_by[key]
    name = key.strip("[]")
    return next(
        (
            who
            for given, who in given_by.items()
            if name.startswith(f"{given}.") or given.startswith((f"{name}.", f"{name}["))
        ),
        None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A job without a file, as it was given: what describes it again, from any folder."""

    folder: Path
    """What relative paths in the tables mean."""
    tables: Mapping[str, Any]
    """With the environment of the time laid over them."""
    left_out: tuple[str, ...] = ()
    """Keys that may hold secrets, and that only a call needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """A job, whole and checked. Paths are absolute."""

    name: str
    origin: str
    """Where it was described: a path, or what stands in its place; for messages."""
    folder: Path
    """What relative paths mean."""
    input: InputSpec
    prompt: PromptSpec
    request: Mapping[str, Any]
    """Parameters of the body besides the prompt; strings may be templates."""
    endpoint: EndpointSpec
    limits: LimitSpec
    retry: RetrySpec
    output: OutputSpec
    json: JsonSpec
    prices: Mapping[str, PriceSpec]
    notify: NotifySpec

    given_by: Mapping[str, str] = field(default_factory=dict)
    """Keys that a flag, `--set` or a variable gave -> its name, for messages."""
    given: Given | None = None
    """None for a job with a file, and where it may hold a secret."""
    typed: str = ""
    """The arguments that mean it, ready to be typed; empty where there are none."""

    def place(self, key: str) -> str:
        """Where a key such as `output.path` was given, as messages begin."""
        return f"{giver(key, self.given_by) or self.origin}: {key}"

    @property
    def has_file(self) -> bool:
        return self.origin not in _NO_FILES

    @property
    def invocation(self) -> str:
        """What to type behind a command to mean this job."""
        return self.typed or shlex.quote(self.origin)

    @property
    def model(self) -> str:
        return str(self.request["model"])

    @property
    def model_in_words(self) -> str:
        """For people: a template names a model for each row, which none of them is called."""
        return "each row's own model" if "{{" in self.model or "{%" in self.model else self.model

    @property
    def output_path(self) -> Path:
        return Path(self.output.path)

    @property
    def run_path(self) -> Path:
        return self.output_path.with_name(self.output_path.name + ".run")

    @property
    def meta_path(self) -> Path:
        return self.output_path.with_name(self.output_path.name + META_SUFFIX)
