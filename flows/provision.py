"""The flow's topics, made as they should be, by who may make topics.

    python -m flows.provision --partitions 12 --replication-factor 3 --min-insync-replicas 2 --retention 100d

Makes those that are missing and changes none that is there, since what is right for a topic with records in it is a
person's decision: where one differs, that is said, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin._config import ConfigResource

from features.errors import KafkaFailure, VigieError
from flows import topics
from flows.settings import Settings, span
from flows.topics import Making

RETENTION: Final = "retention.ms"
IN_SYNC: Final = "min.insync.replicas"


def provision(settings: Settings, making: Making) -> list[str]:
    """Makes the topics that are missing; what of those that are there is not as given, in words.

    Raises ``KafkaFailure`` where Kafka does not answer, or does not let them be made.
    """
    found = topics.partitions(replace(settings, create_topics=True), settings.topics, making)
    wanted: dict[str, str] = {"partitions": str(settings.topic_partitions), **making.config}
    if making.replication_factor > 0:
        wanted["replicas"] = str(making.replication_factor)
    actual = _actual(settings, making.config)
    return [
        f"{topic} has {name} {now.get(name)}, not {value}"
        for topic, count in found.items()
        for now in [{"partitions": str(count), **actual[topic]}]
        for name, value in wanted.items()
        if now.get(name) != value
    ]


def _actual(settings: Settings, names: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Of each topic the number of replicas and its values of these names."""
    admin = topics.client(settings)
    described = admin.describe_topics(TopicCollection(list(settings.topics)), request_timeout=settings.patience)
    resources = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in settings.topics]
    configured = admin.describe_configs(resources, request_timeout=settings.patience)
    try:
        values = {resource.name: answer.result() for resource, answer in configured.items()}
        return {
            topic: {
                "replicas": str(len(future.result().partitions[0].replicas)),
                **{name: str(values[topic][name].value) for name in names},
            }
            for topic, future in described.items()
        }
    except KafkaException as error:
        raise KafkaFailure(
            f"{settings.bootstrap} does not describe its topics ({error.args[0].str()}); allow this client "
            "Describe and DescribeConfigs on them"
        ) from error


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    command = argparse.ArgumentParser("python -m flows.provision", description="Make the flow's topics.")
    add = command.add_argument
    add("--partitions", type=_count, metavar="N", help="of each topic (VIGIE_TOPIC_PARTITIONS)")
    add("--replication-factor", type=_count, metavar="N", help="copies of each partition (as the broker has it)")
    add("--min-insync-replicas", type=_count, metavar="N", help="copies that must have a record (as the broker has it)")
    add("--retention", type=_milliseconds, metavar="SPAN", help="how long records are kept: 7d, 36h (as the broker)")
    return command


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _milliseconds(text: str) -> int:
    try:
        return round(span(text).total_seconds() * 1000)
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a span such as 36h or 7d") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 0, 1 where a topic that is there differs, 2 where it could not be done."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = {RETENTION: options.retention, IN_SYNC: options.min_insync_replicas}
    making = Making(options.replication_factor or -1, {name: str(value) for name, value in config.items() if value})
    try:
        settings = Settings.from_environment(os.environ)
        settings = replace(settings, topic_partitions=options.partitions or settings.topic_partitions)
        differences = provision(settings, making)
    except VigieError as error:
        print(f"vigie: {error}", file=sys.stderr)
        return 2
    for difference in differences:
        print(f"vigie: topic {difference}; change it by hand, or what is asked for", file=sys.stderr)
    if not differences:
        print(f"topics {', '.join(settings.topics)} are as they should be")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
