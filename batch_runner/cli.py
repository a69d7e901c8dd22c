"""`batch-runner`: words in, exit code out. What the words do is in `commands`."""

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from batch_runner import __version__
from batch_runner.errors import ExitCode
from batch_runner.manual import EXAMPLES, FAULTS, SERVE, VERIFY
from batch_runner.spelling import nearest
from batch_runner.variables import default_from_environment, unheard, variable


COMMANDS: dict[str, str] = {
    "init": "write a starter job file for a data file",
    "check": "validate job, columns, template, output; no calls",
    "estimate": "tokens and cost before spending",
    "run": "run the rows that are not done yet (resume is automatic)",
    "retry": "run failed rows again",
    "status": "progress, also while it runs",
    "export": "write the output from the journal, any time",
    "reparse": "derive the columns again from stored replies, without paying",
    "convert": "a job as an OpenAI batch file, or such a batch's output as a table",
    "report": "the run in the terminal, or as one HTML file",
    "costs": "tokens and cost by model, day, run, status",
    "prices": "which price a model name resolves to, and why",
    "verify": "check every record of the journal",
    "serve": "the embedded local endpoint",
    "faults": "a /v1/responses server that misbehaves on demand",
}


class Parser(argparse.ArgumentParser):
    """argparse with suggestions for typing mistakes, and without abbreviations.

    An abbreviated flag in somebody's crontab would change its meaning with the next new flag.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {_plain(message)}", file=sys.stderr)
        print(f"{self.prog} --help tells what it takes", file=sys.stderr)
        raise SystemExit(int(ExitCode.USAGE))

    def refuse(self, extras: Sequence[str]) -> NoReturn:
        """Leave with exit code 2 because of arguments that mean nothing here.

        Only the names of flags are repeated: what follows them may be a secret.
        """
        flags = [word.partition("=")[0] for word in extras if word.startswith("-")]
        if not flags:
            self.error(f"{len(extras)} argument{'s' * (len(extras) > 1)} too many")
        if "key" in flags[0]:
            self.error(
                f"no option {flags[0]}: a key is never a flag; put it into the environment variable "
                "that endpoint.api_key_env names (default: OPENAI_API_KEY)"
            )
        near = nearest(flags[0], self._option_string_actions)
        self.error(f"no option {flags[0]}" + (f" (did you mean {near}?)" if near else ""))

    def check_first(self, words: Sequence[str]) -> None:
        """Leave with exit code 2 for an option in front of the command that is none there."""
        flag = words[0].partition("=")[0] if words else ""
        if not flag.startswith("-") or flag in self._option_string_actions:
            return
        command = next((word for word in words if word in COMMANDS), None)
        if command is None or "key" in flag:
            self.refuse([flag])
        self.error(f"options follow the command: {self.prog} {command} {flag} ...")

    def check_environment(self, arguments: argparse.Namespace) -> None:
        """Leave with exit code 2 for a choice that is none: argparse looks at typed ones only."""
        for action in self._actions:
            inherited = os.environ.get(variable(action), "").split(",")
            chosen = getattr(arguments, action.dest, None)
            for word in chosen if isinstance(chosen, list) else [chosen]:
                if action.choices and word in inherited and word not in action.choices:
                    choices = ", ".join(map(repr, action.choices))
                    self.error(
                        f"{variable(action)}: invalid choice: {word!r} (choose from {choices})"
                    )


def _plain(message: str) -> str:
    """Argparse's message; about a word that is none of its choices, with the one that was meant."""
    found = re.search(r"^(.*?)(?:: )?invalid choice: '(.*)' \(choose from (.*)\)", message)
    if not found:
        return message
    place, word, choices = found[1], found[2], re.findall(r"[\w-]+", found[3])
    near = nearest(word, choices)
    if place != "argument COMMAND":
        meant = f" (did you mean {near!r}?)" if near else ""
        return f"{place}: invalid choice: {word!r}{meant}; choose from {', '.join(choices)}"
    meant = f"did you mean {near!r}?" if near else f"there are {', '.join(choices)}"
    if word.endswith(".toml"):
        meant = f"did you mean 'run {word}'?"
    return f"no command {word!r} ({meant})"


