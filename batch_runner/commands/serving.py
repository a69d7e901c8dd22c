"""Endpoints on this machine: `serve` and `faults`."""

import argparse
import sys
from pathlib import Path

from batch_runner.errors import UsageError


def serve(arguments: argparse.Namespace) -> int:
    from batch_runner import local

    return local.serve(arguments.port, verbose=bool(arguments.verbose), quiet=arguments.quiet)


def faults(arguments: argparse.Namespace) -> int:
    import asyncio

    from batch_runner import faultserver
    from batch_runner.signals import Interrupted, until_signal

    def say(url: str) -> None:
        if not arguments.quiet:
            sys.stderr.write("answering until Ctrl-C\n")
        print(url, flush=True)

    # What a script sets holds unless it is typed.
    typed = {} if arguments.latency is None else {"latency_seconds": arguments.latency}
    serving = faultserver.serve(
        port=arguments.port,
        ledger_path=Path(arguments.ledger) if arguments.ledger else None,
        script=Path(arguments.script) if arguments.script else None,
        on_ready=say,
        **typed,
    )
    try:
        number = asyncio.run(until_signal(serving))
    except OSError as error:
        raise UsageError(f"cannot listen on port {arguments.port}: {error.strerror}") from None
    raise Interrupted(number)
