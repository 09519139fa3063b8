"""What a pod's spec asks of the machine that runs it; nothing here touches that machine."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from tests.k8s.api import Object

# What a pod may ask for; the second half of each is what this kubelet leaves to others, or does without: the scheduler,
# the controllers, the registry, name servers, cgroups.
_POD: Final = frozenset(
    {"containers", "initContainers", "volumes", "restartPolicy", "terminationGracePeriodSeconds", "securityContext"}
    | {"hostname", "subdomain", "enableServiceLinks", "nodeName", "automountServiceAccountToken"}
    | {"affinity", "tolerations", "nodeSelector", "topologySpreadConstraints", "priority", "priorityClassName"}
    | {"preemptionPolicy", "schedulerName", "activeDeadlineSeconds", "serviceAccount", "serviceAccountName"}
    | {"dnsPolicy", "imagePullSecrets"}
)
_CONTAINER: Final = frozenset(
    {"name", "image", "command", "args", "env", "envFrom", "workingDir", "volumeMounts", "securityContext", "ports"}
    | {"livenessProbe", "readinessProbe", "startupProbe", "lifecycle"}
    | {"imagePullPolicy", "resources", "terminationMessagePath", "terminationMessagePolicy"}
)
_VARIABLE: Final = re.compile(r"\$(\$|\(([A-Za-z_.\-][\w.\-]*)\))")

Lookup = Callable[[str, str], Mapping[str, str] | None]  # the data of a ConfigMap or Secret: its kind, its name


class Unsupported(Exception):
    """The spec asks for something that this kubelet does not do."""


class Unready(Exception):
    """What the pod refers to is not there (yet)."""


class Identity(NamedTuple):
    """Who a container's process is, and what it may do."""

    user: int
    group: int
    groups: tuple[int, ...]
    read_only_root: bool
    may_gain_privileges: bool
    dropped: bool  # all capabilities


class Mount(NamedTuple):
    """A directory or file of this machine, as a container sees it."""

    source: str
    target: str
    read_only: bool


def check(pod: Object) -> None:
    """Raises ``Unsupported`` where the pod asks for what this kubelet does not know."""
    spec = pod["spec"]
    if unknown := set(spec) - _POD:
        raise Unsupported(f"this kubelet does not know the pod's {', '.join(sorted(unknown))}")
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        if unknown := set(container) - _CONTAINER:
            raise Unsupported(f"this kubelet does not know {', '.join(sorted(unknown))} of {container['name']}")


def identity(pod: Object, container: Object, default_user: int) -> Identity:
    """From both security contexts; ``default_user``: the image's. Raises ``Unready`` for root where that is refused."""
    common = pod["spec"].get("securityContext") or {}
    own = common | (container.get("securityContext") or {})
    user = own.get("runAsUser", default_user)
    if own.get("runAsNonRoot") and user == 0:
        raise Unready(f"container has runAsNonRoot and image will run as root ({container['name']})")
    groups = [*common.get("supplementalGroups", []), *([common["fsGroup"]] if "fsGroup" in common else [])]
    return Identity(
        user=user,
        group=own.get("runAsGroup", 0),
        groups=tuple(groups),
        read_only_root=own.get("readOnlyRootFilesystem", False),
        may_gain_privileges=own.get("allowPrivilegeEscalation", True),
        dropped="ALL" in own.get("capabilities", {}).get("drop", []),
    )


def environment(
    pod: Object, container: Object, address: str, lookup: Lookup, given: Mapping[str, str]
) -> dict[str, str]:
    """A container's variables; ``given``: those that come before its own, which may refer to them.

    Raises ``Unready`` where a ConfigMap, a Secret or one of their keys is missing, ``Unsupported`` for other sources.
    """
    found = dict(given)
    for source in container.get("envFrom", []):
        kind, reference = (
            ("Secret", source["secretRef"]) if "secretRef" in source else ("ConfigMap", source["configMapRef"])
        )
        data = lookup(kind, reference["name"])
        if data is None and not reference.get("optional"):
            raise Unready(f'{kind.lower()} "{reference["name"]}" not found')
        found |= {source.get("prefix", "") + name: value for name, value in (data or {}).items()}
    for variable in container.get("env", []):
        if "valueFrom" in variable:
            value = _value_from(variable["valueFrom"], pod, address, lookup)
            if value is not None:
                found[variable["name"]] = value
        else:
            found[variable["name"]] = expand(variable.get("value", ""), found)
    return found


