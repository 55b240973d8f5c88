"""The Helm chart, linted and rendered by Helm itself over a table of values, and what comes out validated strictly."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from shared.settings import DEFAULTS, Settings

yaml = pytest.importorskip("yaml")
kubernetes_validate = pytest.importorskip("kubernetes_validate")
chart_of_helm = pytest.importorskip("helm_python.chart", reason="Helm is not there: pip install -e '.[deploy]'")
errors_of_helm = pytest.importorskip("helm_python.errors")

ROOT = Path(__file__).parent.parent
from deploy import render  # noqa: E402

pytestmark = pytest.mark.more
Values = dict[str, Any]
Manifest = dict[str, Any]
SETTINGS = {
    "REDIS_HOST": "redis:6379",
    "STREAM_NAME": "orders",
    "STREAM_CONSUMER_GROUP_NAME": "billing",
    "MONITORING_CONSUMER_NAME": "janitor",
    "MIN_IDLE_TIME_SEC": 60,
}
LEAST: Values = {"image": {"repository": "registry.example/janitor"}, "settings": SETTINGS}
OTLP = {**SETTINGS, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}

TABLE: dict[str, Values] = {
    "the least": {},
    "cron job": {"mode": "cronjob"},
    "cron job, pushing": {"mode": "cronjob", "settings": OTLP},
    "one replica": {"replicas": 1},
    "no budget for disruptions": {"podDisruptionBudget": False},
    "secret": {"existingSecret": "redis-login"},
    "digest": {"image": {"repository": "registry.example/janitor", "digest": f"sha256:{'a' * 64}"}},
    "scraped": {"metrics": {"prometheus": True}},
    "scraped and pushed": {"metrics": {"prometheus": True, "port": 9100}, "settings": OTLP},
    "service monitor": {
        "metrics": {"prometheus": True, "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}}
    },
    "alerts": {
        "alerts": {"enabled": True, "labels": {"release": "prometheus"}, "thresholds": {"oldestPendingSeconds": 1800}}
    },
    "workload identity": {"workloadIdentity": {"clientId": "00000000-0000-0000-0000-000000000000"}},
    "network policy": {
        "networkPolicy": {"enabled": True, "egress": [{"ports": [{"port": 10000, "protocol": "TCP"}]}]},
        "metrics": {"prometheus": True},
    },
    "network policy without scrapes": {"networkPolicy": {"enabled": True, "egress": [{"ports": [{"port": 6379}]}]}},
    "code": {"code": {"configMap": "handlers"}},
    "several streams": {
        "settings": {
            **{name: value for name, value in SETTINGS.items() if name != "STREAM_NAME"},
            "STREAMS": [{"name": "orders", "prefix": "order:"}, {"name": "events", "prefix": "event:"}],
            "INDEX_SCHEMA": "off",
        }
    },
    "scheduling": {
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "spot", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "low",
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
        "podLabels": {"team": "data"},
        "podAnnotations": {"note": "x"},
        "image": {"repository": "registry.example/janitor", "pullSecrets": [{"name": "registry"}]},
        "extraVolumes": [{"name": "ca", "secret": {"secretName": "redis-ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/ca", "readOnly": True}],
    },
}
EACH = pytest.mark.parametrize("values", TABLE.values(), ids=TABLE.keys())

SERVICE_MONITOR = {"selector", "endpoints", "namespaceSelector", "jobLabel", "targetLabels", "podTargetLabels"}
ENDPOINT = {"port", "path", "interval", "scheme", "scrapeTimeout", "honorLabels"}
RULE = {"alert", "expr", "for", "labels", "annotations"}


def rendered(values: Values, name: str = "stream-janitor") -> dict[str, Manifest]:
    """Kind → manifest; of each kind there is one at most."""
    texts = render.rendered({**LEAST, **values}, name, "data")
    parts = [part for file, text in texts.items() if file != "NOTES.txt" for part in yaml.safe_load_all(text) if part]
    found = {part["kind"]: part for part in parts}
    assert len(found) == len(parts)
    return found


def notes(values: Values) -> str:
    return str(render.rendered({**LEAST, **values}, namespace="data")["NOTES.txt"])


def pod_of(manifests: dict[str, Manifest]) -> Manifest:
    if "CronJob" in manifests:
        return dict(manifests["CronJob"]["spec"]["jobTemplate"]["spec"]["template"])
    return dict(manifests["Deployment"]["spec"]["template"])


def container_of(manifests: dict[str, Manifest]) -> Manifest:
    (container,) = pod_of(manifests)["spec"]["containers"]
    return dict(container)


def validate(manifest: Manifest) -> None:
    """Strictly; of the two kinds that are no part of Kubernetes, the fields that their operator's API has."""
    spec = manifest.get("spec", {})
    if manifest["kind"] == "ServiceMonitor":
        assert manifest["apiVersion"] == "monitoring.coreos.com/v1"
        assert {"selector", "endpoints"} <= spec.keys() <= SERVICE_MONITOR
        assert all({"port"} <= endpoint.keys() <= ENDPOINT for endpoint in spec["endpoints"])
        assert spec["selector"].keys() == {"matchLabels"}
    elif manifest["kind"] == "PrometheusRule":
        assert manifest["apiVersion"] == "monitoring.coreos.com/v1"
        assert spec.keys() == {"groups"}
        for group in spec["groups"]:
            assert group.keys() == {"name", "rules"}
            assert all({"alert", "expr"} <= rule.keys() <= RULE for rule in group["rules"])
    else:
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


