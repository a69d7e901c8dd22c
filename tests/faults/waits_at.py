"""A batch-runner that stops for a signal at a stage: waits_at.py plan|export."""

import os
import sys
import time

from batch_runner import opening
from batch_runner.cli import main


def wait(*_arguments, **_options):
    os.write(2, b"waiting\n")
    time.sleep(60)


if sys.argv[1] == "plan":
    opening.make_plan = wait
else:
    # In the middle of the file: half of it has been handed to the temporary one.
    from batch_runner.export import _ending

    def wait_at_the_seventh(work, row, *rest, **named):
        if row.index == 7:
            wait()
        return _ending(work, row, *rest, **named)

    sys.modules["batch_runner.export"]._ending = wait_at_the_seventh

sys.exit(main(["run", "job.toml", "--progress", "off"]))
