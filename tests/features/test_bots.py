from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from features.bots import (
    CODES,
    HONEST,
    MISSING,
    SCENARIOS,
    UNNAMED,
    Bot,
    Traffic,
    account_takeover,
    amount_spike,
    card_theft,
    encode,
    inject,
    merchant_compromise,
    scaled,
)
from features.errors import InvalidSetting

DAY = 86_400_000_000
HOUR = 3_600_000_000
START = 17_622 * DAY  # 2018-04-01
COLUMNS = [field.name for field in fields(Traffic)]


class Recording(np.random.Generator):
    """Remembers whom a bot chose: one array a day."""

    def __init__(self, seed: int) -> None:
        super().__init__(np.random.PCG64(seed))
        self.chosen: list[NDArray[Any]] = []

    def choice(self, *args: Any, **options: Any) -> Any:
        drawn = super().choice(*args, **options)
        self.chosen.append(drawn)
        return drawn


def make(
    timestamps: Sequence[int],
    accounts: Sequence[int],
    merchants: Sequence[int],
    amounts: Sequence[int],
    habits: Sequence[int],
    frauds: Sequence[int] | None = None,
) -> Traffic:
    n = len(timestamps)
    return Traffic(
        account=np.array(accounts, np.int32),
        merchant=np.array(merchants, np.int32),
        amount=np.array(amounts, np.int64),
        timestamp=np.sort(np.array(timestamps, np.int64)),
        transaction_type=np.array(habits, np.int32),
        location=np.array(habits, np.int32),
        device=np.array(habits, np.int32),
        fraud=np.zeros(n, np.int8) if frauds is None else np.array(frauds, np.int8),
        row=np.arange(n),
    )


