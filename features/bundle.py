"""A model bundle: what training hands to the stream, one folder ``models/<version>/`` with a manifest.

The folder appears whole or not at all, and ``models/current`` moves to it last, so a scorer never sees half a bundle.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final

import msgspec

from features.definitions import Feature, feature_set, fingerprint
from features.errors import InvalidBundle

MODEL: Final = "model.onnx"
MANIFEST: Final = "manifest.json"
METRICS: Final = "metrics.json"
REPORT: Final = "report.html"
CURRENT: Final = "current"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a scorer must know of a bundle, and what an auditor will ask."""

    version: str
    created_at: str  # RFC 3339
    features: list[str]  # the model's columns, in order
    fingerprint: str
    label_delay_seconds: int
    threshold: float  # a score at or above it is an alert
    alert_budget: str  # what the threshold was chosen for, in words
    champion: str
    data_from: str
    data_until: str
    rows: int
    frauds: int
    libraries: dict[str, str]
    opset: int
    model_sha256: str = ""  # filled in by publish
    metrics: dict[str, float]


class Bundle(msgspec.Struct, frozen=True):
    """A bundle that was read and found to fit this code."""

    path: Path
    manifest: Manifest
    features: tuple[Feature, ...]
    model: bytes


def publish(models: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Path:
    """Writes ``models/<version>/`` with the manifest and the files (``model.onnx`` among them), then moves ``current``.

    Raises ``InvalidBundle`` where that version is there already.
    """
    target = models / manifest.version
    if target.exists():
        raise InvalidBundle(f"{target} exists already; a version is written once: remove it or choose another")
    manifest = msgspec.structs.replace(manifest, model_sha256=hashlib.sha256(files[MODEL]).hexdigest())
    partial = models / f".{manifest.version}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, content in {**files, MANIFEST: msgspec.json.format(msgspec.json.encode(manifest))}.items():
        with (partial / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    partial.rename(target)
    link = models / f".{CURRENT}.{manifest.version}"
    link.symlink_to(manifest.version)
    link.replace(models / CURRENT)
    return target


def load(path: Path) -> Bundle:
    """The bundle in a folder, such as ``artifacts/models/current``.

    Raises ``InvalidBundle`` where a file is missing or damaged, or the features are not those of this code.
    """
    folder = path.resolve()
    try:
        raw, model = (folder / MANIFEST).read_bytes(), (folder / MODEL).read_bytes()
    except OSError as error:
        raise InvalidBundle(
            f"no model bundle at {path} ({error.strerror}: {error.filename}); train one with `just train`, "
            "or point VIGIE_MODEL at a bundle's folder"
        ) from error
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except msgspec.MsgspecError as error:
        raise InvalidBundle(f"{folder / MANIFEST} cannot be read ({error}); train the bundle again") from error
    checksum = hashlib.sha256(model).hexdigest()
    if checksum != manifest.model_sha256:
        raise InvalidBundle(
            f"{folder / MODEL} has sha256 {checksum[:12]}..., the manifest says {manifest.model_sha256[:12]}...: "
            "the file was changed or cut short; copy the bundle again, or train it again"
        )
    features = feature_set(timedelta(seconds=manifest.label_delay_seconds))
    if fingerprint(features) != manifest.fingerprint or [f.name for f in features] != manifest.features:
        changed = sorted({f.name for f in features} ^ set(manifest.features))
        raise InvalidBundle(
            f"{folder} was trained on other features (fingerprint {manifest.fingerprint}, this code has "
            f"{fingerprint(features)}; differing: {', '.join(changed[:5]) or 'order or meaning'}); "
            "train again with this code, or run the code that the bundle was trained with"
        )
    return Bundle(folder, manifest, features, model)
