"""The Handbook's own 15 features, computed by our feature machinery.

Source: Le Borgne, Siblini, Lebichot, Bontempi, "Reproducible Machine Learning for Credit Card Fraud Detection:
Practical Handbook" (2022), chapter 3.4. The book's account windows hold the current transaction, ours end before it:
so its count is ours and one, its mean is our sum and the amount over that count. Transactions of one account in the
same instant see each other there and not here.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import polars as pl

from features.batch import compute
from features.definitions import DAY, LABEL_DELAY, Aggregate, Entity, Feature

WINDOWS: Final = (1, 7, 30)  # days
OWN: Final = {"amount": "AMOUNT", "weekend": "DURING_WEEKEND", "night": "DURING_NIGHT"}


def specs(label_delay: timedelta = LABEL_DELAY) -> tuple[Feature, ...]:
    """What our machinery has to compute for ``columns``."""
    own = (Aggregate.AMOUNT, Aggregate.WEEKEND, Aggregate.NIGHT)
    spending = (Aggregate.COUNT, Aggregate.SUM)
    risk = (Aggregate.COUNT, Aggregate.FRAUD_RATIO)
    return (
        *(Feature(Entity.TRANSACTION, a) for a in own),
        *(Feature(Entity.ACCOUNT, a, days * DAY) for days in WINDOWS for a in spending),
        *(Feature(Entity.MERCHANT, a, days * DAY, delay=label_delay) for days in WINDOWS for a in risk),
    )


def columns(history: pl.DataFrame, label_delay: timedelta = LABEL_DELAY) -> pl.DataFrame:
    """Float32 [rows, 15] under the book's names, in its order; rows as in the canonical history, nothing missing.

    Means are those of exact sums of cents (up to 131,072 in a window), rounded once: deep trees of XGBoost are so
    sensitive that sums rounded to float32 move chapter 3's AUC ROC from the published .862 to .880.
    """
    ours = compute(history, specs(label_delay))
    account, merchant = [], []
    for days in WINDOWS:
        count, total = (
            pl.col(Feature(Entity.ACCOUNT, aggregate, days * DAY).name).cast(pl.Float64)
            for aggregate in (Aggregate.COUNT, Aggregate.SUM)
        )
        cents = (total * 100).round() + history["amount"]
        account += [
            (count + 1).alias(f"CUSTOMER_ID_NB_TX_{days}DAY_WINDOW"),
            (cents / (count + 1) / 100).alias(f"CUSTOMER_ID_AVG_AMOUNT_{days}DAY_WINDOW"),
        ]
        merchant += [
            pl.col(Feature(Entity.MERCHANT, aggregate, days * DAY, delay=label_delay).name).alias(
                f"TERMINAL_ID_{name}_{days}DAY_WINDOW"
            )
            for aggregate, name in ((Aggregate.COUNT, "NB_TX"), (Aggregate.FRAUD_RATIO, "RISK"))
        ]
    own = (pl.col(name).alias(f"TX_{title}") for name, title in OWN.items())
    return ours.select(column.cast(pl.Float32) for column in (*own, *account, *merchant))
