"""Sums of squares beyond 64 bits, exact, and rounded to float64 once.

A square of an amount (below 2**40) has up to 80 bits. It is kept as two limbs, ``high * 2**40 + low``; each limb is
summed by itself in 64 bits, with room for 2**23 squares in a window. Running sums may wrap around: windows are
differences. All numbers are int64, but for the unsigned halves of a product.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from features.compiled import compiled

_LIMB: Final = 40
_LOW: Final = (1 << _LIMB) - 1
_HALF: Final = (1 << 20) - 1
_BITS_32: Final = np.uint64(32)
_LOW_32: Final = np.uint64((1 << 32) - 1)
_ONE: Final = np.uint64(1)
_TOP: Final = np.uint64(63)
_ALL: Final = np.uint64(64)
_UP: Final = np.uint64(_LIMB)
_REST: Final = np.uint64(64 - _LIMB)


@compiled
def square(amount: int) -> tuple[int, int]:
    """The amount's square, as its high and its low limb."""
    size = abs(amount)
    if size < 1 << 31:
        exact = size * size
        return exact >> _LIMB, exact & _LOW
    upper, lower = size >> 20, size & _HALF
    middle = 2 * upper * lower
    low = lower * lower + ((middle & _HALF) << 20)
    return upper * upper + (middle >> 20) + (low >> _LIMB), low & _LOW


@compiled
def spread(n: int, total: int, high: int, low: int) -> float:
    """The value of n * sum(x**2) - sum(x)**2, as float64; ``high`` and ``low`` are the sums of the squares' limbs."""
    high += low >> _LIMB
    low &= _LOW
    # sum(x)**2 is at most n * sum(x**2), which fits here.
    if high < 1 << 23 and n * (high + 1) <= 1 << 23:
        return float(n * ((high << _LIMB) + low) - total * total)
    times = np.uint64(n)
    upper, lower = _product(times, np.uint64(high))
    upper, lower = upper << _UP | lower >> _REST, lower << _UP
    added = lower + times * np.uint64(low)
    if added < lower:
        upper += _ONE
    square_upper, square_lower = _product(np.uint64(abs(total)), np.uint64(abs(total)))
    if added < square_lower:
        square_upper += _ONE
    return _rounded(upper - square_upper, added - square_lower)


@compiled
def rounded(high: int, low: int) -> float:
    """The sum of squares whose limbs sum to these, as float64."""
    high += low >> _LIMB
    low &= _LOW
    if high < 1 << 22:
        return float((high << _LIMB) + low)
    upper = np.uint64(high)
    return _rounded(upper >> _REST, upper << _UP | np.uint64(low))


@compiled
def _product(a: np.uint64, b: np.uint64) -> tuple[np.uint64, np.uint64]:
    """The upper and the lower 64 bits of a * b."""
    a_upper, a_lower, b_upper, b_lower = a >> _BITS_32, a & _LOW_32, b >> _BITS_32, b & _LOW_32
    low = a_lower * b_lower
    middle = a_upper * b_lower + (low >> _BITS_32)
    other = a_lower * b_upper + (middle & _LOW_32)
    return a_upper * b_upper + (middle >> _BITS_32) + (other >> _BITS_32), other << _BITS_32 | low & _LOW_32


@compiled
def _rounded(upper: np.uint64, lower: np.uint64) -> float:
    """128 bits as float64, half to even."""
    if upper == 0:
        return float(lower)
    exponent = 64
    while upper >> _TOP == 0:
        upper = upper << _ONE | lower >> _TOP
        lower = lower << _ONE
        exponent -= 1
    # Of what is below the first 64 bits it matters only whether there is anything: float64 has 53.
    if lower != 0:
        upper |= _ONE
    return math.ldexp(float(upper), exponent)
