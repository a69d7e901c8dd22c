"""Writes a starter job file for a data file: columns looked at, key and text column guessed."""

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from batch_runner.records import Row
from batch_runner.tables import CsvTable, Table, ignore, open_table, suggest_delimiter
from batch_runner.tables.formats import COMPRESSION_SUFFIXES


LOOKED_AT = 200
"""Rows that are enough to tell a key from a text."""
LONGEST_KEY = 60
"""Characters: what is longer is text that happens not to repeat."""

_KEY_NAME = re.compile(r"(?i)(?:^|[_\W])(?:id|key|uuid|guid|number|no)$|(?<=[a-z])(?:Id|ID|Key)$")
_WORDS_OF_TEMPLATES = frozenset({
    "true", "false", "none", "True", "False", "None", "and", "or", "not", "in", "is", "if",
    "else", "loop", "self", "super", "range", "dict", "namespace", "debug",
})  # fmt: skip
"""Names that mean something else inside braces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnLook:
    """What the first rows tell of a column."""

    name: str
    filled: int
    distinct: int
    mean_length: float
    longest: int
    is_text: bool

    def describe(self, rows: int) -> str:
        gaps = "" if self.filled == rows else f", empty in {rows - self.filled} of {rows}"
        size = f"about {self.mean_length:,.0f} characters, at most {self.longest:,}"
        if self.mean_length == self.longest:
            size = f"{self.longest:,} character{'s' * (self.longest != 1)}"
        return f"{_one_line(self.name)}: {size if self.filled else 'no values'}{gaps}"


def starter_job(file: Path, *, folder: Path | None = None) -> str:
    """A job file (TOML) for `file`, ready to run once the prompt says what is wanted.

    `folder` is where it will lie, for its paths are relative to it; None: unknown, so they are
    absolute. Raises InputError when the data file cannot be read.
    """
    table = _opened(file)
    rows = list(islice(table.rows(on_bad=ignore), LOOKED_AT))
    looks = [_look(name, rows) for name in _names(table.header, rows)]
    return "\n".join(_lines(file, table, rows, looks, folder)) + "\n"


def redirected_to(stream: TextIO) -> Path | None:
    """The file that a shell's `>` has put behind `stream`; None when it cannot be told."""
    try:
        descriptor = stream.fileno()
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        file = Path(f"/proc/self/fd/{descriptor}").readlink()
    except (OSError, ValueError):  # no descriptor, or not Linux
        return None
    return file if file.exists() else None


def _lines(
    file: Path, table: Table, rows: Sequence[Row], looks: Sequence[ColumnLook], folder: Path | None
) -> Iterator[str]:
    text = _text_column(looks)
    key = _key([look for look in looks if look is not text], len(rows))
    place, why = _output_folder(file, folder)
    output = place / f"{_stem(file)}_answers{_suffix(file)}"
    seen = f"first {len(rows)} rows" if len(rows) == LOOKED_AT else f"{len(rows)} rows"
    yield f"# {_one_line(file.name)}, {_size(file)}; its {seen}:"
    yield from (f"#   {look.describe(len(rows))}" for look in looks)
    yield "# Next: say what you want under [prompt], then batch-runner check, estimate and run this file."
    yield ""
    yield "[input]"
    yield f"path = {_quoted(_placed(file, folder))}"
    if isinstance(table, CsvTable) and table.delimiter != _usual_delimiter(file):
        yield f"delimiter = {_quoted(table.delimiter)}"
    if key is not None:
        yield f"key = {_quoted(key)}   # names each row once: for messages, and to see what changed"
    else:
        yield '# key = "..."   # a column that names each row once, for messages'
    yield ""
    yield "[prompt]"
    yield 'instructions = "You write plain, factual summaries."'
    wish = f"Summarize in one sentence:\n\n{_reference(text)}"
    yield f"input = {_quoted(wish)}"
    has_gaps = text is not None and text.filled < len(rows)
    yield f'{"" if has_gaps else "# "}missing = "skip"   # an empty cell: fail, skip or empty'
    yield ""
    yield "[request]"
    yield 'model = "gpt-5-mini"'
    yield "max_output_tokens = 400   # without it, nothing bounds the cost of a call"
    yield '# reasoning = { effort = "low" }'
    yield ""
    yield "# [endpoint]   # anything but api.openai.com with OPENAI_API_KEY"
    yield '# base_url = "https://host/v1"'
    yield '# api_key_env = "NAME_OF_A_VARIABLE"   # never the key itself'
    yield ""
    yield "[limits]"
    yield "# max_cost = 5.00     # dollars; no call is begun that could pass it"
    yield '# max_errors = "5%"   # stop when something is wrong with everything'
    yield ""
    yield f"[output]   # {why}; what is done is remembered beside it, in a folder that ends in .run"
    yield f"path = {_quoted(_placed(output, folder))}"