# --- what every set of values gives -------------------------------------------------------------------------------------------


@EACH
def test_helm_lints_the_chart_strictly_and_what_comes_out_is_valid(values: Values) -> None:
    report = chart_of_helm.lint(render.CHART, {**LEAST, **values}, strict=True)
    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] > 1] == []
    for manifest in rendered(values).values():
        validate(manifest)


@EACH
def test_exactly_one_kind_of_janitor_runs_and_no_secret_is_made(values: Values) -> None:
    manifests = rendered(values)
    mode = values.get("mode", "deployment")
    assert ("Deployment" in manifests, "CronJob" in manifests) == (mode == "deployment", mode == "cronjob")
    assert "Secret" not in manifests


@EACH
def test_pods_are_not_root_and_may_nothing(values: Values) -> None:
    pod, container = pod_of(rendered(values))["spec"], container_of(rendered(values))
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)


@EACH
def test_selectors_select_the_pods_and_their_settings_are_read(values: Values) -> None:
    manifests = rendered(values)
    labels = pod_of(manifests)["metadata"]["labels"]
    for kind, path in (
        ("PodDisruptionBudget", "selector"),
        ("NetworkPolicy", "podSelector"),
        ("Deployment", "selector"),
    ):
        if kind in manifests:
            assert manifests[kind]["spec"][path]["matchLabels"].items() <= labels.items()
    if "Service" in manifests:
        assert manifests["Service"]["spec"]["selector"].items() <= labels.items()
    data = manifests["ConfigMap"]["data"]
    assert all(isinstance(value, str) for value in data.values())
    assert {name for name in data if not name.startswith("OTEL_")} <= set(DEFAULTS)
    if data.get("REDIS_AUTH") != "entra":
        Settings.from_env(data)


@EACH
def test_notes_say_the_first_three_commands(values: Values) -> None:
    commands = [line for line in notes(values).splitlines() if line.startswith("  kubectl --namespace data ")]
    assert len(commands) >= 3


# --- what single values do ------------------------------------------------------------------------------------------------------


def test_settings_of_any_kind_arrive_as_the_text_that_was_meant() -> None:
    settings = {**SETTINGS, "MIN_IDLE_TIME_SEC": 1_000_000, "REDIS_TLS": False, "SWEEP_BUDGET_SEC": 12.5}
    data = rendered({"settings": settings})["ConfigMap"]["data"]
    assert (data["MIN_IDLE_TIME_SEC"], data["REDIS_TLS"], data["SWEEP_BUDGET_SEC"]) == ("1000000", "false", "12.5")
    streams = rendered(TABLE["several streams"])["ConfigMap"]["data"]["STREAMS"]
    assert json.loads(streams)[1] == {"name": "events", "prefix": "event:"}


def test_other_settings_make_other_pods_and_the_same_settings_the_same() -> None:
    def checksum(values: Values) -> str:
        return str(pod_of(rendered(values))["metadata"]["annotations"]["checksum/settings"])

    assert checksum({}) == checksum({"replicas": 5})
    assert checksum({}) != checksum({"settings": {**SETTINGS, "MIN_IDLE_TIME_SEC": 61}})


