"""A batch-runner that sets no space aside: the control of the full-disk tests."""

import sys

from batch_runner.cli import main
from batch_runner.journal import Journal


Journal.__init__.__kwdefaults__["reserve_bytes"] = 0
sys.exit(main(["run", "job.toml", "--progress", "off"]))
