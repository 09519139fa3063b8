"""The compose file: two processes that find each other, images with versions, ports for this machine alone."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from flows import invocation
from flows.settings import Settings
from tests.k8s.rendered import ROOT
from tests.k8s.test_dockerfile import stages

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROCESSES = {name: each for name, each in SERVICES.items() if "BYTEWAX_POD_NAME" in each.get("environment", {})}
OURS = [name for name, each in SERVICES.items() if "build" in each]


def test_the_processes_are_as_many_as_they_expect_and_found_where_the_others_look() -> None:
    assert PROCESSES
    own: list[str] = []
    for service in PROCESSES.values():
        environment = service["environment"]
        assert environment["VIGIE_PODS"] == str(len(PROCESSES))
        _, number, _, addresses = invocation.of_pod(len(PROCESSES), environment)
        (alias,) = service["networks"]["default"]["aliases"]
        assert addresses.split(";")[int(number)] == f"{alias}:{invocation.PORT}"
        own.append(number)
    assert own == [str(i) for i in range(len(PROCESSES))]


def test_the_processes_share_settings_and_models_but_no_recovery_directory() -> None:
    assert len({str(Settings.from_environment(each["environment"])) for each in PROCESSES.values()}) == 1
    recovery = [volume for each in PROCESSES.values() for volume in each["volumes"] if "/var/lib/vigie" in volume]
    assert len(set(recovery)) == len(PROCESSES)
    for each in PROCESSES.values():
        assert "models:/models:ro" in each["volumes"]
        settings = Settings.from_environment(each["environment"])
        assert settings.stop_timeout.total_seconds() < float(each["stop_grace_period"].removesuffix("s"))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_a_version_and_serves_this_machine_alone(name: str) -> None:
    service = SERVICES[name]
    assert service["image"].rpartition(":")[2].lstrip("v")[:1].isdigit()
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("name", OURS)
def test_our_own_have_no_rights_and_are_built_from_a_stage_that_there_is(name: str) -> None:
    service = SERVICES[name]
    assert service["build"]["dockerfile"] == "k8s/Dockerfile"
    assert service["build"]["target"] in stages()
    assert service["image"].startswith(f"vigie-{service['build']['target']}:")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]


def test_kafka_alone_needs_nothing_else() -> None:
    assert "depends_on" not in SERVICES["kafka"]


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_names_is_there(name: str) -> None:
    service = SERVICES[name]
    for other, until in service.get("depends_on", {}).items():
        assert other in SERVICES
        # Who waits for health must be able to see it.
        assert until["condition"] != "service_healthy" or "healthcheck" in SERVICES[other]
    for volume in service.get("volumes", []):
        source = volume.partition(":")[0]
        assert source.startswith("./") or source in COMPOSE["volumes"]
    assert {each["source"] for each in service.get("configs", [])} <= set(COMPOSE["configs"])


@pytest.mark.parametrize("name", COMPOSE["configs"])
def test_a_configuration_that_is_written_here_can_be_read(name: str) -> None:
    content = yaml.safe_load(COMPOSE["configs"][name]["content"])
    if name == "prometheus":
        (job,) = content["scrape_configs"]
        (targets,) = (each["targets"] for each in job["static_configs"])
        assert targets == [f"{each}:{PROCESSES[each]['environment']['VIGIE_HTTP_PORT']}" for each in PROCESSES]
