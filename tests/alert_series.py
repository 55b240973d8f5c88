"""What Prometheus has of a janitor's metrics, by the way that it runs, by push or pull, and by the interval of the samples.

A janitor is a list of sweeps; each is of a process, and each process has an instance of its own whose counters begin at 0.
Pulled, a series is read at every scrape while its process lives, and is marked stale then. Pushed, there is a sample after each
sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil

GROUP = {"messaging_destination_name": "orders", "messaging_consumer_group_name": "billing"}
LENGTH_S = 75 * 60
EVENT_S = 30 * 60
"""When what a story is about happens."""
STALE_AFTER_S = 60.0
Labels = tuple[tuple[str, str], ...]
Key = tuple[str, Labels]


@dataclass(frozen=True)
class Found:
    """What one sweep found; a counter's number is what it adds."""

    succeeds: bool = True
    pending: int | None = 0
    oldest_s: float = 0.0
    dead_letters: int | None = 0
    unsearchable: int = 0
    deleted: int = 0
    dead_lettered: int = 0
    stream_length: int = 1000
    held_s: float = 0.0
    error: str = ""
    """error.type of the sweep."""


Story = Callable[[float], Found | None]
"""What a sweep at that second finds; None: nobody sweeps then."""


@dataclass(frozen=True)
class Running:
    """A way to run the janitor: how often it sweeps, how long a process lives, and how it comes to Prometheus."""

    name: str
    every_s: int
    process_s: int | None
    """None: one process for all."""
    is_pulled: bool
    is_stable: bool = False
    """All processes have one service.instance.id."""


TIMER = Running("timer, push", 20, 10 * 60, False)
RUN_PUSH = Running("run, push", 20, None, False)
RUN_PULL = Running("run, pull", 20, None, True)
RESTARTING = Running("run that restarts every ten minutes, pull", 20, 10 * 60, True)
CRON_STABLE = Running("cron job, push, one instance", 60, 60, False, is_stable=True)
CRON = Running("cron job, push, an instance each minute", 60, 60, False)
WAYS = (TIMER, RUN_PUSH, RUN_PULL, RESTARTING, CRON_STABLE, CRON)


@dataclass
class _Process:
    """One process's instruments."""

    instance: str
    counters: dict[tuple[str, str], int] = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)
    gauges_until_s: float = 0.0
    times: dict[str, float] = field(default_factory=dict)

    def sweep(self, at_s: float, found: Found) -> None:
        for name, outcome, count in (
            ("unsearchable_total", "", found.unsearchable),
            ("settled_total", "deleted", found.deleted),
            ("settled_total", "dead_lettered", found.dead_lettered),
            ("settled_total", "processed", 1),
            ("sweep_duration_seconds_count", found.error, 1),
        ):
            self.counters[name, outcome] = self.counters.get((name, outcome), 0) + count
        self.times["last_sweep_time_seconds"] = at_s
        if found.succeeds:
            self.times["last_success_time_seconds"] = at_s
        if found.pending is not None:
            self.gauges = {"pending": found.pending, "oldest_pending_age_seconds": found.oldest_s}
            self.gauges |= {"stream_length": found.stream_length, "retention_held_seconds": found.held_s}
            if found.dead_letters is not None:
                self.gauges["dead_letters"] = found.dead_letters
            self.gauges_until_s = at_s + STALE_AFTER_S

    def samples(self, at_s: float) -> Iterator[tuple[Key, float]]:
        own = {**GROUP, "instance": self.instance}
        for (name, outcome), count in self.counters.items():
            label = "error_type" if name == "sweep_duration_seconds_count" else "stream_janitor_outcome"
            labels = {**own, label: outcome} if outcome else own
            yield (f"stream_janitor_{name}", tuple(sorted(labels.items()))), count
        gauges = self.gauges if at_s < self.gauges_until_s else {}
        for name, value in {**gauges, **self.times}.items():
            yield (f"stream_janitor_{name}", tuple(sorted(own.items()))), value


def series_of(way: Running, story: Story, step_s: int) -> Mapping[Key, str]:
    """Each series in promtool's notation: a sample each ``step_s`` seconds, ``_`` where there is none."""
    steps = LENGTH_S // step_s + 1
    columns: dict[Key, list[str]] = {}
    before: set[Key] = set()
    for number, samples in enumerate(_steps(way, story, step_s, steps)):
        for key, value in samples.items():
            columns.setdefault(key, ["_"] * steps)[number] = f"{value:g}" if value < 1e5 else f"{value:.0f}"
        if way.is_pulled:
            for key in before - set(samples):
                columns[key][number] = "stale"
        before = set(samples)
    return {key: " ".join(column) for key, column in columns.items()}


def _steps(way: Running, story: Story, step_s: int, steps: int) -> Iterator[dict[Key, float]]:
    process: _Process | None = None
    swept_s: float | None = None
    for number in range(steps):
        now_s = number * step_s
        samples: dict[Key, float] = {}
        for at_s in _sweeps_within(way, now_s - step_s, now_s):
            found = story(at_s)
            if found is None:
                process = None
                continue
            instance = str(0 if way.process_s is None else at_s // way.process_s)
            if process is None or process.instance != instance:
                process = _Process(instance)
            process.sweep(at_s, found)
            swept_s = at_s
            if not way.is_pulled:
                samples |= dict(_named(way, process).samples(at_s))
        if way.is_pulled and process is not None and swept_s is not None:
            samples = dict(process.samples(now_s))
        yield samples


def _named(way: Running, process: _Process) -> _Process:
    if not way.is_stable:
        return process
    return _Process("default.janitor", process.counters, process.gauges, process.gauges_until_s, process.times)


def _sweeps_within(way: Running, after_s: int, until_s: int) -> Iterator[int]:
    first = max(ceil((after_s + 1) / way.every_s), 0)
    return iter(range(first * way.every_s, until_s + 1, way.every_s))
