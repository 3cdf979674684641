"""Dashboard and alert rules: they query registered metrics by existing labels, and cover every metric."""

import json
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram, Info, generate_latest

from gateway import metrics
from ops.linters import find_linter

OPS = Path(__file__).parents[2] / "ops"
RULES = OPS / "prometheus" / "alerts.yml"
DASHBOARD = json.loads((OPS / "grafana" / "gateway.json").read_text())
ALERTS = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
# Series of Prometheus itself and of its client library.
BUILTIN_SERIES = {"up": set(), "process_cpu_seconds_total": set(), "process_resident_memory_bytes": set()}
SCRAPE_LABELS = {"instance", "job"}


def registered_labels() -> dict[str, set[str]]:
    """The labels of every series that the code exports, by the name that queries use."""
    labels_by_series: dict[str, set[str]] = {}
    for metric in vars(metrics).values():
        match metric:
            case metrics.CallbackGauge():
                labels_by_series[metric.name] = set(metric.labels)
            case Gauge():
                labels_by_series[metric._name] = set(metric._labelnames)
            case Counter():
                labels_by_series[f"{metric._name}_total"] = set(metric._labelnames)
            case Info():
                labels_by_series[f"{metric._name}_info"] = {*metric._labelnames, "version"}
            case metrics.BatchHistogram():
                labels_by_series |= histogram_labels(metric.name, metric.labels)
            case Histogram():
                labels_by_series |= histogram_labels(metric._name, metric._labelnames)
    return labels_by_series


def histogram_labels(name: str, labels: Iterable[str]) -> dict[str, set[str]]:
    return {f"{name}_bucket": {*labels, "le"}, f"{name}_sum": {*labels}, f"{name}_count": {*labels}}


def panels() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*")


QUERIES = [*panels(), *((rule["alert"], rule["expr"]) for rule in ALERTS)]


def queried_series(query: str) -> list[tuple[str, set[str]]]:
    """The series of a query, each with the labels that it matches or aggregates by."""
    series: list[tuple[str, set[str]]] = []
    aggregated: set[str] = set()

    def visit(node: Any) -> None:
        if isinstance(node, promql.VectorSelector):
            series.append((node.name, {matcher.name for matcher in node.matchers.matchers}))
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            aggregated.update(node.modifier.labels)

    promql.walk(promql.parse(query), visit)
    return [(name, matched | aggregated) for name, matched in series]


@pytest.mark.parametrize(("source", "query"), QUERIES)
def test_query_uses_registered_metrics_and_labels(source: str, query: str) -> None:
    labels_by_series = registered_labels() | BUILTIN_SERIES
    for name, labels in queried_series(query):
        assert name in labels_by_series, f"{source} queries {name}"
        unknown = labels - labels_by_series[name] - SCRAPE_LABELS
        assert not unknown, f"{source} queries {name} by {unknown}"


def test_every_metric_is_on_the_dashboard() -> None:
    queried = {name for _, query in panels() for name, _ in queried_series(query)}
    families = {
        name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in registered_labels()
    }
    assert not [family for family in families if not any(name.startswith(family) for name in queried)]


def test_every_alert_has_severity_summary_and_action() -> None:
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS) >= 20
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert len(rule["annotations"]["action"]) > 60, rule["alert"]
        assert rule["annotations"]["summary"]


def test_panels_do_not_overlap_and_have_descriptions() -> None:
    occupied: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        position = panel["gridPos"]
        cells = {(position["x"] + dx, position["y"] + dy) for dx in range(position["w"]) for dy in range(position["h"])}
        assert not cells & occupied, panel["title"]
        assert position["x"] + position["w"] <= 24, panel["title"]
        occupied |= cells
        assert panel["type"] == "row" or panel["description"], panel["title"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_promtool_accepts_metrics_and_rules() -> None:
    promtool = find_linter("promtool")
    if promtool is None:
        pytest.skip("promtool is missing: `ops/run/linters` takes it from Debian's package `prometheus`")
    rules, tests = str(RULES), str(RULES.with_name("alerts_test.yml"))
    for arguments in (["check", "metrics"], ["check", "rules", rules], ["test", "rules", tests]):
        result = subprocess.run(
            [promtool, *arguments], input=generate_latest().decode(), check=False, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stdout + result.stderr
