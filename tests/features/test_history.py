from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from features.errors import InvalidHistory, InvalidSetting
from features.history import MAPS, column_map, load
from features.transaction import MAX_AMOUNT, minor_units

CANONICAL = {
    "transaction_id": pl.String,
    "account_id": pl.String,
    "merchant_id": pl.String,
    "amount": pl.Int64,
    "timestamp": pl.Datetime("us", "UTC"),
    "transaction_type": pl.String,
    "location": pl.String,
    "device_id": pl.String,
    "is_fraud": pl.Boolean,
    "labelled_at": pl.Datetime("us", "UTC"),
    "fraud_scenario": pl.String,
}


def raw(**columns: list[Any]) -> dict[str, list[Any]]:
    """Four good rows; ``columns`` replaces or adds some."""
    return {
        "transaction_id": ["a", "b", "c", "d"],
        "account_id": [1, 2, 1, 2],
        "merchant_id": ["x", "y", "x", "y"],
        "amount": [1.5, 20.25, 1.015, 0.0],
        "timestamp": [datetime(2024, 1, day, 12, 30, 1, tzinfo=UTC) for day in (3, 1, 2, 4)],
        "is_fraud": [0, 1, 0, 0],
        **columns,
    }


def parquet(folder: Path, **columns: list[Any]) -> Path:
    file = folder / "history.parquet"
    pl.DataFrame(raw(**columns), strict=False).write_parquet(file)
    return file


def csv(folder: Path, **columns: list[Any]) -> Path:
    file = folder / "history.csv"
    stamps = [stamp.strftime("%Y-%m-%d %H:%M:%S") for stamp in raw()["timestamp"]]
    pl.DataFrame(raw(**({"timestamp": stamps} | columns)), strict=False).write_csv(file)
    return file


@pytest.mark.parametrize("write", [parquet, csv])
def test_a_file_becomes_the_canonical_frame_in_the_order_of_time(write: Any, tmp_path: Path) -> None:
    frame = load(write(tmp_path))
    assert dict(frame.schema) == CANONICAL
    assert frame["transaction_id"].to_list() == ["b", "c", "a", "d"]
    assert frame["account_id"].to_list() == ["2", "1", "1", "2"]
    assert frame["amount"].to_list() == [2025, 102, 150, 0]
    assert frame["is_fraud"].to_list() == [True, False, False, False]
    assert frame["timestamp"][0] == datetime(2024, 1, 1, 12, 30, 1, tzinfo=UTC)
    assert frame["device_id"].null_count() == frame["labelled_at"].null_count() == 4


def test_ties_keep_the_order_of_the_file(tmp_path: Path) -> None:
    frame = load(parquet(tmp_path, timestamp=[datetime(2024, 1, day, tzinfo=UTC) for day in (2, 1, 2, 1)]))
    assert frame["transaction_id"].to_list() == ["b", "d", "a", "c"]


@given(st.lists(st.floats(-MAX_AMOUNT, MAX_AMOUNT), min_size=2, max_size=50))
@example([1.005, 1.015, 2.675, 0.125, -0.125, 0.005, 1e10, -1e10, 9_999_999_999.995])
def test_amounts_are_what_the_stream_makes_of_them(
    tmp_path_factory: pytest.TempPathFactory, amounts: list[float]
) -> None:
    rows = len(amounts)
    file = parquet(
        tmp_path_factory.mktemp("amounts"),
        transaction_id=list(range(rows)),
        account_id=[1] * rows,
        merchant_id=[1] * rows,
        amount=amounts,
        timestamp=[datetime(2024, 1, 1, tzinfo=UTC)] * rows,
        is_fraud=[True] + [False] * (rows - 1),
    )
    assert load(file)["amount"].to_list() == [minor_units(amount) for amount in amounts]


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2024-02-29T23:59:59Z", datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)),
        ("2024-02-29 23:59:59.123456", datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=UTC)),
        ("2024-02-29T23:59:59.123456789+02:00", datetime(2024, 2, 29, 21, 59, 59, 123456, tzinfo=UTC)),
        ("2024-02-29T10:30-0530", datetime(2024, 2, 29, 16, 0, tzinfo=UTC)),
        ("2024-02-29", datetime(2024, 2, 29, tzinfo=UTC)),
    ],
)
def test_timestamps_as_text(text: str, instant: datetime, tmp_path: Path) -> None:
    stamps = [text, *["2020-01-01T00:00:00Z"] * 3]
    assert load(csv(tmp_path, timestamp=stamps))["timestamp"][-1] == instant
    assert load(parquet(tmp_path, timestamp=stamps))["timestamp"][-1] == instant


