"""The chart of a run: `python -m bench.chart FILE` draws it beside the file, as SVG and PNG."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

from bench.methods import COMPARED
from bench.plans import GROWING
from bench.results import GROWTH, MAIN, Results, Summary

mpl.use("Agg")  # no display is needed
from matplotlib import pyplot as plt

OURS, LIMIT, PEERS = "#d97706", "#334155", "#94a3b8"
COLOURS = {"limit": LIMIT, "script": OURS, "gather": "#f5b455"}
INK, QUIET, GRID, PAPER = "#1e293b", "#64748b", "#e2e8f0", "#ffffff"
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": QUIET,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": QUIET,
    "ytick.color": INK,
    "figure.facecolor": PAPER,  # solid: a README is read on a dark background too
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "svg.hashsalt": "bench",
}


def draw(results: Results, path: Path) -> list[Path]:
    """Draw the chart; the files that were written."""
    with mpl.rc_context(STYLE):
        figure: Any = plt.figure(figsize=(11, 6.4), layout="constrained")
        above, below = figure.subfigures(2, 1, height_ratios=(1.15, 1), hspace=0.06)
        bars = above.subplots(1, 3, sharey=True)
        _rates(bars[0], results, indexed=True)
        _rates(bars[1], results, indexed=False)
        _bystander(bars[2], results)
        lines = below.subplots(1, 2)
        _growth(lines[0], results, indexed=True)
        _growth(lines[1], results, indexed=False)
        below.supxlabel(_footnote(results), x=0.99, ha="right", fontsize=7, color=QUIET)
        written = [path.with_suffix(suffix) for suffix in (".svg", ".png")]
        for file in written:
            metadata = {"Date": None} if file.suffix == ".svg" else None
            figure.savefig(file, dpi=160, metadata=metadata, bbox_inches="tight", pad_inches=0.2)
        plt.close(figure)
    return written


def _rates(panel: Any, results: Results, indexed: bool) -> None:
    panel.set_title(f"Entries/s, {'indexed' if indexed else 'not indexed'}")
    summaries = _main_summaries(results, indexed)
    limit = results.summary(MAIN, "limit", indexed)
    labels = [
        _thousands(summary.entries_per_s) + (f"  ({summary.entries_per_s / limit.entries_per_s:.0%})" if limit else "")
        for summary in summaries
    ]
    _bars(panel, summaries, [summary.entries_per_s for summary in summaries], labels)


def _bystander(panel: Any, results: Results) -> None:
    panel.set_title("p99 of another's GET, ms, indexed")
    summaries = _main_summaries(results, indexed=True)
    values = [summary.p99_ms for summary in summaries]
    _bars(panel, summaries, values, [f"{value:.1f}" for value in values])


def _bars(panel: Any, summaries: list[Summary], values: list[float], labels: list[str]) -> None:
    if not summaries:  # a run of some parts only
        panel.set_axis_off()
        return
    names = [COMPARED[summary.method].label for summary in summaries]
    colours = [COLOURS.get(summary.method, PEERS) for summary in summaries]
    bars = panel.barh(names, values, color=colours, height=0.66)
    panel.bar_label(bars, labels, padding=4, fontsize=8.5, color=INK)
    panel.set_ylim(len(summaries) - 0.5, -0.5)  # the first on top
    panel.set_xlim(0, 1.35 * max(values))
    panel.set_xticks([])
    panel.spines["bottom"].set_visible(False)
    panel.tick_params(axis="y", length=0)


def _growth(panel: Any, results: Results, indexed: bool) -> None:
    panel.set_title(f"Entries/s by how many are pending, {'indexed' if indexed else 'not indexed'}")
    sizes = results.sizes(GROWTH)
    ends: dict[str, float] = {}
    for method in GROWING:
        found = [summary for size in sizes if (summary := results.summary(GROWTH, method, indexed, size))]
        if found:
            rates = [summary.entries_per_s for summary in found]
            panel.plot(
                [summary.entries for summary in found],
                rates,
                color=COLOURS[method],
                marker="o",
                markersize=4.5,
                linewidth=2,
            )
            ends[method] = rates[-1]
    if sizes:
        panel.set_xscale("log")
        panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
        panel.set_xlim(sizes[0] / 1.3, sizes[-1] * 2.6)
        panel.minorticks_off()
    panel.set_ylim(0, 1.12 * panel.get_ylim()[1])
    panel.yaxis.set_major_formatter(lambda value, _: _thousands(value))
    panel.grid(axis="y", color=GRID, linewidth=0.8)
    for method, height in _apart(ends, 0.075 * panel.get_ylim()[1]).items():
        panel.text(sizes[-1] * 1.18, height, method, va="center", color=COLOURS[method], fontweight="bold")


def _apart(heights: dict[str, float], gap: float) -> dict[str, float]:
    """Labels at the ends of their lines, moved down where they would touch the one above."""
    placed: dict[str, float] = {}
    ceiling = float("inf")
    for name in sorted(heights, key=heights.__getitem__, reverse=True):
        placed[name] = min(heights[name], ceiling)
        ceiling = placed[name] - gap
    return placed


def _main_summaries(results: Results, indexed: bool) -> list[Summary]:
    return [summary for method in COMPARED if (summary := results.summary(MAIN, method, indexed))]


def _thousands(value: float) -> str:
    return f"{value / 1_000:.0f}k" if value >= 9_950 else f"{value / 1_000:.1f}k" if value else "0"


def _footnote(results: Results) -> str:
    machine = results.machine
    return (
        f"{machine['cpu']}, {machine['cores']} cores, Redis {machine['redis_server']}, "
        f"RediSearch {machine['search_module']}, Python {machine['python']}, {machine['date']}"
    )


def main() -> None:
    path = Path(sys.argv[1])
    for written in draw(Results.load(path), path):
        print(written)


if __name__ == "__main__":
    main()
