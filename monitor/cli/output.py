"""Where things are printed: data on standard output, for people or as JSON; progress and errors on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, TextIO

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from monitor.cli.escape import harmless

SHAPES: Final = 1
"""The version of the JSON shapes: fields may be added under it; anything else makes it grow."""
WIDTH_OFF_A_TERMINAL: Final = 100_000
"""Nothing is wrapped or cut for a program that reads us."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # instead of an exit code of rich's own


def console(stream: TextIO) -> Console:
    """A console that prints what it is given: no markup, no emoji names, no colour off a terminal or under NO_COLOR."""
    is_terminal = stream.isatty()
    is_plain = not is_terminal or bool(os.environ.get("NO_COLOR"))
    return _Console(
        file=stream,
        force_terminal=is_terminal,  # whatever FORCE_COLOR and TTY_COMPATIBLE say
        color_system=None if is_plain else "auto",
        width=None if is_terminal else WIDTH_OFF_A_TERMINAL,
        markup=False,
        emoji=False,
        highlight=False,
    )


class Output:
    """Prints for one command."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.data = console(sys.stdout)
        self.progress = console(sys.stderr)

    @property
    def preview_cells(self) -> int:
        """How much of an entry's fields fits beside the rest of its line."""
        return max(self.data.width - 90, 24) if self.data.is_terminal else 200

    def line(self, text: str | Text = "", style: str = "") -> None:
        """One line of data, for people; never wrapped."""
        made = text if isinstance(text, Text) else Text(harmless(text), style=style)
        self.data.print(made, soft_wrap=True)

    def show(self, renderable: RenderableType) -> None:
        self.data.print(renderable)

    def record(self, kind: str, **fields: Any) -> None:
        """One line of JSON; ``kind`` and ``version`` tell its shape. All ASCII, so it is safe on a terminal as well."""
        text = json.dumps({"kind": kind, "version": SHAPES, **fields}, separators=(", ", ": "))
        sys.stdout.write(text.replace("\x7f", "\\u007f") + "\n")

    def flush(self) -> None:
        """What was printed reaches whoever reads along."""
        sys.stdout.flush()

    def note(self, text: str, style: str = "") -> None:
        """One line about what is going on, on standard error."""
        self.progress.print(Text(harmless(text), style=style), soft_wrap=True)

    def bar(self) -> Progress:
        """A progress bar with rate and time left; invisible off a terminal."""
        return Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=self.progress,
            disable=not self.progress.is_terminal,
            transient=True,
        )


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f}/s")


def columns(cells: Sequence[str], widths: Sequence[int]) -> str:
    """``cells`` in columns of those widths, two spaces between them; a longer cell pushes the others on, nothing is cut.

    A negative width is filled on the left, for numbers.
    """
    padded = []
    for cell, width in zip(cells, widths, strict=True):
        space = " " * max(abs(width) - cell_len(cell), 0)
        padded.append(space + cell if width < 0 else cell + space)
    return "  ".join(padded).rstrip()
