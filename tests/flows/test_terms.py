"""What must be the same in all processes, and what may differ."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from features.bundle import load
from flows import terms
from flows.invocation import Invocation
from flows.settings import Settings
from tests.flows import bundles

PLACE = Invocation(None, 1, 2, "1", ("a:1", "b:1"))


def differing(one: dict[str, str], other: dict[str, str]) -> set[str]:
    return {name for name in {**one, **other} if one.get(name) != other.get(name)}


def test_every_setting_counts_but_those_that_may_differ(tmp_path: Path) -> None:
    bundle = load(bundles.make(tmp_path))
    settings = Settings.from_environment({})
    ours = terms.of_process(settings, PLACE, bundle)
    names = {each.name for each in fields(settings)}
    assert names > terms.FREE
    for name in names:
        other: dict[str, Any] = {name: "another"}
        if name == "kafka":
            other = {name: {**settings.kafka, "security.protocol": "ssl"}}
        theirs = terms.of_process(replace(settings, **other), PLACE, bundle)
        assert differing(ours, theirs) == (set() if name in terms.FREE else {f"VIGIE_{name.upper()}"})


def test_no_secret_is_told(tmp_path: Path) -> None:
    settings = Settings.from_environment({"KAFKA_SASL_PASSWORD": "hush"})
    assert "hush" not in str(terms.of_process(settings, PLACE, load(bundles.make(tmp_path))))


def test_kafka_the_model_and_the_place_count(tmp_path: Path) -> None:
    bundle = load(bundles.make(tmp_path))
    settings = Settings.from_environment({})
    ours = terms.of_process(settings, PLACE, bundle)
    elsewhere = Settings.from_environment({"KAFKA_BOOTSTRAP_SERVERS": "k:1", "KAFKA_GROUP_ID": "g"})
    assert differing(ours, terms.of_process(elsewhere, PLACE, bundle)) == {"KAFKA_BOOTSTRAP_SERVERS", "KAFKA_GROUP_ID"}
    three = Invocation(Path("r"), 1, 3, "1", ("a:1", "b:1", "c:1"))
    assert differing(ours, terms.of_process(settings, three, bundle)) == {
        "the number of processes",
        "a recovery directory (-r)",
    }
