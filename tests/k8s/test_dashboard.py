"""The dashboard and the alert rules against what a flow really exports: a real Prometheus asks it, and is asked."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from flows.local_kafka import HOST, LocalKafka, free_port
from tests.flows.running import running
from tests.flows.traffic import Sent, history, transaction_message
from tests.k8s.prometheus import Prometheus, watching
from tests.k8s.test_alerts import MONITORING, RULES, rules

DASHBOARD: Final[dict[str, Any]] = json.loads((MONITORING / "dashboard.json").read_text())
PANELS: Final[list[dict[str, Any]]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
# What Grafana puts in: a flow of this machine has no namespace, and "All" fits that too.
VARIABLES: Final = {"$namespace": ".*", "$__rate_interval": "1m"}
EXPRESSIONS: Final = [
    pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
    for panel in PANELS
    for target in panel["targets"]
]


def filled_in(expression: str) -> str:
    """The expression as Grafana sends it."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


def until(met: Callable[[], bool]) -> None:
    """Waits until it is so, and fails where that takes too long."""
    give_up = time.monotonic() + 60
    while not met():
        assert time.monotonic() < give_up
        time.sleep(0.2)


@pytest.fixture(scope="module")
def prometheus(kafka: LocalKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It has watched a flow of two processes from its start, through transactions, repeats of them, and garbage."""
    folder, port = tmp_path_factory.mktemp("dashboard"), free_port()
    transactions, _ = history(600)
    sent = [transaction_message(transaction) for transaction in transactions]
    with running(kafka.bootstrap_servers, folder, {"VIGIE_HTTP_PORT": str(port)}) as flow:
        flow.processes = 2
        flow.with_recovery()
        flow.start()
        with watching([f"{HOST}:{port}", f"{HOST}:{port + 1}"], RULES, folder) as watcher:
            until(lambda: watcher.query("sum(vigie_ready) or vector(0)") == [({}, 2.0)])
            flow.produce("transactions", [*sent, *sent[590:], Sent("a", b"no JSON")])
            until(lambda: watcher.query("sum(vigie_scored_total)") == [({}, 600.0)])
            until(lambda: watcher.query("sum(vigie_latency_seconds_count)") == [({}, 600.0)])
            yield watcher


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_panel_shows_something(prometheus: Prometheus, expression: str) -> None:
    series = prometheus.query(filled_in(expression))
    assert series
    assert any(math.isfinite(value) for _, value in series), series


def test_the_numbers_are_those_of_the_traffic(prometheus: Prometheus) -> None:
    assert prometheus.query("sum(vigie_duplicates_total)") == [({}, 10.0)]
    assert prometheus.query("sum(vigie_rejected_total)") == [({}, 1.0)]
    assert prometheus.query("sum(vigie_consumer_lag)") == [({}, 0.0)]
    assert prometheus.query("max(vigie_processes)") == [({}, 2.0)]
    assert prometheus.query("sum(vigie_alerts_total) > bool 0") == [({}, 1.0)]


def test_a_new_model_is_marked(prometheus: Prometheus) -> None:
    (annotation,) = DASHBOARD["annotations"]["list"]
    assert prometheus.query(filled_in(annotation["expr"]))


def test_rules_are_evaluated_and_nothing_is_wrong(prometheus: Prometheus) -> None:
    (group,) = prometheus.ask("rules")["groups"]
    assert [rule["health"] for rule in group["rules"]] == ["ok"] * len(rules())
    assert not [rule["name"] for rule in group["rules"] if rule["state"] == "firing"]


def test_rules_ask_for_metrics_that_are_there(prometheus: Prometheus) -> None:
    there = set(prometheus.ask("label/__name__/values"))
    for rule in rules():
        asked = set(re.findall(r"\bvigie_\w+", rule["expr"]))
        assert asked, rule["alert"]
        assert asked <= there, rule["alert"]


def test_panels_lie_side_by_side() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        columns, lines = (range(place[a], place[a] + place[b]) for a, b in ("xw", "yh"))
        own = {(x, y) for x in columns for y in lines}
        assert max(x for x, _ in own) < 24
        assert not own & taken, panel["title"]
        taken |= own