@st.composite
def traffics(draw: st.DrawFn, least: int = 0) -> Traffic:
    n = draw(st.integers(least, 60))
    longest = draw(st.sampled_from([HOUR // 6, 3 * DAY, 70 * DAY]))
    unit = draw(st.sampled_from([1, 1_000_000]))

    def column(low: int, high: int) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=n, max_size=n))

    timestamps = [START + instant // unit * unit for instant in column(0, longest)]
    habits = column(*draw(st.sampled_from([(MISSING, MISSING), (MISSING, 3), (0, 5)])))
    return make(timestamps, column(0, 5), column(0, 8), column(-5_000, 60_000), habits, column(UNNAMED, HONEST))


def big(n: int = 40_000, accounts: int = 400, merchants: int = 800, days: int = 60) -> Traffic:
    rng = np.random.default_rng(1)
    return make(
        (START + rng.integers(0, days * DAY, n)).tolist(),
        rng.integers(0, accounts, n).tolist(),
        rng.integers(0, merchants, n).tolist(),
        rng.integers(1, 20_000, n).tolist(),
        rng.integers(0, 50, n).tolist(),
    )


def same(left: Traffic, right: Traffic, but: Sequence[str] = ()) -> bool:
    return all(np.array_equal(getattr(left, name), getattr(right, name)) for name in COLUMNS if name not in but)


def taken(traffic: Traffic, rows: NDArray[Any]) -> Traffic:
    return Traffic(**{name: getattr(traffic, name)[rows] for name in COLUMNS})


def windows(traffic: Traffic, codes: NDArray[np.int32], chosen: list[NDArray[Any]], days: int) -> list[set[int]]:
    """For each day, the rows of that day's victims from then on, straight from the bots' docstrings."""
    first = int(traffic.timestamp[0]) // DAY if len(traffic) else 0
    return [
        {
            row
            for row in range(len(traffic))
            if codes[row] in victims and since <= int(traffic.timestamp[row]) // DAY - first < since + days
        }
        for since, victims in enumerate(chosen)
    ]


@settings(deadline=None)
@given(traffics(), st.integers(0, 50_000))
def test_amount_spike_is_every_amount_above_the_threshold(traffic: Traffic, threshold: int) -> None:
    after = amount_spike(traffic, np.random.default_rng(0), threshold=threshold)
    assert same(traffic, after, but=["fraud"])
    expected = np.where(traffic.amount > threshold, CODES["amount_spike"], traffic.fraud)
    assert np.array_equal(after.fraud, expected)


@settings(deadline=None)
@given(traffics(), st.integers(0, 99), st.sampled_from([0.0, 0.3, 1.0, 2.0]), st.integers(1, 40))
def test_merchant_compromise_is_all_that_a_victim_receives(
    traffic: Traffic, seed: int, merchants_a_day: float, days: int
) -> None:
    rng = Recording(seed)
    after = merchant_compromise(traffic, rng, merchants_a_day=merchants_a_day, days=days)
    assert same(traffic, after, but=["fraud"])
    rows = set().union(*windows(traffic, traffic.merchant, rng.chosen, days))
    expected = [CODES["merchant_compromise"] if row in rows else traffic.fraud[row] for row in range(len(traffic))]
    assert after.fraud.tolist() == expected


@settings(deadline=None)
@given(traffics(), st.integers(0, 99), st.sampled_from([0.0, 0.3, 1.0, 3.0]), st.sampled_from([0.0, 1 / 3, 1.0]))
def test_card_theft_multiplies_a_share_of_what_the_victims_spend(
    traffic: Traffic, seed: int, accounts_a_day: float, share: float
) -> None:
    rng = Recording(seed)
    after = card_theft(traffic, rng, accounts_a_day=accounts_a_day, share=share, days=5)
    assert same(traffic, after, but=["fraud", "amount"])
    stolen = after.fraud == CODES["card_theft"]
    assert np.array_equal(after.fraud[~stolen], traffic.fraud[~stolen])
    assert np.array_equal(after.amount, np.where(stolen, 5 * traffic.amount, traffic.amount))

    thefts = windows(traffic, traffic.account, rng.chosen, 5)
    rows = set(np.flatnonzero(stolen).tolist())
    assert rows <= set().union(*thefts)
    wanted = [round(share * len(theft)) for theft in thefts]  # rounds half to even, as numpy does
    assert max(wanted, default=0) <= len(rows) <= sum(wanted)
    assert all(len(rows & theft) >= least for theft, least in zip(thefts, wanted, strict=True))


@settings(deadline=None)
@given(traffics(), st.integers(0, 99), st.sampled_from([0.0, 0.3, 1.0, 3.0]), st.sampled_from([None, 7]))
def test_account_takeover_adds_bursts_and_touches_nothing(
    traffic: Traffic, seed: int, accounts_a_day: float, online: int | None
) -> None:
    after = account_takeover(traffic, np.random.default_rng(seed), accounts_a_day=accounts_a_day, online=online)
    assert same(traffic, taken(after, np.flatnonzero(after.row >= 0)))
    added = taken(after, np.flatnonzero(after.row < 0))
    assert np.all(added.fraud == CODES["account_takeover"])
    if len(added):
        thieves = {MISSING} if np.all(traffic.device == MISSING) else np.unique(added.account)
        assert len(set(added.device.tolist())) == len(thieves)

    for account in np.unique(added.account):
        before = taken(traffic, np.flatnonzero(traffic.account == account))
        burst = taken(added, np.flatnonzero(added.account == account))
        assert 3 <= len(burst) <= 8
        assert burst.timestamp[-1] - burst.timestamp[0] <= HOUR
        assert traffic.timestamp[0] <= burst.timestamp[0] <= burst.timestamp[-1] <= traffic.timestamp[-1]
        mean = before.amount[(before.fraud == HONEST) & (before.amount > 0)].mean()
        assert np.all((2 * mean - 1 <= burst.amount) & (burst.amount <= 6 * mean + 1))
        if set(traffic.merchant.tolist()) - set(before.merchant.tolist()):
            assert not set(burst.merchant.tolist()) & set(before.merchant.tolist())
        assert set(burst.transaction_type.tolist()) <= ({online} if online else set(traffic.transaction_type.tolist()))
        for name in ("device", "location"):
            codes = set(getattr(burst, name).tolist())
            assert len(codes) == 1
            if np.all(getattr(traffic, name) == MISSING):
                assert codes == {MISSING}
            else:
                assert MISSING not in codes
                assert not codes & set(getattr(before, name).tolist())
        assert burst.device[0] == MISSING or burst.device[0] not in traffic.device
    if not np.any(traffic.timestamp % 1_000_000):
        assert not np.any(added.timestamp % 1_000_000)


@settings(max_examples=50, deadline=None)
@given(traffics(), st.integers(0, 99), st.sets(st.sampled_from(SCENARIOS)))
def test_inject_is_repeatable_sorted_and_leaves_its_input_alone(
    traffic: Traffic, seed: int, scenarios: set[str]
) -> None:
    original = replace(traffic, **{name: getattr(traffic, name).copy() for name in COLUMNS})
    bots = scaled(scenarios, 5_000, 10_000)
    after = inject(traffic, bots, np.random.default_rng(seed))
    assert same(traffic, original)
    assert same(after, inject(traffic, bots, np.random.default_rng(seed)))
    assert np.all(np.diff(after.timestamp) >= 0)
    assert after.row[after.row >= 0].tolist() == list(range(len(traffic)))
    assert {field.name: getattr(after, field.name).dtype for field in fields(Traffic)} == {
        field.name: getattr(traffic, field.name).dtype for field in fields(Traffic)
    }
    assert set(after.fraud.tolist()) <= {HONEST, UNNAMED, *(CODES[name] for name in scenarios)}
    if "account_takeover" not in scenarios:
        assert len(after) == len(traffic)


def test_a_later_bot_overwrites_the_label_of_an_earlier_one() -> None:
    traffic = big()
    every = [
        partial(amount_spike, threshold=0),
        partial(merchant_compromise, merchants_a_day=800, days=60),
        partial(card_theft, accounts_a_day=400, days=60),
    ]
    spiked = inject(traffic, every[:1], np.random.default_rng(0))
    assert np.all(spiked.fraud == CODES["amount_spike"])
    compromised = inject(traffic, every[:2], np.random.default_rng(0))
    assert np.all(compromised.fraud == CODES["merchant_compromise"])
    stolen = inject(traffic, every, np.random.default_rng(0)).fraud == CODES["card_theft"]
    assert 0.3 < stolen.mean() < 1


def test_all_bots_occur_at_the_frequency_of_the_population() -> None:
    traffic = big()
    counts = []
    for intensity in (1.0, 5.0):
        bots = scaled(SCENARIOS, 400, 800, intensity=intensity)
        fraud = inject(traffic, bots, np.random.default_rng(3)).fraud
        counts.append({name: int((fraud == code).sum()) for name, code in CODES.items()})
    usual, often = counts
    assert all(usual[name] > 0 for name in SCENARIOS if name != "amount_spike")
    # 0.16 merchants a day for 28 days, and 0.24 accounts a day for a third of 14 days, of 833 and 1,667 rows each day
    assert usual["merchant_compromise"] == pytest.approx(10 * 28 * 40_000 / 800 / 60, rel=0.35)
    assert usual["card_theft"] == pytest.approx(15 * 14 / 3 * 40_000 / 400 / 60, rel=0.35)
    for name in ("merchant_compromise", "card_theft", "account_takeover"):
        assert often[name] == pytest.approx(5 * usual[name], rel=0.35)


def test_the_first_day_has_a_victim_even_of_ten_minutes_of_traffic() -> None:
    rng = np.random.default_rng(5)
    traffic = make(
        (START + rng.integers(0, HOUR // 6, 500)).tolist(),
        rng.integers(0, 100, 500).tolist(),
        rng.integers(0, 200, 500).tolist(),
        rng.integers(1, 20_000, 500).tolist(),
        rng.integers(0, 9, 500).tolist(),
    )
    fraud = inject(traffic, scaled(SCENARIOS, 100, 200), rng).fraud
    assert {CODES[name] for name in SCENARIOS if name != "amount_spike"} <= set(fraud.tolist())


@pytest.mark.parametrize(
    ("bot", "message"),
    [
        (partial(merchant_compromise, merchants_a_day=-1), "merchants_a_day is -1; give a number from 0 to"),
        (partial(merchant_compromise, days=0), "days is 0; give a number from 1 to"),
        (partial(card_theft, share=1.5), "share is 1.5; give a number from 0 to 1"),
        (partial(card_theft, accounts_a_day=float("nan")), "accounts_a_day is nan"),
        (partial(account_takeover, payments=(5, 4)), "payments is 5; give a number from 1 to 4"),
        (partial(account_takeover, seconds=0), "seconds is 0"),
    ],
)
def test_a_bot_names_the_argument_it_cannot_use(bot: Bot, message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        bot(big(10), np.random.default_rng(0))


def test_an_unknown_scenario_is_named() -> None:
    with pytest.raises(InvalidSetting, match="no fraud bot is called skimming; there are amount_spike"):
        scaled(["skimming", "card_theft"], 1, 1)


def test_traffic_needs_one_length_and_the_order_of_time() -> None:
    traffic = big(10)
    with pytest.raises(ValueError, match="one length"):
        replace(traffic, amount=traffic.amount[1:])
    with pytest.raises(ValueError, match="sorted by timestamp"):
        replace(traffic, timestamp=traffic.timestamp[::-1])


@settings(deadline=None)
@given(st.lists(st.none() | st.text(max_size=2)))
def test_encode_gives_codes_that_name_each_text(values: list[str | None]) -> None:
    codes, names = encode(values)
    assert [None if code == MISSING else names[code] for code in codes] == values
    assert len(names) == len(set(names)) == len(set(values) - {None})
