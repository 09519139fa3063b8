"""What must be there before the engine starts: settings, a model, topics, a clean store, the right to write, peers.

Process 0 does last what the others wait for, so that its engine listens by the time that theirs look for it.
"""

from __future__ import annotations

import gc
import logging
import os
from pathlib import Path
from typing import Final, NamedTuple

from features.bundle import Bundle, load
from features.definitions import reach
from features.errors import InvalidStore
from features.transaction import MICROSECOND
from flows import handover, health, hold, invocation, logs, meeting, metrics, stop, store, terms, topics
from flows.invocation import Invocation
from flows.journal import Memory
from flows.meeting import Welcome
from flows.model import Model
from flows.outbox import Outbox, open_outbox
from flows.pulse import Vitals
from flows.settings import Settings
from flows.source import NOWHERE, Positions
from flows.windows import make_ready

YOUNG: Final = 50_000  # objects; a batch makes thousands, and nearly all of them go with it

_log = logging.getLogger(__name__)


class Started(NamedTuple):
    """All of it. ``first``: where to read from without a saved state. ``begins``: see ``store.Begins.outputs``.

    ``memory`` and ``first`` are those of process 0, which alone reads.
    """

    settings: Settings
    place: Invocation
    bundle: Bundle
    model: Model
    outbox: Outbox
    memory: Memory | None
    first: Positions
    begins: store.Ends
    vitals: Vitals


def start() -> Started:
    """Starts this process of the flow, up to the engine; raises ``VigieError`` with what is missing."""
    settings = Settings.from_environment(os.environ)
    place = invocation.of_process()
    logs.set_up(settings.log_level, settings.log_directory, place.name)
    stop.on_signals(settings.stop_timeout)
    vitals = Vitals(settings.stall_timeout.total_seconds(), settings.patience)
    health.tell(settings, place, vitals)
    bundle = load(settings.model)
    metrics.show_model(bundle.manifest)
    model = Model(bundle)
    make_ready(bundle.features)
    _spare_the_collector()
    topics.partitions(settings, settings.topics)
    if place.index == 0:
        outbox, kept, told = _first(settings, place, bundle)
    else:
        outbox, told = _other(settings, place, bundle)
        kept = None
    stop.unless_connected(settings.kafka_timeout)
    _log.info("scoring", extra={"model": model.version, "threshold": model.threshold, "kafka": settings.bootstrap})
    if kept is None:
        return Started(settings, place, bundle, model, outbox, None, NOWHERE, told.begins, vitals)
    offsets = {
        (topic, n): offset for topic, of_topic in kept.begins.inputs.items() for n, offset in enumerate(of_topic)
    }
    first = Positions(offsets, {}, 0, kept.made_at)
    return Started(settings, place, bundle, model, outbox, kept.memory, first, told.begins, vitals)


def _spare_the_collector() -> None:
    """What was loaded stays for good, and a walk over all of it would stop the flow for a tenth of a second."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])


def _first(settings: Settings, place: Invocation, bundle: Bundle) -> tuple[Outbox, store.Store | None, Welcome]:
    """The process that reads, and has the store; the others wait for it."""
    with meeting.Host(place, terms.of_process(settings, place, bundle), settings.patience) as host:
        kept = _prepare(settings, place, bundle)
        outbox = open_outbox(settings, place, kept.processes if kept else 0)
        told = Welcome(kept.begins.outputs, kept.mark) if kept else Welcome()
        host.welcome(told)
    return outbox, kept, told


def _other(settings: Settings, place: Invocation, bundle: Bundle) -> tuple[Outbox, Welcome]:
    """A process that only computes and writes. Before it was let in, it takes over nobody's right to write."""
    told = meeting.attend(place, terms.of_process(settings, place, bundle), settings.patience)
    if place.recovery is not None:
        hold.visit(place.recovery, told.mark)
    return open_outbox(settings, place, 0), told


def _prepare(settings: Settings, place: Invocation, bundle: Bundle) -> store.Store | None:
    if place.recovery is None:
        _log.warning("no recovery directory (-r): after a stop the flow starts anew, and writes all anew")
        return None
    owner = store.Owner(reach(bundle.features) // MICROSECOND, topics.ids(settings))
    kept = store.prepare(place.recovery, place.count, owner, lambda: _begins(settings))
    if not kept.resumes:
        _check_beginning(settings, place.recovery)
    return kept


def _begins(settings: Settings) -> store.Begins:
    """Where a flow begins that starts now; noted, so that a crash before the first state does not move it."""
    inputs = topics.edges_of(settings, settings.topics[:2])
    chosen = {topic: [edge[settings.start_from == "latest"] for edge in edges] for topic, edges in inputs.items()}
    return store.Begins(chosen, topics.ends(settings, settings.outputs))


def _check_beginning(settings: Settings, directory: Path) -> None:
    """Raises ``InvalidStore`` where a store without states would have the flow score again what it has scored."""
    offsets = handover.committed(settings).offsets
    done = [f"{topic}[{n}] {offset}" for (topic, n), offset in sorted(offsets.items()) if offset > 0]
    if any(topic == settings.transactions_topic for (topic, _), offset in offsets.items() if offset > 0):
        raise InvalidStore(
            f"{directory} holds no states, but the group {settings.group} has already scored up "
            f"to {', '.join(done)}: all of it would be scored a second time. Restore the recovery directory; or fill "
            f"this one from the topics, which goes on from there (`just warm --from-topics -r {directory}`); or set "
            "KAFKA_GROUP_ID to another name to score everything anew"
        )
