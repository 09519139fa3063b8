"""Every feature has words for every value, derived from its spec; and they say what they should."""

from __future__ import annotations

import math
import re
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.definitions import DAY, Aggregate, Entity, Feature, feature_set
from features.sentences import sentence

ACCOUNT, MERCHANT = Entity.ACCOUNT, Entity.MERCHANT
DELAYS = [timedelta(microseconds=1), timedelta(seconds=90), timedelta(hours=36), DAY, 7 * DAY, 100 * DAY]
NAN = math.nan


@pytest.mark.parametrize("delay", DELAYS, ids=str)
def test_every_feature_has_words_for_values_for_zero_and_for_missing(delay: timedelta) -> None:
    features = feature_set(delay)
    for feature in features:
        words = {}
        for value in (1.0, 3.25, 0.0, NAN):
            # Alone, and beside all others of its row.
            for row in ({feature: value}, dict.fromkeys(features, value)):
                text = sentence(feature, row)
                words[value, len(row)] = text
                assert 8 < len(text) <= 110, text
                assert text == " ".join(text.split())
                assert not re.search(r"nan|None|_|-0\b| 1 \w+s\b|\(\)|[a-z_]+_\d+d", text), text
        assert words[NAN, 1] != words[1.0, 1] != words[0.0, 1] != words[NAN, 1]
        if feature.entity is not Entity.TRANSACTION and feature.aggregate is not Aggregate.NEW:
            assert f"this {feature.entity}" in words[3.25, 1]


def test_no_two_features_say_the_same() -> None:
    for delay in DELAYS:
        features = feature_set(delay)
        texts = [sentence(feature, dict.fromkeys(features, 4.0)) for feature in features]
        assert len(set(texts)) == len(texts)


def frauds(frauds: float, payments: float = NAN, aggregate: Aggregate = Aggregate.FRAUD_COUNT) -> str:
    of_frauds, of_all = (Feature(MERCHANT, a, 30 * DAY, 7 * DAY) for a in (aggregate, Aggregate.COUNT))
    return sentence(of_frauds, {of_frauds: frauds, of_all: payments}).removesuffix(" (30 days, labels 7 days old)")


def test_frauds_are_told_of_the_payments_that_they_are_among() -> None:
    assert frauds(4, 6) == "4 of this merchant's 6 payments known by now were fraud"
    assert frauds(1, 6) == "1 of this merchant's 6 payments known by now was fraud"
    assert frauds(0, 6) == "none of this merchant's 6 payments known by now was fraud"
    assert frauds(1, 1) == "this merchant's only payment known by now was fraud"
    assert frauds(0, 1) == "this merchant's only payment known by now was not fraud"
    assert frauds(0, 0) == "this merchant has no payments known by now"
    assert frauds(4) == "4 of this merchant's payments known by now were fraud"
    ratio = Aggregate.FRAUD_RATIO
    assert frauds(2 / 3, 6, ratio) == "67 % of this merchant's 6 payments known by now were fraud"
    assert frauds(0.004, 1250, ratio) == "under 1 % of this merchant's 1,250 payments known by now were fraud"
    assert frauds(1, 1, ratio) == "this merchant's only payment known by now was fraud"
    assert frauds(0, 0, ratio) == "this merchant has no payments known by now"


def one(aggregate: Aggregate, value: float, n: float = NAN, entity: Entity = ACCOUNT, field: str | None = None) -> str:
    window = None if entity is Entity.TRANSACTION else 30 * DAY
    feature = Feature(entity, aggregate, window, field=field)
    return sentence(feature, {feature: value, Feature(entity, Aggregate.COUNT, window): n} | {feature: value})


