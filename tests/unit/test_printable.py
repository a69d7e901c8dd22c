import json
import unicodedata

import pytest

from batch_runner.printable import one_line, printable, printable_json, seen_from


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


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("output   /srv/a b/out.csv", "output   out.csv"),
        ("'/srv/a b/x/y.csv', /srv/a b/z.csv:3: bad", "'x/y.csv', z.csv:3: bad"),
        ("/srv/a b, /srv/a b/ and /srv/a bc/x", None),
        ("/mnt/srv/a b/x ~/srv/a b/x http://h/srv/a b/x", None),
        ("to go on -> batch-runner run j.toml -p 'Is /srv/a b/x there?'", None),
        (
            "/srv/a b/x: run it\nbatch-runner run /srv/a b/x",
            "x: run it\nbatch-runner run /srv/a b/x",
        ),
    ],
)
def test_paths_are_named_from_the_folder_they_are_read_in(text, told):
    assert seen_from("/srv/a b", text) == (text if told is None else told)


@pytest.mark.parametrize("folder", ["/", ""])
def test_in_the_root_or_in_no_folder_paths_stay_whole(folder):
    assert seen_from(folder, "output /srv/out.csv") == "output /srv/out.csv"