def test_scraping_listens_on_the_pods_address_on_a_port_that_service_and_monitor_know() -> None:
    manifests = rendered(TABLE["scraped and pushed"])
    data = manifests["ConfigMap"]["data"]
    assert (data["OTEL_METRICS_EXPORTER"], data["OTEL_EXPORTER_PROMETHEUS_HOST"]) == ("otlp,prometheus", "0.0.0.0")
    assert data["OTEL_EXPORTER_PROMETHEUS_PORT"] == "9100"
    assert container_of(manifests)["ports"] == [{"name": "metrics", "containerPort": 9100}]
    assert manifests["Service"]["spec"]["ports"] == [{"name": "metrics", "port": 9100, "targetPort": "metrics"}]
    assert rendered(TABLE["scraped"])["ConfigMap"]["data"]["OTEL_METRICS_EXPORTER"] == "prometheus"
    assert rendered(TABLE["service monitor"])["ServiceMonitor"]["spec"]["endpoints"][0]["port"] == "metrics"


def test_monitors_rules_services_and_policies_are_off_by_default() -> None:
    assert set(rendered({})) == {"ConfigMap", "Deployment", "PodDisruptionBudget"}


def test_a_budget_for_disruptions_lets_unready_pods_go_and_is_for_several_replicas() -> None:
    spec = rendered({})["PodDisruptionBudget"]["spec"]
    assert (spec["maxUnavailable"], spec["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")
    assert "PodDisruptionBudget" not in rendered({"replicas": 1})
    assert "PodDisruptionBudget" not in rendered({"mode": "cronjob"})


def test_a_cron_jobs_pods_push_one_set_of_series() -> None:
    def attributes(**settings: str) -> str | None:
        data = rendered({"mode": "cronjob", "settings": {**OTLP, **settings}})["ConfigMap"]["data"]
        return data.get("OTEL_RESOURCE_ATTRIBUTES")

    assert attributes() == "service.instance.id=data.stream-janitor"
    assert attributes(OTEL_RESOURCE_ATTRIBUTES="a=b") == "a=b,service.instance.id=data.stream-janitor"
    assert attributes(OTEL_RESOURCE_ATTRIBUTES="service.instance.id=x") == "service.instance.id=x"
    assert "OTEL_RESOURCE_ATTRIBUTES" not in rendered({"settings": OTLP})["ConfigMap"]["data"]


def test_workload_identity_has_its_account_label_and_login() -> None:
    manifests = rendered(TABLE["workload identity"])
    pod = pod_of(manifests)
    assert pod["metadata"]["labels"]["azure.workload.identity/use"] == "true"
    assert pod["spec"]["serviceAccountName"] == manifests["ServiceAccount"]["metadata"]["name"]
    annotations = manifests["ServiceAccount"]["metadata"]["annotations"]
    assert set(annotations) == {"azure.workload.identity/client-id"}
    assert manifests["ConfigMap"]["data"]["REDIS_AUTH"] == "entra"


def test_a_policy_lets_out_dns_and_what_is_named_and_lets_in_scrapes_only() -> None:
    spec = rendered(TABLE["network policy"])["NetworkPolicy"]["spec"]
    assert [port["port"] for rule in spec["egress"] for port in rule["ports"]] == [53, 53, 10000]
    assert [port["port"] for rule in spec["ingress"] for port in rule["ports"]] == [9464]
    assert rendered(TABLE["network policy without scrapes"])["NetworkPolicy"]["spec"]["ingress"] == []


def test_code_from_a_config_map_is_found_by_python_and_read_only() -> None:
    container = container_of(rendered(TABLE["code"]))
    assert {"name": "code", "mountPath": "/code", "readOnly": True} in container["volumeMounts"]
    assert container["env"] == [{"name": "PYTHONPATH", "value": "/packages:/code"}]
    assert re.search(r"PYTHONPATH=/packages\b", (ROOT / "Dockerfile").read_text()), (
        "the image's own packages stay found"
    )


def test_thresholds_and_the_runbooks_place_are_the_releases() -> None:
    values = {
        "alerts": {
            "enabled": True,
            "runbookUrl": "https://wiki.example/j",
            "thresholds": {"oldestPendingSeconds": 1800},
        }
    }
    text = json.dumps(rendered(values)["PrometheusRule"])
    assert "> 1800" in text
    assert "https://wiki.example/j#streamjanitornosweep" in text
    assert "<" not in re.sub(r"<=? \d", "", text), "no mark is left to be filled in"


# --- what is refused ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"image": {"repository": ""}}, "/image/repository"),
        ({"image": {}}, "/image/repository"),
        ({"mode": "both"}, "/mode"),
        ({"mode": "cronjob", "metrics": {"prometheus": True}}, "cannot be scraped"),
        ({"mode": "cronjob", "settings": {**OTLP, "OTEL_METRICS_EXPORTER": "otlp,prometheus"}}, "cannot be scraped"),
        ({"settings": {"STREAM_NAME": "x"}}, "REDIS_HOST is required"),
        ({"settings": {**SETTINGS, "REDIS_PASSWORD": "hunter2"}}, "propertyName"),
        ({"settings": {**SETTINGS, "redisHost": "x"}}, "propertyName"),
        ({"metrics": {"serviceMonitor": {"enabled": True}}}, "nothing to scrape"),
        ({"replica": 3}, "replica"),
        ({"networkPolicy": {"enabled": True}}, "no way to Redis"),
        ({"settings": {**SETTINGS, "OTEL_EXPORTER_OTLP_HEADERS": "key=hunter2"}}, "OTEL_EXPORTER_OTLP_HEADERS"),
        ({"image": {"repository": "r", "digest": "latest"}}, "digest"),
        ({"alerts": {"thresholds": {"noSweepSeconds": 60}}}, "noSweepSeconds"),
    ],
)
def test_what_cannot_work_is_refused_with_its_name(values: Values, words: str) -> None:
    with pytest.raises(errors_of_helm.HelmError) as refused:
        rendered(values)
    assert words in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("path", ["spec.template.spec.containers.0.livenesProbe", "spec.replica", "metadata.label"])
