"""What deploy/ ships refers only to metrics that telemetry.py defines, and the alert rules do what they say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from monitor.outcomes import Outcome
from shared.telemetry import INSTRUMENTS
from tests.prometheus_names import DEFINED, LABELS, prometheus_names

DEPLOY = Path(__file__).parent.parent / "deploy"
RULES = DEPLOY / "prometheus" / "stream-janitor.rules.yml"
RULE_TESTS = DEPLOY / "prometheus" / "stream-janitor.test.yml"
DASHBOARD = DEPLOY / "grafana" / "stream-janitor.json"
KQL = DEPLOY / "azure" / "stream-janitor.kql"

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not there: apt-get install prometheus (Debian), or a release of Prometheus"
)


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\bstream_janitor_\w+", expression)) - LABELS


def labels_in(expression: str) -> set[str]:
    """The labels that an expression selects or groups by."""
    selected = set(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', expression))
    grouped = re.findall(r"\bby\s*\(([^)]*)\)", expression)
    return selected | {label.strip() for labels in grouped for label in labels.split(",")} - {"le"}


def expressions_of(rules: str) -> list[str]:
    """Each rule's expr, read without a YAML library: a block that is indented deeper."""
    return re.findall(r"^        expr: \|\n((?:          .*\n)+)", rules, re.MULTILINE)