def expand(text: str, variables: Mapping[str, str]) -> str:
    """``$(NAME)`` replaced where there is such a variable; ``$$`` is a dollar."""

    def replaced(found: re.Match[str]) -> str:
        return "$" if found[1] == "$" else variables.get(found[2], found[0])

    return _VARIABLE.sub(replaced, text)


def _value_from(source: Object, pod: Object, address: str, lookup: Lookup) -> str | None:
    if "fieldRef" in source:
        return field(pod, source["fieldRef"]["fieldPath"], address)
    for key, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
        if key in source:
            reference = source[key]
            data = lookup(kind, reference["name"]) or {}
            if reference["key"] not in data and not reference.get("optional"):
                raise Unready(f"couldn't find key {reference['key']} in {kind} {reference['name']}")
            return data.get(reference["key"])
    raise Unsupported(f"this kubelet does not know variables from {', '.join(source)}")


def field(pod: Object, path: str, address: str) -> str:
    """A field of the pod that a variable may refer to."""
    if path == "status.podIP":
        return address
    if found := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
        return str(pod["metadata"].get(found[1], {}).get(found[2], ""))
    if path not in {"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName"}:
        raise Unsupported(f"this kubelet does not know variables from {path}")
    section, name = path.split(".")
    return str(pod[section][name])


def service_links(services: Iterable[Object]) -> dict[str, str]:
    """The variables about each Service of the namespace that a pod is given, unless it wants none."""
    links: dict[str, str] = {}
    for service in services:
        address, ports = service["spec"].get("clusterIP", "None"), service["spec"].get("ports", [])
        if address == "None" or not ports:
            continue
        name = service["metadata"]["name"].upper().replace("-", "_")
        port, protocol = ports[0]["port"], ports[0].get("protocol", "TCP").lower()
        links |= {
            f"{name}_SERVICE_HOST": address,
            f"{name}_SERVICE_PORT": str(port),
            f"{name}_PORT": f"{protocol}://{address}:{port}",
            f"{name}_PORT_{port}_{protocol.upper()}_ADDR": address,
        }
    return links


def mounts(container: Object, sources: Mapping[str, Mount]) -> list[Mount]:
    """Where a container sees the pod's volumes; ``sources``: each volume's place, and whether it is read-only."""
    found = []
    for mount in sorted(container.get("volumeMounts", []), key=lambda mount: str(mount["mountPath"])):
        volume = sources[mount["name"]]
        source = f"{volume.source}/{mount['subPath']}" if mount.get("subPath") else volume.source
        found.append(Mount(source, mount["mountPath"], volume.read_only or mount.get("readOnly", False)))
    return found


def hosts(slices: Iterable[Object], namespace: str) -> dict[str, list[str]]:
    """The names that a cluster's DNS would give to pods of that namespace, from the headless Services' endpoints.

    ``slices``: EndpointSlices of the cluster; the ones of Services that have an address of their own do no harm.
    """
    names: dict[str, list[str]] = {}
    for piece in slices:
        service = piece["metadata"].get("labels", {}).get("kubernetes.io/service-name")
        if service is None:
            continue
        home = piece["metadata"]["namespace"]
        forms = [f"{service}.{home}.svc.cluster.local", f"{service}.{home}.svc", f"{service}.{home}"]
        forms += [service] if home == namespace else []
        for endpoint in piece.get("endpoints") or []:
            if endpoint.get("conditions", {}).get("ready") is False:
                continue  # of a Service that publishes addresses that are not ready, all are told to be
            for address in endpoint["addresses"]:
                own = [f"{endpoint['hostname']}.{form}" for form in forms] if endpoint.get("hostname") else []
                names.setdefault(address, []).extend(own + forms)
    return names
