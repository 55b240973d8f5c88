"""The face of a run: a live table on a terminal, plain lines anywhere else."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from demo.printable import printable
from demo.scene import Consumer, Scene, Tick

REFRESH_EVERY_S = 0.25
PLAIN_EVERY_S = 5.0
MOST_TICKS_SHOWN, MOST_EVENTS_SHOWN = 6, 5
LINES_BESIDE = 18
"""What the picture takes without its ticks and events."""
STATE_STYLES = {"running": "green", "killed": "bold red", "stopped": "dim", "on its timer": "cyan"}
PHASES = ("producing", "finishing", "draining", "checking")


@contextlib.asynccontextmanager
async def shown(scene: Scene, console: Console) -> AsyncIterator[None]:
    """Show the scene as long as the block runs, and its last state at the end."""
    face = (
        LiveFace(scene, console) if console.is_terminal and not console.is_dumb_terminal else PlainFace(scene, console)
    )
    task = asyncio.create_task(face.keep_showing())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        face.finish()


class PlainFace:
    """Lines, for logs and pipes: each event and tick once, and from time to time the numbers."""

    def __init__(self, scene: Scene, console: Console) -> None:
        self._scene = scene
        self._console = console
        self._events = 0
        self._ticks = 0
        self._numbers_at = scene.elapsed_s

    async def keep_showing(self) -> None:
        while True:
            self._print_news()
            if self._scene.elapsed_s - self._numbers_at >= PLAIN_EVERY_S:
                self._numbers_at = self._scene.elapsed_s
                self._line(self._scene.elapsed_s, _numbers(self._scene))
            await asyncio.sleep(REFRESH_EVERY_S)

    def finish(self) -> None:
        self._print_news()

    def _print_news(self) -> None:
        events, ticks = self._scene.events[self._events :], self._scene.ticks[self._ticks :]
        self._events += len(events)
        self._ticks += len(ticks)
        for at_s, text in events:
            self._line(at_s, text)
        for tick in ticks:
            for line in tick.lines:
                self._line(self._scene.elapsed_s, f"{_whose(self._scene, tick)}tick {tick.number}: {line}")

    def _line(self, at_s: float, text: str) -> None:
        self._console.print(Text(f"[{at_s:5.1f} s] {printable(text)}"), soft_wrap=True)


class LiveFace:
    """A table that is drawn again and again in place."""

    def __init__(self, scene: Scene, console: Console) -> None:
        self._scene = scene
        self._console = console
        self._live = Live(self._picture(), console=console, auto_refresh=False, vertical_overflow="crop")
        self._live.start()

    async def keep_showing(self) -> None:
        while True:
            self._live.update(self._picture(), refresh=True)
            await asyncio.sleep(REFRESH_EVERY_S)

    def finish(self) -> None:
        self._live.update(self._picture(), refresh=True)
        self._live.stop()

    def _picture(self) -> RenderableType:
        return picture(self._scene, self._console.height)


def picture(scene: Scene, height: int) -> RenderableType:
    """The whole scene, as it is drawn on a terminal of so many lines."""
    spare = height - LINES_BESIDE
    events_shown = max(1, min(MOST_EVENTS_SHOWN, spare // 3))
    ticks_shown = max(1, min(MOST_TICKS_SHOWN, spare - events_shown - 2))
    return Panel(
        Group(
            _phases(scene),
            Text(),
            _progress(scene),
            Text(),
            _consumers(scene),
            Text(),
            _ticks(scene, ticks_shown),
            _events(scene, events_shown),
        ),
        title=Text(f" {_place(scene, ' / ')} on {scene.address} ", style="bold"),
        title_align="left",
        border_style="dim",
        padding=(1, 2),
    )


def _phases(scene: Scene) -> RenderableType:
    line = Text()
    for phase in PHASES:
        style = "bold reverse" if phase == scene.phase else "dim"
        line.append(f" {phase} ", style).append("  ")
    clock = Text(f"{scene.elapsed_s:.0f} s of about {scene.planned_s:.0f} s", style="dim")
    return _two_ends(line, clock)


def _progress(scene: Scene) -> RenderableType:
    counts = Text.assemble(
        (f"{scene.settled:,}", "bold green"),
        " of ",
        (f"{scene.produced:,}", "bold"),
        " settled, ",
        (f"{scene.pending:,}", "bold yellow" if scene.pending else "bold"),
        " pending, ",
        (f"{scene.unread:,}", "bold"),
        " unread, ",
        (f"{scene.recovered:,}", "bold cyan"),
        " recovered by the janitor" + ("s" if scene.example.janitors > 1 else ""),
    )
    bar = ProgressBar(
        total=max(1, scene.produced), completed=scene.settled, complete_style="green", finished_style="green"
    )
    return Group(counts, bar)


def _consumers(scene: Scene) -> RenderableType:
    table = Table(box=None, expand=True, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column("consumer", min_width=13)
    table.add_column("", min_width=12)
    for heading in ("stored", "failed", "pending", "oldest idle"):
        table.add_column(heading, justify="right", min_width=max(7, len(heading)), no_wrap=True)
    table.add_column("", ratio=1, no_wrap=True, overflow="crop")
    most = max((consumer.pending for consumer in scene.consumers.values()), default=0)
    for consumer in sorted(scene.consumers.values(), key=_row_order):
        table.add_row(*_consumer_cells(scene, consumer, most))
    return table


def _row_order(consumer: Consumer) -> tuple[bool, str]:
    return consumer.state == "on its timer", consumer.name


def _consumer_cells(scene: Scene, consumer: Consumer, most_pending: int) -> list[Text]:
    is_janitor = consumer.state == "on its timer"
    bar = "█" * round(16 * consumer.pending / most_pending) if most_pending else ""
    return [
        Text(printable(consumer.name), style="bold"),
        Text(consumer.state, style=STATE_STYLES.get(consumer.state, "")),
        Text(f"{scene.recovered_by(consumer.name) if is_janitor else consumer.stored:,}"),
        Text("" if is_janitor else f"{consumer.failed:,}"),
        Text(f"{consumer.pending:,}", style="yellow" if consumer.pending else "dim"),
        Text(f"{consumer.oldest_idle_ms / 1000:.1f} s" if consumer.pending else "–"),
        Text(bar, style="yellow"),
    ]


def _ticks(scene: Scene, most: int) -> RenderableType:
    heading = Text("the janitor's ticks" if scene.example.janitors == 1 else "the janitors' ticks", style="dim")
    if scene.next_due is not None and scene.phase != "checking":
        heading.append(f"   the next one in {max(0.0, scene.next_due - time.time()):.0f} s")
    table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for tick in scene.ticks[-most:]:
        table.add_row(Text(_clock(tick), style="cyan"), _tick_lines(scene, tick))
    return Group(heading, table)


def _clock(tick: Tick) -> str:
    return time.strftime("%H:%M:%S", time.localtime(tick.due))


def _tick_lines(scene: Scene, tick: Tick) -> Text:
    style = "bold red" if tick.error else "" if tick.reports else "dim"
    here = f"{_place(scene, '/')}: "  # the panel's title says that already
    whose = _whose(scene, tick)
    return Text("\n").join(Text(whose + printable(line.removeprefix(here)), style=style) for line in tick.lines)


def _place(scene: Scene, between: str) -> str:
    settings = scene.example.stream
    return f"{settings.stream}{between}{settings.group}"


def _whose(scene: Scene, tick: Tick) -> str:
    """Who ticked, where there are several janitors."""
    return f"{tick.janitor}, " if scene.example.janitors > 1 else ""


def _events(scene: Scene, most: int) -> RenderableType:
    events = scene.events[-most:]
    if not events:
        return Text()
    lines = (Text(f"{at_s:5.1f} s  {printable(text)}", style="dim") for at_s, text in events)
    return Group(Text(), Text("what happened", style="dim"), Text("\n").join(lines))


def _two_ends(left: Text, right: Text) -> RenderableType:
    grid = Table.grid(expand=True)
    grid.add_column()
    grid.add_column(justify="right")
    grid.add_row(left, right)
    return grid


def _numbers(scene: Scene) -> str:
    consumers = ", ".join(
        f"{consumer.name} {consumer.pending:,} (oldest idle {consumer.oldest_idle_ms / 1000:.0f} s)"
        for consumer in sorted(scene.consumers.values(), key=_row_order)
        if consumer.pending
    )
    return f"{scene.phase}: {scene.produced:,} produced, {scene.settled:,} settled, {scene.pending:,} pending" + (
        f": {consumers}" if consumers else ""
    )
