"""`make demo`: watch the janitor bring back what flaky processors left, and see that nothing is missing."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import io
import os
import signal
import sys
import time
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

import redis
from rich.console import Console
from rich.text import Text

from demo.cluster import RedisCluster
from demo.example import Example
from demo.examples import EXAMPLES
from demo.examples.tweets import TWEETS
from demo.outside import OutsideServer, clean, outside_server
from demo.pipeline import Outcome, RunFailed, run
from demo.plan import BadPlan, Plan, make_plan
from demo.printable import padded, printable, shortened
from demo.queries import Fields
from demo.redis import NoServer, RedisServer, ServerFailed
from demo.scene import Scene
from demo.screen import shown
from demo.tweets import NotTweets
from demo.wire import SERVER_VARIABLE

Server: TypeAlias = RedisServer | RedisCluster | OutsideServer

DEFAULT_SECONDS = 75.0
FAILOVER_S = 6.0
DEFAULT_SCHEDULE = "*/20 * * * * *"
SHORT_SECONDS, SHORT_SCHEDULE = 9.0, "*/2 * * * * *"
INTERRUPTED = 130
LAST_COLUMN_CELLS = 43
GROUP_CELLS = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 only if everything that is checked at the end holds."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # tweets hold more than an ASCII log can show
    console = Console(highlight=False)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        plan = _plan(options)
        with _server(options.port, plan.example, options.cluster, keep=options.keep) as server:
            return _run_on(server, plan, console, keep=options.keep)
    except (BadPlan, NotTweets, NoServer, ServerFailed, RunFailed, OSError, redis.RedisError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted; everything was stopped", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description="A producer, three flaky processors, and the janitor on its timer.",
        epilog=f"{SERVER_VARIABLE}=redis://host:port uses an empty server of yours instead of starting one.",
    )
    parser.add_argument("--example", choices=EXAMPLES, default="tweets", help="the set-up to run (default: tweets)")
    parser.add_argument("--short", action="store_true", help="about 9 s, with a tick every 2 s")
    parser.add_argument("--tweets", type=Path, metavar="FILE", help="Twitter API v1.1 JSON (default: made up)")
    parser.add_argument("--lang", help="only tweets in this language, such as en")
    parser.add_argument("--seconds", type=_positive, help="about how long (default: 75)")
    parser.add_argument("--schedule", help=f"default: '{DEFAULT_SCHEDULE}'")
    parser.add_argument("--rate", type=_positive, help="entries a second, on average (default: 100)")
    parser.add_argument("--port", type=int, help="the server's port on 127.0.0.1 (default: a free one)")
    parser.add_argument("--cluster", action="store_true", help="a Redis Cluster of six, and one of its masters dies")
    parser.add_argument("--retain", action="store_true", help="trim the stream of what two groups have finished with")
    parser.add_argument("--keep", action="store_true", help="leave the server up until Ctrl-C")
    parser.add_argument("--seed", type=int, default=1, help="of made-up tweets and failures (default: 1)")
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    seconds = options.seconds or (SHORT_SECONDS if options.short else DEFAULT_SECONDS)
    schedule = options.schedule or (SHORT_SCHEDULE if options.short else DEFAULT_SCHEDULE)
    example = EXAMPLES[options.example]
    tweets = (options.tweets, options.lang)
    plan = make_plan(example, *tweets, options.seed, schedule, options.rate, seconds, options.short)
    if not options.retain:
        return plan
    if example is not TWEETS or options.cluster:
        raise BadPlan("--retain is for the tweets on one server: the other checks read the stream at the end")
    return dataclasses.replace(plan, retain_s=plan.min_idle_s)


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < 1e6:
        raise ValueError(text)
    return number


_positive.__name__ = "number"  # what argparse calls it in its message


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)  # asyncio takes that as a wish to cancel, and everything is tidied up


@contextlib.contextmanager
def _server(port: int | None, example: Example, is_cluster: bool, keep: bool) -> Iterator[Server]:
    """The server for this run: the user's own if DEMO_REDIS_URL names one, or one that is started, or a cluster."""
    url = os.environ.get(SERVER_VARIABLE)
    if is_cluster:
        _refuse_what_no_cluster_can(example, url)
        with RedisCluster(port=port) as cluster:
            yield cluster
        return
    if not url:
        with RedisServer(port=port) as server:
            yield server
        return
    if port:
        raise BadPlan(f"--port is for a server that the demo starts; {SERVER_VARIABLE} names another")
    outside = outside_server(url)
    try:
        yield outside
    finally:
        if not keep:
            clean(outside, example.stream)