def alerts_in(text: str) -> list[str]:
    return re.findall(r"(?:^// |- alert: )(StreamJanitor\w+)", text, re.MULTILINE)


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    assert PROMTOOL is not None
    return subprocess.run([PROMTOOL, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)


# --- Prometheus -----------------------------------------------------------------------------------------------------------


def test_alert_rules_name_only_metrics_and_labels_that_are_sent() -> None:
    rules = RULES.read_text()
    expressions = expressions_of(rules)
    assert len(expressions) == len(alerts_in(rules)) == 9
    for expression in expressions:
        assert metrics_in(expression)
        assert metrics_in(expression) <= DEFINED
        assert labels_in(expression) <= LABELS


def test_outcomes_that_rules_and_queries_name_are_outcomes() -> None:
    named = re.findall(r'outcome(?:"\])?\s*=?=\s*"(\w+)"', RULES.read_text() + KQL.read_text())
    assert set(named) == {"dead_lettered", "deleted"}
    assert set(named) <= {outcome.value for outcome in Outcome}


@pytest.mark.skipif(not (DEPLOY.parent / "monitor" / "handling").exists(), reason="there are no handlers yet")
def test_errors_that_rules_and_queries_name_are_classes_of_ours() -> None:
    named = set(re.findall(r'error[_.]type(?:"\])?\s*=?=\s*"(\w+)"', RULES.read_text() + KQL.read_text()))
    assert named == {"HandlerUnusable"}
    sources = [path.read_text() for folder in ("monitor", "shared") for path in (DEPLOY.parent / folder).rglob("*.py")]
    for name in named:
        assert any(f"class {name}(" in source for source in sources)


@needs_promtool
def test_promtool_accepts_the_rules() -> None:
    checked = promtool("check", "rules", RULES)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "9 rules found" in checked.stdout


@needs_promtool
def test_the_rules_pass_their_unit_tests() -> None:
    tested = promtool("test", "rules", RULE_TESTS)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_each_rule_has_a_unit_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    checks = re.findall(r"alertname: (\w+)\n\s+exp_alerts:(.*)", RULE_TESTS.read_text())
    for alert in alerts_in(RULES.read_text()):
        assert {expected.strip() == "[]" for name, expected in checks if name == alert} == {True, False}


@needs_promtool
@pytest.mark.parametrize("alert", alerts_in(RULES.read_text()))
def test_a_rule_that_never_fires_is_caught_by_its_unit_tests(alert: str, tmp_path: Path) -> None:
    """The negative control: each rule in turn asks for a metric that nobody sends."""
    rules = RULES.read_text()
    start = rules.index(f"- alert: {alert}\n")
    end = rules.find("- alert: ", start + 1)
    rule = rules[start : None if end < 0 else end]
    broken = re.sub(r"(?<=expr: \|\n)((?:          .*\n)+)", "          nobody_sends_this > 0\n", rule)
    assert broken != rule
    (tmp_path / RULES.name).write_text(rules.replace(rule, broken))
    shutil.copy(RULE_TESTS, tmp_path)
    tested = promtool("test", "rules", tmp_path / RULE_TESTS.name)
    assert tested.returncode != 0
    assert alert in tested.stdout + tested.stderr


# --- Grafana --------------------------------------------------------------------------------------------------------------


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return loaded


def dashboard_expressions() -> Iterator[str]:
    for panel in dashboard()["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["definition"]


def test_the_dashboard_names_only_metrics_and_labels_that_are_sent() -> None:
    for expression in dashboard_expressions():
        assert metrics_in(expression)
        assert metrics_in(expression) <= DEFINED
        assert labels_in(expression) <= LABELS


def test_the_dashboard_shows_every_metric() -> None:
    shown = {name for expression in dashboard_expressions() for name in metrics_in(expression)}
    for instrument in INSTRUMENTS:
        assert shown & prometheus_names(instrument), f"no panel shows {instrument.name}"


KINDS = {"row", "stat", "timeseries"}
NEEDED = {"id", "type", "title", "datasource", "gridPos", "targets"}


def test_each_panel_has_what_grafanas_model_asks_for() -> None:
    """Nothing here opens a Grafana: this is what its documentation of the JSON model names."""
    for panel in dashboard()["panels"]:
        assert panel.keys() >= NEEDED
        assert panel["type"] in KINDS
        assert {"x", "y", "w", "h"} == panel["gridPos"].keys()
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        if panel["type"] == "row":
            assert (panel["targets"], panel["panels"], panel["gridPos"]["w"]) == ([], [], 24)
        else:
            assert panel["targets"]
            assert panel["description"]
            assert panel["fieldConfig"]["defaults"]["unit"]


def test_rows_come_before_what_belongs_to_them_and_one_is_about_each_side() -> None:
    panels = sorted(dashboard()["panels"], key=lambda panel: (panel["gridPos"]["y"], panel["gridPos"]["x"]))
    assert panels == dashboard()["panels"]
    assert next(panel["type"] for panel in panels) == "row"
    assert [panel["title"].split(":")[0] for panel in panels if panel["type"] == "row"] == [
        "Now", "Consumer group", "Recovery", "Sweeps", "Retention",
    ]  # fmt: skip


def test_every_variable_that_is_used_is_there_and_every_panel_asks_for_stream_and_group() -> None:
    variables = {variable["name"] for variable in dashboard()["templating"]["list"]}
    assert variables == {"datasource", "stream", "group"}
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            assert set(re.findall(r"\$(\w+)", target["expr"])) == {"stream", "group"}


def test_the_dashboards_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_the_dashboard_asks_for_its_data_source_and_holds_none() -> None:
    sources = {panel["datasource"]["uid"] for panel in dashboard()["panels"]}
    assert sources == {"${datasource}"}
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(dashboard()["panels"])


@needs_promtool
def test_the_dashboards_expressions_are_promql(tmp_path: Path) -> None:
    targets = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(targets)]
    file = tmp_path / "panels.json"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    checked = promtool("check", "rules", file)
    assert checked.returncode == 0, checked.stdout + checked.stderr


# --- Application Insights -------------------------------------------------------------------------------------------------


def queries() -> dict[str, str]:
    """Alert → its query."""
    parts = re.split(r"^// (StreamJanitor\w+).*\n", KQL.read_text(), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_application_insights_has_the_same_alerts() -> None:
    assert sorted(queries()) == sorted(alerts_in(RULES.read_text()))


@pytest.mark.parametrize("alert", sorted(queries()))
def test_a_query_asks_for_one_metric_that_is_sent_in_the_column_that_holds_it(alert: str) -> None:
    query = queries()[alert]
    (name,) = re.findall(r'\bname == "([^"]+)"', query)
    (instrument,) = [instrument for instrument in INSTRUMENTS if instrument.name == name]
    columns = set(re.findall(r"\bvalue\w+", query))
    wanted = {"gauge": {"valueMax"}, "counter": {"valueSum"}, "histogram": {"valueCount"}}[instrument.kind]
    assert columns <= wanted
    assert columns or alert == "StreamJanitorNoSweep"
    dimensions = set(re.findall(r'customDimensions\["([^"]+)"\]', query))
    assert {dimension.replace(".", "_") for dimension in dimensions} <= LABELS


@pytest.mark.parametrize("alert", sorted(queries()))
def test_a_query_is_well_formed(alert: str) -> None:
    """Only its outside: nothing that reads KQL runs offline."""
    lines = [line for line in queries()[alert].splitlines() if line and not line.startswith("//")]
    assert lines[0] == "customMetrics"
    assert all(re.match(r"\| (where|extend|summarize) ", line) for line in lines[1:])
    for opening, closing in ("()", "[]"):
        assert queries()[alert].count(opening) == queries()[alert].count(closing)
    assert queries()[alert].count('"') % 2 == 0
