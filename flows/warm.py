"""A recovery store with a past: windows that are full before the flow scores its first transaction.

    python -m flows.warm DATA -r recovery              from a history, as for training
    python -m flows.warm --from-topics -r recovery     from what the topics hold, such as after the store was lost

The flow that then starts on this store goes on where the past ends: it neither skips a transaction nor repeats one.
The past goes into the store's journal, from which the flow makes its windows at every start. A run that does not end
well leaves a store that the flow refuses and that the next run empties.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from features.bundle import Bundle, load
from features.definitions import reach
from features.errors import InvalidHistory, InvalidSetting, KafkaFailure, VigieError
from features.history import column_map
from features.history import load as load_history
from features.transaction import MICROSECOND, microseconds, rfc3339
from flows import handover, logs, past, seam, stop, store, tail, topics
from flows.invocation import Invocation
from flows.journal import Memory
from flows.lanes import PartitionId
from flows.settings import Settings, instant
from flows.source import KafkaSource, Positions
from flows.warming import PastSource, Taken, run

_log = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """What there is to say of a past.

    ``offsets``: where the flow begins to read the transactions topic. ``begins``: where its part of the outputs does.
    """

    taken: Taken
    offsets: list[int]
    begins: store.Ends
    notes: list[str]


def from_history(settings: Settings, bundle: Bundle, directory: Path, history: past.History) -> Outcome:
    """Fills a new store with the states that a history leaves; its labels as far as they were known at its end.

    Where the flow's group has scored beyond the history, what lies between is read from the topics. Else the labels
    topic is read from its beginning by the flow, since labels may repeat. Raises ``InvalidHistory`` where the topic
    goes on from the history in a way that the flow could not follow, and ``InvalidStore``, ``KafkaFailure``.
    """
    end = past.end_of(history)
    if end > (latest := microseconds(datetime.now(UTC) + settings.future_tolerance)):
        raise InvalidHistory(
            f"the history ends at {rfc3339(end)}, later than {rfc3339(latest)}: everything that comes would be "
            "too_late; check the time zone of the export (timestamps without an offset are taken as UTC)"
        )
    topic = settings.transactions_topic
    seams = seam.find(settings, end, lambda: past.instants_of(history))
    seam.check(settings, seams)
    lateness = settings.allowed_lateness // MICROSECOND
    offsets = {(topic, number): each.offset for number, each in enumerate(seams)}
    done = {key: offset for key, offset in handover.committed(settings).offsets.items() if key in offsets}
    if unscored := sum(max(0, offsets[key] - offset) for key, offset in done.items()):
        raise InvalidHistory(
            f"the history holds {unscored:,} records of {topic} that the group {settings.group} has not scored yet, "
            "and never would: end the history before them, or set KAFKA_GROUP_ID to another name"
        )
    positions = Positions(
        offsets | topics.beginnings(settings, [settings.labels_topic]),
        {(topic, number): each.lead for number, each in enumerate(seams)},
        max(0, end - lateness),
        microseconds(datetime.now(UTC)),
    )
    # What no window and no memory of ids reaches leaves nothing in the states.
    span = max(reach(bundle.features) + settings.allowed_lateness, settings.duplicate_horizon)
    recent = past.since(history, end - span // MICROSECOND)
    events = past.events_of(recent, timedelta(seconds=bundle.manifest.label_delay_seconds))
    owner, memory, place = _filled_by_this(settings, bundle, directory)
    goes_on = _until(settings, "committed") if done else None
    begins = goes_on.begins if goes_on else topics.ends(settings, settings.outputs)
    begins = store.begin(directory, owner, begins)
    taken = run(PastSource(events, positions, lateness, memory), settings, directory)
    later = int(recent["is_fraud"].sum()) - taken.labels
    known, new = sum(each.known for each in seams), sum(each.new for each in seams)
    notes = [
        f"the history holds {len(history):,} transactions; windows reach those of the last {span}",
        f"{later:,} labels of frauds became known after its end: they are left to {settings.labels_topic}",
        f"{known:,} records of {topic} are part of the history, {new:,} are not",
    ]
    if too_late := sum(each.too_late for each in seams):
        notes.append(
            f"{too_late:,} that are not are older than {rfc3339(positions.watermark)}, the end of the history less the "
            "allowed lateness: the flow will reject them as too_late; export the history anew if it should hold them"
        )
    if goes_on is None or stop.requested.is_set():
        return Outcome(taken, [each.offset for each in seams], begins, notes)
    between = run(KafkaSource(settings, place, memory, until=goes_on.ends), settings, directory)
    notes.append(f"the group has scored {between.transactions:,} transactions since: they are taken in from {topic}")
    begins = _open_ends(settings, begins, between, goes_on.ends)
    return Outcome(taken.followed_by(between), goes_on.offsets(topic), begins, notes)


def from_topics(settings: Settings, bundle: Bundle, directory: Path, until: str) -> Outcome:
    """Fills a new store with the states that the topics leave, read up to ``until``: committed, end, or a time.

    What an earlier flow had written of what lies beyond is found in the output topics, and will not be written again.
    """
    ends, begins, notes = end = _until(settings, until)
    topic = settings.transactions_topic
    lows = topics.beginnings(settings, settings.topics[:2])
    if until == "committed" and (gone := sum(max(0, low - ends[key]) for key, low in lows.items())):
        raise KafkaFailure(
            f"Kafka no longer holds {gone:,} records beyond the committed offsets: they would be skipped; restore "
            "them, or go on without them: --until 1970-01-01T00:00:00Z starts at what is left, with empty windows"
        )
    owner, memory, place = _filled_by_this(settings, bundle, directory)
    begins = store.begin(directory, owner, begins)
    first = Positions(lows, {}, 0, 1)  # whatever was ever rejected as ahead of the clock stays so
    taken = run(KafkaSource(settings, place, memory, first, ends), settings, directory)
    wanted = reach(bundle.features) + settings.allowed_lateness
    cut = any(low for (of, _), low in lows.items() if of == topic)
    if cut and taken.transactions and (found := taken.span()) < wanted:
        notes.append(
            f"{topic} has lost its beginning, and what is left until there covers {found}, from "
            f"{rfc3339(taken.oldest)} on; windows reach {wanted} back, so features will be wrong for "
            f"{wanted - found}: fill the store from a history instead, or raise the topic's retention.ms"
        )
    begins = _open_ends(settings, begins, taken, ends)
    return Outcome(taken, end.offsets(topic), begins, notes)


def _filled_by_this(settings: Settings, bundle: Bundle, directory: Path) -> tuple[store.Owner, Memory, Invocation]:
    """Whose store it is, where its past goes, and the one process that fills it."""
    owner = store.Owner(reach(bundle.features) // MICROSECOND, topics.ids(settings))
    return owner, Memory(directory / store.JOURNAL, owner.reach), Invocation(directory, 0, 1, "0")


def _open_ends(settings: Settings, begins: store.Ends, taken: Taken, ends: Mapping[PartitionId, int]) -> store.Ends:
    """Where the outputs begin, less the records that are done with: the flow would look for them for ever."""
    done = set(taken.latest)

    def is_done(identity: bytes) -> bool:
        topic, _, place = identity.decode(errors="replace").partition("\n")
        number, _, offset = place.partition("\n")
        if topic in settings.topics[:2] and number.isdigit() and offset.isdigit():
            return int(offset) < ends.get((topic, int(number)), 0)
        return identity in done

    return {
        topic: [tail.first_open(settings, topic, number, begin, is_done) for number, begin in enumerate(of_topic)]
        for topic, of_topic in begins.items()
    }


class End(NamedTuple):
    """Where a past ends: ``ends`` of the input topics; where the outputs begin to be the next flow's; what to note."""

    ends: dict[PartitionId, int]
    begins: store.Ends
    notes: list[str]

    def offsets(self, topic: str) -> list[int]:
        """The ends of one topic, by partition."""
        return [offset for (of, _), offset in sorted(self.ends.items()) if of == topic]


