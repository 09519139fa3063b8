"""PyFlink's DataStream API: Kafka ends of its own in Java, states by account, then by merchant, in Python.

Parallelism 1, a checkpoint each second, at-least-once at the sink: with exactly-once a score would be readable only
after the next checkpoint. A state is kept as the object, which PyFlink pickles when a bundle of events ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from pyflink.common import Configuration, Types, WatermarkStrategy
from pyflink.common.serialization import SimpleStringSchema
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.datastream.connectors.base import DeliveryGuarantee
from pyflink.datastream.connectors.kafka import (
    KafkaOffsetsInitializer,
    KafkaRecordSerializationSchema,
    KafkaSink,
    KafkaSource,
)
from pyflink.datastream.functions import KeyedProcessFunction, RuntimeContext
from pyflink.datastream.state import ValueStateDescriptor

from bench.peers.features import PeerFeatures
from bench.peers.scoring import ANY_TIME, Place, Scorer
from features.bundle import load
from features.definitions import Entity
from features.transaction import Transaction, parse_transaction

Row = tuple[Transaction, list[float]]


class Account(KeyedProcessFunction):
    """The account's windows."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def open(self, runtime_context: RuntimeContext) -> None:
        """On the worker."""
        self._features = PeerFeatures(load(self._place.model).features)
        self._state = runtime_context.get_state(ValueStateDescriptor("account", Types.PICKLED_BYTE_ARRAY()))

    def process_element(self, value: Transaction, ctx: KeyedProcessFunction.Context) -> Iterator[Row]:  # noqa: ARG002
        """The transaction with its own and its account's features."""
        state = self._state.value()
        if state is None:
            state = self._features.new(Entity.ACCOUNT)
        row = self._features.of_account(state, value)
        self._state.update(state)
        yield value, row


class Merchant(KeyedProcessFunction):
    """The merchant's windows, and the score."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def open(self, runtime_context: RuntimeContext) -> None:
        """On the worker."""
        self._scorer = Scorer(self._place.model)
        self._features = PeerFeatures(self._scorer.bundle.features)
        self._state = runtime_context.get_state(ValueStateDescriptor("merchant", Types.PICKLED_BYTE_ARRAY()))

    def process_element(self, value: Row, ctx: KeyedProcessFunction.Context) -> Iterator[str]:  # noqa: ARG002
        """The message for the scored topic."""
        transaction, row = value
        state = self._state.value()
        if state is None:
            state = self._features.new(Entity.MERCHANT)
        row = row + self._features.of_merchant(state, transaction)
        self._state.update(state)
        (scores,) = self._scorer.scores([row])
        yield self._scorer.message(transaction, *scores).decode()


def main() -> None:
    """Runs until it is killed."""
    place = Place.from_environment()
    settings: dict[str, Any] = {
        "pipeline.jars": f"file://{os.environ['BENCH_FLINK_CONNECTOR']}",
        "parallelism.default": os.environ.get("BENCH_FLINK_PARALLELISM", "1"),
        "execution.checkpointing.interval": "1s",
        "execution.checkpointing.dir": f"file://{place.state}",
        "rest.port": "0",
        # The default of 1000 keys would have most states fetched from the JVM again for each event.
        "python.state.cache-size": "200000",
    }
    if os.environ["BENCH_LIVE"] == "1":
        # Milliseconds until a bundle that is not full goes to Python: by default a second, which would be all latency.
        settings["python.fn-execution.bundle.time"] = "100"
    configuration = Configuration()
    for name, value in settings.items():
        configuration.set_string(name, value)
    environment = StreamExecutionEnvironment.get_execution_environment(configuration)
    source = (
        KafkaSource.builder()
        .set_bootstrap_servers(place.bootstrap)
        .set_topics(place.transactions)
        .set_group_id(place.group)
        .set_starting_offsets(KafkaOffsetsInitializer.earliest())
        .set_value_only_deserializer(SimpleStringSchema())
        .build()
    )
    sink = (
        KafkaSink.builder()
        .set_bootstrap_servers(place.bootstrap)
        .set_record_serializer(
            KafkaRecordSerializationSchema.builder()
            .set_topic(place.scored)
            .set_value_serialization_schema(SimpleStringSchema())
            .build()
        )
        .set_delivery_guarantee(DeliveryGuarantee.AT_LEAST_ONCE)
        .build()
    )
    stream = environment.from_source(source, WatermarkStrategy.no_watermarks(), "transactions")
    (
        stream.map(lambda text: parse_transaction(text.encode(), ANY_TIME))
        .key_by(lambda transaction: transaction.account_id, Types.STRING())
        .process(Account(place))
        .key_by(lambda row: row[0].merchant_id, Types.STRING())
        .process(Merchant(place), Types.STRING())
        .sink_to(sink)
    )
    environment.execute("scores")


if __name__ == "__main__":
    main()
