"""A small instance of a JSON Schema: what a model that obeys `text.format` would answer."""

import math
from collections.abc import Mapping
from typing import Any


MAX_DEPTH = 12  # a schema that contains itself ends here, with null

Schema = Mapping[str, Any]


def instance(schema: Schema, *, words: str, number: int) -> Any:
    """A value the schema accepts; `words` fill its strings, `number` picks among enum members.

    Covers what structured outputs allow, without `pattern` and `format`.
    """
    return _value(schema, root=schema, words=words, number=number, depth=0)


def _value(schema: Any, *, root: Schema, words: str, number: int, depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
        return None

    def inner(part: Any) -> Any:
        return _value(part, root=root, words=words, number=number, depth=depth + 1)

    if "$ref" in schema:
        return inner(_referenced(root, str(schema["$ref"])))
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][number % len(schema["enum"])]
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return inner(choices[0])
    kind = _kind(schema)
    if kind == "object":
        return {name: inner(part) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [inner(schema.get("items"))] * max(1, schema.get("minItems", 1))
    return _scalar(schema, kind, words=words, number=number)


def _scalar(schema: Schema, kind: str, *, words: str, number: int) -> Any:
    match kind:
        case "string":
            text = words.ljust(schema.get("minLength", 0), ".")
            return text[: schema.get("maxLength", len(text))]
        case "integer":
            return _within(schema, number)
        case "number":
            return float(_within(schema, number))
        case "boolean":
            return number % 2 == 0
        case _:
            return None


def _kind(schema: Schema) -> str:
    kind = schema.get("type", "object" if "properties" in schema else "null")
    if isinstance(kind, list):
        return next((name for name in kind if name != "null"), "null")
    return str(kind)


def _within(schema: Schema, number: int) -> int:
    """A whole number in the range; one that holds only fractions is not met."""
    low: int = math.ceil(schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1))
    high: int = math.floor(schema.get("maximum", schema.get("exclusiveMaximum", low + 101) - 1))
    return low + number % (max(0, high - low) + 1)


def _referenced(root: Schema, pointer: str) -> Any:
    place: Any = root
    for name in pointer.removeprefix("#").strip("/").split("/"):
        if name:
            place = place.get(name.replace("~1", "/").replace("~0", "~"), {})
    return place