def _until(settings: Settings, until: str) -> End:
    inputs, outputs = settings.topics[:2], settings.outputs
    lows = topics.beginnings(settings, inputs)
    found = handover.committed(settings)
    of_group = {key: offset for key, offset in found.offsets.items() if key in lows}
    if until == "committed":
        if not any(topic == settings.transactions_topic for topic, _ in of_group):
            raise KafkaFailure(
                f"the group {settings.group} has committed no offsets of {settings.transactions_topic}, so nobody "
                "knows how far the flow had come; set KAFKA_GROUP_ID, or give --until end or a time"
            )
        if found.at is None:
            note = "the commits do not say of when they are: the output topics are searched from their beginning"
            return End(
                lows | of_group, {name: [0] * len(e) for name, e in topics.ends(settings, outputs).items()}, [note]
            )
        return End(lows | of_group, handover.offsets_at(settings, outputs, found.at - handover.CLOCKS_APART), [])
    if until == "end":
        begins, ends = topics.ends(settings, outputs), topics.ends(settings, inputs)
    else:
        try:
            moment = instant(until)
        except ValueError as error:
            raise InvalidSetting(f"--until is {until!r}; give committed, end, or an instant: {error}") from error
        begins = handover.offsets_at(settings, outputs, moment - handover.CLOCKS_APART)
        ends = handover.offsets_at(settings, inputs, moment)
    places = {(topic, number): offset for topic, of_topic in ends.items() for number, offset in enumerate(of_topic)}
    unscored = sum(
        max(0, places[key] - max(lows[key], offset))
        for key, offset in of_group.items()
        if key[0] == settings.transactions_topic
    )
    notes = [f"up to {unscored:,} records beyond the committed offsets are taken in and never scored"]
    return End(places, begins, notes if unscored else [])


