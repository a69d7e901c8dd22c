"""A row and the job's templates become a Request: the body, and the key under which it is paid once."""

import json
import re
from collections.abc import Callable, Collection, Mapping
from hashlib import blake2b
from itertools import islice
from typing import Any

import minijinja

from batch_runner import media
from batch_runner.errors import JobError
from batch_runner.job import JobSpec, MissingPolicy
from batch_runner.records import KEY_BYTES, ErrorCode, Failure, Request, Row, RowStatus
from batch_runner.spelling import nearest
from batch_runner.template_values import is_encodable, plain, printed


Context = Mapping[str, Any]
Renderer = Callable[[Context], Any]

FUEL = 10_000_000
"""Template instructions a row may take: a loop over a 5 MB cell fits, an endless one ends."""

UNDEFINED = "undefined value"
"""What the message of a row holds in which a nested field is missing."""
_WRONG_FOR_EVERY_ROW = ("UnknownFilter", "UnknownTest", "UnknownFunction", "TemplateNotFound")
"""Kinds of template errors that no other row would cure."""

_NUMERIC = frozenset({
    "temperature", "top_p", "max_output_tokens", "max_tool_calls", "top_logprobs",
})  # fmt: skip
"""Parameters the API wants as numbers; from a CSV cell they come as text."""

_ONE_EXPRESSION = re.compile(r"\s*\{\{((?:(?!\{\{|\}\}).)*)\}\}\s*", re.DOTALL)
_ROW_ITEM = re.compile(r"""\brow\s*\[\s*(["'])(.*?)\1\s*\]""")
_canonical = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
).encode


def row_key(digest: bytes, occurrence: int) -> bytes:
    """The journal's key of a row: the body's digest, and which of the equal bodies it is.

    Reordering and inserting rows changes no key; equal rows are separate rows.
    """
    if occurrence == 0:
        return digest
    return blake2b(digest + occurrence.to_bytes(8, "big"), digest_size=KEY_BYTES).digest()


def digest_of(body: bytes) -> bytes:
    return blake2b(body, digest_size=KEY_BYTES).digest()


def _no_file(name: str) -> bytes:
    raise ValueError(f"{name!r}: files are not read here")


