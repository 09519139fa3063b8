"""The forward algorithm against Bayes' rule over every possible set of windows."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from bench.hidden import Evidence, Floats, Known, probability_inside

DAY = 86_400_000_000
DAYS, LENGTH, DELAY = 9, 3, 2 * DAY


def straight(age: Floats) -> Floats:
    return 1 - age


def world(seed: int) -> tuple[np.ndarray, Known, Evidence, Floats]:
    """Two keys, some twenty rows in nine days, many at one instant; labels late or early, evidence at random."""
    rng = np.random.default_rng(seed)
    n = 22
    hours = np.concatenate([[0], np.sort(rng.integers(0, DAYS * 6, n - 1)) * 4])
    timestamp = 17_600 * DAY + hours * DAY // 24
    fraud = rng.random(n) < 0.5
    known = Known(timestamp, fraud, timestamp + (rng.random(n) * DELAY).astype(np.int64), DELAY, straight)
    of_fraud = rng.uniform(0.05, 0.95, n)
    # Half of the rows rule a window out if they are honest, as at a compromised merchant.
    inside = np.where(rng.random(n) < 0.5, 1.0, rng.uniform(0.3, 0.9, n))
    telling = rng.uniform(0.3, 3, n)  # what is seen of a payment at once, such as its amount
    evidence = Evidence(telling * inside, telling * (1 - inside), of_fraud, 1 - of_fraud)
    return rng.integers(0, 2, n).astype(np.int32), known, evidence, rng.uniform(0.02, 0.4, DAYS)


def by_enumeration(key: np.ndarray, known: Known, evidence: Evidence, begins: Floats, row: int) -> float:
    """The posterior of being inside at a row's instant, over all 2^9 sets of days on which windows begin."""
    now = known.timestamp[row]
    day = (known.timestamp - 17_600 * DAY) // DAY
    total = covered = 0.0
    for starts in product([False, True], repeat=DAYS):
        weight = float(np.prod([p if start else 1 - p for start, p in zip(starts, begins, strict=True)]))
        inside = [any(starts[max(0, d - LENGTH + 1) : d + 1]) for d in range(DAYS)]
        for i in range(len(key)):
            if key[i] != key[row] or known.timestamp[i] >= now:
                continue
            bad = evidence.fraud_inside[i] if inside[day[i]] else evidence.fraud_outside[i]
            good = evidence.honest_inside[i] if inside[day[i]] else evidence.honest_outside[i]
            if known.fraud[i] and known.labelled_at[i] <= now:
                weight *= bad
            elif now - known.timestamp[i] >= DELAY:
                weight *= good
            else:
                weight *= good + bad * (1 - (now - known.timestamp[i]) / DELAY)
        total += weight
        covered += weight * inside[day[row]]
    return covered / total


@pytest.mark.parametrize("seed", range(3))
def test_the_posterior_is_bayes_rule_over_all_sets_of_windows(seed: int) -> None:
    key, known, evidence, begins = world(seed)
    inside = probability_inside(key, known, evidence, begins, LENGTH)
    expected = [by_enumeration(key, known, evidence, begins, row) for row in range(len(key))]
    assert inside == pytest.approx(expected, abs=1e-12)
    assert np.ptp(inside) > 0.2


def test_a_known_honest_payment_rules_out_every_window_that_covers_it() -> None:
    timestamp = DAY * np.array([100, 101, 102, 103, 104, 107])
    one, rarely = np.ones(6), np.full(6, 1e-4)
    at_merchant = Evidence(one, one * 0, rarely, 1 - rarely)
    known = Known(timestamp, np.zeros(6, bool), timestamp, DELAY, np.ones_like)
    inside = probability_inside(np.zeros(6, np.int32), known, at_merchant, np.full(8, 0.01), LENGTH)
    # Nothing is known of the last two days, so a window may have begun on them or today; on the third it did not.
    expected = [1 - 0.99**days for days in (1, 2, 2, 2, 2, 3)]
    assert inside == pytest.approx(expected, rel=1e-3)


def test_a_reported_fraud_that_nothing_else_explains_shows_the_window() -> None:
    timestamp = DAY * np.array([100, 101, 103, 104])
    one, rarely = np.ones(4), np.full(4, 1e-6)
    known = Known(timestamp, np.array([False, True, True, True]), timestamp + DAY, DELAY, straight)
    at_merchant = Evidence(one, one * 0, rarely, 1 - rarely)
    inside = probability_inside(np.zeros(4, np.int32), known, at_merchant, np.full(5, 0.01), LENGTH)
    assert inside[1] < 0.03
    assert inside[2] > 0.99  # it began on day 101: the day before was honest
    assert inside[3] < 0.1  # so it was over after 103, unless another one began since


def test_evidence_without_end_overflows_nowhere() -> None:
    n = 2_000
    timestamp = np.sort(np.random.default_rng(0).integers(100 * DAY, 130 * DAY, n))
    telling = Evidence(np.ones(n), np.full(n, 1e-60), np.full(n, 1e-60), np.ones(n))
    for fraud in (True, False):
        known = Known(timestamp, np.full(n, fraud), timestamp, DELAY, np.ones_like)
        inside = probability_inside(np.zeros(n, np.int32), known, telling, np.full(30, 0.01), LENGTH)
        assert np.all((inside >= 0) & (inside <= 1))
        assert inside[-1] == pytest.approx(float(fraud), abs=0.1)