def _opened(file: Path) -> Table:
    table = open_table([file.absolute()])
    if isinstance(table, CsvTable) and len(table.header) == 1:
        likely = suggest_delimiter(table.header[0])
        if likely is not None and likely != table.delimiter:
            return open_table([file.absolute()], delimiter=likely)
    return table


def _output_folder(file: Path, folder: Path | None) -> tuple[Path, str]:
    """Where the output goes, and why there."""
    beside = file.absolute().parent
    if os.access(beside, os.W_OK):
        return beside, "beside the input"
    return (folder or Path()).absolute(), "the folder of the input cannot be written to"


def _usual_delimiter(file: Path) -> str:
    return "\t" if _suffix(file).startswith(".tsv") else ","


def _placed(path: Path, folder: Path | None) -> str:
    """The path as the job file has to name it."""
    whole = path.absolute()
    return str(whole) if folder is None else os.path.relpath(whole, folder.absolute())


def _suffix(file: Path) -> str:
    """`.csv.gz` of `a.b.csv.gz`."""
    packed = file.suffix.lower() in COMPRESSION_SUFFIXES
    return "".join(file.suffixes[-2:] if packed else file.suffixes[-1:])


def _stem(file: Path) -> str:
    return file.name.removesuffix(_suffix(file))


def _size(file: Path) -> str:
    size = float(file.stat().st_size)
    for unit in ("bytes", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _names(header: Sequence[str] | None, rows: Sequence[Row]) -> list[str]:
    if header is not None:
        return list(header)
    return list(dict.fromkeys(name for row in rows for name in row.values))


def _look(name: str, rows: Sequence[Row]) -> ColumnLook:
    values = [row.values.get(name) for row in rows]
    filled = [_text(value) for value in values if value not in (None, "")]
    return ColumnLook(
        name=name,
        filled=len(filled),
        distinct=len(set(filled)),
        mean_length=sum(map(len, filled)) / max(1, len(filled)),
        longest=max(map(len, filled), default=0),
        is_text=any(isinstance(value, str) for value in values),
    )


def _text(value: Any) -> str:
    return str(dict(value)) if isinstance(value, Mapping) else str(value)


def _text_column(looks: Sequence[ColumnLook]) -> ColumnLook | None:
    """The longest on average, text before lists and numbers, of those a template can name."""
    nameable = [look for look in looks if not ("'" in look.name and '"' in look.name)]
    nameable = [look for look in nameable if "\\" not in look.name]
    return max(nameable, key=lambda look: (look.is_text, look.mean_length), default=None)


def _key(looks: Sequence[ColumnLook], rows: int) -> str | None:
    """A column that is always filled and never repeats; one that is called so first."""
    unique = [
        look
        for look in looks
        if look.filled == look.distinct == rows > 1 and look.longest <= LONGEST_KEY
    ]
    named = [look for look in unique if _KEY_NAME.search(look.name)]
    return next((look.name for look in [*named, *unique[:1]]), None)


def _reference(look: ColumnLook | None) -> str:
    """The column as a template names it."""
    if look is None:
        return "{{ column }}"
    name = look.name
    plain = name.isascii() and name.isidentifier() and name not in _WORDS_OF_TEMPLATES
    if plain:
        return f"{{{{ {name} }}}}"
    quote = '"' if "'" in name else "'"
    return f"{{{{ row[{quote}{name}{quote}] }}}}"


def _one_line(text: str) -> str:
    """Fit for a comment: a control character would end it, or the file."""
    return "".join(character if character.isprintable() else " " for character in text)


def _quoted(text: str) -> str:
    """A TOML string on one line."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}
    return '"' + "".join(escapes.get(c) or _escaped(c) for c in text) + '"'


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04X}" if code < 0x20 or code == 0x7F else character
