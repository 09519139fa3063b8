from __future__ import annotations

import dataclasses
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.definitions import (
    DAY,
    FEATURES,
    LABEL_DELAY,
    Aggregate,
    Entity,
    Feature,
    feature_set,
    fingerprint,
    reach,
)
from features.errors import InvalidSetting
from tests.features.histories import TINY

MEAN_7D = Feature(Entity.ACCOUNT, Aggregate.MEAN, 7 * DAY)
spans = st.timedeltas(timedelta(microseconds=1), timedelta(days=400))


def test_names_are_unique() -> None:
    for features in (FEATURES, TINY, feature_set(timedelta(hours=36))):
        names = [feature.name for feature in features]
        assert len(set(names)) == len(names)


def test_names_say_entity_aggregate_window_and_delay() -> None:
    names = {feature.name for feature in FEATURES}
    assert {
        "amount",
        "hour",
        "weekend",
        "night",
        "account_count_1d",
        "account_amount_mean_7d",
        "account_amount_zscore_30d",
        "account_seconds_since_previous_30d",
        "account_device_new_30d",
        "account_merchant_distinct_30d",
        "merchant_amount_mean_1d",
        "merchant_fraud_ratio_30d_delay_7d",
    } <= names


@pytest.mark.parametrize(
    ("span", "brief"),
    [
        (timedelta(days=30), "30d"),
        (timedelta(hours=24), "1d"),
        (timedelta(hours=36), "36h"),
        (timedelta(minutes=90), "90m"),
        (timedelta(seconds=90), "90s"),
        (timedelta(milliseconds=1500), "1500000us"),
        (timedelta(microseconds=1), "1us"),
    ],
)
def test_a_span_is_named_by_its_largest_whole_unit(span: timedelta, brief: str) -> None:
    assert dataclasses.replace(MEAN_7D, window=span).name == f"account_amount_mean_{brief}"
    assert dataclasses.replace(MEAN_7D, delay=span).name == f"account_amount_mean_7d_delay_{brief}"


@given(spans, spans)
def test_different_spans_never_share_a_name(one: timedelta, other: timedelta) -> None:
    names = {dataclasses.replace(MEAN_7D, window=one).name, dataclasses.replace(MEAN_7D, window=other).name}
    assert len(names) == (1 if one == other else 2)


@pytest.mark.parametrize("feature", [MEAN_7D, *FEATURES], ids=lambda feature: feature.name)
def test_whatever_changes_in_a_spec_changes_its_name_and_the_fingerprint(feature: Feature) -> None:
    changed = [dataclasses.replace(feature, aggregate=other) for other in Aggregate if other is not feature.aggregate]
    if feature.window is not None:
        others = {Entity.ACCOUNT, Entity.MERCHANT} - {feature.entity}
        changed += [dataclasses.replace(feature, entity=other) for other in others]
        changed += [
            dataclasses.replace(feature, window=feature.window + timedelta(microseconds=1)),
            dataclasses.replace(feature, delay=feature.delay + timedelta(microseconds=1)),
            dataclasses.replace(feature, field="channel"),
            dataclasses.replace(feature, reference=timedelta(days=100)),
        ]
    specs = [feature, *changed]
    assert len({spec.name for spec in specs}) == len(specs)
    assert len({fingerprint([spec]) for spec in specs}) == len(specs)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Feature)])
def test_every_field_of_a_spec_is_among_those_changed_above(name: str) -> None:
    assert name in {"entity", "aggregate", "window", "delay", "field", "reference"}


def test_fields_that_differ_by_their_suffix_alone_have_different_fingerprints() -> None:
    with_id, without = (Feature(Entity.ACCOUNT, Aggregate.NEW, DAY, field=f) for f in ("device_id", "device"))
    assert fingerprint([with_id]) != fingerprint([without])


@given(st.permutations(FEATURES[:8]), st.integers(0, 7))
def test_the_fingerprint_is_of_the_features_in_their_order(shuffled: list[Feature], left_out: int) -> None:
    same = shuffled == list(FEATURES[:8])
    assert (fingerprint(shuffled) == fingerprint(FEATURES[:8])) == same
    assert fingerprint(shuffled) != fingerprint(shuffled[:left_out] + shuffled[left_out + 1 :])


