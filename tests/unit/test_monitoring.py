"""The dashboard and the alert rules query registered metrics by existing labels, and every metric is displayed."""

import ast
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
# The labels that Prometheus adds when it scrapes a process.
SCRAPE_LABELS = {"instance", "job"}
METRIC_TYPES = (Counter, Gauge, Histogram, Info, metrics.BatchHistogram, metrics.CallbackGauge)


def declared_metrics() -> Iterator[tuple[type, str, set[str]]]:
    """Yield (type, name, labels) of each metric that the source of gateway.metrics assigns.

    The labels of a metric without samples are not in the public interface of prometheus_client.
    """
    for statement in ast.parse(Path(metrics.__file__).read_text()).body:
        match statement:
            case ast.Assign(
                targets=[ast.Name(id=variable)], value=ast.Call(args=[ast.Constant(value=str(name)), _, *arguments])
            ) if isinstance(getattr(metrics, variable), METRIC_TYPES):
                labels = {label for argument in arguments[:1] for label in ast.literal_eval(argument)}
                yield type(getattr(metrics, variable)), name, labels


def registered_labels() -> dict[str, set[str]]:
    """Return the labels of every series that the code exports, by the name that queries use."""
    labels_by_series: dict[str, set[str]] = {}
    for type_, name, labels in declared_metrics():
        if issubclass(type_, Histogram | metrics.BatchHistogram):
            labels_by_series |= histogram_labels(name, labels)
        elif issubclass(type_, Info):
            labels_by_series[f"{name}_info"] = {"version"}
        else:
            labels_by_series[name] = labels
    return labels_by_series


def histogram_labels(name: str, labels: Iterable[str]) -> dict[str, set[str]]:
    return {f"{name}_bucket": {*labels, "le"}, f"{name}_sum": {*labels}, f"{name}_count": {*labels}}


def panel_queries() -> Iterator[tuple[str, str]]:
    """Yield (title, query) of each query on the dashboard."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*")


QUERIES = [*panel_queries(), *((rule["alert"], rule["expr"]) for rule in ALERTS)]


def queried_series(query: str) -> list[tuple[str, set[str]]]:
    """Return (name, labels) of each series of a query; the labels are those by which it matches or aggregates."""
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
    """Every query of the dashboard and the alert rules uses metrics and labels that exist."""
    labels_by_series = registered_labels() | BUILTIN_SERIES
    for name, labels in queried_series(query):
        assert name in labels_by_series, f"{source} queries {name}"
        unknown = labels - labels_by_series[name] - SCRAPE_LABELS
        assert not unknown, f"{source} queries {name} by {unknown}"


def test_every_metric_is_on_the_dashboard() -> None:
    """Each metric is queried by a panel of the dashboard."""
    queried = {name for _, query in panel_queries() for name, _ in queried_series(query)}
    families = {
        name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in registered_labels()
    }
    assert not [family for family in families if not any(name.startswith(family) for name in queried)]


def test_declared_metrics_are_complete() -> None:
    """`declared_metrics`, which reads the source of gateway.metrics, finds every metric object of the module."""
    metric_objects = [value for value in vars(metrics).values() if isinstance(value, METRIC_TYPES)]
    assert len(list(declared_metrics())) == len(metric_objects) > 20


def test_every_alert_has_severity_summary_and_action() -> None:
    """Alert names are unique, and the action of an alert tells the operator in over 60 characters what to do."""
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS) >= 20
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert len(rule["annotations"]["action"]) > 60, rule["alert"]
        assert rule["annotations"]["summary"]


def test_panels_do_not_overlap_and_have_descriptions() -> None:
    """Panels have unique ids and fit into the 24 columns of Grafana's grid."""
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
    """Prometheus's own tool accepts the metrics and the rules, and the tests of the rules pass."""
    promtool = find_linter("promtool")
    if promtool is None:
        pytest.skip("promtool is missing: `ops/run/linters` takes it from Debian's package `prometheus`")
    rules, tests = str(RULES), str(RULES.with_name("alerts_test.yml"))
    for arguments in (["check", "metrics"], ["check", "rules", rules], ["test", "rules", tests]):
        result = subprocess.run(
            [promtool, *arguments], input=generate_latest().decode(), check=False, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stdout + result.stderr
