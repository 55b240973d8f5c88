"""Renders the chart into deploy/kubernetes and deploy/prometheus, so that they cannot differ from it: `make manifests`.

Needs ``pip install helm-python-sdk``, which has Helm inside and no need of a network.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

from helm_python.chart import Chart, values_from_yaml

DEPLOY = Path(__file__).parent
CHART = DEPLOY / "helm" / "stream-janitor"
PLAIN_VALUES = DEPLOY / "helm" / "plain.values.yaml"
NAME = "stream-janitor"
ORIGIN = "# Rendered from deploy/helm/stream-janitor by `make manifests`: edit it there.\n"


def rendered(values: dict[str, Any], name: str = NAME, namespace: str = "default") -> dict[str, str]:
    """File name of each template → what it gives for ``values``; of templates that give nothing, nothing."""
    with Chart.load(CHART) as chart:
        texts = chart.render(values, name=name, namespace=namespace)
    tidy = {path.rsplit("/", 1)[1]: _tidy(text) for path, text in texts.items()}
    return {name: text for name, text in tidy.items() if text.strip()}


def _tidy(text: str) -> str:
    """Without trailing spaces, and without the empty lines that includes leave."""
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    return re.sub(r"(:)\n\n+", r"\1\n", text).strip("\n") + "\n"


def files() -> dict[Path, str]:
    """Every file that is rendered, and its text."""
    plain = values_from_yaml(PLAIN_VALUES.read_text())
    by_mode = {
        DEPLOY / "kubernetes" / mode / f"{NAME}.yaml": ORIGIN + _manifests({**plain, "mode": mode})
        for mode in ("deployment", "cronjob")
    }
    return {
        **by_mode,
        DEPLOY / "prometheus" / f"{NAME}.rules.yml": ORIGIN + rules({**plain, "alerts": {"enabled": True}}),
    }


def _manifests(values: dict[str, Any]) -> str:
    texts = rendered(values)
    return "---\n".join(texts[name] for name in sorted(texts) if name != "NOTES.txt")


def rules(values: dict[str, Any]) -> str:
    """The rules as Prometheus itself reads them: a PrometheusRule's spec."""
    return textwrap.dedent(rendered(values)["prometheusrule.yaml"].split("\nspec:\n", 1)[1])


if __name__ == "__main__":
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