def test_the_fingerprint_is_the_same_in_another_process() -> None:
    # Text hashes differ between processes; a digest of the specs must not.
    code = "from features.definitions import FEATURES, fingerprint; print(fingerprint(FEATURES))"
    project = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == fingerprint(FEATURES)


def test_the_label_delay_moves_the_features_of_labels_alone() -> None:
    standard, quick = feature_set(), feature_set(DAY)
    assert standard == FEATURES == feature_set(LABEL_DELAY)
    moved = [(old, new) for old, new in zip(standard, quick, strict=True) if old != new]
    assert len(moved) == 14
    for old, new in moved:
        assert old == dataclasses.replace(new, delay=LABEL_DELAY)
        assert old.entity is Entity.MERCHANT
    assert fingerprint(standard) != fingerprint(quick)


@given(spans)
def test_no_label_delay_gives_two_features_one_name(delay: timedelta) -> None:
    names = [feature.name for feature in feature_set(delay)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("delay", [timedelta(0), timedelta(days=-7)])
def test_a_label_delay_that_is_not_positive_is_refused(delay: timedelta) -> None:
    with pytest.raises(InvalidSetting, match=str(delay)):
        feature_set(delay)


def test_bounds_are_offsets_of_the_first_and_beyond_the_last_event_inside() -> None:
    second = 1_000_000
    assert Feature(Entity.ACCOUNT, Aggregate.COUNT, timedelta(seconds=5)).bounds == (1, 5 * second)
    delayed = Feature(Entity.MERCHANT, Aggregate.COUNT, timedelta(seconds=5), timedelta(seconds=2))
    assert delayed.bounds == (2 * second, 7 * second)
    known = Feature(Entity.MERCHANT, Aggregate.KNOWN_FRAUD_COUNT, timedelta(seconds=5), timedelta(seconds=2))
    assert known.bounds == (1, 7 * second)
    with pytest.raises(ValueError, match="hour has no window"):
        _ = Feature(Entity.TRANSACTION, Aggregate.HOUR).bounds


def test_reach_is_the_longest_look_back() -> None:
    assert reach(FEATURES) == reach(FEATURES, Entity.ACCOUNT) == 90 * DAY
    assert reach(FEATURES, Entity.MERCHANT) == 37 * DAY
    assert reach(FEATURES, Entity.TRANSACTION) == timedelta(0)
    assert reach([]) == timedelta(0)
    assert reach([dataclasses.replace(MEAN_7D, delay=DAY), MEAN_7D]) == 8 * DAY
    assert reach([Feature(Entity.ACCOUNT, Aggregate.TREND, DAY, reference=9 * DAY), MEAN_7D]) == 9 * DAY


def test_a_feature_of_the_contract_is_there_for_each_demand() -> None:
    """The least that the features must hold, by entity, aggregate and window."""
    have = {(f.entity, f.aggregate, f.window, f.delay, f.field) for f in FEATURES}
    own = {Aggregate.AMOUNT, Aggregate.HOUR, Aggregate.WEEKEND, Aggregate.NIGHT}
    wanted: set[tuple[Entity, Aggregate, timedelta | None, timedelta, str | None]] = set()
    wanted |= {(Entity.TRANSACTION, aggregate, None, timedelta(0), None) for aggregate in own}
    for days in (1, 7, 30):
        of_account = {Aggregate.COUNT, Aggregate.SUM, Aggregate.MEAN, Aggregate.STD, Aggregate.RATIO, Aggregate.ZSCORE}
        wanted |= {(Entity.ACCOUNT, a, days * DAY, timedelta(0), None) for a in of_account}
        wanted |= {(Entity.MERCHANT, a, days * DAY, timedelta(0), None) for a in (Aggregate.COUNT, Aggregate.MEAN)}
        delayed = {Aggregate.COUNT, Aggregate.FRAUD_COUNT, Aggregate.FRAUD_RATIO}
        wanted |= {(Entity.MERCHANT, a, days * DAY, 7 * DAY, None) for a in delayed}
    wanted.add((Entity.ACCOUNT, Aggregate.SINCE, 30 * DAY, timedelta(0), None))
    for field in ("merchant_id", "device_id", "location"):
        wanted |= {(Entity.ACCOUNT, a, 30 * DAY, timedelta(0), field) for a in (Aggregate.NEW, Aggregate.DISTINCT)}
    assert wanted <= have
