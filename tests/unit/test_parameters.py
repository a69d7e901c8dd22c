"""Names under [request]: all of them are sent, and those that look like slips are told."""

import json

import pytest

from batch_runner.parameters import RESPONSES, notes


def note(name, value=1):
    """The one note about a name; empty when there is none."""
    found = list(notes({"model": "m", name: value}, is_whole=False))
    assert len(found) <= 1
    return "".join(found)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("max_output_token", "max_output_tokens"),
        ("max_ouput_tokens", "max_output_tokens"),
        ("maxOutputTokens", "max_output_tokens"),
        ("temprature", "temperature"),
        ("Temperature", "temperature"),
        ("top-p", "top_p"),
        ("service-tier", "service_tier"),
        ("max_token", "max_output_tokens"),
        ("max_tokens", "max_output_tokens"),
        ("max_completion_tokens", "max_output_tokens"),
        ("reasoning_effort", 'reasoning = { effort = "..." }'),
        ("reasoning_efort", 'reasoning = { effort = "..." }'),
        ("response_format", "text.format"),
        ("messages", "[prompt]"),
        ("functions", "tools"),
        ("n", "each row gets one answer"),
        ("stop", "nothing like it"),
        ("seed", "nothing like it"),
    ],
)
def test_a_slip_or_the_word_of_another_api_is_told_with_what_is_meant(name, meant):
    assert f"request.{name} is sent as it stands" in note(name)
    assert meant in note(name).partition("but")[2]


@pytest.mark.parametrize("name", ["max_ouput_tokens", "max_tokens", "maxOutputTokens"])
def test_what_is_said_of_a_missing_cap_is_said_once(name):
    def said(**request):
        return " ".join(notes({"model": "m", **request}, is_whole=True))

    unbounded = "nothing bounds the cost of a call"
    assert said(**{name: 9}).endswith(f"; without that one, {unbounded}")
    assert said().startswith(f"request.max_output_tokens is not set: {unbounded}")
    assert said(temprature=1).count(unbounded) == said(**{name: 9}).count(unbounded) == 1
    assert unbounded not in said(max_output_tokens=9, **{name: 9})
    assert unbounded not in note("temprature"), "a body that the row completes may hold one"


def test_the_parts_of_tables_are_looked_at_too():
    assert "is reasoning.effort meant" in note("reasoning", {"efort": "low"})
    assert "is text.verbosity meant" in note("text", {"verbosty": "low"})
    assert note("reasoning", {"effort": "low", "max_tokens": 5}) == ""
    assert note("metadata", {"temprature": "x"}) == ""


@pytest.mark.parametrize(
    "name",
    [*sorted(RESPONSES), "top_k", "min_p", "provider", "repetition_penalty", "thinking", "x_flavour",
     "models", "enable_thinking", "num_ctx"],
)  # fmt: skip
def test_what_the_api_and_gateways_know_or_nobody_guesses_is_not_commented_on(name):
    assert note(name) == ""


def test_check_and_run_tell_it_and_the_endpoint_gets_it(main_cli, tmp_path, fault_server):
    (tmp_path / "in.csv").write_text("body\none\n")
    (tmp_path / "job.toml").write_text(
        '[input]\npath = "in.csv"\n[prompt]\ninput = "{{ body }}"\n[output]\npath = "out.csv"\n'
        f'[endpoint]\nbase_url = "{fault_server.url}"\n'
        '[request]\nmodel = "m1"\ntemprature = 0.5\nmax_output_tokens = 50\n'
    )
    checked = main_cli("check", "job.toml")
    assert "temprature" in checked.out
    assert (
        json.loads(main_cli("check", "job.toml", "--json").out)["requests"][0]["temprature"] == 0.5
    )
    ran = main_cli("run", "job.toml")
    assert ran.code == 0
    assert ran.err.index("is that meant?") < ran.err.index("1 ok"), "before the money is spent"
    assert "temperature: is that meant" in ran.err
