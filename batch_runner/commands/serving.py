"""Endpoints on this machine: `serve` and `faults`."""

import argparse
from pathlib import Path

from batch_runner.errors import ExitCode, UsageError


def serve(arguments: argparse.Namespace) -> int:
    from batch_runner import local

    return local.serve(arguments.port, verbose=bool(arguments.verbose), quiet=arguments.quiet)


def faults(arguments: argparse.Namespace) -> int:
    import asyncio

    from batch_runner import faultserver

    def say(url: str) -> None:
        print(url, flush=True)

    try:
        asyncio.run(
            faultserver.serve(
                port=arguments.port,
                ledger_path=Path(arguments.ledger) if arguments.ledger else None,
                script=Path(arguments.script) if arguments.script else None,
                latency_seconds=arguments.latency,
                on_ready=say,
            )
        )
    except OSError as error:
        raise UsageError(f"cannot listen on port {arguments.port}: {error.strerror}") from None
    return ExitCode.DONE
