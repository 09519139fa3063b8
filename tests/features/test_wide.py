from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.wide import rounded, spread, square

MOST = 10**12
LIMB = 1 << 40
_amounts = st.integers(-MOST, MOST) | st.integers(-(10**6), 10**6) | st.sampled_from([2**31 - 1, 2**31, -(2**31), MOST])


def limbs(amounts: list[tuple[int, int]]) -> tuple[int, int, int, int]:
    """n, the sum, and the limbs' sums, of amounts that each occur so often."""
    squares = [(count, square(amount)) for amount, count in amounts]
    return (
        sum(count for _, count in amounts),
        sum(amount * count for amount, count in amounts),
        sum(count * high for count, (high, _) in squares),
        sum(count * low for count, (_, low) in squares),
    )


@given(_amounts)
def test_a_square_is_two_limbs(amount: int) -> None:
    high, low = square(amount)
    assert high * LIMB + low == amount * amount
    assert 0 <= low < LIMB


@given(st.lists(st.tuples(_amounts, st.integers(1, 2**21)), min_size=1, max_size=4))
def test_sums_of_squares_and_spreads_are_rounded_as_python_rounds_integers(amounts: list[tuple[int, int]]) -> None:
    n, total, high, low = limbs(amounts)
    squares = sum(amount * amount * count for amount, count in amounts)
    assert rounded(high, low) == float(squares)
    assert spread(n, total, high, low) == float(n * squares - total * total)


@pytest.mark.parametrize("amount", [1, 2**31 - 1, 2**31, MOST])
@pytest.mark.parametrize("n", [1, 2, 3, 2**20, 2**23 - 1])
def test_equal_amounts_have_no_spread(amount: int, n: int) -> None:
    assert spread(*limbs([(amount, n)])) == 0.0


@pytest.mark.parametrize("bits", [53, 54, 62, 63, 64, 65, 101])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_halves_are_rounded_to_even(bits: int, more: int) -> None:
    """Numbers midway between two float64, and their neighbours, are limbs of no squares but rounded all the same."""
    for odd in (1, 3):
        number = (1 << bits) + (odd << (bits - 53)) + more if bits > 53 else (1 << bits) + odd
        high, low = divmod(number, LIMB)
        assert rounded(high, low) == float(number)
