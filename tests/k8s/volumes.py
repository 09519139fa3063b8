"""A pod's volumes as directories of this machine."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path

from tests.k8s.api import Api, Object, Refused
from tests.k8s.spec import Mount, Unready, Unsupported


def data(api: Api, namespace: str, kind: str, name: str) -> dict[str, str] | None:
    """What a ConfigMap or a Secret holds; None where there is none of that name."""
    try:
        found = api.get(f"/api/v1/namespaces/{namespace}/{kind.lower()}s/{name}")
    except Refused as refused:
        if refused.status == 404:
            return None
        raise
    values: dict[str, str] = found.get("data") or {}
    return values if kind == "ConfigMap" else {key: base64.b64decode(text).decode() for key, text in values.items()}


def prepare(api: Api, pod: Object, folder: Path) -> dict[str, Mount]:
    """The place of each volume, by name; raises ``Unready`` where a claim is not bound, or a map is missing."""
    namespace = pod["metadata"]["namespace"]
    group = (pod["spec"].get("securityContext") or {}).get("fsGroup")
    found = {}
    for volume in pod["spec"].get("volumes", []):
        name, place, read_only = volume["name"], folder / volume["name"], False
        if "emptyDir" in volume:
            place.mkdir(parents=True, exist_ok=True)
            place.chmod(0o777)
        elif "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]
            place, read_only = _claimed(api, namespace, claim["claimName"]), claim.get("readOnly", False)
        elif "configMap" in volume:
            _write(api, namespace, "ConfigMap", volume["configMap"]["name"], volume["configMap"], place)
            read_only = True
        elif "secret" in volume:
            _write(api, namespace, "Secret", volume["secret"]["secretName"], volume["secret"], place)
            read_only = True
        else:
            raise Unsupported(f"this kubelet does not know the volume {volume}")
        if group is not None and not read_only:
            _give(place, group)
        found[name] = Mount(str(place), "", read_only)
    return found


def _claimed(api: Api, namespace: str, name: str) -> Path:
    try:
        claim = api.get(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}")
    except Refused as refused:
        raise Unready(f'persistentvolumeclaim "{name}": {refused}') from refused
    if claim.get("status", {}).get("phase") != "Bound":
        raise Unready(f'persistentvolumeclaim "{name}" is not bound')
    volume = api.get(f"/api/v1/persistentvolumes/{claim['spec']['volumeName']}")
    return Path(volume["spec"]["hostPath"]["path"])


def _write(api: Api, namespace: str, kind: str, name: str, source: Mapping[str, object], place: Path) -> None:
    values = data(api, namespace, kind, name)
    if values is None and not source.get("optional"):
        raise Unready(f'{kind.lower()} "{name}" not found')
    items = source.get("items")
    assert items is None or isinstance(items, list)
    names = {item["key"]: item["path"] for item in items} if items else {key: key for key in values or {}}
    place.mkdir(parents=True, exist_ok=True)
    for key, text in (values or {}).items():
        if key in names:
            file = place / names[key]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")


def _give(place: Path, group: int) -> None:
    """What fsGroup asks for: all is of the group, which may write, and so is what comes."""
    if place.stat().st_gid == group and place.stat().st_mode & 0o2070 == 0o2070:
        return
    for path in [place, *place.rglob("*")]:
        if path.is_symlink():
            continue
        os.chown(path, -1, group)
        path.chmod(path.stat().st_mode | (0o2770 if path.is_dir() else 0o660))