class PromptBuilder:
    """Builds the request of each row of one job.

    `read_file` gives the content of a file that a message names, or raises ValueError. Raises
    JobError when a template cannot be compiled.
    """

    def __init__(self, job: JobSpec, *, read_file: Callable[[str], bytes] = _no_file) -> None:
        self._place_of = job.place
        self._read_file = read_file
        self._missing = job.prompt.missing
        self.label_columns = job.input.key
        self._environment = _environment()
        self._names: set[str] = set()
        self._named_at: dict[str, str] = {}
        """Name to the first place that names it."""
        self._shadowing: set[str] = set()
        """Names that mean a column where there is one, and a function of the engine elsewhere."""
        self._uses_whole_row = False
        self.reads_files = False
        """Requests depend on more than the rows."""
        parts = _body_parts(job)
        self._static = {name: value for name, value in parts.items() if not _is_template(value)}
        self._templates = {
            name: self._compile(value, _place(name), name)
            for name, value in parts.items()
            if _is_template(value)
        }
        self._messages_column = _column_name(job.prompt.messages)
        self._body_column = job.prompt.body
        self._names.update(name for name in (self._messages_column, self._body_column) if name)
        self.shares_model = "model" not in self._templates and self._body_column is None
        """Every row asks for the same model."""
        self.is_uniform = (
            self.shares_model
            and self._messages_column is None
            and "max_output_tokens" not in self._templates
        )
        """Every row's request has the same parts, whatever their text."""

    @property
    def columns(self) -> frozenset[str] | None:
        """The columns a request is built from, labels included; None when it may need any."""
        if self._uses_whole_row:
            return None
        return frozenset(self._names) | self._shadowing | frozenset(self.label_columns)

    @property
    def uses_columns(self) -> bool:
        """False when every row sends the same."""
        return bool(self._names or self._shadowing) or self._uses_whole_row

    def check_columns(self, known: Collection[str], *, source: str, hint: str = "") -> None:
        """Raise JobError for a template or key that names a column the input has not."""
        for name, place in [
            *((name, self._named_at.get(name, "prompt")) for name in sorted(self._names)),
            *((name, "input.key") for name in self.label_columns),
        ]:
            if name not in known:
                near = nearest(name, known)
                raise JobError(
                    f"{self._place_of(place)}: {source} has no column {name!r} "
                    f"(columns: {_listed(known)})",
                    hint=hint or (f"did you mean {near!r}?" if near else ""),
                )

    def build(self, row: Row) -> Request | Failure:
        """The request of a row; its key is that of the first of equal requests.

        A Failure with status SKIPPED is a row left out on purpose. Raises JobError when a template
        calls what does not exist: that shows when it is first run.
        """
        context = self._context(row)
        if isinstance(context, Failure):
            return context
        try:
            body = self._body(context)
            encoded = _canonical(body).encode()
        except minijinja.TemplateError as error:
            if error.kind in _WRONG_FOR_EVERY_ROW:
                raise JobError(
                    f"{self._place_of(error.name or 'prompt')}: {error.message}"
                ) from None
            return _bad_input(f"{error.name}: {error.message}")
        except UnicodeEncodeError:
            return _bad_input("the text holds a lone surrogate, which no request can carry")
        except ValueError as error:
            return _bad_input(str(error))
        model = body.get("model")
        if not isinstance(model, str) or not model.strip():
            return _bad_input(f"the request names no model (model: {model!r})")
        cap = body.get("max_output_tokens")
        return Request(
            row=row.index,
            key=digest_of(encoded),
            body=encoded,
            model=model,
            max_output_tokens=cap if isinstance(cap, int) else None,
            label=self.label(row),
        )

    def label(self, row: Row) -> str | None:
        """The row's own name: its key columns, joined by a slash."""
        if not self.label_columns:
            return None
        return "/".join(printed(row.values.get(name)) for name in self.label_columns)

    def place(self, row: Row) -> str:
        """File and line, and the row's own name: for whoever has to mend it there."""
        label = self.label(row)
        return f"{row.place} ({label})" if label else row.place

    def _context(self, row: Row) -> Context | Failure:
        values: dict[str, Any] = {}
        empty: list[str] = []
        names = row.values.keys() if self._uses_whole_row else self._names
        if self._shadowing:
            names = names | (self._shadowing & row.values.keys())
        for name in names:
            value = row.values.get(name)
            if value is None or value == "":
                if name in self._names:
                    empty.append(name)
                value = ""
            elif not is_encodable(value):
                return _bad_input(
                    f"column {name!r} holds a lone surrogate, which no request can carry"
                )
            values[name] = value if isinstance(value, str) else plain(value)
        if empty and self._missing is not MissingPolicy.EMPTY:
            skips = self._missing is MissingPolicy.SKIP
            return Failure(
                code=ErrorCode.MISSING_VALUE,
                message=f"empty cell in {', '.join(map(repr, sorted(empty)))}",
                status=RowStatus.SKIPPED if skips else RowStatus.FAILED,
            )
        return {"row": values, **values}

    def _body(self, context: Context) -> dict[str, Any]:
        body = dict(self._static)
        for name, render in self._templates.items():
            body[name] = render(context)
        if self._messages_column is not None:
            body["input"] = _parsed(context[self._messages_column], list, self._messages_column)
        if self._body_column is not None:
            body.update(_parsed(context[self._body_column], dict, self._body_column))
            body.pop("stream", None)
        return body

    def _compile(self, value: Any, place: str, name: str) -> Renderer:
        if isinstance(value, Mapping):
            source = media.source_of(value)
            items = {
                k: self._compile(v, f"{place}.{k}", k) for k, v in value.items() if k != source
            }
            attach = self._attachment(value, source, place)
            return lambda context: attach(context) | {k: v(context) for k, v in items.items()}
        if isinstance(value, list):
            renderers = [self._compile(v, f"{place}[{i}]", "") for i, v in enumerate(value)]
            return lambda context: [item(context) for item in renderers]
        if not _is_template(value):
            return lambda _context: value
        self._add_template(place, value)
        parameter = not place.startswith("prompt.")
        if parameter and (one := _ONE_EXPRESSION.fullmatch(value)):
            return self._expression(one[1], numeric=name in _NUMERIC)
        environment = self._environment
        return lambda context: environment.render_template(place, **context)

    def _attachment(
        self, part: Mapping[str, Any], source: media.Source | None, place: str
    ) -> Renderer:
        """The file itself in place of its name: an edited image is another request."""
        if source is None:
            return lambda _context: {}
        if source.is_column:
            column = _column_of_bytes(part[source], self._place_of(f"{place}.{source}"))
            self._names.add(column)
            return lambda context: source.part(media.decoded(context[column], column), column)
        self.reads_files = True
        path, read = self._compile(part[source], f"{place}.{source}", source), self._read_file

        def attach(context: Context) -> dict[str, str]:
            name = str(path(context))
            return source.part(read(name), name)

        return attach

    def _expression(self, source: str, *, numeric: bool) -> Renderer:
        """A parameter that is one expression keeps the type of its value."""
        evaluate = self._environment.eval_expr
        if numeric:
            return lambda context: _number(evaluate(source, **context))
        return lambda context: evaluate(source, **context)

    def _add_template(self, place: str, source: str) -> None:
        try:
            self._environment.add_template(place, source)
            paths = self._environment.undeclared_variables_in_template(place, nested=True)
        except minijinja.TemplateError as error:
            # The engine's message ends in the place as well, under a name of its own.
            what = error.message.removesuffix(f" (in {place}:{error.line})")
            raise JobError(
                f"{self._place_of(place)}: {what} (line {error.line} of the template)",
                hint=_unclosed(what),
            ) from None
        literal = {match[1] for match in _ROW_ITEM.findall(source)}
        for path in paths:
            head, _, rest = path.partition(".")
            if head != "row":
                shadows = head in self._environment.globals
                (self._shadowing if shadows else self._names).add(head)
                self._named_at.setdefault(head, place)
            elif rest:
                self._names.add(rest.partition(".")[0])
                self._named_at.setdefault(rest.partition(".")[0], place)
            elif not literal:
                self._uses_whole_row = True
        self._names |= literal


