"""The flow: transactions and labels in; scored transactions, alerts and rejected messages out.

    python -m bytewax.run flows.score

What moves between the steps are batches (``flows.records``). The ids of the stateful steps are the names under which
Bytewax keeps their state: a step whose state changes its form gets a new number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import bytewax.operators as op
from bytewax.dataflow import Dataflow, Stream

from features.definitions import Entity, Feature
from features.errors import VigieError
from features.plan import Plan
from flows.messages import Messages
from flows.pulse import Pulse
from flows.records import Beat, Candidates, ForAccounts, ForMerchants, MerchantRows, Rejection
from flows.sink import KafkaSink
from flows.source import Item, KafkaSource
from flows.start import start
from flows.windows import AccountWindows, MerchantWindows

A = TypeVar("A")


def flow() -> Dataflow:
    """The whole pipeline, from Kafka to Kafka, as the environment sets it; ``bytewax.run`` calls this."""
    try:
        settings, place, bundle, model, outbox, memory, first, begins, vitals = start()
    except VigieError as error:
        raise SystemExit(f"vigie: {error}") from error
    messages = Messages(model, scored_features=settings.scored_features)
    scored_topic, rejected_topic = settings.outputs

    vigie = Dataflow("vigie")
    looked_at = Plan(bundle.features, Entity.MERCHANT).fields
    source = KafkaSource(settings, place, memory, first, busy=outbox.busy, texts=looked_at)
    read = op.input("read_v2", vigie, source)  # Items
    candidates = with_features(read, bundle.features)
    decisions = op.map("score", candidates, model.score)  # Decisions
    scored = op.map("scored_messages", decisions, messages.scored)  # lists of Outgoing, each with its alert
    refused = op.map("rejected_messages", only(read, Rejection), messages.rejected)  # lists of Outgoing
    scores = KafkaSink(settings, scored_topic, outbox, begins.get(scored_topic), alerts=settings.alerts_topic)
    rejects = KafkaSink(settings, rejected_topic, outbox, begins.get(rejected_topic), cut=True)
    op.output("scored_v1", op.flat_map("scored_by_partition", scored, scores.by_partition), scores)
    op.output("rejected_v1", op.flat_map("rejected_by_partition", refused, rejects.by_partition), rejects)
    op.stateful_batch("pulse_v1", op.key_on("beat_by_shard", only(read, Beat), by_shard), lambda _: Pulse(vitals))
    return vigie


def with_features(read: Stream[Item], features: Sequence[Feature]) -> Stream[Candidates]:
    """Each transaction with its features, once."""
    for_merchants = op.key_on("by_merchant", only(read, ForMerchants), by_shard)
    merchants = op.stateful_batch("merchant_windows_v2", for_merchants, lambda _: MerchantWindows(features))
    rows = op.key_on("back_by_account", op.key_rm("merchant_rows", merchants), by_shard)  # MerchantRows
    for_accounts = op.key_on("by_account", only(read, ForAccounts), by_shard)
    both: op.KeyedStream[ForAccounts | MerchantRows] = op.merge("accounts", for_accounts, rows)
    accounts = op.stateful_batch("account_windows_v2", both, lambda _: AccountWindows(features))
    return op.key_rm("candidates", accounts)


def only(stream: Stream[object], kind: type[A]) -> Stream[A]:
    """The stream's items of one type."""
    step_id = f"{stream.stream_id.split('.')[1]}_{kind.__name__.lower()}"
    return op.filter_map(step_id, stream, lambda item: item if isinstance(item, kind) else None)


def by_shard(part: ForAccounts | ForMerchants | MerchantRows | Beat) -> str:
    """The worker that it goes to."""
    return part.key
