"""The flow: transactions and labels in; scored transactions, alerts and rejected messages out.

    python -m bytewax.run flows.score

The ids of the stateful steps are the names under which Bytewax keeps their state: a step whose state changes its form
gets a new number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import bytewax.operators as op
from bytewax.dataflow import Dataflow, Stream

from features.definitions import Entity, Feature
from features.errors import VigieError
from features.transaction import Transaction
from flows.messages import Messages
from flows.records import Arrival, Candidate, Rejection, Tick
from flows.settings import Settings
from flows.sink import KafkaSink
from flows.source import KafkaSource
from flows.start import start
from flows.windows import AccountLogic, EntityStep, Gather, MerchantLogic, gather_key

A = TypeVar("A")


def flow() -> Dataflow:
    """The whole pipeline, from Kafka to Kafka, as the environment sets it; ``bytewax.run`` calls this."""
    try:
        settings, bundle, model, outbox, first, begins = start()
    except VigieError as error:
        raise SystemExit(f"vigie: {error}") from error
    messages = Messages(model, scored_features=settings.scored_features)
    scored_topic, rejected_topic = settings.outputs

    vigie = Dataflow("vigie")
    read = op.input("read_v1", vigie, KafkaSource(settings, first))  # Arrival | Rejection | Tick
    candidates, rejected = with_features(read, bundle.features, settings)
    decisions = op.flat_map_batch("score", candidates, model.score)  # Decision
    scored = op.flat_map_batch("scored_message", decisions, messages.scored)  # (account_id, Outgoing with its alert)
    refused = op.map("rejected_message", rejected, messages.rejected)  # (original key, Outgoing)
    scores = KafkaSink(settings, scored_topic, outbox, begins.get(scored_topic), alerts=settings.alerts_topic)
    op.output("scored_v1", scored, scores)
    op.output("rejected_v1", refused, KafkaSink(settings, rejected_topic, outbox, begins.get(rejected_topic), cut=True))
    return vigie


def with_features(
    read: Stream[Arrival | Rejection | Tick], features: Sequence[Feature], settings: Settings
) -> tuple[Stream[Candidate], Stream[Rejection]]:
    """Each transaction with its features, once; and what cannot be scored."""
    accounts = EntityStep(Entity.ACCOUNT, AccountLogic, features, settings)
    merchants = EntityStep(Entity.MERCHANT, MerchantLogic, features, settings)

    arrivals, unreadable, ticks = only(read, Arrival), only(read, Rejection), only(read, Tick)
    by_account = op.filter_map("by_account", arrivals, by_account_id)  # (account_id, Arrival)
    by_merchant = op.map("by_merchant", arrivals, by_merchant_id)  # (merchant_id, Arrival)
    everywhere = op.redistribute("everywhere", ticks)
    idle_accounts = op.flat_map("idle_accounts", everywhere, accounts.idle.due)  # (account_id, None)
    idle_merchants = op.flat_map("idle_merchants", everywhere, merchants.idle.due)  # (merchant_id, None)

    account_parts = op.stateful_batch("account_windows_v1", op.merge("accounts", by_account, idle_accounts), accounts)
    merchant_parts = op.stateful_batch(
        "merchant_windows_v1", op.merge("merchants", by_merchant, idle_merchants), merchants
    )
    parts = op.map("by_gather_key", op.merge("parts", account_parts, merchant_parts), gather_key)
    gathered = op.key_rm("gathered", op.stateful_batch("gather_v1", parts, Gather))  # Candidate | Rejection
    return only(gathered, Candidate), op.merge("rejected", unreadable, only(gathered, Rejection))


def only(stream: Stream[object], kind: type[A]) -> Stream[A]:
    """The stream's items of one type."""
    step_id = f"{stream.stream_id.split('.')[1]}_{kind.__name__.lower()}"
    return op.filter_map(step_id, stream, lambda item: item if isinstance(item, kind) else None)


def by_account_id(arrival: Arrival) -> tuple[str, Arrival] | None:
    """A transaction under its account; labels have nothing to say there."""
    return (arrival.event.account_id, arrival) if isinstance(arrival.event, Transaction) else None


def by_merchant_id(arrival: Arrival) -> tuple[str, Arrival]:
    """A transaction or label under its merchant."""
    return arrival.event.merchant_id, arrival
