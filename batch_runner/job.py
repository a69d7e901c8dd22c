"""What a person describes in a job file, as checked values.

`job_from_mapping` is the only way in: a nested mapping (TOML, flags and environment already laid
over one another) becomes a `JobSpec`, or a `JobError` that names the place, the value and the way out.
"""

import difflib
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from batch_runner.concurrency import Concurrency
from batch_runner.errors import JobError


DEFAULT_BASE_URL = "https://api.openai.com/v1"
DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY_LIKE = re.compile(r"\b(?:sk|rk|pk|key|gsk|xai|AIza)[-_][A-Za-z0-9_-]{12,}|[A-Za-z0-9_-]{40,}")


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


class WrongValueError(ValueError):
    """A value does not fit its key; the message continues "table.key: <value> ..."."""


T = TypeVar("T")
Reader = Callable[[Any], Any]


def duration_seconds(value: Any) -> float:
    """Seconds of "10m", "1h30m", "250ms" or a plain number of seconds."""
    if (isinstance(value, (int, float)) and not isinstance(value, bool)) or (
        isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?", value)
    ):
        seconds = float(value)
    elif isinstance(value, str) and re.fullmatch(f"(?:{_DURATION.pattern})+", value):
        seconds = sum(float(n) * _SECONDS[unit] for n, unit in _DURATION.findall(value))
    else:
        raise WrongValueError('is not a duration such as "90s", "10m" or "1h30m"')
    if not math.isfinite(seconds) or seconds <= 0:
        raise WrongValueError("must be longer than zero")
    return seconds


@dataclass(frozen=True, slots=True)
class ErrorLimit:
    """`--max-errors`: a number of failed rows, or a share of the finished ones."""

    rows: int | None = None
    share: float | None = None

    SHARE_NEEDS_ROWS = 20
    """A share means nothing over the first few rows."""

    def exceeded(self, failed: int, finished: int) -> bool:
        if self.rows is not None:
            return failed > self.rows
        if self.share is not None and finished >= self.SHARE_NEEDS_ROWS:
            return failed > self.share * finished
        return False


def error_limit(value: Any) -> ErrorLimit:
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", value)):
        share = float(match[1]) / 100
        if share > 1:
            raise WrongValueError("is more than 100%")
        return ErrorLimit(share=share)
    return ErrorLimit(rows=_whole(value))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise WrongValueError("must be text")
    return value


def _filled(value: Any) -> str:
    if not _text(value).strip():
        raise WrongValueError("must not be empty")
    return cast("str", value)


def _flag(value: Any) -> bool:
    if value in ("true", "false"):
        return bool(value == "true")
    if not isinstance(value, bool):
        raise WrongValueError("must be true or false")
    return value


