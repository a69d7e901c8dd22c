import sys

import pytest

from batch_runner.tokens import BYTES_ENCODING, TokenCounter, counter_for, uncounted


pytest.importorskip("toktok", reason="exact counts need the extra `tokens`")


@pytest.mark.parametrize(
    ("model", "encoding", "exact"),
    [
        ("gpt-4o-2024-08-06", "o200k_base", True),
        ("gpt-4.1-nano", "o200k_base", True),
        ("gpt-5-mini", "o200k_base", True),
        ("gpt-6.1-sol", "o200k_base", True),
        ("o3-mini", "o200k_base", True),
        ("openai/gpt-5", "o200k_base", True),
        ("ft:gpt-4o-mini-2024-07-18:acme::x", "o200k_base", True),
        ("openai/gpt-oss-20b", "o200k_harmony", True),
        ("gpt-4-turbo", "cl100k_base", True),
        ("gpt-3.5-turbo", "cl100k_base", True),
        ("gpt-35-turbo", "cl100k_base", True),
        ("qwen/qwen3.5-122b", "qwen3.5", False),
        ("claude-sonnet-4-5", "o200k_base", False),
        ("gpt-50", "o200k_base", False),
        ("o200", "o200k_base", False),
        ("", "o200k_base", False),
    ],
)
def test_each_model_is_counted_with_its_own_vocabulary_or_marked_approximate(
    model, encoding, exact
):
    assert counter_for(model) == TokenCounter(encoding, exact=exact)


def test_counts_are_those_of_the_published_vocabularies():
    text = "The quick brown fox jumps over the lazy dog. 日本語のテキスト"
    assert counter_for("gpt-5").count("hello world") == 2
    assert counter_for("gpt-5").count("") == 0
    assert counter_for("gpt-4").count(text) > counter_for("gpt-5").count(text)


def test_special_tokens_in_a_row_are_counted_as_the_text_they_are():
    assert counter_for("gpt-5").count("<|endoftext|>") > 1


def test_without_toktok_bytes_are_counted_and_marked_approximate(monkeypatch):
    monkeypatch.setitem(sys.modules, "toktok", None)
    counter = counter_for("gpt-5")
    assert counter == TokenCounter(BYTES_ENCODING, exact=False)
    assert counter.count("") == 0
    assert counter.count("hello") == 2
    assert counter.count("日本") == 2


@pytest.mark.parametrize("encoding", ["o200k_base", "qwen3.5", BYTES_ENCODING])
def test_a_lone_surrogate_is_counted_and_crashes_nothing(encoding):
    assert TokenCounter(encoding, exact=False).count("a\ud800b") > 0


def test_a_request_is_its_words_plus_eight_plus_four_for_each_further_message():
    counter = counter_for("gpt-5")
    words = counter.count("hello world")
    assert counter.count_request({"input": "hello world"}) == words + 8
    assert counter.count_request({"instructions": "hello world", "input": "hello world"}) == (
        2 * words + 12
    )
    messages = [
        {"role": "system", "content": "hello world"},
        {"role": "user", "content": [{"type": "input_text", "text": "hello world"}]},
        {"type": "message", "role": "user", "content": "hello world"},
    ]
    assert counter.count_request({"input": messages}) == 3 * words + 16


def test_tool_calls_and_their_results_are_counted():
    items = [
        {"type": "function_call", "name": "f", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "output": "hello world"},
    ]
    assert counter_for("gpt-5").count_request({"input": items}) > 8 + 4 + 2
    assert uncounted({"input": items}) == frozenset()


def test_what_cannot_be_counted_is_named():
    body = {
        "instructions": "Look.",
        "input": [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is this?"},
                    {"type": "input_image", "image_url": "data:..."},
                    {"type": "input_file", "file_id": "f"},
                ],
            },
            {"type": "item_reference", "id": "x"},
        ],
        "tools": [{"type": "web_search"}],
        "text": {"format": {"type": "json_schema", "schema": {}}},
        "previous_response_id": "resp_1",
    }
    assert uncounted(body) == {
        "input_image",
        "input_file",
        "item_reference",
        "tools",
        "text.format",
        "previous_response_id",
    }


def test_plain_text_requests_leave_nothing_uncounted():
    body = {"input": "hi", "instructions": None, "tools": [], "text": {"format": {"type": "text"}}}
    assert uncounted(body) == frozenset()


@pytest.mark.parametrize("given", [None, 3, [], [1, None], {"a": 1}, [{"content": 5}], [{}]])
def test_a_body_of_the_wrong_shape_is_counted_as_far_as_it_goes(given):
    assert counter_for("gpt-5").count_request({"input": given, "text": 3}) == 8
