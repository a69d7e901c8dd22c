"""`python -m batch_runner.faultserver`: the URL is the first line on stdout."""

import argparse
import asyncio
import contextlib
import sys
from pathlib import Path

from batch_runner.errors import UsageError
from batch_runner.faultserver.server import serve


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m batch_runner.faultserver", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--ledger", type=Path, metavar="FILE", help="append every call to FILE")
    parser.add_argument("--counts", action="store_true", help="keep totals only in memory")
    parser.add_argument("--script", type=Path, metavar="FILE", help="rules, .toml or .json")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting; may be repeated",
    )
    given = parser.parse_args()
    try:
        asyncio.run(
            serve(
                port=given.port,
                host=given.host,
                ledger_path=given.ledger,
                ledger_mode="counts" if given.counts else "rows",
                script=given.script,
                on_ready=_say,
                **dict(setting.split("=", 1) for setting in given.set),
            )
        )
    except UsageError as error:
        parser.error(f"{error}; {error.hint}" if error.hint else str(error))
    except (ValueError, OverflowError) as error:  # --set without "=", a port that is none
        parser.error(str(error))
    except OSError as error:
        sys.stderr.write(f"cannot listen on {given.host}:{given.port}: {error}\n")
        return 1
    return 0


def _say(url: str) -> None:
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