def test_naive_timestamps_are_utc_and_it_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    frame = load(parquet(tmp_path, timestamp=[datetime(2024, 1, day, 5) for day in (1, 2, 3, 4)]))
    assert frame["timestamp"][0] == datetime(2024, 1, 1, 5, tzinfo=UTC)
    assert "taken as UTC" in caplog.text


@pytest.mark.parametrize(
    "flags", [[True, False, True, False], [1, 0, 1, 0], ["1", "0", "true", "False"], [1.0, 0.0, 1.0, 0.0]]
)
def test_labels_may_be_written_in_several_ways(flags: list[Any], tmp_path: Path) -> None:
    assert load(parquet(tmp_path, is_fraud=flags)).sort("transaction_id")["is_fraud"].to_list() == [1, 0, 1, 0]


def test_scenarios_are_names_of_frauds_only(tmp_path: Path) -> None:
    frame = load(parquet(tmp_path, is_fraud=[1, 1, 0, 0], fraud_scenario=[2, 0, 3, 0])).sort("transaction_id")
    assert frame["fraud_scenario"].to_list() == ["2", None, None, None]


def test_ids_keep_their_leading_zeros_in_a_csv(tmp_path: Path) -> None:
    frame = load(csv(tmp_path, account_id=["007", "08", "7", "8"])).sort("transaction_id")
    assert frame["account_id"].to_list() == ["007", "08", "7", "8"]


@pytest.mark.parametrize("name", ["handbook", "kaggle"])
def test_the_maps_that_ship_fit_and_are_suggested(name: str, tmp_path: Path) -> None:
    columns = column_map(MAPS / f"{name}.toml")
    renamed = {columns.get(key, key): values for key, values in raw().items()}
    extra = {source: ["q"] * 4 for source in columns.values() if source not in renamed}
    file = tmp_path / "renamed.parquet"
    pl.DataFrame(renamed | extra).write_parquet(file)
    assert load(file, columns).height == 4
    with pytest.raises(InvalidHistory, match=f"add --columns features/columns/{name}.toml"):
        load(file)


def test_an_option_overrides_the_map(tmp_path: Path) -> None:
    file = tmp_path / "map.toml"
    file.write_text('[columns]\namount = "A"\ntimestamp = "T"\n')
    assert column_map(file, ["amount=B=C"]) == {"amount": "B=C", "timestamp": "T"}


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("[columns]\nvalue = 'x'\n", [], "no column of a history is called value"),
        ("[columns]\namount = 3\n", [], r"needs a table \[columns\]"),
        ("amount = 'x'", [], r"needs a table \[columns\]"),
        ("[columns", [], "map.toml"),
        ("[columns]\n", ["amount"], "is not name=column"),
        ("[columns]\n", ["amount="], "is not name=column"),
    ],
)
def test_bad_maps_are_refused(text: str, options: list[str], message: str, tmp_path: Path) -> None:
    file = tmp_path / "map.toml"
    file.write_text(text)
    with pytest.raises(InvalidSetting, match=message):
        column_map(file, options)


