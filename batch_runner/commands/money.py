"""What it costs: `estimate` before, `costs` after, and the `prices` of both."""

import argparse
import shlex
import sys
from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING

from batch_runner.commands.described import described_job
from batch_runner.commands.stdout import print_json, print_lines
from batch_runner.errors import ExitCode, UsageError
from batch_runner.printable import printable
from batch_runner.progress import ProgressStyle
from batch_runner.run_options import RunOptions


if TYPE_CHECKING:
    from batch_runner.estimated import Estimate
    from batch_runner.run_place import RunPlace


def estimate(arguments: argparse.Namespace) -> int:
    from batch_runner import estimating
    from batch_runner.estimate_report import (
        estimate_json,
        estimate_lines,
        sample_question,
    )

    def confirm(found: "Estimate", most: Decimal | None) -> bool:
        if arguments.yes:
            return True
        if not sys.stdin.isatty():
            raise UsageError(
                "estimate --sample runs real rows, and there is no terminal to ask whether it may",
                hint="--yes answers for you",
            )
        question = sample_question(found, arguments.sample, most)
        print(question, end=" [y/N] ", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    style = ProgressStyle.OFF if arguments.quiet else ProgressStyle(arguments.progress)
    with described_job(arguments) as job:
        found = estimating.estimate(
            job,
            sample=arguments.sample,
            seed=arguments.seed,
            count=arguments.count or ("api" if arguments.local else "local"),
            confirm=confirm,
            options=RunOptions(progress=style),
        )
    if arguments.json:
        print_json(estimate_json(found))
    else:
        print_lines(estimate_lines(found))
    return ExitCode.DONE


def costs(arguments: argparse.Namespace) -> int:
    from batch_runner.costs import costs as read_costs
    from batch_runner.costs_report import cost_csv, cost_json, cost_lines

    by = arguments.by.split(",")
    places = [*_places(arguments)]
    report = read_costs(places, by=by, since=arguments.since, until=arguments.until)
    if arguments.csv:
        print(printable(cost_csv(report)), end="")
    elif arguments.json:
        print_json(cost_json(report))
    else:
        print_lines(cost_lines(report))
    return ExitCode.DONE


def _places(arguments: argparse.Namespace) -> "Iterator[str | RunPlace]":
    """What is named, as it stands; of a job the run that its flags mean."""
    from batch_runner.commands.telling import place_meant
    from batch_runner.costs import names_a_job
    from batch_runner.run_place import run_folder

    named, output = arguments.places, arguments.output
    if output is not None and (len(named) > 1 or not all(map(names_a_job, named))):
        raise UsageError(
            f"costs -o {output!r}: says which run of a job file is meant, not of {shlex.join(named)}",
            hint="leave one of them out",
        )
    if output is not None and run_folder(output) is None:
        raise UsageError(
            f"costs -o {output!r}: no run has written there",
            hint="-o says which run is meant; > FILE behind --csv or --json keeps the figures",
        )
    for name in named or [None]:
        if name is not None and not names_a_job(name):
            yield name
        else:
            yield place_meant(argparse.Namespace(**{**vars(arguments), "job": name}))


def prices(arguments: argparse.Namespace) -> int:
    from batch_runner.pricing import PriceBook, model_meant, price_lines

    book = PriceBook({})
    found = {model: book.resolve(model, at=None) for model in arguments.models}
    if arguments.json:
        print_json(
            {model: None if match is None else match.to_json() for model, match in found.items()}
        )
    else:
        for model, match in found.items():
            if match is not None:
                print(f"{printable(model)}: {match.describe()}")
                continue
            meant = f" ({question})" if (question := model_meant(model)) else ""
            print(
                f"{printable(model)}: no price is known{meant}; to give one, add to the job file:"
            )
            for line in price_lines(model):
                print(f"  {printable(line)}")
    return ExitCode.DONE if all(found.values()) else ExitCode.ROWS_FAILED
