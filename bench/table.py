"""The tables of a run, in Markdown: `python -m bench.table FILE`."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median

from bench.markdown import markdown_table
from bench.methods import CLUSTERED, COMPARED, REQUEUEING, SPREAD_OVER
from bench.plans import GROWING
from bench.results import CLUSTER, GROWTH, MAIN, REQUEUE, SPREAD, Results, Summary

COLUMNS = (
    "entries/s",
    "÷ limit",
    "client CPU, µs/entry",
    "client memory, MB",
    "server CPU, µs/entry",
    "server busy",
    "bystander p50, ms",
    "p99, ms",
)


def tables(results: Results) -> str:
    parts = [
        methods_table(results, indexed=True),
        methods_table(results, indexed=False),
        growth_table(results),
        requeue_table(results),
        spread_table(results),
        cluster_table(results),
        small_table(results),
        window_table(results),
        retained_table(results),
        memory_table(results),
        idle_table(results),
        cold_table(results),
        machine_line(results),
    ]
    return "\n\n".join(part for part in parts if part)


def methods_table(results: Results, indexed: bool) -> str:
    limit = results.summary(MAIN, "limit", indexed)
    rows = [
        (_label(summary), *_cells(summary, limit))
        for method in COMPARED
        if (summary := results.summary(MAIN, method, indexed))
    ]
    return markdown_table(("indexed" if indexed else "not indexed", *COLUMNS), rows) if rows else ""


def growth_table(results: Results) -> str:
    rows = []
    for method in GROWING:
        for indexed in (True, False):
            by_size = [results.summary(GROWTH, method, indexed, entries) for entries in results.sizes(GROWTH)]
            if any(by_size):
                label = f"{COMPARED[method].label}, {'indexed' if indexed else 'not indexed'}"
                rows.append((label, *(_growth_cell(summary) for summary in by_size)))
    sizes = [f"{entries:,} pending" for entries in results.sizes(GROWTH)]
    return markdown_table(("entries/s (time; client memory)", *sizes), rows) if rows else ""


def requeue_table(results: Results) -> str:
    limit = results.summary(REQUEUE, "requeue-limit", False)
    rows = [
        (method.label, *_cells(summary, limit))
        for name, method in REQUEUEING.items()
        if (summary := results.summary(REQUEUE, name, False))
    ]
    return markdown_table(("requeue, into the same stream", *COLUMNS), rows) if rows else ""


def spread_table(results: Results) -> str:
    rows = [
        (
            f"{method.label}, {'indexed' if indexed else 'not indexed'}",
            f"{summary.entries:,}",
            f"{summary.seconds:.2f}",
            f"{summary.client_cpu_us:.1f}",
            f"{summary.server_cpu_us:.1f}",
            f"{summary.p99_ms:.1f}",
        )
        for indexed in (True, False)
        for name, method in SPREAD_OVER.items()
        if (summary := results.summary(SPREAD, name, indexed))
    ]
    headers = ("many streams", "entries", "s", "client CPU, µs/entry", "server CPU, µs/entry", "bystander p99, ms")
    return markdown_table(headers, rows) if rows else ""


def cluster_table(results: Results) -> str:
    base = results.summary(CLUSTER, "server-script", False), results.summary(CLUSTER, "server-gather", False)
    rows = [
        (
            method.label,
            f"{summary.entries_per_s:,.0f}",
            *(f"{summary.entries_per_s / one.entries_per_s:.2f}" if one else "–" for one in base),
            f"{summary.client_cpu_us:.1f}",
            f"{summary.server_cpu_us:.1f}",
        )
        for name, method in CLUSTERED.items()
        if (summary := results.summary(CLUSTER, name, False))
    ]
    headers = (
        "a cluster, not indexed",
        "entries/s",
        "÷ one server, script",
        "÷ one server, gather",
        "client CPU, µs/entry",
        "all servers' CPU, µs/entry",
    )
    return markdown_table(headers, rows) if rows else ""


def small_table(results: Results) -> str:
    rows = []
    for mode in sorted({run.mode for run in results.small_streams}, reverse=True):
        runs = [run for run in results.small_streams if run.mode == mode]
        first = runs[0]
        rows.append(
            (
                f"{first.small_entries} entries beside {first.large_entries:,}, {mode}, indexed",
                str(max(run.ticks for run in runs)),
                f"{1_000 * median(run.clean_after_s for run in runs):.0f}",
                f"{1_000 * max(run.clean_after_s for run in runs):.0f}",
                f"{median(run.first_tick_s for run in runs):.1f}",
                f"{median(run.large_left for run in runs):,.0f}",
            )
        )
    headers = ("the small stream", "ticks", "clean after, ms", "worst, ms", "that tick, s", "left of the large one")
    return markdown_table(headers, rows) if rows else ""


def window_table(results: Results) -> str:
    rows = [
        (
            f"three janitors, {run.limit} entries/s, {run.mode}",
            f"{run.seconds:.1f}",
            f"{run.taken_up:,}",
            str(run.fullest_second),
            " + ".join(f"{count:,}" for count in run.processed_by),
        )
        for run in results.rate_windows
    ]
    headers = ("a shared limit", "s", "taken up", "in the fullest second", "by each")
    return markdown_table(headers, rows) if rows else ""


def retained_table(results: Results) -> str:
    rows = [
        (
            f"{run.entries:,} entries, {run.kind}",
            f"{run.seconds:.2f}",
            f"{run.trimmed / run.seconds:,.0f}",
            str(run.slices),
            f"{run.slowest_ms:.2f} ({run.slowest_command})" if run.slowest_command else "< 0.1",
            f"{run.bystander['p99_ms']:.2f}",
        )
        for run in results.retained
    ]
    headers = ("retention, all trimmable", "s", "entries/s", "slices", "slowest command, ms", "bystander p99, ms")
    return markdown_table(headers, rows) if rows else ""


def memory_table(results: Results) -> str:
    rows = [
        (
            item.example,
            f"{item.payload:.0f}",
            f"{item.in_stream:.0f}",
            f"{item.pending:.0f}",
            f"{item.hash:.0f}",
            f"{item.index:.0f}",
            f"{item.dead_letter:.0f}",
        )
        for item in results.memory
    ]
    headers = (
        "bytes an entry",
        "names and values",
        "in the stream",
        "pending",
        "its hash",
        "its index",
        "as dead letter",
    )
    return markdown_table(headers, rows) if rows else ""


def idle_table(results: Results) -> str:
    rows = [
        (
            f"{idle.pending:,} pending: {idle.state}" if idle.pending else "nothing pending",
            f"{1_000 * median(idle.ticks_s):.1f}",
            f"{1_000 * median(idle.client_cpu_s):.1f}",
            f"{idle.slowest_ms:.2f} ({idle.slowest_command})" if idle.slowest_command else "< 0.1",
            f"{idle.bystander['p99_ms']:.2f}",
            f"{idle.scan_ms:.1f}" if idle.scan_ms else "< 0.1",
        )
        for idle in results.idle_ticks
    ]
    headers = (
        "a tick with nothing to do",
        "ms",
        "client CPU, ms",
        "slowest command, ms",
        "bystander p99, ms",
        "one XPENDING … IDLE, ms",
    )
    return markdown_table(headers, rows) if rows else ""


def cold_table(results: Results) -> str:
    starts = results.cold_starts
    if not starts:
        return ""
    ours_s = median(start.import_s + start.first_tick_s for start in starts)
    libraries_s = median(start.libraries_s for start in starts)
    rows = [
        ("import azure.functions, redis.asyncio", f"{1_000 * libraries_s:.0f}", "1.00"),
        ("import function_app", f"{1_000 * median(start.import_s for start in starts):.0f}", ""),
        ("import function_app and first tick", f"{1_000 * ours_s:.0f}", f"{ours_s / libraries_s:.2f}"),
    ]
    return markdown_table(("cold start", "ms", "ratio"), rows)


def machine_line(results: Results) -> str:
    machine = results.machine
    if not machine:
        return ""
    packages = ", ".join(f"{name} {version}" for name, version in dict(_items(machine["packages"])).items() if version)
    return (
        f"{machine['date']}: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"{machine['kernel']}; Redis {machine['redis_server']}, RediSearch {machine['search_module']}, "
        f"Python {machine['python']}; {packages}."
    )


def _items(value: object) -> dict[str, str | None]:
    assert isinstance(value, dict)
    return value


def _label(summary: Summary) -> str:
    label = COMPARED[summary.method].label
    return label if summary.valid_rounds else f"{label} (void: server under 95 % busy)"


def _cells(summary: Summary, limit: Summary | None) -> tuple[str, ...]:
    return (
        f"{summary.entries_per_s:,.0f}",
        f"{summary.entries_per_s / limit.entries_per_s:.2f}" if limit else "–",
        f"{summary.client_cpu_us:,.1f}",
        f"{summary.client_peak_mb:.0f}",
        f"{summary.server_cpu_us:,.1f}",
        f"{summary.server_busy:.0%}",
        f"{summary.p50_ms:.2f}",
        f"{summary.p99_ms:.2f}",
    )


def _growth_cell(summary: Summary | None) -> str:
    if not summary:
        return "–"
    return f"{summary.entries_per_s:,.0f} ({summary.seconds:.2f} s; {summary.client_peak_mb:.0f} MB)"


if __name__ == "__main__":
    print(tables(Results.load(Path(sys.argv[1]))))