class Completion(argparse.Action):
    """Prints a completion script made from the parser itself."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,  # noqa: ARG002
        values: Any,
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        try:
            import shtab  # noqa: PLC0415  # only this needs it
        except ImportError:
            parser.error(f"--print-completion needs the package shtab: {_COMPLETION}")
        for command in parser._subparsers._group_actions[0].choices.values():  # type: ignore[union-attr]  # noqa: SLF001
            for action in command._actions:  # noqa: SLF001  # argparse has no public list
                if action.dest in _FILES:
                    action.complete = shtab.FILE
        print(shtab.complete(parser, values))
        parser.exit()


_COMPLETION = 'pip install "batch-runner[completion]"'
_FILES = frozenset({"job", "file", "input", "output", "log_file", "places", "ledger", "script"})


def build_parser() -> Parser:
    parser = Parser(
        prog="batch-runner",
        description="Run a prompt over every row of a CSV, JSONL or Parquet file through "
        "POST /v1/responses. Finished rows are never paid for twice.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"batch-runner {__version__}")
    parser.add_argument("--print-completion", choices=("bash", "zsh", "fish"), action=Completion,
                        help=f"a completion script for this shell (needs: {_COMPLETION})")  # fmt: skip
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    made = {
        name: commands.add_parser(name, help=text, description=_sentence(text))
        for name, text in COMMANDS.items()
    }
    _add_init(made["init"])
    for name, text in (("faults", FAULTS), ("serve", SERVE), ("verify", VERIFY)):
        made[name].epilog = text
        made[name].formatter_class = argparse.RawDescriptionHelpFormatter
    _add_job(made["run"], or_else="; flags alone work too")
    _add_job_flags(made["run"])
    for name in ("check", "estimate", "retry"):
        _add_job(made[name], or_else=", or an output or run folder of one; flags alone work too")
        _add_job_flags(made[name])
    for name in ("status", "export", "reparse", "report", "verify"):
        _add_job(made[name], or_else=", or an output or run folder of one")
        _add_job_flags(made[name], output_is=_OUTPUT_OF.get(name, _ROWS))
    _add_convert(made["convert"])
    _add_run_flags(made["run"])
    _add_run_flags(made["retry"])
    _add_specific(made)
    for command in made.values():
        _add_common(command)
        command.set_defaults(parser=command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out a command line; the exit code. `argv` None means the process's own.

    Whoever reads our output may have enough of it at any time: of help and completion, too.
    """
    try:
        return _carried_out(argv)
    except BrokenPipeError:
        return ExitCode.DONE
    finally:
        _flush_stdout()


