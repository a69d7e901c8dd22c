import json

import pytest

from batch_runner.redact import MASK, Redactor


KEY = 'sk-abc/"def\\ghi-0123456789'


@pytest.mark.parametrize("spelled", [json.dumps(KEY), json.dumps(KEY).replace("/", "\\/")])
def test_a_secret_inside_json_is_masked_however_it_is_escaped(spelled):
    body = f'{{"text": {spelled}}}'.encode()
    assert json.loads(Redactor([KEY]).body(body)) == {"text": MASK}


def test_of_two_secrets_the_longer_is_masked_whole():
    assert Redactor(["secret-1", "secret-1-and-more"]).text("secret-1-and-more") == MASK


def test_words_that_serve_as_keys_of_local_servers_are_no_secrets():
    assert Redactor(["none", "", "local"]).text("none of the local models") == (
        "none of the local models"
    )


@pytest.mark.parametrize(
    "leak",
    [
        "Authorization: Bearer abcdef123456",
        "key sk-proj-abcdef123456 is wrong",
        'api_key="abcdef123456"',
        "http://user:hunter2-abcdef@proxy:3128",
    ],
)
def test_messages_lose_what_looks_like_a_secret(leak):
    masked = Redactor([]).message(leak)
    assert MASK in masked
    assert "abcdef" not in masked


def test_messages_are_one_line_and_bounded():
    message = Redactor([]).message("a\r\n\tb " + "x" * 1000)
    assert message.startswith("a b x")
    assert len(message) == 500
