"""`python -m tests.simulation 10000`, or `--seed 1234` for one history with everything it tells."""

# ruff: noqa: T201  a command prints
import argparse
import logging
import multiprocessing
import os
import sys
import time
from collections import Counter

from tests.simulation.history import play


def main():
    parser = argparse.ArgumentParser(prog="tests.simulation", description=__doc__)
    parser.add_argument("seeds", nargs="?", type=int, default=200, help="how many histories")
    parser.add_argument("--seed", type=int, help="this one alone, told in full")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    asked = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if asked.seed is not None:
        outcome = play(asked.seed)
        print(outcome)
        return bool(outcome.broken)
    return _play_many(range(asked.first, asked.first + asked.seeds), asked.jobs)


def _play_many(seeds, jobs):
    began = time.monotonic()
    counts, failed = Counter(), []
    with multiprocessing.get_context("spawn").Pool(
        jobs, logging.disable, (logging.CRITICAL,)
    ) as pool:
        for done, outcome in enumerate(pool.imap_unordered(play, seeds, chunksize=10), 1):
            counts += outcome.counts
            if outcome.broken:
                failed.append(outcome.seed)
                print(outcome, flush=True)
            if done % 1000 == 0:
                print(f"{done:,} seeds, {len(failed)} failed", flush=True)
    seconds = time.monotonic() - began
    told = ", ".join(f"{number:,} {what}" for what, number in sorted(counts.items()))
    print(f"{len(seeds):,} seeds in {seconds:.0f} s, {len(seeds) / seconds:.0f} a second: {told}")
    print(f"failed: {sorted(failed) or 'none'}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
