from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.k8s import spec
from tests.k8s.api import Object
from tests.k8s.spec import Mount, Unready, Unsupported

POD: Object = {
    "metadata": {"name": "vigie-1", "namespace": "vigie", "uid": "u", "labels": {"a/b": "c"}},
    "spec": {"nodeName": "node-0", "containers": [{"name": "scorer", "image": "x"}]},
}


def lookup(kind: str, name: str) -> Mapping[str, str] | None:
    return {("ConfigMap", "vigie"): {"A": "1", "B": "2"}, ("Secret", "kafka"): {"password": "$(A)"}}.get((kind, name))


def environment(**container: object) -> dict[str, str]:
    return spec.environment(POD, {"name": "scorer", **container}, "10.0.0.1", lookup, {"HOME": "/tmp"})


def test_own_variables_come_last_and_may_refer_to_what_was_before_them() -> None:
    found = environment(
        envFrom=[{"configMapRef": {"name": "vigie"}}, {"configMapRef": {"name": "none", "optional": True}}],
        env=[{"name": "B", "value": "3"}, {"name": "C", "value": "$(A)-$(B)-$(NONE)-$$(A)"}, {"name": "D"}],
    )
    assert found == {"HOME": "/tmp", "A": "1", "B": "3", "C": "1-3-$(NONE)-$(A)", "D": ""}


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ({"fieldRef": {"fieldPath": "metadata.name"}}, "vigie-1"),
        ({"fieldRef": {"fieldPath": "metadata.labels['a/b']"}}, "c"),
        ({"fieldRef": {"fieldPath": "status.podIP"}}, "10.0.0.1"),
        ({"fieldRef": {"fieldPath": "spec.nodeName"}}, "node-0"),
        ({"configMapKeyRef": {"name": "vigie", "key": "A"}}, "1"),
        ({"secretKeyRef": {"name": "kafka", "key": "password"}}, "$(A)"),
        ({"secretKeyRef": {"name": "kafka", "key": "none", "optional": True}}, None),
    ],
)
def test_values_from_elsewhere_are_taken_as_they_are(source: Object, value: str | None) -> None:
    assert environment(env=[{"name": "X", "valueFrom": source}]).get("X") == value


def test_what_is_missing_is_waited_for_and_named() -> None:
    with pytest.raises(Unready, match='configmap "none" not found'):
        environment(envFrom=[{"configMapRef": {"name": "none"}}])
    with pytest.raises(Unready, match="couldn't find key user in Secret kafka"):
        environment(env=[{"name": "X", "valueFrom": {"secretKeyRef": {"name": "kafka", "key": "user"}}}])


def test_what_this_kubelet_does_not_do_is_refused() -> None:
    spec.check(POD)
    with pytest.raises(Unsupported, match="hostNetwork"):
        spec.check({**POD, "spec": {**POD["spec"], "hostNetwork": True}})
    with pytest.raises(Unsupported, match="stdin of scorer"):
        spec.check({**POD, "spec": {"containers": [{"name": "scorer", "stdin": True}]}})
    with pytest.raises(Unsupported, match="resourceFieldRef"):
        environment(env=[{"name": "X", "valueFrom": {"resourceFieldRef": {}}}])


def test_a_containers_own_security_comes_before_the_pods() -> None:
    pod = {"spec": {"securityContext": {"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "runAsNonRoot": True}}}
    locked = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    found = spec.identity(pod, {"name": "x", "securityContext": {"runAsUser": 4, **locked}}, 0)
    assert found == (4, 2, (3,), True, False, True)
    assert spec.identity({"spec": {}}, {"name": "x"}, 5) == (5, 0, (), False, True, False)
    with pytest.raises(Unready, match="image will run as root"):
        spec.identity({"spec": {"securityContext": {"runAsNonRoot": True}}}, {"name": "x"}, 0)


def test_a_volume_is_read_only_where_it_or_its_mount_is() -> None:
    sources = {"a": Mount("/host/a", "", read_only=False), "b": Mount("/host/b", "", read_only=True)}
    wanted: list[Object] = [
        {"name": "a", "mountPath": "/data/sub", "subPath": "x", "readOnly": True},
        {"name": "b", "mountPath": "/etc/b"},
        {"name": "a", "mountPath": "/data"},
    ]
    assert spec.mounts({"volumeMounts": wanted}, sources) == [
        Mount("/host/a", "/data", read_only=False),
        Mount("/host/a/x", "/data/sub", read_only=True),
        Mount("/host/b", "/etc/b", read_only=True),
    ]


def test_only_services_with_an_address_become_variables() -> None:
    headless: Object = {"metadata": {"name": "vigie"}, "spec": {"clusterIP": "None", "ports": [{"port": 1}]}}
    kafka: Object = {"metadata": {"name": "my-kafka"}, "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 9092}]}}
    assert spec.service_links([headless, kafka]) == {
        "MY_KAFKA_SERVICE_HOST": "10.96.0.9",
        "MY_KAFKA_SERVICE_PORT": "9092",
        "MY_KAFKA_PORT": "tcp://10.96.0.9:9092",
        "MY_KAFKA_PORT_9092_TCP_ADDR": "10.96.0.9",
    }


def test_short_names_are_those_of_the_own_namespace() -> None:
    def piece(service: str, namespace: str, *endpoints: Object) -> Object:
        labels = {"kubernetes.io/service-name": service}
        return {"metadata": {"namespace": namespace, "labels": labels}, "endpoints": list(endpoints)}

    slices = [
        piece("vigie", "vigie", {"addresses": ["10.0.0.1"], "hostname": "vigie-0", "conditions": {"ready": True}}),
        piece("vigie", "vigie", {"addresses": ["10.0.0.2"], "conditions": {"ready": False}}),
        piece("kafka", "other", {"addresses": ["10.0.0.3"]}),
    ]
    names = spec.hosts(slices, "vigie")
    assert set(names) == {"10.0.0.1", "10.0.0.3"}
    assert {"vigie-0.vigie", "vigie-0.vigie.vigie.svc.cluster.local", "vigie"} <= set(names["10.0.0.1"])
    assert names["10.0.0.3"] == ["kafka.other.svc.cluster.local", "kafka.other.svc", "kafka.other"]
