"""The arguments that mean a job, as they are kept: without secrets."""

import pytest

from batch_runner.invocation import Invocation
from batch_runner.redact import MASK


@pytest.mark.parametrize(
    "setting",
    [
        "request.mcp.authorization=s3cret-s3cret",
        'request.extra_headers={authorization="s3cret-s3cret"}',
        'request.extra_headers={"x-gate"="s3cret-s3cret"}',
        'request.mcp={server={api_key="s3cret-s3cret"}}',
        'request.mcp=[{"API key"="s3cret-s3cret"}]',
        'request.mcp={"password": "s3cret-s3cret"}',
        "request.db.passwd=s3cret-s3cret",
        "request.client_secret=s3cret-s3cret",
        "request.token=s3cret-s3cret",
        "request.metadata.access_token=s3cret-s3cret",
        "endpoint.headers.x-gate=s3cret-s3cret",
        "endpoint.proxy=s3cret-s3cret",
        'request.tools=[{x="s3cret-s3cret"}]',
    ],
)
def test_the_value_of_a_setting_is_masked_where_a_name_in_it_is_that_of_a_secret(setting):
    invocation = Invocation(job="m.toml", settings=(setting,))
    key = setting.partition("=")[0]
    assert str(invocation) == f"m.toml --set '{key}={MASK}'"
    kept = Invocation.read(str(invocation))
    assert kept is not None
    assert [*kept.masked()] == [key]


@pytest.mark.parametrize(
    "setting",
    [
        "request.max_output_tokens=100",
        "endpoint.api_key_env=MY_API_KEY",
        "request.metadata={tokens='many'}",
        "prompt.input=the secret of a headers token",
        "limits.tpm=1000",
        "input.key=id",
    ],
)
def test_what_only_looks_like_one_is_kept(setting):
    assert Invocation.read(str(Invocation(settings=(setting,)))).settings == (setting,)


def test_a_table_that_is_typed_takes_the_place_of_a_flag_that_says_part_of_it():
    before = Invocation(job="m.toml", flags={"base_url": "http://127.0.0.1:1/v1", "model": "m"})
    typed = Invocation(settings=('endpoint={base_url="http://127.0.0.1:2/v1"}',))
    assert before.under(typed).flags == {"model": "m"}