def test_a_missing_map_names_those_that_ship(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"features/columns/handbook.toml, features/columns/kaggle.toml"):
        column_map(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"transaction_id": ["a", "b", "a", "a"]}, r"transaction_id occurs more than once: 3 rows, row 1 \(a\), 3"),
        ({"account_id": ["a", None, "", "d"]}, "account_id is empty: 2 rows, row 2, 3"),
        ({"merchant_id": ["a", "b", "c", "d" * 65]}, r"merchant_id is longer than 64 characters: 1 rows, row 4"),
        ({"account_id": [1.5, 2.5, 3.5, 4.5]}, r"account_id has the type Float64 \(make it text or integers"),
        ({"amount": [1.0, float("nan"), float("inf"), 2.0]}, r"amount is not finite: 2 rows, row 2 \(nan\), 3 \(inf\)"),
        ({"amount": [1.0, 2.0, 3.0, 1e11]}, r"beyond 10,000,000,000 major units: 1 rows, row 4 \(1"),
        ({"amount": [1.0, None, 3.0, 4.0]}, r"amount is not a number: 1 rows, row 2 \(None\)"),
        ({"amount": ["1", "2,5", "3", "4"]}, r"amount is not a number: 1 rows, row 2 \(2,5\)"),
        ({"timestamp": ["2024-01-01", "01/02/2024", "", None]}, r"not a timestamp .*: 1 rows, row 2 \(01/02/2024\)"),
        ({"timestamp": ["2024-01-01", "2024-01-01", "", None]}, "timestamp is empty: 2 rows, row 3, 4"),
        ({"timestamp": ["2024-01-01", "1969-12-31", "2024-01-01", "2024-01-01"]}, "before 1970: 1 rows, row 2"),
        ({"timestamp": [1, 2, 3, 4]}, r"timestamp has the type Int64 \(make it a timestamp"),
        ({"is_fraud": [0, 1, 2, None]}, r"neither 0 or 1 nor true or false: 2 rows, row 3 \(2\), 4 \(None\)"),
        ({"is_fraud": [0, 0, 0, 0]}, "all rows are honest; a history needs both"),
        ({"is_fraud": [1, 1, 1, 1]}, "all rows are fraud; a history needs both"),
        ({"labelled_at": ["2023-01-01", None, "2025-01-01", "x"]}, "labelled_at is before timestamp: 1 rows, row 1"),
        ({"labelled_at": ["2023-01-01", None, "2025-01-01", "x"]}, "labelled_at is not a timestamp .*: 1 rows, row 4"),
    ],
)
def test_unusable_rows_are_numbered_and_counted(columns: dict[str, list[Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidHistory, match=message):
        load(parquet(tmp_path, **columns))


def test_all_problems_are_in_one_message_and_long_lists_are_cut(tmp_path: Path) -> None:
    rows = 1_000
    file = csv(
        tmp_path,
        transaction_id=["same"] * rows,
        account_id=[""] * rows,
        merchant_id=["m"] * rows,
        amount=["?"] * rows,
        timestamp=["?"] * rows,
        is_fraud=["?"] * rows,
    )
    with pytest.raises(InvalidHistory) as caught:
        load(file)
    message = str(caught.value)
    for part in ("transaction_id occurs", "account_id is empty", "amount is not", "timestamp is not", "is_fraud is"):
        assert part in message
    assert "1,000 rows, row 1 (?), 2 (?), 3 (?), 4 (?), 5 (?) and 995 more" in message
    assert "\n" not in message
    assert len(message) < 2_000


@pytest.mark.parametrize(
    ("columns", "remedy"),
    [
        ({"merchant_id": ["m", None, "", "m"]}, "withdrawals and transfers: the terminal, the counterparty's account"),
        ({"account_id": ["m", None, "", "m"]}, "give the payer's account"),
        ({"transaction_id": ["m", None, "", "n"]}, "number the rows"),
        ({"amount": ["1", "2,5", "3", "4"]}, "a point before decimals"),
        ({"amount": [1.0, 2.0, 3.0, 1e11]}, "divide minor ones by 100"),
        ({"is_fraud": [0, 1, None, None]}, "0 for all else"),
        ({"is_fraud": [0, 0, 0, 0]}, "is is_fraud the right column"),
        ({"labelled_at": ["2023-01-01", None, None, None]}, "leave it empty"),
    ],
)
def test_each_message_says_what_to_do(columns: dict[str, list[Any]], remedy: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidHistory) as caught:
        load(parquet(tmp_path, **columns))
    assert remedy in str(caught.value)


def test_repeats_of_a_row_are_told_from_other_rows_of_the_same_id(tmp_path: Path) -> None:
    file = tmp_path / "history.parquet"
    frame = pl.DataFrame(raw(), strict=False)
    pl.concat([frame, frame.head(2)]).write_parquet(file)
    with pytest.raises(InvalidHistory, match=r"4 rows.*\(2 of them repeat a whole row: keep one of each\)$"):
        load(file)
    pl.concat([frame, frame.head(1).with_columns(amount=9.0)]).write_parquet(file)
    with pytest.raises(InvalidHistory, match=r"2 rows.*\(where rows differ, give each payment an id of its own"):
        load(file)


def test_a_history_without_merchants_takes_another_column_for_them_as_the_message_says(tmp_path: Path) -> None:
    file = tmp_path / "history.parquet"
    pl.DataFrame(raw(transaction_type=["atm", "transfer", "atm", "atm"])).drop("merchant_id").write_parquet(file)
    with pytest.raises(InvalidHistory, match=r"no column for merchant_id.*--column merchant_id=column\.$"):
        load(file)
    frame = load(file, column_map(options=["merchant_id=transaction_type"]))
    assert frame["merchant_id"].to_list() == frame["transaction_type"].to_list() == ["transfer", "atm", "atm", "atm"]


def test_offsets_may_differ_and_be_of_whole_hours_and_a_mixture_with_none_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stamps = [
        "2024-01-01 12:00:00+02",
        "2024-01-01T12:00:00.5-05:30",
        "2024-01-01T12:00:00Z",
        "2024-01-01 12:00:00+0100",
    ]
    frame = load(parquet(tmp_path, timestamp=stamps))
    assert [f"{stamp:%H:%M:%S.%f}" for stamp in frame["timestamp"]] == [
        "10:00:00.000000",
        "11:00:00.000000",
        "12:00:00.000000",
        "17:30:00.500000",
    ]
    assert not caplog.records
    load(parquet(tmp_path, timestamp=[*stamps[:3], "2024-01-01"]))
    assert [record.getMessage() for record in caplog.records] == [
        "timestamp has no offset from UTC in 1 rows, which are taken as UTC; in others it has one"
    ]


def test_missing_columns_are_named_with_what_was_found(tmp_path: Path) -> None:
    file = tmp_path / "history.parquet"
    pl.DataFrame(raw()).drop("amount", "is_fraud").write_parquet(file)
    with pytest.raises(InvalidHistory, match="no column for amount, is_fraud; it has transaction_id, account_id"):
        load(file)
    with pytest.raises(
        InvalidHistory, match=r"no column for amount \(mapped to A\), is_fraud, location \(mapped to L\)"
    ):
        load(file, {"amount": "A", "location": "L"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.parquet", None, "cannot be read"),
        ("none.csv", None, "cannot be read"),
        ("bad.parquet", b"not parquet", "cannot be read"),
        ("empty.csv", b"", "cannot be read"),
        ("header.csv", b"transaction_id,account_id,merchant_id,amount,timestamp,is_fraud\n", "has no rows"),
        ("history.xlsx", b"x", "neither .parquet nor .csv"),
        ("ragged.csv", b"transaction_id,account_id,merchant_id,amount,timestamp,is_fraud\n1,2,3,4,5,6,7,8\n", "read"),
    ],
)
def test_unreadable_files_are_refused(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidHistory, match=message):
        load(file)
