import json
import unicodedata

import pytest

from batch_runner.printable import one_line, printable, printable_json


HOSTILE = [
    "\x1b[31mred\x1b[0m", "\x9b2J", "\x1b]0;title\x07", "a\rb", "\x00", "\x7f", "\u202eevil", "\u2066x",
    "\u2028", "\ufeff", "\ud800", "\U000e0041",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_that_steers_a_terminal_or_an_eye_is_left(text):
    shown = printable(text)
    assert {unicodedata.category(sign) for sign in shown} <= {"Lu", "Ll", "Nd", "Ps", "Pe", "Po"}
    shown.encode()  # a lone surrogate would raise


@pytest.mark.parametrize("text", ["plain", "two\nlines\tand a tab", "中文 עברית 👩‍👩‍👧 e\u0301"])
def test_what_only_shows_is_shown_as_it_is(text):
    assert printable(text) == text


@pytest.mark.parametrize("text", HOSTILE)
def test_json_means_the_same_and_holds_nothing_that_steers(text):
    shown = printable_json(json.dumps({"text": text}, ensure_ascii=False))
    assert json.loads(shown) == {"text": text}
    assert printable(shown) == shown


def test_one_line_is_one_line_and_tells_that_it_was_cut():
    assert one_line("a\n b\x1b", 20) == "a b\\x1b"
    assert one_line("x" * 5_000_000, 5) == "xxxx…"
