"""What it costs: `estimate` before, `costs` after, and the `prices` of both."""

import argparse
import sys
from decimal import Decimal

from batch_runner.commands.described import described_job
from batch_runner.commands.stdout import print_json, print_lines
from batch_runner.errors import ExitCode, UsageError
from batch_runner.printable import printable
from batch_runner.progress import ProgressStyle
from batch_runner.run_options import RunOptions


def estimate(arguments: argparse.Namespace) -> int:
    from batch_runner import estimating
    from batch_runner.estimate_report import (
        estimate_json,
        estimate_lines,
        sample_question,
    )

    if arguments.sample and not arguments.yes and not sys.stdin.isatty():
        raise UsageError(
            "estimate --sample runs real rows, and there is no terminal to ask whether it may",
            hint="--yes answers for you",
        )

    def confirm(found: estimating.Estimate, most: Decimal | None) -> bool:
        if arguments.yes:
            return True
        question = sample_question(found, arguments.sample, most)
        print(question, end=" [y/N] ", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    style = ProgressStyle.OFF if arguments.quiet else ProgressStyle(arguments.progress)
    with described_job(arguments) as job:
        found = estimating.estimate(
            job,
            sample=arguments.sample,
            seed=arguments.seed,
            count=arguments.count,
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
    report = read_costs(arguments.places, by=by, since=arguments.since, until=arguments.until)
    if arguments.csv:
        print(printable(cost_csv(report)), end="")
    elif arguments.json:
        print_json(cost_json(report))
    else:
        print_lines(cost_lines(report))
    return ExitCode.DONE


def prices(arguments: argparse.Namespace) -> int:
    from batch_runner.pricing import PriceBook, price_lines

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
            print(f"{printable(model)}: no price is known; to give one, add to the job file:")
            for line in price_lines(model):
                print(f"  {printable(line)}")
    return ExitCode.DONE if all(found.values()) else ExitCode.ROWS_FAILED
