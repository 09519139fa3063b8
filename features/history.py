"""Labelled histories from CSV and Parquet files, checked, in the one form that everything else works on.

A history file has one row a transaction. Required: ``transaction_id``, ``account_id``, ``merchant_id``, ``amount``
(major units), ``timestamp``, ``is_fraud``. Optional: ``transaction_type``, ``location``, ``device_id``, ``labelled_at``
(when the label became known; empty: after the label delay), ``fraud_scenario`` (what kind of fraud it was). Other names
are mapped by a ``ColumnMap``, from a TOML file (``features/columns`` has examples) or ``name=column`` options.

Timestamps without an offset are taken as UTC; what is finer than a microsecond is cut off.
"""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, cast

import numpy as np
import polars as pl

from features.errors import InvalidHistory, InvalidSetting
from features.problems import ABSENT, EMPTY, Problems, of_repeats
from features.transaction import MAX_AMOUNT, MAX_ID_LENGTH, MAX_TEXT_LENGTH, minor_units

log = logging.getLogger(__name__)

ColumnMap = Mapping[str, str]

INSTANT: Final = pl.Datetime("us", "UTC")
IDS: Final = ("transaction_id", "account_id", "merchant_id")
TEXTS: Final = ("transaction_type", "location", "device_id")
REQUIRED: Final = (*IDS, "amount", "timestamp", "is_fraud")
OPTIONAL: Final = (*TEXTS, "labelled_at", "fraud_scenario")
MAPS: Final = Path(__file__).parent / "columns"
_TRUE: Final = ("1", "1.0", "true", "t", "yes")
_FALSE: Final = ("0", "0.0", "false", "f", "no")
_WITH_OFFSET: Final = ("%Y-%m-%dT%H:%M:%S%.f%:z", "%Y-%m-%dT%H:%M%:z")
_NAIVE: Final = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d")


def column_map(file: Path | None = None, options: Iterable[str] = ()) -> ColumnMap:
    """Vigie's names -> the file's columns, from a TOML file and ``name=column`` options; an option overrides the file.

    Raises ``InvalidSetting`` for an unreadable file, an option of another form, or a name that Vigie does not know.
    """
    columns: dict[str, str] = {}
    if file is not None:
        try:
            table = tomllib.loads(file.read_text(encoding="utf-8")).get("columns")
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InvalidSetting(f"--columns {file}: {error}; the maps that ship are {_shipped()}") from error
        if not isinstance(table, dict) or not all(isinstance(column, str) for column in table.values()):
            raise InvalidSetting(f'--columns {file} needs a table [columns] of lines such as amount = "TX_AMOUNT"')
        columns.update(table)
    for option in options:
        name, equals, column = option.partition("=")
        if not (name and equals and column):
            raise InvalidSetting(
                f"--column {option!r} is not name=column; write for instance --column amount=TX_AMOUNT"
            )
        columns[name] = column
    unknown = sorted(set(columns) - {*REQUIRED, *OPTIONAL})
    if unknown:
        raise InvalidSetting(
            f"no column of a history is called {', '.join(unknown)}; use {', '.join(REQUIRED + OPTIONAL)}"
        )
    return columns


def load(path: Path | str, columns: ColumnMap | None = None, *, labelled: bool = True) -> pl.DataFrame:
    """The history in a CSV or Parquet file as the canonical frame, sorted by ``timestamp`` (ties in the file's order).

    Columns: ``transaction_id``, ``account_id``, ``merchant_id`` String; ``amount`` Int64, minor units; ``timestamp``
    Datetime(us, UTC); ``transaction_type``, ``location``, ``device_id`` String or null; ``is_fraud`` Boolean;
    ``labelled_at`` Datetime(us, UTC) or null; ``fraud_scenario`` String or null. Integer ids become decimal text.
    Without ``labelled``, ``is_fraud`` may be missing (all honest) or of one class.
    Raises ``InvalidHistory`` with all that is wrong, rows numbered from 1 (a CSV's header is not counted).
    """
    path = Path(path)
    raw = _read(path, columns or {}, REQUIRED if labelled else REQUIRED[:-1])
    problems = Problems()
    frame = raw.select(
        *(_ids(raw, name, problems) for name in IDS),
        _amounts(raw, problems),
        _instants(raw, "timestamp", problems),
        *(_texts(raw, name, problems) for name in TEXTS),
        _flags(raw, problems),
        _instants(raw, "labelled_at", problems, required=False),
        _texts(raw, "fraud_scenario", problems),
    )
    _check_whole(frame, problems, labelled=labelled)
    if problems.found:
        raise InvalidHistory(f"{path} ({frame.height:,} rows): {'; '.join(problems.found)}")
    # Files write "no scenario" as 0 or as empty text, and only a fraud has one.
    scenario = pl.when(pl.col("is_fraud") & ~pl.col("fraud_scenario").is_in(["", "0"])).then("fraud_scenario")
    frame = frame.with_columns(scenario.alias("fraud_scenario"))
    return frame if frame["timestamp"].is_sorted() else frame.sort("timestamp", maintain_order=True)


