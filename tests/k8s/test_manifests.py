"""What Kubernetes gets is valid, and does what docs/kubernetes.md says: who may do what, and what belongs together."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from flows.invocation import PORT
from flows.settings import Settings
from tests.k8s.rendered import OVERLAYS, ROOT, Pod, Resource, of_kustomization, only, pods, rendered

VERSIONS = ("1.31", "1.34", "1.37")
OURS = {(overlay, pod.title): pod for overlay in OVERLAYS for pod in pods(rendered(overlay))}
FOREIGN = {"StatefulSet/kafka"}  # images that are not ours, and write where they are installed

every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)
every_pod = pytest.mark.parametrize("pod", OURS.values(), ids=[" ".join(key) for key in OURS])


def scorer(overlay: str) -> Pod:
    return OURS[overlay, "StatefulSet/vigie"]


def environment(pod: Pod, resources: tuple[Resource, ...]) -> dict[str, str]:
    """The variables of the pod's first container, from everywhere but secrets."""
    container = pod.containers[0]
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= only(resources, "ConfigMap", source["configMapRef"]["name"])["data"]
    return found | {each["name"]: each["value"] for each in container.get("env", []) if "value" in each}


# Valid


@every_overlay
@pytest.mark.parametrize("version", VERSIONS)
def test_all_that_is_rendered_is_valid(overlay: str, version: str) -> None:
    for resource in rendered(overlay):
        kubernetes_validate.validate(resource, version, strict=True)


