"""A history as the flow needs it: its events in the order in which they became known, and its transactions by id."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import polars as pl

from features.definitions import LABEL_DELAY
from features.transaction import EPOCH, MICROSECOND, Label, Transaction, microseconds
from flows.tail import of_transaction

History = pl.DataFrame

_INSTANT = pl.col("timestamp").dt.epoch("us")


def events_of(history: History, label_delay: timedelta = LABEL_DELAY) -> Iterator[Transaction | Label]:
    """The history's transactions, and the labels of its frauds when they became known: before what happens then.

    Labels that became known after the last transaction are left out.
    """
    columns = (
        *("transaction_id", "account_id", "merchant_id", "amount"),
        _INSTANT,
        *("transaction_type", "location", "device_id"),
    )
    known = pl.coalesce(pl.col("labelled_at").dt.epoch("us"), _INSTANT + label_delay // MICROSECOND)
    labels = (
        history.filter("is_fraud")
        .select("transaction_id", "account_id", "merchant_id", _INSTANT, "is_fraud", known.alias("known"))
        .sort("known", maintain_order=True)
    )
    pending = (Label(*row) for row in labels.iter_rows())
    label = next(pending, None)
    for row in history.select(columns).iter_rows():
        transaction = Transaction(*row)
        while label is not None and label.labelled_at <= transaction.timestamp:
            yield label
            label = next(pending, None)
        yield transaction


def end_of(history: History) -> int:
    """The instant of the last transaction, in microseconds since 1970."""
    return microseconds(history["timestamp"][-1])


def since(history: History, instant: int) -> History:
    """The transactions, with their labels, at that instant and later."""
    return history.filter(pl.col("timestamp") >= EPOCH + instant * MICROSECOND)


def instants_of(history: History) -> dict[bytes, int]:
    """When each transaction happened, by its identity."""
    rows = history.select("account_id", "transaction_id", _INSTANT).iter_rows()
    return {of_transaction(account_id, transaction_id): instant for account_id, transaction_id, instant in rows}
