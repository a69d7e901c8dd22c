"""A batch-runner whose journal keeps its lines in memory: the control of the kill tests."""

import sys

from batch_runner.cli import main
from batch_runner.journal import Journal


def flush_nothing(journal: Journal) -> None:
    journal._flush_is_due = False
    journal._written = journal._buffered


Journal._flush = flush_nothing
sys.exit(main(["run", "job.toml", "--progress", "off"]))