def test_an_unknown_field_would_be_found() -> None:
    wrong = {**only(rendered("local"), "Service", "vigie"), "specc": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


@every_overlay
def test_all_is_in_one_namespace_that_takes_no_pod_with_rights(overlay: str) -> None:
    resources = rendered(overlay)
    namespace = only(resources, "Namespace", "vigie")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {each["metadata"].get("namespace", "vigie") for each in resources} == {"vigie"}


def test_the_base_leaves_the_namespace_to_overlays() -> None:
    assert not {each["metadata"].get("namespace") for each in of_kustomization(ROOT / "k8s" / "base")} - {None}


# Pods


@every_pod
def test_a_pod_has_no_rights(pod: Pod) -> None:
    context = pod.spec["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] >= 1000
    assert context["seccompProfile"]["type"] == "RuntimeDefault"
    assert pod.spec["automountServiceAccountToken"] is False
    assert pod.spec["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod.spec)
    for container in pod.containers:
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert own.get("readOnlyRootFilesystem", False) is (pod.title not in FOREIGN)
        assert not {"privileged", "runAsUser", "runAsNonRoot"} & set(own)


@every_pod
def test_a_pod_takes_no_more_than_it_says(pod: Pod) -> None:
    for container in pod.containers:
        for which in ("requests", "limits"):
            assert {"cpu", "memory"} <= set(container["resources"][which]), container["name"]
    for volume in pod.spec.get("volumes", []):
        assert "hostPath" not in volume
        assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"]


@every_pod
def test_images_have_a_version(pod: Pod) -> None:
    for container in pod.containers:
        _, _, version = container["image"].rpartition(":")
        assert version[:1].isdigit(), container["image"]


@every_pod
def test_a_server_is_probed_and_a_job_has_an_end(pod: Pod) -> None:
    for container in pod.spec["containers"]:
        if pod.title.startswith("StatefulSet/"):
            assert {"livenessProbe", "readinessProbe"} <= set(container)
        else:
            assert pod.spec["restartPolicy"] == "Never"


@pytest.mark.parametrize(("overlay", "title"), OURS)
def test_what_a_container_mounts_is_there_and_only_training_writes_models(overlay: str, title: str) -> None:
    pod = OURS[overlay, title]
    owner = only(rendered(overlay), *title.split("/"))["spec"]
    claims = [each["metadata"]["name"] for each in owner.get("volumeClaimTemplates", [])]
    volumes = [*claims, *(volume["name"] for volume in pod.spec.get("volumes", []))]
    assert len(volumes) == len(set(volumes))
    for container in pod.containers:
        mounts = {mount["name"]: mount for mount in container.get("volumeMounts", [])}
        assert set(mounts) <= set(volumes)
        if "models" in mounts and container["name"] != "training":
            assert mounts["models"]["readOnly"] is True


# The flow


@every_overlay
def test_as_many_pods_as_the_processes_expect(overlay: str) -> None:
    resources = rendered(overlay)
    flow = only(resources, "StatefulSet", "vigie")
    variables = environment(scorer(overlay), resources)
    assert variables["VIGIE_PODS"] == str(flow["spec"]["replicas"])
    assert variables["BYTEWAX_STATEFULSET_NAME"] == flow["metadata"]["name"] == flow["spec"]["serviceName"]


@every_overlay
def test_pods_are_started_and_replaced_together_and_keep_their_volumes(overlay: str) -> None:
    spec = only(rendered(overlay), "StatefulSet", "vigie")["spec"]
    assert spec["podManagementPolicy"] == "Parallel"
    assert spec["updateStrategy"] == {"type": "OnDelete"}
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    service = only(rendered(overlay), "Service", "vigie")["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is True


@every_overlay
def test_the_settings_are_ones_that_the_flow_takes(overlay: str) -> None:
    resources = rendered(overlay)
    variables = environment(scorer(overlay), resources)
    settings = Settings.from_environment(variables)
    assert settings.create_topics is False
    assert settings.stop_timeout < timedelta(seconds=scorer(overlay).spec["terminationGracePeriodSeconds"])
    mounts = {mount["name"]: mount["mountPath"] for mount in scorer(overlay).containers[0]["volumeMounts"]}
    assert settings.model.is_relative_to(mounts["models"])
    assert settings.log_directory.is_relative_to(mounts["tmp"])
    # The other pods that speak to Kafka do so alike.
    for (of, title), pod in OURS.items():
        if of == overlay and pod.labels.get("app.kubernetes.io/component") in {"topics", "restore"}:
            theirs = environment(pod, resources)
            assert Settings.from_environment(theirs).kafka == settings.kafka, title


def test_production_speaks_tls_with_a_login_from_a_secret_that_is_not_here() -> None:
    resources = rendered("production")
    assert not [each for each in resources if each["kind"] == "Secret"]
    settings = Settings.from_environment(environment(scorer("production"), resources))
    assert settings.kafka["security.protocol"] == "SASL_SSL"
    ca = Path(settings.kafka["ssl.ca.location"])
    for title in ("StatefulSet/vigie", "Job/vigie-topics", "CronJob/vigie-restore"):
        container = OURS["production", title].containers[0]
        secret = {
            each["name"]: each["valueFrom"].get("secretKeyRef") for each in container["env"] if "valueFrom" in each
        }
        named = {name: reference for name, reference in secret.items() if reference}
        assert {name: ref["name"] for name, ref in named.items()} == {
            "KAFKA_SASL_USERNAME": "kafka",
            "KAFKA_SASL_PASSWORD": "kafka",
        }
        assert str(ca.parent) in {mount["mountPath"] for mount in container["volumeMounts"]}


# The network


def matches(selector: Resource, labels: dict[str, str]) -> bool:
    """Whether a label selector takes these labels."""
    expressions = selector.get("matchExpressions", [])
    assert {each["operator"] for each in expressions} <= {"In"}
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        labels.get(each["key"]) in each["values"] for each in expressions
    )


def allowed(overlay: str, pod: Pod, direction: str) -> list[tuple[int, list[Resource]]]:
    """What policies let through: ports, and to or from whom."""
    found: list[tuple[int, list[Resource]]] = []
    for policy in (each["spec"] for each in rendered(overlay) if each["kind"] == "NetworkPolicy"):
        if matches(policy["podSelector"], pod.labels):
            for rule in policy.get(direction, []):
                assert rule.get("from" if direction == "ingress" else "to"), "open to the world"
                found += ((port["port"], rule["from" if direction == "ingress" else "to"]) for port in rule["ports"])
    return found


@every_overlay
def test_nothing_is_allowed_that_is_not_named(overlay: str) -> None:
    spec = only(rendered(overlay), "NetworkPolicy", "default-deny")["spec"]
    assert spec == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@every_overlay
def test_only_processes_of_the_flow_reach_the_port_where_they_meet(overlay: str) -> None:
    incoming = allowed(overlay, scorer(overlay), "ingress")
    assert {port for port, _ in incoming} == {PORT, 8080}
    for port, sources in incoming:
        for source in sources:
            if port == PORT:
                assert set(source) == {"podSelector"}  # of this namespace
                let_in = {key for key, pod in OURS.items() if matches(source["podSelector"], pod.labels)}
                assert {title for _, title in let_in} == {"StatefulSet/vigie"}
            else:
                assert source["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}


@every_overlay
def test_what_speaks_to_kafka_may_and_training_speaks_to_nobody(overlay: str) -> None:
    kafka_port = int(environment(scorer(overlay), rendered(overlay))["KAFKA_BOOTSTRAP_SERVERS"].rpartition(":")[2])
    for (of, _), pod in OURS.items():
        if of == overlay:
            ports = {port for port, _ in allowed(overlay, pod, "egress")}
            match pod.labels.get("app.kubernetes.io/component"):
                case "scorer":
                    assert ports == {PORT, kafka_port, 53}
                case "topics" | "restore":
                    assert ports == {kafka_port, 53}
                case "training":
                    assert ports == set()
                    assert not allowed(overlay, pod, "ingress")


# Disruptions, training


@every_overlay
def test_a_drain_takes_one_pod_at_a_time(overlay: str) -> None:
    spec = only(rendered(overlay), "PodDisruptionBudget", "vigie")["spec"]
    assert matches(spec["selector"], scorer(overlay).labels)
    assert spec["maxUnavailable"] == 1  # none would block every drain for ever


@every_overlay
def test_nothing_trains_or_restores_unasked_or_twice_at_once(overlay: str) -> None:
    for name in ("vigie-training", "vigie-restore"):
        spec = only(rendered(overlay), "CronJob", name)["spec"]
        assert spec["suspend"] is True
        assert spec["concurrencyPolicy"] == "Forbid"


# Components


@pytest.fixture
def with_strimzi(tmp_path: Path) -> tuple[Resource, ...]:
    """The production overlay with the line for Strimzi."""
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    file = tmp_path / "k8s" / "overlays" / "production" / "kustomization.yaml"
    text = file.read_text()
    assert "components: []" in text
    file.write_text(text.replace("components: []", "components: [../../components/strimzi]"))
    return of_kustomization(file.parent)


def test_strimzi_makes_the_topics_in_place_of_the_job(with_strimzi: tuple[Resource, ...]) -> None:
    assert not [each for each in with_strimzi if each["kind"] == "Job"]
    topics: dict[str, Any] = {e["metadata"]["name"]: e["spec"] for e in with_strimzi if e["kind"] == "KafkaTopic"}
    assert set(topics) == set(Settings.from_environment({}).topics)
    arguments = OURS["production", "Job/vigie-topics"].containers[0]["args"]
    for topic in topics.values():
        days = topic["config"]["retention.ms"] // 86_400_000
        assert arguments == [
            f"--partitions={topic['partitions']}",
            f"--replication-factor={topic['replicas']}",
            f"--min-insync-replicas={topic['config']['min.insync.replicas']}",
            f"--retention={days}d",
        ]


def test_strimzis_user_may_write_only_what_the_flow_writes(with_strimzi: tuple[Resource, ...]) -> None:
    acls = only(with_strimzi, "KafkaUser", "vigie")["spec"]["authorization"]["acls"]
    may = {acl["resource"]["name"]: set(acl["operations"]) for acl in acls if acl["resource"]["type"] == "topic"}
    settings = Settings.from_environment({})
    assert set(may) == set(settings.topics)
    assert {name for name, operations in may.items() if "Write" in operations} == set(settings.topics[2:])
    assert {name for name, operations in may.items() if "Read" in operations} == {
        *settings.topics[:2],
        *settings.outputs,
    }
