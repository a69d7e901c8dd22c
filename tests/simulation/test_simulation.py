"""The promises of the program hold in every simulated history, and planted bugs break them."""

import logging
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation.bugs import PLANTED
from tests.simulation.history import play


ROOT = Path(__file__).parents[2]
SEEDS = 100
ENOUGH_TO_SEE_A_BUG = 400


@pytest.fixture(autouse=True)
def no_log():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_no_history_breaks_a_promise():
    seen = Counter()
    for seed in range(SEEDS):
        outcome = play(seed)
        assert not outcome.broken, str(outcome)
        seen += outcome.counts
    for trouble in ("killed", "power cuts", "exit 4", "exit 5", "exit 130", "exit 143"):
        assert seen[trouble] >= 2, f"these seeds hardly ever meet: {trouble}"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_history_of_ten_thousand_breaks_a_promise():
    told = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "10000"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stdout[-5000:]


@pytest.mark.parametrize("bug", PLANTED, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_seen(bug):
    """Half of the worlds are rough: some bugs need many power cuts to show."""
    assert any(play(seed, bug, rough=seed % 2 == 1).broken for seed in range(ENOUGH_TO_SEE_A_BUG))


def test_a_seed_is_the_same_history_in_every_process():
    """Event for event and byte for byte, whatever the hash seed and the addresses of the process."""
    seed = 7
    told = [
        subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--seed", str(seed)],
            cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]  # fmt: skip
    assert told[0] == told[1]
    assert "files" in told[0]
