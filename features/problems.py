"""What is wrong with a history, gathered with the rows and the remedy, so that one look is enough to mend the file."""

from __future__ import annotations

from typing import Final

import polars as pl

_SHOWN: Final = 5
# An empty or absent id is not made up for: the stream has to send the same one.
_STAND_IN: Final = (
    "give what stands for a merchant, as for withdrawals and transfers: the terminal, the counterparty's account, or "
    "else the type of transaction; unlike counterparties need unlike ids, and the stream has to send the same ones"
)
EMPTY: Final = {
    "transaction_id": "number the rows",
    "account_id": "give the payer's account, or leave the row out",
    "merchant_id": _STAND_IN,
}
ABSENT: Final = {
    "transaction_id": "number the rows",
    "merchant_id": f"{_STAND_IN}, by --column merchant_id=column",
    "is_fraud": "join the known frauds to the transactions, 1 for them and 0 for all others",
}


class Problems:
    """What is wrong with a history, gathered, so that one look at the message is enough to mend the file."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, what: str, bad: pl.Series, values: pl.Series | None = None, *, remedy: str) -> None:
        """Notes rows where the mask ``bad`` holds, with the first few values, and what to do about them."""
        rows = bad.fill_null(False).arg_true()
        if rows.len() == 0:
            return
        first = [int(row) for row in rows.head(_SHOWN)]
        shown = [f"{row + 1}" if values is None else f"{row + 1} ({str(values[row])[:40]})" for row in first]
        more = f" and {rows.len() - len(first):,} more" if rows.len() > len(first) else ""
        self.found.append(f"{what}: {rows.len():,} rows, row {', '.join(shown)}{more} ({remedy})")


def of_repeats(rows: pl.DataFrame) -> str:
    """What to do about rows whose ``transaction_id`` is not theirs alone."""
    whole = rows.height - rows.unique().height
    remedies = [f"{whole:,} of them repeat a whole row: keep one of each"] if whole else []
    if rows.unique()["transaction_id"].is_duplicated().any():
        remedies.append(
            "where rows differ, give each payment an id of its own, or of the rows of one payment (authorized, booked) "
            "keep the first"
        )
    return "; ".join(remedies)
