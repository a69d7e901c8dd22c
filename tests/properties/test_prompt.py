"""Whatever a cell holds: it reaches the request unchanged, or its row fails alone."""

import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from batch_runner.jobmapping import job_from_mapping
from batch_runner.prompt import PromptBuilder, row_key
from batch_runner.records import Failure, Request, Row


EXAMPLES = settings(max_examples=300, deadline=None)
ANY_TEXT = st.text(st.characters())  # lone surrogates too
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**100), 2**100) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def builder(template, **tables):
    mapping = {
        "input": {"path": "in.csv"}, "prompt": {"input": template}, "request": {"model": "m"},
        "output": {"path": "out.csv"}, **tables,
    }  # fmt: skip
    job = job_from_mapping(mapping, origin="a.toml", folder=Path("/jobs"), default_name="a")
    return PromptBuilder(job)


PLAIN = builder("<{{ x }}>")
WHOLE = builder("{{ row | json }}")


def row(index=0, /, **values):
    return Row(index=index, values=values, source="in.csv", line=index + 2)


@EXAMPLES
@given(ANY_TEXT)
def test_text_arrives_as_it_is_or_its_row_fails_alone(text):
    ending = PLAIN.build(row(x=text))
    if isinstance(ending, Request):
        assert json.loads(ending.body)["input"] == f"<{text}>"
    else:
        assert isinstance(ending, Failure)
        lone = any("\ud800" <= character <= "\udfff" for character in text)
        assert ending.code == ("missing_value" if text == "" else "bad_input")
        assert lone or text == ""


@EXAMPLES
@given(JSON_VALUES)
def test_a_json_value_is_printed_as_json_that_means_the_same(value):
    ending = PLAIN.build(row(x=value))
    if isinstance(value, str) or value is None:
        return
    assert isinstance(ending, Request), ending
    assert json.loads(json.loads(ending.body)["input"][1:-1]) == value


@EXAMPLES
@given(st.dictionaries(st.text().filter(lambda name: name != "row"), st.text(), min_size=1))
def test_columns_of_any_name_can_be_sent_whole(values):
    ending = WHOLE.build(row(**values))
    assert isinstance(ending, Request), ending
    assert json.loads(json.loads(ending.body)["input"]) == values


@EXAMPLES
@given(st.lists(st.text(min_size=1), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_keys_depend_on_neither_position_nor_neighbours(texts, random):
    def keys(texts):
        seen = {}
        found = []
        for index, text in enumerate(texts):
            digest = PLAIN.build(row(index, x=text)).key
            seen[digest] = seen.get(digest, -1) + 1
            found.append((text, row_key(digest, seen[digest])))
        return found

    shuffled = texts.copy()
    random.shuffle(shuffled)
    assert sorted(keys(texts)) == sorted(keys(shuffled))
    assert len({key for _, key in keys(texts)}) == len(texts)


@EXAMPLES
@given(st.text(min_size=1), st.text(min_size=1))
def test_two_texts_have_two_keys(one, other):
    same = PLAIN.build(row(x=one)).key == PLAIN.build(row(x=other)).key
    assert same == (one == other)
