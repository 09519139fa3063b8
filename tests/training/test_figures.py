from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from training.figures import (
    CONFIG,
    candidate_line,
    class_shares,
    counted,
    decimal,
    label,
    money,
    percent,
    spoken,
    template,
    whole,
    wilson,
)


@pytest.mark.parametrize(
    ("share", "written"),
    [
        (0.0, "0 %"),
        (0.00004, "0.004 %"),
        (0.0083692, "0.84 %"),
        (0.0632, "6.3 %"),
        (0.0999, "10.0 %"),
        (0.618, "62 %"),
        (0.98999, "99 %"),
        (0.9916308, "99.16 %"),
        (0.99999999, "99.99 %"),
        (1.0, "100 %"),
        (math.nan, "-"),
    ],
)
def test_percent(share: float, written: str) -> None:
    assert percent(share) == written


@given(st.floats(0, 1))
def test_percent_is_near_and_names_only_whole_shares_nothing_or_everything(share: float) -> None:
    written = percent(share)
    assert float(written.removesuffix(" %")) == pytest.approx(100 * share, rel=0.06, abs=0.5)
    assert (written == "100 %") == (share == 1)
    assert (written == "0 %") == (share == 0)


def test_numbers_as_text() -> None:
    assert whole(1_754_155) == "1,754,155"
    assert money(123_456_789) == "1,234,567.89"
    assert decimal(0.86049) == "0.8605"
    assert decimal(1234.56) == "1,234.6"
    assert decimal(math.nan) == "-"
    assert counted(1, "fraud") == "1 fraud"
    assert counted(2_000, "fraud") == "2,000 frauds"
    assert spoken("card_precision_100") == "card precision 100"
    assert spoken("auc_roc") == "AUC ROC"
    assert label("<b>&") == "&lt;b&gt;&amp;"


@given(st.integers(1, 2_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_that_of_scipy(pair: tuple[int, int]) -> None:
    hits, trials = pair
    expected = binomtest(hits, trials).proportion_ci(method="wilson")
    low, high = wilson(hits, trials)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert low <= hits / trials <= high


def test_wilson_of_nothing_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_class_shares_gather_what_lies_outside() -> None:
    edges = np.array([0.0, 1.0, 2.0])
    assert class_shares(np.array([-5.0, 0.5, 1.5, 99.0]), edges).tolist() == [50.0, 50.0]
    assert np.isnan(class_shares(np.array([]), edges)).all()


def test_neighbouring_candidates_differ_in_colour_and_dash() -> None:
    lines = [candidate_line(n, f"model {n}", [0, 1], [0, 1]).line for n in range(6)]
    assert len({line.color for line in lines}) == len({line.dash for line in lines}) == 6


def test_light_and_dark_differ_in_colours_only() -> None:
    light, dark = (template(dark=dark).to_plotly_json() for dark in (False, True))
    assert light != dark
    assert light["layout"].keys() == dark["layout"].keys()


def test_no_button_sends_a_figure_away() -> None:
    assert CONFIG["showSendToCloud"] is False
    assert CONFIG["plotlyServerURL"] == ""