def test_control_a_misspelt_field_is_found(path: str) -> None:
    manifest = rendered({})["Deployment"]
    *parents, last = path.split(".")
    at: Any = manifest
    for part in parents:
        at = at[int(part)] if part.isdecimal() else at[part]
    at[last] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(manifest)


def test_the_values_in_the_docs_give_a_janitor() -> None:
    page = (ROOT / "docs" / "deploy" / "kubernetes.md").read_text()
    (written,) = re.findall(r"\$ cat values.yaml\n(.*?)\n\$ kubectl", page, re.DOTALL)
    manifests = rendered(yaml.safe_load(written))
    assert {"ConfigMap", "Deployment"} <= set(manifests)
    assert container_of(manifests)["envFrom"][1] == {"secretRef": {"name": "stream-janitor"}}


def test_every_value_in_the_docs_is_one_of_the_charts() -> None:
    page = (ROOT / "docs" / "deploy" / "kubernetes.md").read_text()
    named = [
        name for cell in re.findall(r"^\| (`.*?`.*?) \|", page, re.MULTILINE) for name in re.findall(r"`([\w.]+)", cell)
    ]
    defaults = yaml.safe_load((render.CHART / "values.yaml").read_text())
    assert len(named) > 8
    for name in named:
        at: Any = defaults
        for part in name.split("."):
            assert part in at, name
            at = at[part]


# --- what is rendered from it ---------------------------------------------------------------------------------------------------


def test_the_plain_manifests_and_the_rules_are_what_the_chart_gives_today() -> None:
    for path, text in render.files().items():
        assert path.read_text() == text, f"{path.relative_to(ROOT)} is not up to date: make manifests"
    shipped = {
        path
        for folder in ("kubernetes", "prometheus")
        for path in (ROOT / "deploy" / folder).rglob("*")
        if path.is_file()
    }
    assert shipped - set(render.files()) == {ROOT / "deploy" / "prometheus" / "stream-janitor.test.yml"}


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not there: apt-get install prometheus (Debian)"
)
def test_promtool_accepts_a_releases_rules(tmp_path: Path) -> None:
    file = tmp_path / "rules.json"  # JSON is YAML
    file.write_text(json.dumps(rendered(TABLE["alerts"])["PrometheusRule"]["spec"]))
    checked = subprocess.run(
        ["promtool", "check", "rules", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_chart_is_packed_with_its_rules_and_schema(tmp_path: Path) -> None:
    archive = Path(chart_of_helm.package(render.CHART, destination=tmp_path))
    with chart_of_helm.Chart.load(archive) as chart:
        assert {file["name"] for file in chart.files} >= {"files/alerts.yml"}
        assert chart.schema["required"] == ["mode", "image", "settings"]
