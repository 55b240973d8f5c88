"""From HANDLER to what is to be called. Imports the user's module, so it runs on a thread of its own."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from shared.errors import SettingsError

Function: TypeAlias = Callable[..., Any]
"""Called with a list of entries; what it returns is read by verdicts.py."""

SHIPPED: Final = {"webhook": "monitor.handlers.webhook", "sql": "monitor.handlers.sql"}
"""Handlers that come with the janitor: HANDLER → the module, whose ``handler(options)`` is an async context manager."""
_NAME: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True, slots=True)
class HandlerSpec:
    """Which handler, and with what: two streams with an equal one share it."""

    name: str
    """HANDLER: ``module:name``, ``webhook`` or ``sql``."""
    path: str = ""
    """HANDLER_PATH: a folder to look for the module in, after all others; empty: none."""
    options: tuple[tuple[str, str], ...] = ()
    """Setting → value, for the handlers that ship."""

    def __repr__(self) -> str:
        return f"HandlerSpec({self.name!r})"  # options hold secrets


@dataclass(frozen=True, slots=True)
class Found:
    """A function to call, or what has to be entered first to get one."""

    function: Function | None
    manager: AbstractAsyncContextManager[Any] | None = None


def is_handler_name(name: str) -> bool:
    """Whether HANDLER can be used at all; whether the module exists is known when it is imported."""
    return name in SHIPPED or _NAME.fullmatch(name) is not None


def find(spec: HandlerSpec) -> Found:
    """Import what HANDLER names.

    Raises:
        SettingsError: naming HANDLER or HANDLER_PATH and what to do.
    """
    if spec.name in SHIPPED:
        return _shipped(spec)
    if not is_handler_name(spec.name):
        raise _problem(f"expected module:name, {', '.join(SHIPPED)}, such as billing:handle")
    _extend_path(spec.path)
    module_name, _, attribute = spec.name.partition(":")
    found: Any = _imported(module_name, spec.path)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise _problem(f"the module {module_name!r} has no {attribute!r}")
        found = getattr(found, part)
    return _usable(found, spec.name)


def function_of(opened: object) -> Function:
    """What an async context manager gave, if it can be called.

    Raises:
        SettingsError: it cannot.
    """
    if not callable(opened):
        raise _problem(
            f"the context manager gives {type(opened).__name__}; yield the function to call with the entries"
        )
    return opened


def _shipped(spec: HandlerSpec) -> Found:
    options: Mapping[str, str] = dict(spec.options)
    try:
        module = importlib.import_module(SHIPPED[spec.name])
    except ModuleNotFoundError as error:
        raise _problem(
            f"{spec.name} needs the package of {error.name!r}: pip install -r requirements-handlers.txt "
            "(the function app wants its lines in requirements.txt)"
        ) from None
    return Found(None, module.handler(options))


def _extend_path(path: str) -> None:
    """Last, so that nothing in the folder hides a module of the janitor's or of Python's."""
    if not path:
        return
    folder = os.path.abspath(path)
    if not os.path.isdir(folder):
        raise SettingsError(["HANDLER_PATH: there is no such folder"])
    if folder not in sys.path:
        sys.path.append(folder)


def _imported(name: str, path: str) -> object:
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            raise _problem(f"there is no module {name!r}; HANDLER_PATH names the folder to look in") from None
        raise _problem(f"the module {name!r} needs {missing!r}, which is not installed") from None
    except BaseException as error:  # noqa: BLE001 - also SystemExit: whatever it is, it is the user's
        # Its text may quote a secret.
        raise _problem(f"importing the module {name!r} raised {type(error).__name__} ({_place(error, path)})") from None


def _place(error: BaseException, path: str) -> str:
    """The user's own line where an import failed: what can be said without the error's text."""
    trace, line = error.__traceback__, ""
    while trace is not None:
        code = trace.tb_frame.f_code
        if not code.co_filename.startswith("<frozen") and code.co_filename != importlib.__file__:
            line = f"{os.path.basename(code.co_filename)}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return line or "see it by importing the module"


def _usable(found: Any, name: str) -> Found:
    """A function, async or plain; an async context manager; or what makes one when called without arguments."""
    if hasattr(type(found), "__aenter__"):
        return Found(None, found)
    wrapped = inspect.unwrap(found) if callable(found) else found
    if inspect.isasyncgenfunction(wrapped) or (isinstance(found, type) and hasattr(found, "__aenter__")):
        return Found(None, _made(found, name))
    if inspect.isgeneratorfunction(wrapped) or hasattr(type(found), "__enter__"):
        raise _problem(f"{name!r} is a generator or a plain context manager; use contextlib.asynccontextmanager")
    if isinstance(found, type) or not callable(found):
        kind = "a class" if isinstance(found, type) else f"of type {type(found).__name__}"
        raise _problem(f"{name!r} is {kind}; name a function, or an async context manager that gives one")
    return Found(found)


def _made(found: Any, name: str) -> AbstractAsyncContextManager[Any]:
    try:
        manager: AbstractAsyncContextManager[Any] = found()
    except BaseException as error:  # noqa: BLE001 - also SystemExit: whatever it is, it is the user's
        raise _problem(f"{name!r}, called without arguments, raised {type(error).__name__}") from None
    if not hasattr(type(manager), "__aenter__"):
        raise _problem(f"{name!r} is an async generator; decorate it with contextlib.asynccontextmanager")
    return manager


def _problem(text: str) -> SettingsError:
    return SettingsError([f"HANDLER: {text}"])