# What is said: what should be.
SENTENCES = {
    one(Aggregate.AMOUNT, 1234.5, entity=Entity.TRANSACTION): "amount 1,234.50",
    one(Aggregate.AMOUNT, -0.001, entity=Entity.TRANSACTION): "amount 0.00",
    one(Aggregate.HOUR, 3, entity=Entity.TRANSACTION): "paid between 3:00 and 3:59 UTC",
    one(Aggregate.NIGHT, 1, entity=Entity.TRANSACTION): "paid between 0:00 and 6:59 UTC",
    one(Aggregate.WEEKEND, 0, entity=Entity.TRANSACTION): "paid from Monday to Friday (UTC)",
    one(Aggregate.RATIO, 7.314): "amount 7.3 times this account's 30-day mean",
    one(Aggregate.RATIO, 12.6, entity=MERCHANT): "amount 13 times this merchant's 30-day mean",
    one(Aggregate.RATIO, 0.0432): "amount 0.043 times this account's 30-day mean",
    one(Aggregate.RATIO, 1250.2): "amount 1,250 times this account's 30-day mean",
    one(Aggregate.RATIO, 1e-7): "amount 0 times this account's 30-day mean",
    one(Aggregate.RATIO, NAN, 0): "this account has no earlier payments in 30 days",
    one(Aggregate.RATIO, NAN, 2): "this account's earlier payments in 30 days add up to nothing",
    one(Aggregate.ZSCORE, 3.21): "amount 3.2 standard deviations above this account's 30-day mean",
    one(Aggregate.ZSCORE, -15.0): "amount 15 standard deviations below this account's 30-day mean",
    one(Aggregate.ZSCORE, 0.0): "amount exactly this account's 30-day mean",
    one(Aggregate.ZSCORE, NAN, 0): "this account has no earlier payments in 30 days",
    one(Aggregate.ZSCORE, NAN, 3): "this account's earlier payments in 30 days all have the same amount",
    one(Aggregate.STD, NAN, 1): (
        "this account has only one earlier payment in 30 days, too few for a standard deviation"
    ),
    one(Aggregate.COUNT, 0): "this account has no earlier payments in 30 days",
    one(Aggregate.COUNT, 1): "1 earlier payment of this account in 30 days",
    one(Aggregate.COUNT, 1200, entity=MERCHANT): "1,200 earlier payments to this merchant in 30 days",
    one(Aggregate.SINCE, 0.3): "less than a second after the previous payment of this account",
    one(Aggregate.SINCE, 1.0): "1 second after the previous payment of this account",
    one(Aggregate.SINCE, 59.99): "1 minute after the previous payment of this account",
    one(Aggregate.SINCE, 5_400): "1.5 hours after the previous payment of this account",
    one(Aggregate.SINCE, 86_400 * 12.6): "13 days after the previous payment of this account",
    one(Aggregate.SINCE, NAN): "this account has no earlier payments in 30 days",
    one(Aggregate.NEW, 1, field="device_id"): "no earlier payment of this account from this device in 30 days",
    one(Aggregate.NEW, 0, field="merchant_id"): (
        "at least one earlier payment of this account to this merchant in 30 days"
    ),
    one(Aggregate.NEW, NAN, field="location"): "this payment names no location",
    one(Aggregate.DISTINCT, 1, field="device_id"): "1 device in this account's earlier payments in 30 days",
    one(Aggregate.DISTINCT, 3, field="location"): "3 locations in this account's earlier payments in 30 days",
}


@pytest.mark.parametrize(("said", "wanted"), SENTENCES.items())
def test_it_reads(said: str, wanted: str) -> None:
    assert said == wanted


@given(st.floats(1e-4, 1e9))
def test_numbers_are_rounded_to_what_can_be_read_and_no_further(value: float) -> None:
    said = one(Aggregate.RATIO, value).split()[1].replace(",", "")
    assert float(said) == pytest.approx(value, rel=0.051 if value >= 1e-3 else 1)
    assert len(re.sub(r"^0\.0*|\.", "", said)) <= 2 or value >= 99.5


@given(st.floats(1, 86_400 * 400))
def test_times_are_rounded_to_what_can_be_read_and_no_further(seconds: float) -> None:
    count, unit = one(Aggregate.SINCE, seconds).split()[:2]
    length = {"day": 86_400, "hour": 3_600, "minute": 60, "second": 1}[unit.removesuffix("s")]
    assert float(count) * length == pytest.approx(seconds, rel=0.051)
    assert (count == "1") == (not unit.endswith("s"))
    assert unit == "days" or float(count) < {"day": 401, "hour": 24, "minute": 60, "second": 60}[unit.removesuffix("s")]