def _refuse_what_no_cluster_can(example: Example, url: str | None) -> None:
    if url:
        raise BadPlan(f"--cluster starts servers of its own, one of which is killed; {SERVER_VARIABLE} names another")
    if example is not TWEETS:
        raise BadPlan("--cluster is for the tweets: the other examples' checks need one server")


def _run_on(server: Server, plan: Plan, console: Console, keep: bool) -> int:
    failover_s = FAILOVER_S if isinstance(server, RedisCluster) else 0.0
    scene = Scene(plan.example, server.address, plan.expected_s + failover_s)
    outcome = asyncio.run(_run_shown(server, plan, scene, console))
    _print_checks(outcome, console)
    _print_answers(outcome, plan.example, server.address, console)
    holds = all(check.holds for check in outcome.checks)
    _print_last_line(holds, scene, console)
    if keep:
        _keep_until_interrupted(server, console)
    return 0 if holds else 1


async def _run_shown(server: Server, plan: Plan, scene: Scene, console: Console) -> Outcome:
    async with shown(scene, console):
        cluster = server if isinstance(server, RedisCluster) else None
        return await _cancelled_for_sure(run(plan, server.url, server.environment, scene, cluster))


TIDYING_UP_S = 10.0


async def _cancelled_for_sure(running: Coroutine[Any, Any, Outcome]) -> Outcome:
    """Ctrl-C cancels once, and redis-py's asyncio client swallows some cancellations: cancel again where nothing ends.

    Not at once: whoever is tidying up must not be cancelled in it.
    """
    task = asyncio.ensure_future(running)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            task.cancel()
            await asyncio.wait((task,), timeout=TIDYING_UP_S)
        raise


def _print_checks(outcome: Outcome, console: Console) -> None:
    console.print()
    for check in outcome.checks:
        mark = ("✓ ", "bold green") if check.holds else ("✗ ", "bold red")
        console.print(Text.assemble(mark, check.text), soft_wrap=True)


def _print_answers(outcome: Outcome, example: Example, address: str, console: Console) -> None:
    for answer in outcome.answers:
        console.print()
        console.print(Text.assemble((f"{address}> ", "dim"), (answer.typed, "bold")), soft_wrap=True)
        if answer.other_indexes:
            others = ", ".join(answer.other_indexes)
            console.print(Text(f"  and {others}, of the other shards", style="dim"), soft_wrap=True)
        console.print(Text(f"  {answer.total:,} found", style="green" if answer.total else "dim"))
        for key, fields in answer.hits:
            line = _hit_line(example, key, fields, console) if key else _group_line(fields)
            console.print(line, soft_wrap=True)


def _hit_line(example: Example, key: bytes, fields: Fields, console: Console) -> Text:
    line = Text.assemble(("  " + padded(key, example.key_cells), "dim"))
    *columns, last = example.columns
    for column in columns:
        value = column.before.encode() + fields.get(column.field.encode(), b"")
        line.append("  " + padded(value, column.cells), column.style)
    room = console.width - line.cell_len - 2 if console.is_terminal else LAST_COLUMN_CELLS
    return line.append("  " + shortened(fields.get(last.field.encode(), b""), max(last.cells, room)), last.style)


def _group_line(fields: Fields) -> Text:
    line = Text()
    for name, value in fields.items():
        line.append("  " + printable(name), "dim").append(" " + padded(value, GROUP_CELLS))
    line.rstrip()
    return line


def _print_last_line(holds: bool, scene: Scene, console: Console) -> None:
    console.print()
    text = Text(_story(scene), "bold green") if holds else Text("Something does not hold: see ✗ above.", "bold red")
    console.print(text, soft_wrap=True)


def _story(scene: Scene) -> str:
    example, dead = scene.example, scene.dead_lettered
    if example.consumers_stay:
        back = f"{scene.recovered:,} times an abandoned entry of {scene.produced:,} {example.things} was added again"
        return f"{back}, and {dead:,} went to the dead-letter stream."
    whoever = "the janitor" if example.janitors == 1 else f"{example.janitors} janitors"
    abandoned = f"{scene.recovered + dead:,} of {scene.produced:,} {example.things} were abandoned; {whoever} brought"
    if dead:
        return f"{abandoned} {scene.recovered:,} back, and {dead:,} to the dead-letter stream."
    return f"{abandoned} them all back."


def _keep_until_interrupted(server: Server, console: Console) -> None:
    host, _, port = server.address.rpartition(":")
    redis_cli = "redis-cli -c" if isinstance(server, RedisCluster) else "redis-cli"
    line = f"{redis_cli} -p {port}" if host == "127.0.0.1" else f"{redis_cli} -h {host} -p {port}"
    console.print(f"\nThe server stays up until Ctrl-C. Look inside with: {line}", soft_wrap=True)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())
