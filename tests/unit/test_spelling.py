"""Whatever is chosen from a list of names: a slip is told with the name that was meant."""

import pytest

from batch_runner.spelling import nearest


def test_capitals_are_no_difference_and_the_choice_keeps_its_own():
    assert nearest("ARTICLE_ID", ["Article_Id", "body"]) == "Article_Id"
    assert nearest("xyz", ["Article_Id", "body"]) is None


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("retry", "j.toml", "--only", "rate_limitd"), "'rate_limited'"),
        (("run", "j.toml", "--set", "prompt.missing=skp"), "'skip'"),
        (("run", "j.toml", "--set", 'output.columns=["outputt"]', "--dry-run"), "'output'"),
        (("costs", "j.toml", "--by", "modle"), "'model'"),
        (("prices", "gpt5-mini"), "'gpt-5-mini'"),
        (("run", "j.toml", "--on-change", "rreun"), "'rerun'"),
    ],
)
def test_every_list_of_names_suggests_the_one_that_was_meant(main_cli, words, meant):
    (main_cli.folder / "in.csv").write_text("body\none\n")
    (main_cli.folder / "j.toml").write_text(
        '[input]\npath = "in.csv"\n[prompt]\ninput = "{{ body }}"\n'
        '[request]\nmodel = "m"\n[output]\npath = "o.csv"\n'
    )
    ran = main_cli(*words)
    assert f"did you mean {meant}?" in ran.out + ran.err
    assert ran.code in (2, 3)


def test_no_price_is_suggested_for_a_model_of_somebodys_own(main_cli):
    assert "did you mean" not in main_cli("prices", "smollm2-135m-instruct").out
