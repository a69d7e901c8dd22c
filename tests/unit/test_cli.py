"""Words in: suggestions for typing mistakes, the environment, and nothing secret repeated."""

import re

import pytest

from batch_runner import cli
from batch_runner.cli import COMMANDS, build_parser


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rnu"], "did you mean 'run'?"),
        (["jobs/a.toml"], "did you mean 'run jobs/a.toml'?"),
        (["run", "--modle", "m"], "no option --modle (did you mean --model?)"),
        (["export", "--partail"], "did you mean --partial?"),
        (["run", "--progress", "baar"], "did you mean 'bar'?"),
        (["run", "a.toml", "b.toml"], "1 argument too many"),
        (["run", "-n", "0"], "'0' must be a whole number, 1 or more"),
        (["run", "-n", "²"], "must be a whole number"),
        (["run", "-n"], "expected one argument"),
        (["init"], "required: FILE"),
        ([], "required: COMMAND"),
    ],
)
def test_a_typing_mistake_is_2_with_a_suggestion(main_cli, words, said):
    ran = main_cli(*words)
    assert ran.code == 2
    assert said in ran.err
    assert ran.out == ""


@pytest.mark.parametrize(
    "words", [["rnu"], ["run", "--modle"], ["run", "-n", "0"], ["frobnicate"], []]
)
def test_a_typing_mistake_is_told_in_two_lines_that_point_at_the_help(main_cli, words):
    lines = main_cli(*words).err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("batch-runner")
    assert re.fullmatch(r"batch-runner( run)? --help tells what it takes", lines[1])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-q", "run", "a.toml"], "options follow the command: batch-runner run -q"),
        (["--model", "x", "run", "a.toml"], "options follow the command: batch-runner run --model"),
        (["--versoin"], "no option --versoin (did you mean --version?)"),
        (["frobnicate"], "no command 'frobnicate' (there are init, check, "),
    ],
)
def test_what_stands_where_a_command_should_is_told(main_cli, words, said):
    ran = main_cli(*words)
    assert ran.code == 2
    assert said in ran.err


def test_flags_are_not_abbreviated(main_cli):
    ran = main_cli("run", "--out", "x.csv")
    assert ran.code == 2
    assert "no option --out" in ran.err


@pytest.mark.parametrize(
    "words", [["--api-key", "sk-secret"], ["--api-key=sk-secret"], ["--key", "x"]]
)
def test_a_key_is_never_a_flag_and_is_not_repeated(main_cli, words):
    ran = main_cli("run", *words)
    assert ran.code == 2
    assert "never a flag" in ran.err
    assert "secret" not in ran.err


def test_a_secret_among_too_many_arguments_is_not_repeated(main_cli):
    ran = main_cli("run", "a.toml", "sk-secret0123456789")
    assert ran.code == 2
    assert "secret" not in ran.err


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PROGRESS", "baar", "BATCH_RUNNER_PROGRESS: invalid choice: 'baar'"),
        ("LIMIT", "0", "'0' must be a whole number"),
        ("IF_LOCKED", "perhaps", "BATCH_RUNNER_IF_LOCKED"),
    ],
)
def test_a_wrong_variable_is_named(main_cli, name, value, said):
    ran = main_cli("run", **{f"BATCH_RUNNER_{name}": value})
    assert ran.code == 2
    assert said in ran.err


def test_a_variable_without_effect_is_told_with_the_one_that_is_meant(main_cli, tmp_path):
    (tmp_path / "in.csv").write_text("body\none\n")
    job = ["run", "-i", "in.csv", "-o", "o.csv", "-m", "m", "-p", "x", "--dry-run"]
    said = main_cli(
        *job, BATCH_RUNNER_MAX_COSTS="3", BATCH_RUNNER_SETTINGS="x", BATCH_RUNNER_YES="1",
        BATCH_RUNNER_ZZZ="1", BATCH_RUNNER_SET="request.user=u", BATCH_RUNNER_COUNT="api",
    ).err  # fmt: skip
    assert "BATCH_RUNNER_MAX_COSTS has no effect: did you mean BATCH_RUNNER_MAX_COST?" in said
    assert "BATCH_RUNNER_SETTINGS has no effect: did you mean BATCH_RUNNER_SET?" in said
    assert "BATCH_RUNNER_YES has no effect: --yes must be typed" in said
    assert "BATCH_RUNNER_ZZZ has no effect\n" in said
    assert said.count("has no effect") == 4
    assert main_cli(*job, "-q", BATCH_RUNNER_ZZZ="1").err == ""


def test_a_variable_for_another_command_disturbs_nobody(main_cli):
    assert main_cli("run", "--help", BATCH_RUNNER_COUNT="nonsense").code == 0


@pytest.fixture
def parsed(monkeypatch):
    def parsed(*words, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(f"BATCH_RUNNER_{name}", value)
        return build_parser().parse_args(words)

    return parsed


def test_the_environment_gives_options_and_flags_win(parsed):
    assert parsed("run").progress == "auto"
    assert parsed("run", PROGRESS="log").progress == "log"
    assert parsed("run", "--progress", "off", PROGRESS="log").progress == "off"
    assert parsed("run", LIMIT="5").limit == 5
    assert parsed("run", DRY_RUN="1").dry_run is True
    assert parsed("run", DRY_RUN="0").dry_run is False
    assert parsed("retry", INCLUDE="incomplete,refused").include == ["incomplete", "refused"]


def test_a_list_that_names_something_else_is_refused_like_a_single_word(main_cli):
    ran = main_cli("retry", "job.toml", "--include", "incomplete,refuse")
    assert ran.code == 2
    assert "invalid choice: 'incomplete,refuse'" in ran.err
    assert "choose from incomplete, refused" in ran.err


def test_what_is_dangerous_is_typed_and_not_inherited(parsed):
    assert parsed("run", FRESH="1", YES="1").fresh is False
    assert parsed("run").yes is False


def test_help_lists_every_command_and_the_exit_codes(main_cli):
    ran = main_cli("--help")
    assert ran.code == 0
    assert all(f"  {name}" in ran.out for name in COMMANDS)
    assert all(code in ran.out for code in ("0 ", "2 ", "3 ", "4 ", "5 ", "75", "130, 143"))
    assert ran.err == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(main_cli, command):
    ran = main_cli(command, "--help")
    assert ran.code == 0
    assert ran.out.startswith(f"usage: batch-runner {command}")


def test_the_version_is_one_line_on_stdout(main_cli):
    ran = main_cli("--version")
    assert ran.code == 0
    assert ran.out.startswith("batch-runner ")


@pytest.mark.parametrize("command", ["serve", "faults"])
def test_the_help_of_a_server_says_how_it_ends_and_with_what_code(main_cli, command):
    said = main_cli(command, "--help").out
    assert "until a signal ends it (Ctrl-C, SIGTERM), and exits 0 then" in said


def test_ctrl_c_before_anything_handles_it_is_130_without_a_traceback(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupted)
    assert cli.entry() == 130
