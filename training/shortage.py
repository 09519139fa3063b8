"""Whether the days of a split have what a training needs; where not, what is missing, why, and what to do about it.

All days are looked at before anything is fitted, so that one message names all that is short.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import polars as pl

from features.errors import InvalidHistory
from training.evaluate import known_compromised
from training.fit import FEWEST_FRAUDS
from training.split import DAY, FEWEST_DAYS, Mask, Period, Split, known_frauds

LONG_SILENCE: Final = 7 * DAY


@dataclass(frozen=True)
class _Days:
    """A period as a training sees it: ``frauds`` are those known in time, ``all_frauds`` those that the file has.

    ``compromised`` and ``compromised_frauds`` are rows and known frauds that are left out of it.
    """

    name: str
    period: Period
    frauds: int
    honest: int
    all_frauds: int
    compromised: int = 0
    compromised_frauds: int = 0

    @property
    def short(self) -> bool:
        return min(self.frauds, self.honest) < FEWEST_FRAUDS

    def __str__(self) -> str:
        return (
            f"the {self.name} days have {self.frauds:,} frauds known by then and {self.honest:,} honest transactions "
            f"from {self.period}"
        )


def require_enough(history: pl.DataFrame, split: Split, *, keep_compromised: bool) -> None:
    """Raises ``InvalidHistory`` where rehearsal, validation or training days have too few rows of a class.

    That is fewer than ``FEWEST_FRAUDS``, counted as ``training.compare`` does. Test days without any row to judge are
    refused, too; without frauds they are fine, and their metrics have no value.
    """
    learnt = [_learnt("rehearsal", history, split, split.rehearsal), _learnt("training", history, split, split.train)]
    validation = _validated(history, split, keep_compromised=keep_compromised)
    short = [days for days in (learnt[0], validation, learnt[1]) if days.short]
    if short:
        found = ", ".join(map(str, short))
        raise InvalidHistory(
            f"{found}: at least {FEWEST_FRAUDS} of each are needed; {'; '.join(_remedies(history, split, short))}"
        )
    if split.test and not keep_compromised:
        inside = split.test.rows(history)
        if not (inside & ~known_compromised(history, split.test, split.label_delay)).any():
            raise InvalidHistory(
                f"all {int(inside.sum()):,} transactions of the test days ({split.test}) are of accounts with a known "
                "fraud, which are left out of a test; add --keep-compromised to judge on them"
            )


def _learnt(name: str, history: pl.DataFrame, split: Split, period: Period) -> _Days:
    inside = period.rows(history)
    frauds = int((known_frauds(history, period.end + split.label_delay, split.label_delay) & inside).sum())
    return _Days(name, period, frauds, int(inside.sum()) - frauds, _all_frauds(history, inside))


def _validated(history: pl.DataFrame, split: Split, *, keep_compromised: bool) -> _Days:
    inside = split.validation.rows(history)
    known = known_frauds(history, split.as_of, split.label_delay)
    left_out = inside & False
    if not keep_compromised:
        as_known = history.with_columns(is_fraud=pl.Series(known))
        left_out = known_compromised(as_known, split.validation, split.label_delay)
    kept = inside & ~left_out
    frauds = int((known & kept).sum())
    return _Days(
        "validation",
        split.validation,
        frauds,
        int(kept.sum()) - frauds,
        _all_frauds(history, inside),
        int(left_out.sum()),
        int((known & left_out).sum()),
    )


def _all_frauds(history: pl.DataFrame, inside: Mask) -> int:
    return int((history["is_fraud"].to_numpy() & inside).sum())


def _remedies(history: pl.DataFrame, split: Split, short: list[_Days]) -> list[str]:
    """What to do, the likeliest cause first."""
    remedies = []
    silence = _silence(history, split, short)
    if silence:
        before, after, cut = silence
        remedies.append(
            f"nothing happened from {before:%Y-%m-%d %H:%M} to {after:%Y-%m-%d %H:%M} ({(after - before) / DAY:.0f} "
            f"days): give --as-of {cut:%Y-%m-%d} to train on what lies before, or a file of what lies after"
        )
    late = [days for days in short if days.frauds + days.compromised_frauds < FEWEST_FRAUDS <= days.all_frauds]
    if late:
        in_time = ", ".join(
            f"{days.frauds + days.compromised_frauds:,} of the {days.all_frauds:,} of the {days.name} days"
            for days in late
        )
        remedies.append(
            f"of the frauds were labelled in time {in_time}: check labelled_at (without it labels count after "
            "--label-delay), or raise --label-delay to what labels take"
        )
    remedies += [
        f"{days.compromised:,} transactions, {days.compromised_frauds:,} of them frauds, are left out as their "
        "accounts had a known fraud: add --keep-compromised"
        for days in short
        if (days.frauds < FEWEST_FRAUDS <= days.frauds + days.compromised_frauds)
        or (days.honest < FEWEST_FRAUDS <= days.compromised)
    ]
    dates = history.filter("is_fraud")["timestamp"].dt.date()
    where = f"{dates[0]} to {dates[-1]}" if len(dates) else "none"
    if len(dates) < 2 * FEWEST_FRAUDS:
        remedies.append(
            f"the whole history has {len(dates):,} frauds ({where}), and twice {FEWEST_FRAUDS} are the least: bring a "
            "longer history, or one of more accounts"
        )
    else:
        remedies.append(
            f"the whole history has {len(dates):,} frauds ({where}): bring a longer history, or give more days by "
            f"--train-days, --validation-days{_enough_days(history, split, short)} or an earlier --train-start"
        )
    return remedies


def _enough_days(history: pl.DataFrame, split: Split, short: list[_Days]) -> str:
    """How many validation days would have enough frauds; no more than a guess where compromised accounts go."""
    end = split.validation.end
    known = history.filter(pl.Series(known_frauds(history, split.as_of, split.label_delay)), pl.col("timestamp") < end)
    for days in short:
        if days.name == "validation" and known.height >= FEWEST_FRAUDS:
            needed = (end - known["timestamp"][-FEWEST_FRAUDS]) / DAY
            if days.compromised_frauds:
                kept = max(days.frauds, 1)
                needed = max(needed, (end - days.period.start) / DAY * FEWEST_FRAUDS / kept)
            return f" (of these {math.ceil(needed)})"
    return ""


def _silence(history: pl.DataFrame, split: Split, short: list[_Days]) -> tuple[datetime, datetime, datetime] | None:
    """From when to when the longest silence lasts, and the day on which a training would not know of it.

    Only where it is long, takes at least half of one of the days that are short, and has enough days before it.
    """
    stamps = history["timestamp"]
    gaps = stamps.diff()
    longest, at = gaps.max(), gaps.arg_max()
    if at is None or not isinstance(longest, timedelta) or longest < LONG_SILENCE:
        return None
    before, after = stamps[at - 1], stamps[at]
    cut = (before + DAY).replace(hour=0, minute=0, second=0, microsecond=0)
    least = FEWEST_DAYS * DAY + 2 * split.label_delay + (split.validation.end - split.validation.start)
    if cut - split.first < least or before >= split.as_of:
        return None
    overlaps = (
        (min(after, d.period.end) - max(before, d.period.start)) / (d.period.end - d.period.start) for d in short
    )
    return (before, after, cut) if max(overlaps) >= 0.5 else None
