"""The oracle is sure where it can be, looks at nothing from the future, and means its probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import polars as pl
import pytest

from bench.ceiling import payments
from bench.hidden import Flags, Floats, Integers
from bench.oracle import laws, posterior
from features.bots import ACCOUNT_TAKEOVER, AMOUNT_SPIKE, CARD_THEFT, MERCHANT_COMPROMISE
from training.population import Population
from training.simulate import Simulation, bots, canonical, population, simulate

SPEC = Simulation(accounts=300, merchants=180, days=50, intensity=3, seed=5)
SETTLED = 28  # days, after which there are as many compromises as ever
DAY = 86_400_000_000


@dataclass(frozen=True)
class World:
    """A simulated history with what the oracle says of it; ``warm``: the rows from day ``SETTLED`` on."""

    history: pl.DataFrame
    population: Population
    posterior: Floats
    delayed: Floats
    fraud: Flags
    scenario: np.ndarray
    warm: Flags


@cache
def world() -> World:
    history = canonical(simulate(SPEC))
    who = population(SPEC)
    told = payments(history)
    return World(
        history,
        who,
        posterior(told, who, bots(SPEC)),
        posterior(payments(history, delayed=True), who, bots(SPEC)),
        history["is_fraud"].to_numpy(),
        history["fraud_scenario"].fill_null("").to_numpy(),
        told.known.day >= SETTLED,
    )


def instants(history: pl.DataFrame) -> Integers:
    return history["timestamp"].dt.epoch("us").to_numpy()


def test_the_laws_are_those_that_the_bots_run_with() -> None:
    law = laws(bots(Simulation(accounts=1_000, merchants=500, intensity=2)))
    assert law[AMOUNT_SPIKE]["threshold"] == 220_00
    assert law[MERCHANT_COMPROMISE]["merchants_a_day"] == pytest.approx(2 * 2 / 20)
    assert law[CARD_THEFT]["accounts_a_day"] == pytest.approx(2 * 3 / 5)
    assert law[ACCOUNT_TAKEOVER]["multiple"] == (2.0, 6.0)


@pytest.mark.parametrize("delayed", [False, True], ids=["labels as reported", "labels after the delay"])
def test_nothing_from_the_future_is_used(delayed: bool) -> None:
    """No payments after an instant, and other labels that nobody knew by then, leave every posterior as it is."""
    history, before = world().history, world().delayed if delayed else world().posterior
    now = int(instants(history)[history.height * 2 // 3])
    past = instants(history) <= now
    cut = history.filter(pl.Series(past))
    known = pl.col("labelled_at").fill_null(pl.col("timestamp") + pl.duration(days=7)).dt.epoch("us") <= now
    if delayed:
        known = pl.col("timestamp").dt.epoch("us") + 7 * DAY <= now
    unknown = cut.select(~known).to_series()
    assert 0.05 < unknown.mean() < 0.3  # type: ignore[operator]
    # Labels of the last days turned around; a report of what becomes a fraud comes as late as can be.
    late = pl.col("timestamp") + pl.duration(days=7)
    turned = cut.with_columns(
        is_fraud=pl.when(~known).then(~pl.col("is_fraud")).otherwise("is_fraud"),
        labelled_at=pl.when(~known).then(late).otherwise("labelled_at"),
    )
    after = posterior(payments(turned, delayed=delayed), world().population, bots(SPEC))
    assert after == pytest.approx(before[past], rel=1e-9, abs=1e-12)


def test_a_posterior_is_the_share_of_frauds_among_its_like() -> None:
    """Calibrated: of the payments with a posterior of 0.3, three in ten are frauds."""
    for low, high in ((0.0, 0.02), (0.02, 0.8), (0.8, 1.01)):
        of_like = world().warm & (world().posterior >= low) & (world().posterior < high)
        expected = world().posterior[of_like]
        # A window's payments are frauds together, so that the frauds scatter more than independent ones would.
        tolerance = 3 * 2 * np.sqrt((expected * (1 - expected)).sum()) + 1
        assert of_like.sum() > 30, (low, high)
        assert world().fraud[of_like].sum() == pytest.approx(expected.sum(), abs=tolerance), (low, high)


def test_what_is_certain_is_certain() -> None:
    told, fraud, scenario = world().posterior, world().fraud, world().scenario
    above = world().history["amount"].to_numpy() > 220_00
    assert above.sum() > 10
    assert told[above].min() > 1 - 1e-9
    assert told[scenario == ACCOUNT_TAKEOVER].min() > 0.99
    assert told[~fraud].max() < 0.999
    assert np.median(told[~fraud]) < 0.05
    # Merchants in the second half of a compromise have been found out.
    merchant, time = world().history["merchant_id"].to_numpy(), instants(world().history)
    compromised = scenario == MERCHANT_COMPROMISE
    since = pl.DataFrame({"m": merchant[compromised], "t": time[compromised]}).select(
        pl.col("t") - pl.col("t").min().over("m")
    )
    old = since.to_series().is_between(12 * DAY, 27 * DAY).to_numpy()
    assert old.sum() > 50
    assert (told[compromised][old] > 0.9).mean() > 0.97


def test_labels_that_come_late_can_only_hurt() -> None:
    rows = world().warm & (world().scenario == MERCHANT_COMPROMISE)
    assert (world().delayed[rows] >= 0.5).mean() < (world().posterior[rows] >= 0.5).mean() - 0.05


@pytest.mark.parametrize("bot", [AMOUNT_SPIKE, MERCHANT_COMPROMISE, CARD_THEFT, ACCOUNT_TAKEOVER])
def test_a_bot_that_does_not_run_is_suspected_of_nothing(bot: str) -> None:
    spec = Simulation(accounts=60, days=20, intensity=0.0, scenarios=(bot,), seed=2)
    history = canonical_without_frauds(simulate(spec))
    told = posterior(payments(history), population(spec), bots(spec))
    assert told[history["amount"].to_numpy() <= 220_00].max() < 1e-9


def canonical_without_frauds(raw: pl.DataFrame) -> pl.DataFrame:
    """As ``canonical``, which refuses a history without frauds."""
    return raw.with_columns((pl.col("amount") * 100).round().cast(pl.Int64))
