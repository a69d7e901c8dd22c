"""`python -m batch_runner`."""

import sys

from batch_runner.cli import entry


sys.exit(entry())