def _environment() -> minijinja.Environment:
    return minijinja.Environment(
        undefined_behavior="strict",
        keep_trailing_newline=True,
        fuel=FUEL,
        auto_escape_callback=lambda _name: False,
        finalizer=printed,
        filters={
            "json": lambda value: json.dumps(value, ensure_ascii=False),
            "truncate": _truncated,
        },
    )


def _unclosed(what: str) -> str:
    """The way out of a syntax error, where its words tell what is missing."""
    if what.endswith("unexpected identifier, expected end of variable block"):
        return '}} is missing; or a name has a space: {{ row["a name"] }}'
    ends = {
        "expected end of variable block": "}} is missing",
        "unexpected end of input, expected end of block": "%} or {% end... %} is missing",
        "unexpected end of comment": "#} is missing",
        "unexpected end of string": "a closing quote is missing",
    }
    return next((hint for end, hint in ends.items() if what.endswith(end)), "")


def _truncated(value: Any, length: int = 1000) -> str:
    return str(value)[:length]


def _body_parts(job: JobSpec) -> dict[str, Any]:
    """The top level of the body, with templates where the job has templates."""
    parts: dict[str, Any] = dict(job.request)
    if job.prompt.instructions is not None:
        parts["instructions"] = job.prompt.instructions
    if job.prompt.input is not None:
        parts["input"] = job.prompt.input
    elif job.prompt.messages is not None and _column_name(job.prompt.messages) is None:
        parts["input"] = job.prompt.messages
    if job.json.schema is not None and "format" not in parts.get("text", {}):
        text_format = {
            "type": "json_schema",
            "name": str(job.json.schema.get("title", job.name)).replace(" ", "_")[:64],
            "schema": job.json.schema,
            "strict": True,
        }
        parts["text"] = {**parts.get("text", {}), "format": text_format}
    return parts


def _place(name: str) -> str:
    return f"prompt.{name}" if name in ("instructions", "input") else f"request.{name}"


def _column_name(messages: Any) -> str | None:
    return messages if isinstance(messages, str) else None


def _column_of_bytes(value: Any, place: str) -> str:
    if isinstance(value, str) and value.strip() and not _is_template(value):
        return value
    raise JobError(f"{place}: {value!r} must be the name of the column that holds the bytes")


def _is_template(value: Any) -> bool:
    if isinstance(value, Mapping):
        return media.source_of(value) is not None or any(map(_is_template, value.values()))
    if isinstance(value, list):
        return any(map(_is_template, value))
    return isinstance(value, str) and any(mark in value for mark in ("{{", "{%", "{#"))


def _parsed(value: Any, kind: type, column: str) -> Any:
    """A cell that holds JSON: the value itself, or its text in a CSV cell."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"column {column!r} is not JSON: {error}") from None
    if not isinstance(value, kind):
        what = "a list of messages" if kind is list else "an object"
        raise ValueError(f"column {column!r} must hold {what}")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, str):
        try:
            number = json.loads(value)
        except ValueError:
            raise ValueError(f"{value!r} is not a number") from None
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise ValueError(f"{value!r} is not a number")
        return number
    return value


def _listed(names: Collection[str]) -> str:
    shown = [name if len(name) <= 40 else f"{name[:40]}..." for name in islice(names, 30)]
    return ", ".join(shown) + (f" and {len(names) - 30} more" if len(names) > 30 else "")


def _bad_input(message: str) -> Failure:
    return Failure(code=ErrorCode.BAD_INPUT, message=message)
