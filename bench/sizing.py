"""The tables of docs/SIZING.md, measured ones and what follows from them: `python -m bench.sizing [--write]`.

They come from bench/results/sizing.json; --write puts them into the page.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.markdown import markdown_table
from bench.results import FOLDER, MAIN, Results, Summary
from bench.table import cluster_table, machine_line, memory_table, small_table, spread_table, window_table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "SIZING.md"
MONTH_S = 30 * 86_400
INTERVAL_S, BUDGET_S, LAST_SHARE_S = 20, 15, 1
WORK_S = BUDGET_S - LAST_SHARE_S
"""A sweep begins nothing in its budget's last second."""
RATE_REACHED = 0.96
"""Of RECOVERY_RATE_LIMIT: an entry counts for 1.02 to 1.04 s."""
BACKLOGS = (10_000, 100_000, 1_000_000, 10_000_000)
LIMITS = (100, 1_000)


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan's rules and prices. Put yours here: prices differ by region and currency, and change."""

    name: str
    billed_gb: float
    shortest_s: float
    rounded_to_s: float
    usd_gb_s: float
    usd_million_executions: float
    free_gb_s: float
    free_executions: float

    def gb_s(self, tick_s: float, ticks: float) -> float:
        steps = math.ceil(round(tick_s / self.rounded_to_s, 6))
        return ticks * max(self.shortest_s, steps * self.rounded_to_s) * self.billed_gb

    def usd(self, gb_s: float, ticks: float) -> float:
        executions = max(0.0, ticks - self.free_executions) / 1e6
        return max(0.0, gb_s - self.free_gb_s) * self.usd_gb_s + executions * self.usd_million_executions


PLANS = (
    Plan("Flex Consumption, 2,048 MB", 2.0, 1.0, 0.1, 0.000026, 0.40, 100_000, 250_000),
    Plan("Flex Consumption, 512 MB", 0.5, 1.0, 0.1, 0.000026, 0.40, 100_000, 250_000),
    Plan("Consumption, 256 MB in use", 0.25, 0.1, 0.001, 0.000016, 0.20, 400_000, 1_000_000),
)


def cost_table(results: Results) -> str:
    rows = [
        (
            f"{mode}, {'indexed' if indexed else 'not indexed'}",
            f"{summary.entries_per_s:,.0f}",
            f"{summary.client_cpu_us:.1f}",
            f"{summary.server_cpu_us:.1f}",
            f"{summary.net_in_bytes:.0f}",
            f"{summary.net_out_bytes:.0f}",
            f"{summary.client_peak_mb:.0f}",
        )
        for mode, indexed, summary in _methods(results)
    ]
    headers = (
        "one server",
        "entries/s",
        "client CPU, µs/entry",
        "server CPU, µs/entry",
        "bytes to the server",
        "bytes from it",
        "client memory, MB",
    )
    return markdown_table(headers, rows)


def shards_table(results: Results) -> str:
    """Computed: a core of the janitor's is full when its CPU an entry, times the entries of all shards, is a second a second."""
    rows = []
    for mode, indexed, summary in _methods(results):
        core = summary.client_cpu_us * summary.entries_per_s / 1e6
        rows.append(
            (
                f"{mode}, {'indexed' if indexed else 'not indexed'}",
                f"{summary.client_cpu_us:.1f} µs × {summary.entries_per_s:,.0f}/s",
                f"{core:.0%}",
                f"{1 / core:.1f}",
                f"{1e6 / summary.client_cpu_us:,.0f}",
            )
        )
    headers = ("computed: shards", "a shard at full speed takes", "of a core", "such shards a core", "entries/s a core")
    return markdown_table(headers, rows)


def backlog_table(results: Results) -> str:
    """Computed: full ticks work for WORK_S of INTERVAL_S, the last one until it is done."""
    rates = [
        (f"{mode}, {'indexed' if indexed else 'not'}", one.entries_per_s) for mode, indexed, one in _methods(results)
    ]
    rates += [(f"limit {limit:,}/s", RATE_REACHED * limit) for limit in LIMITS]
    rows = [
        (name, f"{rate:,.0f}", *(_lasting(backlog_s(entries, rate)) for entries in BACKLOGS)) for name, rate in rates
    ]
    return markdown_table(("computed: a backlog lasts", "entries/s", *(f"{entries:,}" for entries in BACKLOGS)), rows)


def backlog_s(entries: int, rate: float) -> float:
    full_ticks = math.ceil(entries / (rate * WORK_S)) - 1
    return full_ticks * INTERVAL_S + (entries - full_ticks * rate * WORK_S) / rate


def bill_table() -> str:
    """Computed: a month of idle ticks, a month under a limit that always bites, and what an hour of that costs."""
    ticks = MONTH_S / INTERVAL_S
    rows = []
    for plan in PLANS:
        idle, busy = plan.gb_s(0.01, ticks), plan.gb_s(WORK_S, ticks)
        rows.append(
            (
                plan.name,
                f"{ticks:,.0f}",
                f"{idle:,.0f}",
                f"{plan.usd(idle, ticks):,.2f}",
                f"{busy:,.0f}",
                f"{plan.usd(busy, ticks):,.2f}",
                f"{plan.gb_s(WORK_S, 3_600 / INTERVAL_S) * plan.usd_gb_s:.3f}",
            )
        )
    headers = (
        "computed: 30 days",
        "executions",
        "idle: GB-s",
        "USD",
        "14 s a tick: GB-s",
        "USD",
        "an hour of those, USD",
    )
    return markdown_table(headers, rows)


def _methods(results: Results) -> list[tuple[str, bool, Summary]]:
    cases = [(mode, indexed) for mode in ("script", "gather") for indexed in (True, False)]
    return [(*case, summary) for case in cases if (summary := results.summary(MAIN, *case))]


def _lasting(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.1f} h"


def sizing_tables(results: Results) -> list[str]:
    return [
        cost_table(results),
        spread_table(results),
        small_table(results),
        window_table(results),
        cluster_table(results),
        shards_table(results),
        memory_table(results),
        backlog_table(results),
        bill_table(),
        machine_line(results),
    ]


def filled(page: str, tables: list[str]) -> str:
    """The page with each table in the place of the one whose first column is called the same."""
    by_name = {_name(table): table for table in tables if table}
    return "\n\n".join(by_name.get(_name(block), block) for block in page.rstrip("\n").split("\n\n")) + "\n"


def _name(block: str) -> str:
    """A table's first header; the line about the machine has a name too; of anything else, itself."""
    if block.startswith("| "):
        return block.split("|")[1].strip()
    return "machine" if "; Redis " in block and ", RediSearch " in block and "\n" not in block else block


def main() -> None:
    tables = sizing_tables(Results.load(FOLDER / "sizing.json"))
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), tables), encoding="utf-8")
    else:
        print("\n\n".join(tables))


if __name__ == "__main__":
    main()