def _read(path: Path, columns: ColumnMap, required: Iterable[str]) -> pl.DataFrame:
    """The columns needed, under Vigie's names; a CSV's all as text."""
    try:
        if path.suffix == ".parquet":
            scan = pl.scan_parquet(path)
        elif path.name.endswith((".csv", ".csv.gz")):
            scan = pl.scan_csv(path, infer_schema=False)
        else:
            raise InvalidHistory(f"{path} is neither .parquet nor .csv (or .csv.gz)")
        found = scan.collect_schema().names()
        sources = {name: columns.get(name, name) for name in (*REQUIRED, *OPTIONAL)}
        missing = [
            name if name == source else f"{name} (mapped to {source})"
            for name, source in sources.items()
            if source not in found and (name in required or name in columns)
        ]
        if missing:
            raise InvalidHistory(
                f"{path} has no column for {', '.join(missing)}; it has {', '.join(found)}. {_advice(found, sources)}"
            )
        chosen = {name: source for name, source in sources.items() if source in found}
        frame = scan.select(pl.col(source).alias(name) for name, source in chosen.items()).collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InvalidHistory(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    if frame.height == 0:
        raise InvalidHistory(f"{path} has no rows; a history needs transactions, frauds among them")
    if "is_fraud" not in chosen:
        frame = frame.with_columns(is_fraud=False)
    return frame.with_columns(pl.lit(None, pl.String).alias(name) for name in OPTIONAL if name not in chosen)


def _advice(found: Iterable[str], sources: ColumnMap) -> str:
    for file in sorted(MAPS.glob("*.toml")):
        if set(column_map(file).values()) <= set(found):
            return f"These are the names of {file.stem}: add --columns features/columns/{file.name}"
    absent = [f"Without {name}: {ABSENT[name]}." for name in ABSENT if sources[name] not in found]
    return " ".join(["Name the right ones with --column name=column or --columns map.toml.", *absent])


def _shipped() -> str:
    return ", ".join(f"features/columns/{file.name}" for file in sorted(MAPS.glob("*.toml")))


def _as_text(values: pl.Series, problems: Problems) -> pl.Series:
    if values.dtype.is_integer() or values.dtype in (pl.String, pl.Null, pl.Categorical, pl.Enum):
        return values.cast(pl.String)
    problems.found.append(
        f"{values.name} has the type {values.dtype} (make it text or integers; pandas, which makes floats of integers "
        "where some are missing, has Int64 for that)"
    )
    return pl.Series(values.name, [None] * values.len(), pl.String)


def _ids(raw: pl.DataFrame, name: str, problems: Problems) -> pl.Series:
    unusable = len(problems.found)
    values = _as_text(raw[name], problems)
    if len(problems.found) == unusable:
        problems.add(f"{name} is empty", values.fill_null("") == "", remedy=EMPTY[name])
        problems.add(
            f"{name} is longer than {MAX_ID_LENGTH} characters",
            values.str.len_chars() > MAX_ID_LENGTH,
            values,
            remedy="shorten it to a digest, the same one in the stream",
        )
    return values


def _texts(raw: pl.DataFrame, name: str, problems: Problems) -> pl.Series:
    values = _as_text(raw[name], problems)
    problems.add(
        f"{name} is longer than {MAX_TEXT_LENGTH} characters",
        values.str.len_chars() > MAX_TEXT_LENGTH,
        values,
        remedy="shorten it, in the stream too",
    )
    return values


def _amounts(raw: pl.DataFrame, problems: Problems) -> pl.Series:
    """Minor units, to the unit what ``features.transaction.minor_units`` gives; 0 where the amount is unusable."""
    given = raw["amount"]
    if not (given.dtype.is_numeric() or given.dtype == pl.String):
        problems.found.append(f"amount has the type {given.dtype} (make it a number of major units)")
        return pl.zeros(given.len(), pl.Int64, eager=True).alias("amount")
    stripped = given.str.strip_chars() if given.dtype == pl.String else given
    values = stripped.cast(pl.Float64, strict=False)
    digits = "write it in digits with a point before decimals, such as 1234.50, or leave the row out"
    problems.add("amount is not a number", values.is_null(), given, remedy=digits)
    problems.add("amount is not finite", ~values.is_finite(), given, remedy=digits)
    outside = values.is_finite() & (values.abs() > MAX_AMOUNT)
    remedy = "amounts are in major units: divide minor ones by 100, or leave the row out"
    problems.add(f"amount is beyond {MAX_AMOUNT:,} major units", outside, given, remedy=remedy)
    usable = values.is_finite().fill_null(False) & ~outside.fill_null(False)
    amounts = values.zip_with(usable, pl.zeros(given.len(), pl.Float64, eager=True)).to_numpy()
    scaled = amounts * 100.0
    nearest = np.rint(scaled)
    minor = nearest.astype(np.int64)
    # The product may round differently from the decimal near a tie only.
    for row in np.flatnonzero(np.abs(scaled - nearest) >= 0.499):
        minor[row] = minor_units(float(amounts[row]))
    return pl.Series("amount", minor)


def _instants(raw: pl.DataFrame, name: str, problems: Problems, *, required: bool = True) -> pl.Series:
    given = raw[name]
    naive = 0
    if given.dtype == pl.String:
        text = pl.col(name).str.strip_chars().str.replace(" ", "T").str.replace("[zZ]$", "+00:00")
        text = text.str.replace(r"(T.*[+-]\d\d)$", "$1:00")  # as PostgreSQL writes offsets of whole hours
        with_offset = pl.coalesce(text.str.strptime(INSTANT, form, strict=False) for form in _WITH_OFFSET)
        without = pl.coalesce(text.str.strptime(pl.Datetime("us"), form, strict=False) for form in _NAIVE)
        parsed = raw.select(a=with_offset, b=without.dt.replace_time_zone("UTC"))
        naive = parsed.filter(pl.col("a").is_null(), pl.col("b").is_not_null()).height
        values = parsed.select(pl.coalesce("a", "b").alias(name)).to_series()
    elif given.dtype in (pl.Datetime, pl.Date):
        naive = given.len() if getattr(given.dtype, "time_zone", None) is None else 0
        local = given.cast(pl.Datetime("us", getattr(given.dtype, "time_zone", None)))
        values = local.dt.replace_time_zone("UTC") if naive else local.dt.convert_time_zone("UTC")
    elif given.dtype == pl.Null:
        values = given.cast(INSTANT)
    else:
        problems.found.append(
            f"{name} has the type {given.dtype} (make it a timestamp, or text such as 2018-04-01T00:00:31Z)"
        )
        return pl.Series(name, [None] * given.len(), INSTANT)
    empty = given.is_null() if given.dtype != pl.String else given.fill_null("").str.strip_chars() == ""
    if naive and naive == values.len() - values.null_count():
        log.info("%s has no offset from UTC and is taken as UTC", name)
    elif naive:
        log.warning("%s has no offset from UTC in %s rows, which are taken as UTC; in others it has one", name, naive)
    if required:
        problems.add(f"{name} is empty", empty, remedy="nothing can be told from a payment at no time: leave it out")
    problems.add(
        f"{name} is not a timestamp such as 2018-04-01T00:00:31Z",
        values.is_null() & ~empty,
        given,
        remedy="write them all like this one" if required else "write them all like this one, or leave it empty",
    )
    remedy = "if it is a placeholder, leave it empty" if not required else "if it is a placeholder, leave the row out"
    problems.add(f"{name} is before 1970", values.dt.epoch("us") < 0, given, remedy=remedy)
    return values


def _flags(raw: pl.DataFrame, problems: Problems) -> pl.Series:
    given = raw["is_fraud"]
    text = given.cast(pl.String).str.strip_chars().str.to_lowercase()
    truth, falsehood = text.is_in(_TRUE).fill_null(False), text.is_in(_FALSE).fill_null(False)
    remedy = "write 1 for known frauds and 0 for all else: without a label a payment counts as honest"
    problems.add("is_fraud is neither 0 or 1 nor true or false", ~(truth | falsehood), given, remedy=remedy)
    return truth.alias("is_fraud")


def _check_whole(frame: pl.DataFrame, problems: Problems, *, labelled: bool) -> None:
    """What only the rows together can show."""
    ids = frame["transaction_id"]
    again = ids.is_duplicated() & ids.is_not_null()
    if again.any():
        remedy = of_repeats(frame.filter(again))
        problems.add("transaction_id occurs more than once", again, ids, remedy=remedy)
    problems.add(
        "labelled_at is before timestamp",
        frame["labelled_at"] < frame["timestamp"],
        frame["labelled_at"],
        remedy="check the two columns' offsets from UTC, or leave it empty: the label then comes after the label delay",
    )
    frauds = cast(int, frame["is_fraud"].sum())
    if (
        labelled
        and frauds in (0, frame.height)
        and not any(problem.startswith("is_fraud") for problem in problems.found)
    ):
        only, other = ("fraud", "honest transactions") if frauds else ("honest", "known frauds")
        problems.found.append(
            f"all rows are {only}; a history needs both frauds and honest transactions (is is_fraud the right column? "
            f"Add the {other} of the same days)"
        )