def _whole(value: Any, *, least: int = 0) -> int:
    if isinstance(value, str) and re.fullmatch(r"\d+", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise WrongValueError(f"must be a whole number, {least} or more")
    return value


def _positive(value: Any) -> int:
    return _whole(value, least=1)


def _rate(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if isinstance(value, bool) or not math.isfinite(number) or number <= 0:
        raise WrongValueError("must be a number above zero")
    return number


def _money(value: Any) -> Decimal:
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        amount = Decimal(-1)
    if isinstance(value, bool) or not amount.is_finite() or amount < 0:
        raise WrongValueError("must be an amount of dollars, such as 2.50")
    return amount


def _table(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise WrongValueError("must be a table")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if (
        not isinstance(items, (list, tuple))
        or not items
        or not all(isinstance(i, str) for i in items)
    ):
        raise WrongValueError("must be text or a list of texts")
    return tuple(items)


def _text_table(value: Any) -> Mapping[str, str]:
    if not all(isinstance(item, str) for item in _table(value).values()):
        raise WrongValueError("must be a table of texts")
    return cast("Mapping[str, str]", value)


def _one_of(choices: type[StrEnum]) -> Reader:
    def read(value: Any) -> StrEnum:
        try:
            return choices(value)
        except ValueError:
            names = ", ".join(f'"{choice}"' for choice in choices)
            raise WrongValueError(f"must be one of {names}") from None

    return read


def _concurrency(value: Any) -> Concurrency:
    try:
        return Concurrency.parse(value)
    except ValueError:
        raise WrongValueError('must be "auto", a number such as 64, or a range "4-200"') from None


def _columns(value: Any) -> ColumnSet | tuple[str, ...]:
    if isinstance(value, str):
        return cast("ColumnSet", _one_of(ColumnSet)(value))
    return _texts(value)


def _job_name(value: Any) -> str:
    if not _NAME.fullmatch(_text(value)):
        raise WrongValueError("must be 1 to 64 letters, digits, dots, dashes or underscores")
    return cast("str", value)


def _variable(value: Any) -> str:
    """The name of an environment variable. A key pasted here by mistake is not repeated."""
    if looks_like_a_key(_text(value)) or not _VARIABLE.fullmatch(value):
        raise _SecretValueError("must be the name of an environment variable, never the key itself")
    return cast("str", value)


def looks_like_a_key(text: str) -> bool:
    """True for text that is more likely a secret than a variable's name."""
    return bool(_KEY_LIKE.fullmatch(text)) and not re.fullmatch(r"[A-Z][A-Z0-9_]*", text)


def _headers(value: Any) -> Mapping[str, str]:
    for name in _text_table(value):
        if name.lower() == "authorization":
            raise _SecretValueError(
                "must not set Authorization: name the key's variable in api_key_env"
            )
    return cast("Mapping[str, str]", value)


def base_url(value: Any) -> str:
    """The URL up to and without `/responses`: a bare host gets `/v1`."""
    url = urlsplit(_text(value).strip())
    if url.scheme not in ("http", "https") or not url.hostname:
        raise WrongValueError("must look like https://host/v1")
    if url.username or url.password or url.query or url.fragment:
        raise _SecretValueError("must not carry a user, password, query or fragment")
    path = url.path.rstrip("/").removesuffix("/responses")
    return f"{url.scheme}://{url.netloc}{path or '/v1'}"


class _SecretValueError(WrongValueError):
    """Like WrongValueError, for a value that must not be repeated."""


def _key(read: Reader, default: Any = MISSING, factory: Any = MISSING) -> Any:
    """A field of a spec: how its value is read, and what it is when absent."""
    if factory is not MISSING:
        return field(default_factory=factory, metadata={"read": read})
    return field(default=default, metadata={"read": read})


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """[input]: the rows."""

    path: tuple[str, ...] = _key(_texts)
    """Files or globs; absolute once the job is loaded."""
    format: str = _key(_text, "auto")
    key: tuple[str, ...] = _key(_texts, ())
    """Columns that name a row: unique together; a label and join key, never the proof of payment."""
    encoding: str = _key(_filled, "utf-8")
    delimiter: str | None = _key(_text, None)
    on_bad_row: BadRowPolicy = _key(_one_of(BadRowPolicy), BadRowPolicy.FAIL)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSpec:
    """[prompt]: templates that turn a row into the input of a request."""

    instructions: str | None = _key(_text, None)
    input: str | None = _key(_text, None)
    input_file: str | None = _key(_text, None)
    """Read and put into `input` before the mapping gets here; kept for messages."""
    messages: Any = _key(lambda value: value, None)
    """A list of messages whose strings are templates, or the name of a column that holds one."""
    body: str | None = _key(_text, None)
    """A column that holds a whole request body."""
    missing: MissingPolicy = _key(_one_of(MissingPolicy), MissingPolicy.FAIL)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSpec:
    """[endpoint]: where and how to call."""

    base_url: str = _key(base_url, DEFAULT_BASE_URL)
    api_key_env: str | None = _key(_variable, None)
    timeout: float = _key(duration_seconds, 600.0)
    """Seconds of wall clock for one attempt."""
    stream: bool = _key(_flag, False)
    headers: Mapping[str, str] = _key(_headers, factory=dict)
    idempotency_header: str | None = _key(_filled, None)
    ca_file: str | None = _key(_filled, None)
    proxy: str | None = _key(_filled, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSpec:
    """[limits]: how hard to press, and when to stop."""

    concurrency: Concurrency = _key(_concurrency, Concurrency.parse("auto"))
    rpm: float | None = _key(_rate, None)
    tpm: float | None = _key(_rate, None)
    max_cost: Decimal | None = _key(_money, None)
    max_errors: ErrorLimit = _key(error_limit, ErrorLimit())
    deadline: float | None = _key(duration_seconds, None)
    """Seconds after the start at which no new row is begun."""
    grace: float = _key(duration_seconds, 25.0)
    """Seconds a drain may take: docker and Kubernetes kill after 10 and 30."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySpec:
    """[retry]: three budgets, because failures differ in what they cost."""

    attempts: int = _key(_positive, 6)
    """Calls of one row that may fail without having cost anything."""
    max_wait: float = _key(duration_seconds, 60.0)
    """Longest wait of our own choosing, seconds; a server's Retry-After may be longer."""
    rate_limit_patience: float = _key(duration_seconds, 3600.0)
    """Seconds one row may spend waiting for rate limits; such waits use up no attempts."""
    maybe_billed_attempts: int = _key(_whole, 2)
    """Repeats after a failure that may have been billed."""
    on_incomplete: IncompletePolicy = _key(_one_of(IncompletePolicy), IncompletePolicy.KEEP)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSpec:
    """[output]: the same rows with the new columns."""

    path: str = _key(_filled)
    columns: ColumnSet | tuple[str, ...] = _key(_columns, ColumnSet.STANDARD)
    prefix: str = _key(_text, "llm_")
    csv_formulas: str = _key(_text, "keep")
    report: str | None = _key(_filled, None)
    durability: Durability = _key(_one_of(Durability), Durability.MS_100)


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonSpec:
    """[json]: structured output, checked here and turned into columns."""

    schema_file: str | None = _key(_filled, None)
    schema: Mapping[str, Any] | None = _key(_table, None)
    """The schema itself; what schema_file holds is put here before the mapping gets here."""
    on_invalid: InvalidPolicy = _key(_one_of(InvalidPolicy), InvalidPolicy.RETRY)
    columns: Mapping[str, str] = _key(_text_table, factory=dict)
    """JSON pointer into the answer -> column name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceSpec:
    """[prices."model"]: dollars per million tokens; wins over the built-in table."""

    input: Decimal = _key(_money)
    output: Decimal = _key(_money)
    cached_input: Decimal | None = _key(_money, None)
    cache_write: Decimal | None = _key(_money, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifySpec:
    """[notify]: who hears of a run's end."""

    ping_url_env: str | None = _key(_variable, None)
    prometheus_textfile: str | None = _key(_filled, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """A job, whole and checked. Paths are absolute."""

    name: str
    origin: str
    """Where it was described: a path, or "command line"; for messages and next commands."""
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

    @property
    def model(self) -> str:
        return str(self.request["model"])

    @property
    def output_path(self) -> Path:
        return Path(self.output.path)

    @property
    def run_path(self) -> Path:
        return self.output_path.with_name(self.output_path.name + ".run")

    @property
    def meta_path(self) -> Path:
        return self.output_path.with_name(self.output_path.name + ".meta.json")


_TABLES: Mapping[str, Any] = {
    "input": InputSpec,
    "prompt": PromptSpec,
    "endpoint": EndpointSpec,
    "limits": LimitSpec,
    "retry": RetrySpec,
    "output": OutputSpec,
    "json": JsonSpec,
    "notify": NotifySpec,
}
_KNOWN_TABLES = ("job", *_TABLES, "request", "prices")


def job_from_mapping(
    mapping: Mapping[str, Any], *, origin: str, folder: Path, default_name: str
) -> JobSpec:
    """The job that `mapping` describes; relative paths are resolved against `folder`.

    Raises JobError for the first thing that is wrong.
    """
    for table in mapping:
        if table not in _KNOWN_TABLES:
            raise JobError(
                f"{origin}: unknown table [{table}]{_did_you_mean(table, _KNOWN_TABLES)}"
            )
    job = _read_name(mapping.get("job", {}), origin=origin)
    specs = {
        name: _read_table(spec, mapping.get(name, {}), origin=origin, place=name)
        for name, spec in _TABLES.items()
    }
    prices = _typed(_table, mapping.get("prices", {}), origin=origin, place="prices")
    spec = JobSpec(
        name=job or _NAME_REST.sub("-", default_name)[:64] or "job",
        origin=origin,
        request=_read_request(mapping.get("request", {}), origin=origin),
        prices={
            model: _read_table(PriceSpec, table, origin=origin, place=f'prices."{model}"')
            for model, table in prices.items()
        },
        **_absolute(specs, folder),
    )
    _check_together(spec)
    return spec


_NAME_REST = re.compile(r"[^A-Za-z0-9._-]+")
_PATHS = {
    "prompt": ("input_file",),
    "endpoint": ("ca_file",),
    "output": ("path", "report"),
    "json": ("schema_file",),
    "notify": ("prometheus_textfile",),
}


def _absolute(specs: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    resolved = dict(specs)
    for table, names in _PATHS.items():
        changes = {
            name: os.path.normpath(folder / Path(value).expanduser())
            for name in names
            if (value := getattr(specs[table], name)) is not None
        }
        resolved[table] = replace(specs[table], **changes)
    resolved["input"] = replace(
        specs["input"],
        path=tuple(
            os.path.normpath(folder / Path(path).expanduser()) for path in specs["input"].path
        ),
    )
    return resolved


def _read_name(table: Any, *, origin: str) -> str | None:
    for key in _typed(_table, table, origin=origin, place="job"):
        if key != "name":
            raise JobError(f"{origin}: job.{key}: unknown key{_did_you_mean(key, ['name'])}")
    return (
        _typed(_job_name, table["name"], origin=origin, place="job.name")
        if "name" in table
        else None
    )


def _read_request(table: Any, *, origin: str) -> Mapping[str, Any]:
    request = _typed(_table, table, origin=origin, place="request")
    if "model" not in request:
        raise JobError(
            f"{origin}: request.model: missing",
            hint='add model = "..." under [request], or pass -m',
        )
    _typed(_filled, request["model"], origin=origin, place="request.model")
    for name, home in {
        "input": "prompt.input",
        "instructions": "prompt.instructions",
        "stream": "endpoint.stream",
    }.items():
        if name in request:
            raise JobError(f"{origin}: request.{name}: belongs to {home}")
    cap = request.get("max_output_tokens")
    if cap is not None and not isinstance(cap, str):
        _typed(_positive, cap, origin=origin, place="request.max_output_tokens")
    return request


def _read_table(spec: type[T], table: Any, *, origin: str, place: str) -> T:
    known: dict[str, Field[Any]] = {f.name: f for f in fields(spec)}  # type: ignore[arg-type]  # T is always a dataclass here
    values = {}
    for key, value in _typed(_table, table, origin=origin, place=place).items():
        if key not in known:
            raise JobError(f"{origin}: {place}.{key}: unknown key{_did_you_mean(key, known)}")
        values[key] = _typed(
            known[key].metadata["read"], value, origin=origin, place=f"{place}.{key}"
        )
    for key, entry in known.items():
        if key not in values and entry.default is MISSING and entry.default_factory is MISSING:
            raise JobError(
                f"{origin}: {place}.{key}: missing", hint=f"add {key} = ... under [{place}]"
            )
    return spec(**values)


def _typed(read: Callable[[Any], T], value: Any, *, origin: str, place: str) -> T:
    try:
        return read(value)
    except _SecretValueError as error:
        raise JobError(f"{origin}: {place}: (value not shown) {error}") from None
    except WrongValueError as error:
        raise JobError(f"{origin}: {place}: {value!r} {error}") from None


def _check_together(job: JobSpec) -> None:
    """Raise for values that are fine alone and wrong together."""
    given = [n for n in ("input", "messages", "body") if getattr(job.prompt, n) is not None]
    if len(given) != 1:
        what = "nothing to send" if not given else " and ".join(f"prompt.{n}" for n in given)
        raise JobError(
            f"{job.origin}: prompt: {what}: exactly one of prompt.input, prompt.input_file, "
            f"prompt.messages and prompt.body is needed",
            hint='add input = "... {{ column }} ..." under [prompt], or pass -p',
        )
    if job.output.csv_formulas not in ("keep", "escape"):
        raise JobError(
            f'{job.origin}: output.csv_formulas: {job.output.csv_formulas!r} must be "keep" or "escape"'
        )
    for pointer in job.json.columns:
        if pointer and not pointer.startswith("/"):
            raise JobError(
                f"{job.origin}: json.columns: {pointer!r} must be a JSON pointer such as '/category'"
            )


def _did_you_mean(word: Any, choices: Any) -> str:
    near = difflib.get_close_matches(
        str(word), [str(choice) for choice in choices], n=1, cutoff=0.6
    )
    return f", did you mean {near[0]!r}?" if near else f" (known: {', '.join(map(str, choices))})"
