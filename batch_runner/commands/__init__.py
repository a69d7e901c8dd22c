"""What each command of the command line does: parsed arguments in, exit code out.

A command imports what it needs when it is carried out: `status` waits for no network library.
"""

import argparse
import logging
import signal
import sys
import traceback
from collections.abc import Callable, Mapping

from batch_runner import logs
from batch_runner.commands import money, preparing, sending, serving, telling, writing
from batch_runner.errors import BatchRunnerError, ExitCode, LockedError, UsageError
from batch_runner.journal import LockPolicy
from batch_runner.signals import Interrupted, raise_on_signals


log = logging.getLogger("batch_runner")

SERVERS = frozenset({"serve", "faults"})
"""They end by a signal and in no other way: they have done all that they were asked to do."""

_COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "init": preparing.init,
    "check": preparing.check,
    "run": sending.run,
    "retry": sending.retry,
    "status": telling.status,
    "export": writing.export,
    "reparse": writing.export,
    "convert": writing.convert,
    "report": telling.report,
    "verify": telling.verify,
    "estimate": money.estimate,
    "costs": money.costs,
    "prices": money.prices,
    "serve": serving.serve,
    "faults": serving.faults,
}


def carry_out(arguments: argparse.Namespace) -> int:
    """The exit code of the command, once it has done what it does; errors are told on stderr."""
    raise_on_signals()
    held = None
    try:
        held = logs.set_up(
            quiet=arguments.quiet,
            verbose=arguments.verbose,
            log_file=arguments.log_file,
            log_format=logs.LogFormat(arguments.log_format),
        )
        for note in arguments.notes:
            log.warning("note: %s", note, extra={"event": "note"})
        code = _COMMANDS[arguments.command](arguments)
    except LockedError as error:
        if getattr(arguments, "if_locked", "fail") == LockPolicy.SKIP:
            log.info("skipped: %s", error)
            return ExitCode.DONE
        code = _told(error)
    except BatchRunnerError as error:
        code = _told(error)
    except PermissionError as problem:
        code = _told(_forbidden(problem))
    except Interrupted as interruption:
        is_ctrl_c = interruption.signal_number == signal.SIGINT
        if is_ctrl_c and sys.stderr.isatty():  # the terminal has printed ^C there
            print(file=sys.stderr)
        is_server = arguments.command in SERVERS
        if not (is_server or (is_ctrl_c and getattr(arguments, "watch", False))):
            log.warning("ended by %s", interruption)
        number = interruption.signal_number
        code = ExitCode.DONE if is_server else ExitCode.of_signal(number)
    except BrokenPipeError:  # no bug: `cli.main` knows what it means
        raise
    except Exception:  # noqa: BLE001  # the last line of defence: whatever is left is a bug
        log.error("this is a bug in batch_runner:\n%s", traceback.format_exc())  # noqa: TRY400  # HeldHandler keeps one line
        code = ExitCode.BUG
    if held is not None and code != ExitCode.DONE:
        print("\n".join(held.lines), file=sys.stderr)
    return int(code)


def _forbidden(problem: PermissionError) -> UsageError:
    """Whether something is there is asked in many places; where it may not be, here is the answer."""
    place = "" if problem.filename is None else f" {str(problem.filename)!r}"
    return UsageError(
        f"cannot look at{place}: {problem.strerror or problem}",
        hint="change the permissions of its folder, or name another place",
    )


def _told(error: BatchRunnerError) -> ExitCode:
    log.error("%s", error, extra={"event": "error"})
    if error.hint:
        log.error("hint: %s", error.hint, extra={"event": "hint"})
    return error.exit_code
