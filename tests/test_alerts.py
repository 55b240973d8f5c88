"""The alert rules hold for every way to run the janitor, by push and by pull, at scrape intervals of 15 to 60 s."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.alert_series import CRON, EVENT_S, GROUP, RUN_PULL, TIMER, WAYS, Found, Running, Story, series_of

ROOT = Path(__file__).parent.parent
RULES = ROOT / "deploy" / "prometheus" / "stream-janitor.rules.yml"
PROMTOOL = shutil.which("promtool")
LONGEST_S = 600
pytestmark = [
    pytest.mark.skipif(
        PROMTOOL is None,
        reason="promtool is not there: apt-get install prometheus (Debian), or a release of Prometheus",
    ),
    pytest.mark.timeout(LONGEST_S),
]
ALERTS = tuple(re.findall(r"- alert: (\w+)", RULES.read_text()))
STEPS_S = (15, 30, 60)
EARLY, LATE = 15 * 60, 72 * 60


def after(before: Found | None, then: Found | None) -> Story:
    return lambda at_s: before if at_s < EVENT_S else then


def once(found: Found) -> Story:
    """Found by one sweep, the one at the event."""
    return lambda at_s: found if EVENT_S <= at_s < EVENT_S + 20 else Found()


def always(found: Found) -> Story:
    return lambda at_s: found


@dataclass(frozen=True)
class Case:
    """A story, and who has to fire at what minute; at every minute that is named, no other alert may."""

    name: str
    story: Story
    fires: Mapping[float, tuple[str, ...]]


def minutes(**fires: tuple[str, ...]) -> dict[float, tuple[str, ...]]:
    return {float(minute.lstrip("m").replace("_", ".")): alerts for minute, alerts in fires.items()}


NO_SWEEP, FAIL = ("StreamJanitorNoSweep",), ("StreamJanitorSweepsFail",)
GROWING, OLD, DEAD = (
    ("StreamJanitorPendingGrowing",),
    ("StreamJanitorOldestPendingTooOld",),
    ("StreamJanitorDeadLetters",),
)
UNSEARCHABLE, LOST = ("StreamJanitorUnsearchable",), ("StreamJanitorEntriesLost",)
HELD = ("StreamJanitorRetentionHeld",)
HANDLER = ("StreamJanitorHandlerUnavailable",)
NO_GAUGES = Found(succeeds=False, pending=None, dead_letters=None)

CASES = (
    Case("healthy", always(Found()), minutes(m5=(), m10=(), m31=(), m45=(), m60=(), m70=())),
    Case("busy, and healthy", lambda at_s: Found(pending=int(at_s) % 300), minutes(m10=(), m31=(), m45=(), m70=())),
    Case("nobody sweeps", after(Found(), None), minutes(m29=(), m33=(), m36=NO_SWEEP, m50=NO_SWEEP, m72=NO_SWEEP)),
    Case("sweeps fail", after(Found(), NO_GAUGES), minutes(m29=(), m34=(), m40=FAIL, m50=FAIL, m72=FAIL)),
    Case("sweeps never succeed", always(NO_GAUGES), minutes(m6=FAIL, m30=FAIL, m72=FAIL)),
    Case(
        "every second sweep fails",
        lambda at_s: Found(succeeds=int(at_s) // 60 % 2 == 0),
        minutes(m10=(), m31=(), m45=(), m70=()),
    ),
    Case(
        "the handler is unavailable in every second sweep",
        lambda at_s: Found(
            succeeds=int(at_s) // 60 % 2 == 0, error="HandlerUnusable" if at_s >= EVENT_S and at_s // 60 % 2 else ""
        ),
        minutes(m29=(), m35=(), m45=HANDLER, m72=HANDLER),
    ),
    Case(
        "the handler was unavailable once",
        once(Found(error="HandlerUnusable")),
        minutes(m31=(), m35=(), m37=(), m50=()),
    ),
    Case(
        "entries lost in every sweep",
        after(Found(), Found(deleted=3, unsearchable=2)),
        minutes(m29=(), m33=LOST + UNSEARCHABLE, m72=LOST + UNSEARCHABLE),
    ),
    Case("entries lost once", once(Found(deleted=3)), minutes(m29=(), m32=LOST, m43=LOST, m50=(), m72=())),
    Case(
        "entries refused once", once(Found(unsearchable=2)), minutes(m29=(), m32=UNSEARCHABLE, m43=UNSEARCHABLE, m50=())
    ),
    Case(
        "dead letters, then redriven",
        lambda at_s: Found(dead_letters=5 if EVENT_S <= at_s < EVENT_S + 1200 else 0),
        minutes(m29=(), m33=DEAD, m49=DEAD, m56=(), m70=()),
    ),
    Case(
        "dead letters, and no right to count them",
        lambda at_s: Found(dead_letters=None, dead_lettered=int(EVENT_S <= at_s < EVENT_S + 20)),
        minutes(m29=(), m33=DEAD, m60=DEAD),
    ),
    Case(
        "pending grows",
        lambda at_s: Found(pending=max(0, int(at_s - EVENT_S)) // 2),
        minutes(m29=(), m35=(), m60=GROWING, m72=GROWING),
    ),
    Case(
        "an entry grows old",
        lambda at_s: Found(pending=1, oldest_s=max(0.0, at_s - EVENT_S)),
        minutes(m44=(), m46=(), m52=OLD, m72=OLD),
    ),
    Case(
        "an old entry that one sweep settled",
        once(Found(pending=1, oldest_s=5000)),
        minutes(m31=(), m34=(), m36=(), m50=()),
    ),
    Case(
        "a group holds a stream that grows",
        lambda at_s: Found(stream_length=1000 + int(at_s), held_s=max(0.0, 2 * at_s)),
        minutes(m25=(), m60=HELD, m72=HELD),
    ),
    Case("a group holds a stream that does not grow", always(Found(held_s=10_000)), minutes(m30=(), m72=())),
)


def promtool_tests(
    way: Running, step_s: int, cases: tuple[Case, ...], rules: Path, folder: Path
) -> subprocess.CompletedProcess[str]:
    tests = [_unit_test(way, step_s, case) for case in cases]
    file = folder / "cases.json"  # JSON is YAML
    document = {"rule_files": [str(rules)], "evaluation_interval": "20s", "tests": tests}
    file.write_text(json.dumps(document))
    command = [str(PROMTOOL), "test", "rules", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONGEST_S)


def _unit_test(way: Running, step_s: int, case: Case) -> dict[str, Any]:
    series = [
        {"series": name + "{" + ", ".join(f'{label}="{value}"' for label, value in labels) + "}", "values": values}
        for (name, labels), values in series_of(way, case.story, step_s).items()
    ]
    checks = [
        {
            "expr": f'count by (alertname) (ALERTS{{alertname="{alert}", alertstate="firing"}})',
            "eval_time": f"{minute * 60:.0f}s",
        }
        | {"exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1}] if alert in firing else []}
        for minute, firing in case.fires.items()
        for alert in ALERTS
    ]
    name = f"{way.name}, every {step_s} s: {case.name}"
    return {"name": name, "interval": f"{step_s}s", "input_series": series, "promql_expr_test": checks}


@pytest.mark.parametrize(
    "step_s", [*(pytest.param(step_s, marks=pytest.mark.more) for step_s in STEPS_S[:-1]), STEPS_S[-1]]
)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_each_alert_fires_when_it_should_and_none_else(way: Running, step_s: int, tmp_path: Path) -> None:
    run = promtool_tests(way, step_s, CASES, RULES, tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr


# --- negative controls: the rules that these took the place of --------------------------------------------------------------

OLD_NO_SWEEP = """
group by (messaging_destination_name, messaging_consumer_group_name) (
  present_over_time(stream_janitor_last_sweep_time_seconds[1d])
)
unless sum by (messaging_destination_name, messaging_consumer_group_name) (
  changes(stream_janitor_last_sweep_time_seconds[1m])
) > 0
"""
OLD_LOST = """
sum by (messaging_destination_name, messaging_consumer_group_name) (
  increase(stream_janitor_settled_total{stream_janitor_outcome="deleted"}[15m])
) > 0
"""
OLD_GROWING = """
max by (messaging_destination_name, messaging_consumer_group_name) (deriv(stream_janitor_pending[15m])) * 60 > 1
"""


def _with(alert: str, expression: str, folder: Path) -> Path:
    block = "".join(f"          {line}\n" for line in expression.strip().splitlines())
    rules = RULES.read_text()
    changed = re.sub(
        rf"(- alert: {alert}\n(?:.*\n)*?        expr: \|\n)((?:          .*\n)+)", rf"\1{_escaped(block)}", rules
    )
    assert changed != rules
    file = folder / "naive.rules.yml"
    file.write_text(changed)
    return file


def _escaped(block: str) -> str:
    return block.replace("\\", r"\\")


@pytest.mark.parametrize(
    ("alert", "expression", "way", "step_s"),
    [
        ("StreamJanitorNoSweep", OLD_NO_SWEEP, CRON, 30),
        ("StreamJanitorNoSweep", OLD_NO_SWEEP, RUN_PULL, 60),
        ("StreamJanitorEntriesLost", OLD_LOST, CRON, 60),
        ("StreamJanitorPendingGrowing", OLD_GROWING, CRON, 30),
    ],
)
def test_a_rule_that_reads_each_instance_by_itself_is_caught(
    alert: str, expression: str, way: Running, step_s: int, tmp_path: Path
) -> None:
    cases = tuple(
        case for case in CASES if case.name == "healthy" or any(alert in fires for fires in case.fires.values())
    )
    run = promtool_tests(way, step_s, cases, _with(alert, expression, tmp_path), tmp_path)
    assert run.returncode != 0
    assert alert in run.stdout + run.stderr


def test_the_series_are_what_they_are_meant_to_be() -> None:
    """A look at the samples themselves: a new instance each minute has one sample; a process that is gone is stale."""
    name = "stream_janitor_last_sweep_time_seconds"
    of_cron = {
        labels: values.split()
        for (metric, labels), values in series_of(CRON, always(Found()), 30).items()
        if metric == name
    }
    assert len(of_cron) == 76
    assert all(sum(value != "_" for value in values) == 1 for values in of_cron.values())
    (pulled,) = [
        values for (metric, _), values in series_of(RUN_PULL, after(Found(), None), 60).items() if metric == name
    ]
    assert pulled.split()[29:33] == ["1740", "stale", "_", "_"]
    timers = {dict(labels)["instance"] for _, labels in series_of(TIMER, always(Found()), 15)}
    assert len(timers) == 8
    assert all(set(GROUP.items()) <= set(labels) for _, labels in series_of(TIMER, always(Found()), 15))


# --- where each alert leads -------------------------------------------------------------------------------------------------


def test_every_alert_has_a_runbook_that_is_there() -> None:
    urls = re.findall(r'runbook_url: "(.+)"', RULES.read_text())
    assert len(urls) == len(ALERTS)
    page = (ROOT / "docs" / "observability.md").read_text()
    anchors = {heading.lower() for heading in re.findall(r"^#+ (\w+)$", page, re.MULTILINE)}
    for alert, url in zip(ALERTS, urls, strict=True):
        assert url == f"docs/observability.md#{alert.lower()}"
        assert alert.lower() in anchors


def test_windows_are_four_of_the_longest_scrape_intervals_at_least() -> None:
    for number, unit in re.findall(r"\[(\d+)([smhd])\b[^\]]*\]", RULES.read_text()):
        assert int(number) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[unit] >= 4 * max(STEPS_S)
