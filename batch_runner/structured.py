"""Checks answers against the job's JSON schema: several servers ignore `text.format`."""

import json
import re
from collections.abc import Mapping
from typing import Any

from batch_runner.errors import JobError
from batch_runner.records import Completion


_FENCE = re.compile(r"\s*```[A-Za-z]*\s*\n(.*?)\n?\s*```\s*", re.DOTALL)
_NOTHING = object()


class AnswerSchema:
    """The schema that answers must fit; without one, any JSON fits.

    Raises JobError when the schema itself is not valid.
    """

    def __init__(self, schema: Mapping[str, Any] | None, *, origin: str) -> None:
        self._validator: Any = None
        if schema is None:
            return
        # 60 ms that jobs without a schema need not spend.
        from jsonschema import SchemaError  # noqa: PLC0415
        from jsonschema.validators import validator_for  # noqa: PLC0415

        kind = validator_for(schema)
        try:
            kind.check_schema(schema)
        except SchemaError as error:
            raise JobError(
                f"{origin}: json.schema_file: not a valid JSON schema: {error.message}"
            ) from None
        self._validator = kind(schema)

    def problem(self, text: str) -> str | None:
        """What is wrong with an answer, in words its author can act on; None when it fits."""
        value = _read(text)
        if value is _NOTHING:
            return "the answer is not JSON"
        if self._validator is None:
            return None
        error = next(iter(self._validator.iter_errors(value)), None)
        if error is None:
            return None
        place = "/".join(map(str, error.absolute_path))
        return f"{'/' + place if place else 'the answer'}: {error.message}"[:500]

    def value(self, text: str) -> Any:
        """The parsed answer; None when it does not fit."""
        if self.problem(text) is not None:
            return None
        return _read(text)


def flaw_of(completion: Completion, schema: AnswerSchema | None) -> str | None:
    """What is wrong with an answer as JSON; None when it fits, or nothing was asked of it.

    Arguments of tool calls must be JSON. An answer that is only tool calls has no text to check.
    """
    for call in completion.tool_calls:
        arguments = call.get("arguments")
        if isinstance(arguments, str) and _read(arguments) is _NOTHING:
            return f"the arguments of the call to {call.get('name')!r} are not JSON"
    if schema is None or (completion.tool_calls and not completion.text.strip()):
        return None
    return schema.problem(completion.text)


def _read(text: str) -> Any:
    """The JSON value of an answer, also inside a code fence; `_NOTHING` when there is none."""
    fenced = _FENCE.fullmatch(text)
    try:
        return json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return _NOTHING
