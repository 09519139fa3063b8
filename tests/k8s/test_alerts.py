"""The alert rules, as Prometheus itself understands them: what fires on which fault, and that nothing does without."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.k8s.prometheus import program

ROOT: Final = Path(__file__).parents[2]
MONITORING: Final = ROOT / "k8s" / "components" / "monitoring"
RULES: Final = MONITORING / "rules.yaml"
DOCS: Final = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
END: Final = 500  # minutes: longer than any rule but one looks back, and that one takes what there is
# Two processes that are well, minute by minute ("from+step x times"): 10 transactions a second, an alert in 600.
WELL: Final = {
    'vigie_ready{namespace="bank",pod="vigie-0"}': f"1+0x{END}",
    'vigie_ready{namespace="bank",pod="vigie-1"}': f"1+0x{END}",
    'vigie_processes{namespace="bank",pod="vigie-0"}': f"2+0x{END}",
    'vigie_processes{namespace="bank",pod="vigie-1"}': f"2+0x{END}",
    'vigie_epoch_age_seconds{namespace="bank",pod="vigie-0"}': f"0.5+0x{END}",
    'vigie_consumer_lag{namespace="bank",topic="transactions",partition="0"}': f"20+0x{END}",
    'vigie_read_total{namespace="bank",topic="transactions"}': f"0+600x{END}",
    'vigie_scored_total{namespace="bank"}': f"0+600x{END}",
    'vigie_alerts_total{namespace="bank"}': f"0+1x{END}",
    'vigie_rejected_total{namespace="bank",code="too_late"}': f"0+1x{END}",
    'vigie_latency_seconds_bucket{namespace="bank",le="0.1"}': f"0+599x{END}",
    'vigie_latency_seconds_bucket{namespace="bank",le="10"}': f"0+600x{END}",
    'vigie_latency_seconds_bucket{namespace="bank",le="+Inf"}': f"0+600x{END}",
    'vigie_model_created_timestamp_seconds{namespace="bank"}': f"0+0x{END}",
}
OLD: Final = END * 60 - 91 * 86_400  # seconds since 1970; the clock of these tests begins then
# What is otherwise where something is wrong, by the alert that has to fire, and nothing else.
SICK: Final[dict[str, list[tuple[str, dict[str, str]]]]] = {
    "VigieNotReady": [
        ("a pod is not ready", {'vigie_ready{namespace="bank",pod="vigie-1"}': f"1+0x{END - 6} 0+0x5"}),
        ("a pod is gone", {'vigie_ready{namespace="bank",pod="vigie-1"}': f"1+0x{END - 10}"}),
    ],
    "VigieStalled": [
        ("no epoch closes", {'vigie_epoch_age_seconds{namespace="bank",pod="vigie-0"}': f"0.5+0x{END - 6} 60+60x5"}),
    ],
    "VigieConsumerLag": [
        (
            "more comes than is read",
            {'vigie_consumer_lag{namespace="bank",topic="transactions",partition="0"}': f"20+0x{END - 11} 700+10x10"},
        ),
        (
            "nothing is read at all",
            {
                'vigie_consumer_lag{namespace="bank",topic="transactions",partition="0"}': f"20+0x{END - 11} 700+10x10",
                'vigie_read_total{namespace="bank",topic="transactions"}': f"0+600x{END - 11} {600 * (END - 11)}+0x10",
                'vigie_rejected_total{namespace="bank",code="too_late"}': f"0+0x{END}",
            },
        ),
    ],
    "VigieLatencyHigh": [
        ("one in fifty is slow", {'vigie_latency_seconds_bucket{namespace="bank",le="0.1"}': f"0+588x{END}"}),
    ],
    "VigieRejectsSurge": [
        ("one in fifty is rejected", {'vigie_rejected_total{namespace="bank",code="too_late"}': f"0+12x{END}"}),
    ],
    "VigieNoAlerts": [
        ("since seven hours", {'vigie_alerts_total{namespace="bank"}': f"0+1x{END - 420} {END - 420}+0x419"}),
    ],
    "VigieAlertStorm": [
        ("ten in 600", {'vigie_alerts_total{namespace="bank"}': f"0+1x{END - 31} {END}+10x30"}),
    ],
    "VigieModelTooOld": [
        ("91 days", {'vigie_model_created_timestamp_seconds{namespace="bank"}': f"{OLD}+0x{END}"}),
    ],
}


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    alerts = group["rules"]
    assert isinstance(alerts, list)
    return alerts


def run(name: str, series: Mapping[str, str], firing: list[dict[str, str]], folder: Path) -> None:
    """Fails with promtool's words where at the end other alerts fire than these."""
    expected = [
        {"labels": f'ALERTS{{alertstate="firing",{",".join(f"{k}={v!r}" for k, v in labels.items())}}}', "value": 1}
        for labels in firing
    ]
    test = {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": each, "values": values} for each, values in series.items()],
        "promql_expr_test": [
            {"expr": 'ALERTS{alertstate="firing"}', "eval_time": f"{END}m", "exp_samples": expected},
        ],
    }
    file = folder / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}))
    done = subprocess.run([program("promtool"), "test", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_flow_that_is_well_raises_nothing(tmp_path: Path) -> None:
    run("well", WELL, [], tmp_path)


def test_every_rule_is_tried() -> None:
    assert SICK.keys() == {rule["alert"] for rule in rules()}
    for faults in SICK.values():
        for _, changes in faults:
            assert changes.keys() <= WELL.keys()


@pytest.mark.parametrize(
    ("alert", "changes"),
    [pytest.param(alert, changes, id=f"{alert}: {name}") for alert, all_of in SICK.items() for name, changes in all_of],
)
def test_a_fault_raises_its_alert_and_no_other(alert: str, changes: dict[str, str], tmp_path: Path) -> None:
    (severity,) = [rule["labels"]["severity"] for rule in rules() if rule["alert"] == alert]
    run(alert, WELL | changes, [{"alertname": alert, "namespace": "bank", "severity": severity}], tmp_path)


def test_a_flow_that_is_not_there_at_all_is_not_ready(tmp_path: Path) -> None:
    run("gone", {"up": f"0+0x{END}"}, [{"alertname": "VigieNotReady", "severity": "critical"}], tmp_path)


def test_the_operator_gets_the_same_rules() -> None:
    custom = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())
    assert custom["kind"] == "PrometheusRule"
    assert custom["spec"] == yaml.safe_load(RULES.read_text())


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    assert rule["annotations"]["runbook"] == f"docs/monitoring.md#{rule['alert'].lower()}"
    found = re.search(rf"^### {rule['alert']}\n(.*?)(?=^##|\Z)", DOCS, re.MULTILINE | re.DOTALL)
    assert found, f"docs/monitoring.md has no section on {rule['alert']}"
    assert len(found[1].split()) > 20
