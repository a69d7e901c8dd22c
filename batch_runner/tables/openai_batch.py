"""OpenAI batch files: lines of whole requests in, lines of replies out and a second file of failures."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from batch_runner.errors import InputError
from batch_runner.records import BadRecord, Row
from batch_runner.tables.cells import json_text
from batch_runner.tables.formats import COMPRESSION_SUFFIXES, Format, ignore, refuse
from batch_runner.tables.jsonl import JsonlTable
from batch_runner.tables.text import open_alike


METHOD, URL = "POST", "/v1/responses"
ID_PREFIX = "batch_req_live_"
"""Lines of the hosted API begin with `batch_req_`; these were not paid for at batch prices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAnswer:
    """How the request of one line ended, in the words of the hosted batch API."""

    response: Mapping[str, Any] | None
    """status_code, request_id and body; None when no HTTP reply came."""
    error: Mapping[str, Any] | None
    """code and message of what the response does not tell by itself."""
    failed: bool
    """It belongs into the file of failures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIBatchTable(JsonlTable):
    """Files of one request a line: custom_id, method, url, body."""

    format: ClassVar[Format] = Format.OPENAI_BATCH

    def rows(
        self,
        *,
        columns: Collection[str] | None = None,
        on_bad: Callable[[BadRecord], None] = refuse,
    ) -> Iterator[Row]:
        index = 0
        for row in JsonlTable.rows(self, columns=columns, on_bad=on_bad):
            reason = _unlike_a_request(row.values)
            if reason is not None:
                on_bad(BadRecord(source=row.source, line=row.line, reason=reason))
                continue
            yield replace(row, index=index)
            index += 1

    def write_answers(
        self,
        target: BinaryIO,
        failures: BinaryIO,
        *,
        answer: Callable[[Row], BatchAnswer | None],
    ) -> None:
        """Every answered line stands in `target` or in `failures`, in the order of the input."""
        for row in self.rows(on_bad=ignore):
            ending = answer(row)
            if ending is None:
                continue
            custom_id = row.values["custom_id"]
            line = {
                "id": ID_PREFIX
                + blake2b(json_text(custom_id).encode(), digest_size=16).hexdigest(),
                "custom_id": custom_id,
                "response": ending.response,
                "error": ending.error,
            }
            (failures if ending.failed else target).write(json_text(line).encode() + b"\n")


def open_openai_batch(paths: tuple[Path, ...], *, encoding: str) -> OpenAIBatchTable:
    return OpenAIBatchTable(paths=paths, header=None, files=open_alike(paths, encoding))


def failures_path(path: Path) -> Path:
    """`out.errors.jsonl` for `out.jsonl`, `out.errors.jsonl.gz` for `out.jsonl.gz`."""
    packed = path.suffix if path.suffix.lower() in COMPRESSION_SUFFIXES else ""
    plain = path.with_suffix("") if packed else path
    return plain.with_name(f"{plain.stem}.errors{plain.suffix}{packed}")


def answers_path(path: Path) -> Path:
    """The output beside which `path` lies with its failures; any other is its own."""
    answers = path.with_name(path.name.replace(".errors.", ".", 1))
    return answers if failures_path(answers) == path else path


def request_line(custom_id: str, body: bytes) -> bytes:
    """One line of a batch file. `body` is JSON already, and stays as it is."""
    head = json.dumps({"custom_id": custom_id, "method": METHOD, "url": URL}, ensure_ascii=False)
    return head[:-1].encode() + b', "body": ' + body + b"}\n"


def _unlike_a_request(line: Mapping[str, Any]) -> str | None:
    """Why the hosted API would refuse this line; None when it would not."""
    custom_id = line.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id.strip():
        return f"custom_id must be text that is not empty, not {custom_id!r}"
    if line.get("method") != METHOD:
        return f"method must be {METHOD!r}, not {line.get('method')!r}"
    if line.get("url") != URL:
        return f"url must be {URL!r}, not {line.get('url')!r}"
    if not isinstance(line.get("body"), dict):
        return "body must be an object, the body of the request"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLine:
    """One line of a file that a batch gave: how its request ended."""

    custom_id: str
    is_live: bool
    """Written here, for calls that were paid for at the prices of single calls."""
    status_code: int | None
    """None when there was no HTTP reply."""
    request_id: str | None
    body: Any
    error: Mapping[str, Any]
    """code and message; empty when the line names none."""
    place: str


def read_batch_lines(paths: tuple[Path, ...]) -> Iterator[BatchLine]:
    """The lines of output and error files. Raises InputError for one that is no such line."""
    table = JsonlTable(paths=paths, header=None, files=open_alike(paths, "utf-8"))
    for row in table.rows():
        custom_id, response, error = (row.values.get(k) for k in ("custom_id", "response", "error"))
        if not isinstance(custom_id, str) or not (
            isinstance(response, Mapping) or isinstance(error, Mapping)
        ):
            raise InputError(
                f"{row.place}: not a line of a batch output: custom_id, and response or error",
                hint='a batch file to be run is the input of a job: input.format = "openai-batch"',
            )
        response = response if isinstance(response, Mapping) else {}
        status = response.get("status_code")
        yield BatchLine(
            custom_id=custom_id,
            is_live=str(row.values.get("id", "")).startswith(ID_PREFIX),
            status_code=status if isinstance(status, int) else None,
            request_id=response.get("request_id"),
            body=response.get("body"),
            error=error if isinstance(error, Mapping) else {},
            place=row.place,
        )
