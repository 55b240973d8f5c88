"""One call of the command line: its settings, its connection, its output; and the options that every command takes."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import click
from redis.exceptions import RedisError

from monitor.cli.exits import FAILED, FINE, UNREACHABLE, USAGE, as_ours, code_for
from monitor.cli.output import Output
from shared.errors import JanitorError, SettingsError
from shared.redis_client import RedisLink, open_link
from shared.settings import Settings, StreamSettings

ROUND_TRIP_S = 5.0
MOST_CONNECTIONS = 4

Options = ParamSpec("Options")
Command = TypeVar("Command", bound=Callable[..., Any])


class Call:
    """What the commands are given."""

    def __init__(self) -> None:
        self.settings_file: str | None = None
        self.as_json = False
        self.debug = False
        self.doing = "start"

    @functools.cached_property
    def out(self) -> Output:
        return Output(self.as_json)

    @functools.cached_property
    def environment(self) -> Mapping[str, str]:
        """Where the settings come from: the file if one was named (and then nothing else), or the process's environment."""
        return os.environ if self.settings_file is None else values_of(self.settings_file)

    @functools.cached_property
    def settings(self) -> Settings:
        return Settings.from_env(self.environment)

    @asynccontextmanager
    async def link(self) -> AsyncIterator[RedisLink]:
        settings = self.settings
        link = open_link(settings.redis, MOST_CONNECTIONS, ROUND_TRIP_S)
        try:
            yield link
        finally:
            with suppress(RedisError, OSError):
                await link.close()

    async def each_stream(self, body: Callable[[StreamSettings], Coroutine[Any, Any, int | None]]) -> int:
        """Run ``body`` for every stream; one that fails is told and the others go on. The worst exit code of all."""
        codes = [FINE]
        for stream in self.settings.streams:
            try:
                codes.append(await body(stream) or FINE)
            except (JanitorError, RedisError) as error:
                codes.append(self.tell(as_ours(error, self.doing, stream.stream, stream.group)))
        return worst(codes)

    def tell(self, error: JanitorError) -> int:
        """Print the error in one line; its exit code."""
        self.out.flush()
        self.out.note(f"error: {error}", style="red")
        return code_for(error)


def worst(codes: list[int]) -> int:
    """Of several streams' exit codes the one that says most: nothing got through, then wrong usage, then a failure."""
    for code in (UNREACHABLE, USAGE, FAILED):
        if code in codes:
            return code
    return max(codes)


def values_of(path: str) -> Mapping[str, str]:
    """The settings in a ``local.settings.json``.

    Raises:
        SettingsError: there is none, or it is of another form.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsError([f"{path} cannot be read ({error.strerror})"]) from None
    except ValueError:
        raise SettingsError([f"{path} is no JSON"]) from None
    values = document.get("Values") if isinstance(document, dict) else None
    if not isinstance(values, dict):
        raise SettingsError([f"{path} has no object named Values, as a local.settings.json has"])
    if document.get("IsEncrypted"):
        raise SettingsError([f"{path} is encrypted: func settings decrypt"])
    wrong = [f"{name}: expected a string" for name, value in values.items() if not isinstance(value, str)]
    if wrong:
        raise SettingsError(wrong)
    return values


def _note(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value:
            setattr(context.ensure_object(Call), name, value)

    return keep


_SETTINGS = click.option(
    "--settings",
    metavar="FILE",
    expose_value=False,
    callback=_note("settings_file"),
    help="Read the settings from a local.settings.json, and nothing from the environment.",
)
_DEBUG = click.option(
    "--debug", is_flag=True, expose_value=False, callback=_note("debug"), help="Show tracebacks and the log."
)
_JSON = click.option(
    "--json",
    is_flag=True,
    expose_value=False,
    callback=_note("as_json"),
    help="Print JSON, one object a line, each with its kind and version.",
)


def settings_options(command: Command) -> Command:
    return _SETTINGS(_DEBUG(command))


def command(
    group: click.Group, name: str
) -> Callable[[Callable[Concatenate[Call, Options], Coroutine[Any, Any, int | None]]], Callable[Options, int]]:
    """Make a coroutine that takes a ``Call`` and its options a command of ``group``; what it returns is the exit code."""

    def decorate(
        body: Callable[Concatenate[Call, Options], Coroutine[Any, Any, int | None]],
    ) -> Callable[Options, int]:
        @functools.wraps(body)
        def start(*arguments: Options.args, **options: Options.kwargs) -> int:
            call = click.get_current_context().ensure_object(Call)
            call.doing = name if group.name in (None, "monitor") else f"{group.name} {name}"
            with _log_told(call):
                return asyncio.run(body(call, *arguments, **options)) or FINE

        group.command(name)(_SETTINGS(_JSON(_DEBUG(start))))
        return start

    return decorate


class _Telling(logging.Handler):
    """Prints the janitor's log to standard error: warnings, and all of it under ``--debug``."""

    def __init__(self, call: Call) -> None:
        super().__init__(logging.DEBUG if call.debug else logging.WARNING)
        self._call = call

    def emit(self, record: logging.LogRecord) -> None:
        if self._call.debug or not hasattr(record, "report"):  # the commands print reports themselves
            self._call.out.note(f"{record.levelname.lower()}: {record.getMessage()}")


@contextmanager
def _log_told(call: Call) -> Iterator[None]:
    logger, handler = logging.getLogger("monitor"), _Telling(call)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(handler.level)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


class Stop:
    """Whether a signal asked to end; true from the first one on."""

    def __init__(self) -> None:
        self.by: signal.Signals | None = None
        self.event = asyncio.Event()

    def __bool__(self) -> bool:
        return self.by is not None

    async def sleep(self, seconds: float) -> None:
        """Sleep so long, or until asked to end."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.event.wait(), max(seconds, 0))


@contextmanager
def stop_on_signals(then: Callable[[], None] = lambda: None) -> Iterator[Stop]:
    """Ctrl-C and SIGTERM ask to end, and what is in hand is finished; the second one ends at once."""
    stop, loop, task = Stop(), asyncio.get_running_loop(), asyncio.current_task()

    def ask(number: signal.Signals) -> None:
        if stop and task is not None:
            task.cancel()
        stop.by = stop.by or number
        stop.event.set()
        then()

    numbers = (signal.SIGINT, signal.SIGTERM)
    with suppress(NotImplementedError):  # Windows: Ctrl-C ends at once, which is safe as well
        for number in numbers:
            loop.add_signal_handler(number, ask, number)
    try:
        yield stop
    finally:
        with suppress(NotImplementedError):
            for number in numbers:
                loop.remove_signal_handler(number)
