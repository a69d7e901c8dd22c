import pytest

from batch_runner.errors import JobError
from batch_runner.records import Completion
from batch_runner.structured import AnswerSchema, flaw_of


SCHEMA = AnswerSchema(
    {
        "type": "object",
        "required": ["category"],
        "properties": {"category": {"enum": ["bug", "idea"]}},
    },
    origin="job.toml",
)


@pytest.mark.parametrize(
    "text",
    ['{"category": "bug"}', '```json\n{"category": "bug"}\n```', '  ```\n{"category":"bug"}```  '],
)
def test_an_answer_that_fits_has_no_flaw_also_in_a_code_fence(text):
    assert SCHEMA.problem(text) is None
    assert SCHEMA.value(text) == {"category": "bug"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("Sure! {}", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("{}", "'category' is a required property"),
        ('{"category": "other"}', "/category: 'other' is not one of"),
    ],
)
def test_a_flaw_names_the_place_and_what_is_wrong_there(text, words):
    assert words in SCHEMA.problem(text)
    assert SCHEMA.value(text) is None


def test_a_schema_that_is_none_is_the_jobs_mistake():
    with pytest.raises(JobError, match="schema_file: not a valid JSON schema"):
        AnswerSchema({"type": "no such type"}, origin="job.toml")


def test_without_a_schema_any_json_fits():
    anything = AnswerSchema(None, origin="job.toml")
    assert anything.problem("[1]") is None
    assert anything.problem("one") is not None


def test_arguments_of_tool_calls_must_be_json_and_need_no_text_beside_them():
    good = {"name": "look_up", "call_id": "c", "arguments": "{}"}
    bad = {**good, "arguments": "{"}
    custom = {"name": "shell", "call_id": "c", "input": "ls -l"}
    assert flaw_of(Completion(text="", tool_calls=(good, custom)), SCHEMA) is None
    assert "'look_up' are not JSON" in flaw_of(Completion(text="", tool_calls=(bad,)), None)
    assert flaw_of(Completion(text="free text"), None) is None
