"""Makes infra/alerts.json of deploy/azure/stream-janitor.kql, so that the alerts have one source: `make manifests`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
QUERIES = ROOT / "deploy" / "azure" / "stream-janitor.kql"
ALERTS = ROOT / "infra" / "alerts.json"
CRITICAL = ("StreamJanitorNoSweep", "StreamJanitorSweepsFail", "StreamJanitorEntriesLost")
RUNBOOK = "docs/observability.md"
LOOKS_BACK = {
    "PT5M": 5,
    "PT10M": 10,
    "PT15M": 15,
    "PT30M": 30,
    "PT45M": 45,
    "PT1H": 60,
    "PT2H": 120,
    "P1D": 1440,
    "P2D": 2880,
}
"""The ranges that a scheduled query rule may have, in minutes."""
_MINUTES = {"m": 1, "h": 60, "d": 1440}


def alerts() -> list[dict[str, Any]]:
    """One for each query, in the file's order."""
    parts = re.split(r"^// (StreamJanitor\w+)", QUERIES.read_text(), flags=re.MULTILINE)[1:]
    return [_alert(name, text) for name, text in zip(parts[::2], parts[1::2], strict=True)]


def _alert(name: str, text: str) -> dict[str, Any]:
    lines = [line for line in text.splitlines()[1:] if line and not line.startswith("//")]
    query = "\n".join(lines)
    return {
        "name": name,
        "description": f"What it means and what to do: {RUNBOOK}#{name.lower()}",
        "severity": 1 if name in CRITICAL else 2,
        "looksBack": _range_of(query),
        "query": query,
    }


def longest_ago_min(query: str) -> int:
    """How many minutes back the query looks, by its ``ago(…)``; a sum counts as its parts' longest one alone."""
    return max(int(number) * _MINUTES[unit] for number, unit in re.findall(r"\bago\((\d+)([mhd])\)", query))


def _range_of(query: str) -> str:
    needed = longest_ago_min(query)
    return next(name for name, minutes in LOOKS_BACK.items() if minutes >= needed)


def text() -> str:
    return json.dumps(alerts(), indent=2) + "\n"


if __name__ == "__main__":
    ALERTS.write_text(text())