def _flush_stdout() -> None:
    """Now, not as the interpreter ends: it would complain of a reader who has left."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError:  # the interpreter tries again, and says so
        return


def _carried_out(argv: Sequence[str] | None) -> int:
    parser = build_parser()
    parser.check_first(sys.argv[1:] if argv is None else argv)
    arguments, extras = parser.parse_known_args(argv)
    if extras:
        arguments.parser.refuse(extras)
    arguments.parser.check_environment(arguments)
    arguments.notes = list(unheard(parser))
    from batch_runner import commands  # noqa: PLC0415  # `--help` needs none of it

    return commands.carry_out(arguments)


def entry() -> int:
    """The console script: also Ctrl-C in the first moments, before anything handles it, is told."""
    try:
        return main()
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _add_init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE", help="the data file, a folder of them, or a pattern in quotes"
    )
    parser.add_argument("-o", "--output", metavar="PATH", help="write here instead of to stdout")


def _add_job(parser: argparse.ArgumentParser, *, or_else: str) -> None:
    parser.add_argument("job", metavar="JOB", nargs="?", help=f"job file (TOML){or_else}")


_ROWS = "where the rows with answers go"
_OUTPUT_OF = {
    "export": "write here instead of to the job's output",
    "reparse": "write here instead of to the job's output",
    "report": "write the report as one HTML file, such as report.html",
}


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", metavar="JOB|FILE", nargs="*",
                        help="a job (TOML), output and error files of a batch (JSONL), or both: "
                        "then the job's rows with the batch's answers")  # fmt: skip
    _add_job_flags(parser, output_is="the batch file or the table to write")


def _add_place_flags(parser: argparse.ArgumentParser, *, output_is: str) -> None:
    parser.add_argument("-i", "--input", metavar="PATH", action="append", help="file or glob")
    parser.add_argument("-o", "--output", metavar="PATH", help=output_is)
    parser.add_argument("--set", metavar="T.K=V", action="append", default=[], dest="settings",
                        help="override any job value, as in --set request.temperature=0")  # fmt: skip


def _add_job_flags(parser: argparse.ArgumentParser, *, output_is: str = _ROWS) -> None:
    group = parser.add_argument_group("job (override the job file)")
    _add_place_flags(group, output_is=output_is)  # type: ignore[arg-type]  # groups take arguments like parsers
    group.add_argument("-m", "--model", metavar="NAME", help="the model to ask")
    group.add_argument("-p", "--prompt", metavar="TEXT", help="template for the input of a request")
    group.add_argument(
        "--base-url", metavar="URL", help="the endpoint: https://host, or with a path such as /v1"
    )
    group.add_argument("-c", "--concurrency", metavar="N|auto|MIN-MAX", help="calls in flight")
    group.add_argument("--rpm", metavar="N", help="requests a minute")
    group.add_argument("--tpm", metavar="N", help="tokens a minute")
    group.add_argument(
        "--max-cost",
        metavar="USD",
        help="begin no call that could exceed this: the most each may cost is set aside, so near it fewer are in flight; estimate --sample names one with room; each run counts its own",
    )
    group.add_argument("--max-errors", metavar="N|N%", help="stop after so many failed rows")
    group.add_argument("--deadline", metavar="4h", help="begin no call after this time")
    group.add_argument("--grace", metavar="25s", help="how long a drain may take after a signal")
    group.add_argument("--local", action="store_true", help="use the embedded local endpoint")


def _add_run_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run")
    group.add_argument("-n", "--limit", metavar="N", type=_positive, help="at most N new rows")
    group.add_argument(
        "--fresh", action="store_true", help="send every row; the old journal is kept aside"
    )
    group.add_argument("--on-change", choices=("rerun", "keep", "fail"), default="guard",
                       help="finished rows whose request changed (default: rerun up to a fifth of them; keep is remembered)")  # fmt: skip
    group.add_argument("--fail-on", metavar="any|new|none|N%", default="any",
                       help="which rows without a full answer make exit 3: any in the output (default), new: those that had not failed so before, or more than a share")  # fmt: skip
    group.add_argument("--if-locked", choices=("wait", "skip", "fail"), default="fail",
                       help="while another run holds the lock: wait, exit 0, or exit 75 (default)")  # fmt: skip
    group.add_argument("--dry-run", action="store_true", help="plan and render, send nothing")
    group.add_argument("--dedupe", action=argparse.BooleanOptionalAction,
                       help="one call for equal requests; its tokens and cost stand in the first row")  # fmt: skip
    group.add_argument("--force-dedupe", action="store_true",
                       help="likewise, although temperature draws each answer at random")  # fmt: skip


def _add_specific(made: Mapping[str, argparse.ArgumentParser]) -> None:
    made["check"].add_argument("--probe", action="store_true", help="send one real row and show it")
    made["estimate"].add_argument(
        "--sample", metavar="N", type=_positive, help="run N real rows and project"
    )
    made["estimate"].add_argument(
        "--seed", metavar="N", type=int, default=0, help="draws other rows for the sample"
    )
    made["estimate"].add_argument("--count", choices=("local", "api"),
                                  help="count tokens here, or ask the endpoint about some rows (default: with --local, ask)")  # fmt: skip
    made["retry"].add_argument(
        "--only", metavar="CODE[,CODE]", help="only rows with these error codes"
    )
    made["retry"].add_argument(
        "--include", choices=_Several(("incomplete", "refused")), action="append", default=[],
        help="rows of this status too, or of both: incomplete,refused",
    )  # fmt: skip
    made["status"].add_argument(
        "--watch", action="store_true", help="until the run ends, from before it begins"
    )
    made["export"].add_argument("--partial", action="store_true", help="finished rows only")
    made["report"].add_argument(
        "--redact", action="store_true", help="leave out every text of the input and of the model"
    )
    made["prices"].add_argument("models", metavar="MODEL", nargs="+",
                                help="name of a model; exit 3 if one has no known price")  # fmt: skip
    made["costs"].add_argument(
        "--by",
        metavar="KEY[,KEY]",
        default="model",
        help="model, day, run, status, job (default: model)",
    )
    made["costs"].add_argument(
        "--since", metavar="DAY", help="from this day on, as in 2026-11-01 (UTC)"
    )
    made["costs"].add_argument("--until", metavar="DAY", help="up to and with this day")
    made["costs"].add_argument("--csv", action="store_true", help="the groups as CSV")
    made["costs"].add_argument("places", metavar="JOB|DIR", nargs="*",
                               help="job file, its output, run directory, or folder that holds some")  # fmt: skip
    _add_job_flags(made["costs"], output_is="where the rows of the run go that is meant")
    for name, port in (("serve", 8080), ("faults", 8081)):
        made[name].add_argument("--port", type=int, default=port,
                                help=f"0 for a free one (default: {port})")  # fmt: skip
    made["faults"].add_argument(
        "--ledger", metavar="FILE", help="append what is received and billed"
    )
    made["faults"].add_argument(
        "--script", metavar="FILE", help="which request gets which fault: see below"
    )
    made["faults"].add_argument(
        "--latency", metavar="SECONDS", type=float, help="how long a good reply takes (default: 0)"
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("common")
    group.add_argument("-q", "--quiet", action="store_true", help="print nothing at exit 0")
    group.add_argument("-v", "--verbose", action="count", default=0, help="say more")
    group.add_argument("--json", action="store_true", help="one JSON object on stdout")
    group.add_argument("--progress", choices=("auto", "bar", "log", "off"), default="auto",
                       help="a moving line, a plain line a minute, or nothing")  # fmt: skip
    group.add_argument("--log-file", metavar="PATH", help="append what is said on stderr here too")
    group.add_argument("--log-format", choices=("text", "json"), default="text",
                       help="lines for people, or one JSON object a line")  # fmt: skip
    group.add_argument("--yes", action="store_true", help="answer yes to every question")
    group.add_argument("--no-color", action="store_true", help="plain text on a terminal too")
    for action in parser._actions:  # noqa: SLF001  # argparse has no public list
        default_from_environment(parser, action)


class _Several(tuple[str, ...]):
    """Choices of which more than one may be named, behind commas."""

    __slots__ = ()

    def __contains__(self, words: object) -> bool:
        return isinstance(words, str) and all(
            super(_Several, self).__contains__(word.strip()) for word in words.split(",")
        )


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, 1 or more")
    return int(text)
