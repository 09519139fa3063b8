"""What must be the same in all processes of a flow, since they decide and write together."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Final

from features.bundle import Bundle
from features.sources import digest
from flows.invocation import Invocation
from flows.settings import Settings

# Settings that may differ. The Kafka client's properties hold secrets, and the model is compared by what it is.
FREE: Final = frozenset(
    {
        *("kafka", "kafka_timeout", "stop_timeout", "stall_timeout", "log_level", "log_directory", "http_port"),
        *("model", "create_topics", "topic_partitions"),
    }
)


def of_process(settings: Settings, place: Invocation, bundle: Bundle) -> dict[str, str]:
    """The terms that this process works on, by names that an operator understands."""
    manifest = bundle.manifest
    root = Path(__file__).parents[1]
    alike = [each.name for each in fields(settings) if each.name not in FREE]
    return {
        "the number of processes": str(place.count),
        "a recovery directory (-r)": "not given" if place.recovery is None else "given",
        # What processes send each other are objects of its classes.
        "Vigie's code": " ".join(digest(root / package)[:12] for package in ("features", "flows")),
        "the model": f"{manifest.version} (sha256 {manifest.model_sha256[:12]}, features {manifest.fingerprint[:12]})",
        "KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap,
        "KAFKA_GROUP_ID": settings.group,
        **{f"VIGIE_{name.upper()}": str(getattr(settings, name)) for name in alike},
    }
