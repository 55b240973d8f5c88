"""The entry: the commands, and the end of every error as one line and an exit code."""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Sequence

import click
from redis.exceptions import RedisError

from monitor.cli.call import Call, settings_options
from monitor.cli.exits import FAILED, INTERRUPTED, READER_GONE, USAGE
from shared.errors import JanitorError
from shared.retry import to_user_error


@click.group("monitor", context_settings={"help_option_names": ["-h", "--help"]})
@settings_options
def commands() -> None:
    """Watch over a consumer group of a Redis stream, and bring back what was left pending.

    Settings come from the environment, as for the function app, or from --settings local.settings.json.

    Exit codes: 0 fine, 1 failed, 2 usage or settings, 3 Redis unreachable, 4 a threshold is breached, 130 interrupted.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. Prints an error as one line, with a traceback only under ``--debug``."""
    _add_commands()
    call = Call()
    try:
        code: int | None = commands.main(arguments, prog_name="python -m monitor", standalone_mode=False, obj=call)
        sys.stdout.flush()
        return code or 0
    except (KeyboardInterrupt, click.Abort, asyncio.CancelledError):
        return _end(call, "interrupted", INTERRUPTED)
    except click.exceptions.NoArgsIsHelpError as help_asked_for:
        help_asked_for.show()
        return USAGE
    except click.ClickException as error:
        return _end(call, f"{error.format_message()} (see --help)", USAGE)
    except BrokenPipeError:
        # The interpreter flushes standard output once more at its end, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except (JanitorError, RedisError) as error:
        _trace(call)
        return call.tell(error if isinstance(error, JanitorError) else to_user_error(error, call.doing))
    except Exception as error:  # noqa: BLE001
        _trace(call)
        # Its text may quote an entry.
        return _end(call, f"internal error ({type(error).__name__}): run it again with --debug", FAILED)


def _trace(call: Call) -> None:
    if call.debug:
        for line in traceback.format_exc().splitlines():
            call.out.note(line)


def _end(call: Call, text: str, code: int) -> int:
    call.out.note(text if code == INTERRUPTED else f"error: {text}", style="red")
    return code


def _add_commands() -> None:
    """Importing them adds them to ``commands``."""
    from monitor.cli import (  # noqa: F401
        consumers,
        doctor,
        groups,
        letters,
        pending,
        purge,
        redriving,
        retention,
        show,
        status,
        sweeps,
    )