def _report(outcome: Outcome, settings: Settings, directory: Path, seconds: float) -> None:
    taken, offsets, _, notes = outcome
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    places = ", ".join(f"[{number}] {offset:,}" for number, offset in enumerate(offsets))
    for note in notes:
        print(f"- {note}")
    print(
        f"{len(taken.accounts):,} accounts and {len(taken.merchants):,} merchants know {taken.transactions:,} "
        f"transactions and {taken.labels:,} labels, up to {rfc3339(taken.newest) if taken.transactions else 'now'}\n"
        f"the flow begins to read {settings.transactions_topic} at {places}\n"
        f"{directory}: {size / 2**20:,.1f} MiB in {seconds:.1f} s\n"
        f"next: just score -r {directory}"
    )


def _stopped(directory: Path) -> int:
    print(f"warm: stopped; {directory} is not filled: run this again", file=sys.stderr)
    return 130


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser("python -m flows.warm", description="Fill a recovery store with the past.")
    parser.add_argument("data", type=Path, nargs="?", help="a history, .parquet or .csv")
    parser.add_argument("--columns", type=Path, help="a column map, such as features/columns/handbook.toml")
    parser.add_argument("--column", action="append", default=[], metavar="NAME=COLUMN", help="one column of the map")
    parser.add_argument("--from-topics", action="store_true", help="the past is what the topics hold")
    parser.add_argument("--until", help="committed (the default: by the flow's group), end, or a time")
    parser.add_argument("-r", "--recovery-directory", type=Path, default=os.environ.get("BYTEWAX_RECOVERY_DIRECTORY"))
    options = parser.parse_args(arguments)
    if (options.data is None) is not options.from_topics or (options.until and not options.from_topics):
        parser.error("give either a history, or --from-topics, which --until belongs to")
    if options.recovery_directory is None:
        parser.error("give the store to fill: -r recovery")
    directory: Path = options.recovery_directory
    began = time.perf_counter()
    try:
        settings = Settings.from_environment(os.environ)
        logs.set_up(settings.log_level, settings.log_directory, "warm")
        bundle = load(settings.model)
        if options.from_topics:
            outcome = from_topics(settings, bundle, directory, options.until or "committed")
        else:
            history = load_history(options.data, column_map(options.columns, options.column), labelled=False)
            outcome = from_history(settings, bundle, directory, history)
        if stop.requested.is_set():
            return _stopped(directory)
        store.finish(directory, outcome.begins)
    except (VigieError, OSError) as error:
        print(f"warm: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return _stopped(directory)
    _report(outcome, settings, directory, time.perf_counter() - began)
    return 0


if __name__ == "__main__":
    sys.exit(main())
