"""Writes a starter job file for a data file, or for a folder of them that grows."""

import os
import re
import shlex
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from glob import escape, has_magic
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

from batch_runner.amounts import many
from batch_runner.errors import InputError
from batch_runner.looks import ColumnLook, key_of, looks_of, no_key, text_column
from batch_runner.printable import shortened
from batch_runner.records import Row
from batch_runner.tables import (
    CsvTable,
    Format,
    Table,
    format_of,
    ignore,
    likely_encoding,
    open_table,
    suggest_delimiter,
)
from batch_runner.tables.files import expand
from batch_runner.tables.formats import COMPRESSION_SUFFIXES, FORMAT_OF_SUFFIX, inner_suffix


LOOKED_AT = 200
"""Rows that are enough to tell a key from a text."""
MOST_FILES = 20
"""Of a folder, that are looked into."""
MOST_BYTES = 1 << 26
"""Of each of them, in which a byte that is not UTF-8 is looked for."""
SHOWN_VALUE = 40
UTF_8 = "utf-8"
_BEYOND_ASCII = re.compile(r"(?:\S+ ){0,3}\S{0,20}[^\x00-\x7f]\S{0,20}(?: \S{1,20}){0,3}")
"""With a few words around."""
_WORDS_OF_TEMPLATES = frozenset({
    "true", "false", "none", "True", "False", "None", "and", "or", "not", "in", "is", "if",
    "else", "loop", "self", "super", "range", "dict", "namespace", "debug",
})  # fmt: skip
"""Names that mean something else inside braces."""
_NARROWER = "init a narrower pattern: init 'folder/name-*.csv'"
_ONE_OF_MANY = (
    f"mend it or move it away, or {_NARROWER}; the job that is written can leave out such a file on "
    "later nights (on_bad_row)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """What the job reads."""

    path: Path
    """A file, or a pattern."""
    files: tuple[Path, ...]
    beside: Path
    """The output goes beside this: the file, or the folder of all that the pattern can match."""
    encoding: str = UTF_8
    not_utf_8: str = ""
    """Of a file that asks for this encoding, in words: which it is, and how it reads."""

    @property
    def is_pattern(self) -> bool:
        return self.beside != self.path

    @property
    def suffix(self) -> str:
        """`.csv.gz` of `a.b.csv.gz`."""
        return min(map(_suffix_of, self.files), key=len)

    @property
    def stem(self) -> str:
        name = os.path.basename(os.path.abspath(self.beside))  # noqa: PTH119, PTH100  # `..` has none
        return name if self.is_pattern else name.removesuffix(self.suffix)


def starter_job(file: Path, *, folder: Path | None = None) -> str:
    """A job file (TOML) for `file`, ready to run once the prompt says what is wanted.

    For a folder of one format, or a pattern: for all files there, now and later. `folder` is where
    the job will lie, for its paths are relative to it; None: unknown, so they are absolute. Raises
    InputError when no data can be read there.
    """
    named = _source(file)
    encoding = _encoding(named.files)
    source = replace(named, encoding=encoding)
    try:
        table = _opened(source.files, source.encoding)
        rows = [*_first_rows(source, table)]
        if encoding != UTF_8:
            source = replace(source, not_utf_8=_not_utf_8(source))
    except InputError as error:
        if not source.is_pattern:
            raise
        raise InputError(str(error), hint=error.hint or _ONE_OF_MANY) from error
    looks = looks_of(rows, header=table.header)
    return "\n".join(_lines(source, table, rows, looks, folder)) + "\n"


def _source(named: Path) -> _Source:
    steady = None
    if named.is_dir():
        steady, named = named, Path(escape(str(named))) / f"*{_only_suffix(named)}"
    elif named.exists() or not has_magic(str(named)):
        return _Source(path=named, files=(named,), beside=named)
    files = expand([named.absolute()])
    for output in files:
        if output.with_name(f"{output.name}.run").is_dir():
            raise InputError(
                f"{named}: {output.name!r} is the output of a run, and would be read as input",
                hint=f"move it to another folder, or {_NARROWER}",
            )
    if steady is None:
        steady = next(folder for folder in named.absolute().parents if not has_magic(str(folder)))
    return _Source(path=named, files=files, beside=steady)


def _only_suffix(folder: Path) -> str:
    """The suffix of the data files in the folder, `.csv*` of `.csv` and `.csv.gz`.

    Raises InputError where they are of several formats.
    """
    there = sorted(
        file.name for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")
    )
    found = Counter(
        _suffix_of(Path(name)) for name in there if inner_suffix(Path(name)) in FORMAT_OF_SUFFIX
    )
    if not found:
        raise InputError(
            f"{folder}: a folder without a data file",
            hint=f"init takes a file, or a folder of files of one format: {' '.join(FORMAT_OF_SUFFIX)}",
        )
    inner = {inner_suffix(Path(f"x{suffix}")) for suffix in found}
    if len(found) > 1 and len(inner) == 1 and all(s.startswith((*inner,)) for s in found):
        return f"{inner.pop()}*"
    if len(found) > 1:
        kinds = ", ".join(f"{n:,} {suffix}" for suffix, n in found.most_common())
        pattern = shlex.quote(f"{folder}/*{found.most_common(1)[0][0]}")
        raise InputError(
            f"{folder}: a folder of several formats: {kinds}",
            hint=f"say which, as in: init {pattern}",
        )
    return next(iter(found))


def _encoding(files: Sequence[Path]) -> str:
    whole = [file.absolute() for file in files[:MOST_FILES]]
    is_text = format_of(whole[0]) is not Format.PARQUET
    # What cannot be read at all is told where it is opened.
    can_be_read = is_text and all(file.is_file() for file in whole)
    return likely_encoding(whole, most_bytes=MOST_BYTES) if can_be_read else UTF_8


def _not_utf_8(source: _Source) -> str:
    """Which file asks for the encoding, and how its first characters beyond ASCII read in that."""
    files = source.files
    odd = next((file for file in files if _encoding([file]) == source.encoding), files[0])
    table = _opened([odd], source.encoding)
    texts = chain(
        table.header or (),
        (str(value) for row in table.rows(on_bad=ignore) for value in row.values.values()),
    )
    found = next(filter(None, map(_BEYOND_ASCII.search, texts)), None)
    sample = "look at its accents" if found is None else f"right if this reads well: {found[0]}"
    name = odd.name if len(files) > 1 else "it"
    return _one_line(f"{name} is not UTF-8; this is a guess, {sample}")


def _first_rows(source: _Source, table: Table) -> Iterator[Row]:
    """Of one file its first rows; of many some of each, for what names a row must do so in all."""
    if len(source.files) == 1:
        yield from islice(table.rows(on_bad=ignore), LOOKED_AT)
        return
    few = source.files[:MOST_FILES]
    for file in few:
        yield from islice(
            _opened([file], source.encoding).rows(on_bad=ignore), LOOKED_AT // len(few)
        )


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
    source: _Source,
    table: Table,
    rows: Sequence[Row],
    looks: Sequence[ColumnLook],
    folder: Path | None,
) -> Iterator[str]:
    text = text_column(looks)
    key = key_of([look for look in looks if look is not text], len(rows))
    place, why = _output_folder(source, folder)
    output = place / f"{source.stem}_answers{source.suffix}"
    files = f"{many(len(source.files), 'file')}, " * source.is_pattern
    seen = f"first {len(rows)} rows" if len(rows) == LOOKED_AT else many(len(rows), "row")
    seen = f"{len(rows)} rows of them" if len(source.files) > 1 else f"its {seen}"
    name = source.path if source.is_pattern else source.path.name
    yield f"# {_one_line(str(name))}, {files}{_size(source.files)}; {seen}:"
    yield from (f"#   {_one_line(look.name)}: {look.describe(len(rows))}" for look in looks)
    yield "# Next: say what you want under [prompt], then batch-runner check, estimate and run this file."
    yield ""
    yield "[input]"
    later = "   # all files that are there when it is run" * source.is_pattern
    yield f"path = {_quoted(_placed(source.path, folder))}{later}"
    if source.encoding != UTF_8:
        yield f"encoding = {_quoted(source.encoding)}   # {source.not_utf_8}"
    if isinstance(table, CsvTable) and table.delimiter != _usual_delimiter(source.files[0]):
        yield f"delimiter = {_quoted(table.delimiter)}"
    yield from _key_lines([look for look in looks if look is not text], key, len(rows))
    if source.is_pattern or format_of(source.files[0]) is not Format.PARQUET:
        what = "files and records" if source.is_pattern else "records"
        said = f"{what} that cannot be read are left out and named; else no run begins"
        yield f'# on_bad_row = "skip"   # {said}'
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
    yield "# concurrency = 4     # of a server of your own: as many calls as it answers at a time"
    yield "# max_cost = 5.00     # dollars; no call is begun that could pass it"
    yield '# max_errors = "5%"   # stop when something is wrong with everything'
    yield ""
    yield f"[output]   # {why}; what is done is remembered beside it, in a folder that ends in .run"
    yield f"path = {_quoted(_placed(output, folder))}"


def _key_lines(looks: Sequence[ColumnLook], key: str | None, rows: int) -> Iterator[str]:
    if key is not None:
        yield f"key = {_quoted(key)}   # names each row once: for messages, and to see what changed"
    else:
        yield '# key = "..."   # a column that names each row once, for messages'
    if (look := no_key(looks, key, rows)) is not None:
        again = _one_line(shortened(look.twice or "", SHOWN_VALUE))
        often = "twice" if look.times == 2 else f"{look.times} times"
        yield f"# {_one_line(look.name)} is no key: {again!r} comes {often}"


def _opened(files: Sequence[Path], encoding: str) -> Table:
    whole = [file.absolute() for file in files]
    table = open_table(whole, encoding=encoding)
    if isinstance(table, CsvTable) and len(table.header) == 1:
        likely = suggest_delimiter(table.header[0])
        if likely is not None and likely != table.delimiter:
            return open_table(whole, encoding=encoding, delimiter=likely)
    return table


def _output_folder(source: _Source, folder: Path | None) -> tuple[Path, str]:
    """Where the output goes, and why there."""
    whole = source.beside.absolute()
    beside, what = whole.parent, "folder" if source.is_pattern else "input"
    if os.access(beside, os.W_OK):
        why = ", where it is not taken for input" if source.is_pattern else ""
        return beside, f"beside the {what}{why}"
    here = (folder or Path()).resolve()
    if source.is_pattern and here.is_relative_to(whole.resolve()):
        raise InputError(
            f"{str(beside)!r} cannot be written to, and in {str(whole)!r} the output would be "
            "taken for input by the next run",
            hint=f"make the job elsewhere: cd to a folder of yours, batch-runner init {whole}",
        )
    return here, f"the folder of the {what} cannot be written to"


def _usual_delimiter(file: Path) -> str:
    return "\t" if _suffix_of(file).startswith(".tsv") else ","


def _placed(path: Path, folder: Path | None) -> str:
    """The path as the job file has to name it."""
    whole = path.absolute()
    return str(whole) if folder is None else os.path.relpath(whole, folder.absolute())


def _suffix_of(file: Path) -> str:
    """`.csv.gz` of `a.b.csv.gz`."""
    packed = file.suffix.lower() in COMPRESSION_SUFFIXES
    return "".join(file.suffixes[-2:] if packed else file.suffixes[-1:])


def _size(files: Sequence[Path]) -> str:
    size = float(sum(file.stat().st_size for file in files))
    for unit in ("bytes", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


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
