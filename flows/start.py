"""What must be there before the engine starts: settings, a model, topics, a clean store, the right to write."""

from __future__ import annotations

import logging
import os
from typing import NamedTuple

from features.bundle import Bundle, load
from flows import invocation, logs, stop, store, topics
from flows.model import Model
from flows.outbox import Outbox, open_outbox
from flows.settings import Settings

_log = logging.getLogger(__name__)


class Started(NamedTuple):
    """All of it. ``since`` and ``begins``: see ``store.Store``; 0 and None where the flow runs without recovery."""

    settings: Settings
    bundle: Bundle
    model: Model
    outbox: Outbox
    since: int
    begins: store.Ends | None


def start() -> Started:
    """Starts this process of the flow, up to the engine; raises ``VigieError`` with what is missing."""
    settings = Settings.from_environment(os.environ)
    place = invocation.of_process()
    logs.set_up(settings.log_level, settings.log_directory, place.name)
    bundle = load(settings.model)
    model = Model(bundle)
    topics.partitions(settings, settings.topics)
    kept = store.prepare(
        place,
        bundle.manifest.fingerprint,
        lambda: topics.ids(settings),
        lambda: topics.ends(settings),
        settings.patience,
    )
    if kept is None:
        _log.warning("no recovery directory (-r): after a stop the flow starts anew, and writes all anew")
    outbox = open_outbox(settings, place, kept.processes if kept else 0)
    stop.on_signals(settings.stop_timeout)
    _log.info("scoring", extra={"model": model.version, "threshold": model.threshold, "kafka": settings.bootstrap})
    return Started(settings, bundle, model, outbox, kept.made_at if kept else 0, kept.begins if kept else None)
