"""Dashboard and alert rules ask for what the code registers, by labels that it has, and leave nothing out."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from prometheus_client import generate_latest

from gateway import metrics
from ops.linters import found

OPS = Path(__file__).parents[2] / "ops"
RULES = OPS / "prometheus" / "alerts.yml"
DASHBOARD = json.loads((OPS / "grafana" / "gateway.json").read_text())
ALERTS = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
# Prometheus's own, and those of its client for the process.
GIVEN = {"up": set(), "process_cpu_seconds_total": set(), "process_resident_memory_bytes": set()}
SCRAPED = {"instance", "job"}


def registered() -> dict[str, set[str]]:
    """The labels of every series that the code can tell, by the name that queries use."""
    found: dict[str, set[str]] = {}
    for one in vars(metrics).values():
        labels = set(getattr(one, "_labelnames", ()) or getattr(one, "_labels", ()))
        match type(one).__name__:
            case "Counter":
                found[f"{one._name}_total"] = labels
            case "Gauge":
                found[one._name] = labels
            case "CallbackGauge":
                found[one._said[0]] = labels
            case "Info":
                found[f"{one._name}_info"] = {*labels, "version"}
            case "Histogram" | "BatchHistogram":
                name = getattr(one, "_name", "") or one._said[0]
                found[f"{name}_bucket"] = {*labels, "le"}
                found[f"{name}_sum"] = found[f"{name}_count"] = labels
    return found


def panels() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*")


QUERIES = [*panels(), *((rule["alert"], rule["expr"]) for rule in ALERTS)]


def asked(query: str) -> list[tuple[str, set[str]]]:
    """(series, labels that are matched or kept of it) of a query."""
    series: list[tuple[str, set[str]]] = []
    kept: set[str] = set()

    def visit(node: Any) -> None:
        if isinstance(node, promql.VectorSelector):
            series.append((node.name, {matcher.name for matcher in node.matchers.matchers}))
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            kept.update(node.modifier.labels)

    promql.walk(promql.parse(query), visit)
    return [(name, matched | kept) for name, matched in series]


@pytest.mark.parametrize(("where", "query"), QUERIES)
def test_a_query_asks_for_metrics_that_there_are_by_labels_that_they_have(where: str, query: str) -> None:
    known = registered() | GIVEN
    for name, labels in asked(query):
        assert name in known, f"{where} asks for {name}"
        assert labels <= known[name] | SCRAPED, f"{where} asks {name} for {labels - known[name]}"


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {name for _, query in panels() for name, _ in asked(query)}
    families = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in registered()}
    assert not [family for family in families if not any(name.startswith(family) for name in shown)]


def test_every_alert_says_how_bad_it_is_what_is_wrong_and_what_to_do() -> None:
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS) >= 20
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert len(rule["annotations"]["action"]) > 60, rule["alert"]
        assert rule["annotations"]["summary"]


def test_panels_have_places_of_their_own_and_say_what_they_show() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["description"], panel["title"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_promtool_finds_rules_and_names_right_and_sees_the_alerts_fire() -> None:
    promtool = found("promtool")
    if promtool is None:
        pytest.skip("there is no promtool: `ops/run/linters` takes it from Debian's package `prometheus`")
    rules, tests = str(RULES), str(RULES.with_name("alerts_test.yml"))
    for order in (["check", "metrics"], ["check", "rules", rules], ["test", "rules", tests]):
        done = subprocess.run(
            [promtool, *order], input=generate_latest().decode(), check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
