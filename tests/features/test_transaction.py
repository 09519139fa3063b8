from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import InvalidRecord
from features.transaction import (
    EPOCH,
    ERROR_CODES,
    MAX_AMOUNT,
    MAX_ID_LENGTH,
    MAX_TEXT_LENGTH,
    MICROSECOND,
    Label,
    Transaction,
    microseconds,
    minor_units,
    parse_label,
    parse_transaction,
    rfc3339,
)

LATEST = microseconds(datetime(2026, 1, 1, tzinfo=UTC))
PAYMENT = {
    "transaction_id": "t1",
    "account_id": "a1",
    "merchant_id": "m1",
    "amount": 12.34,
    "timestamp": "2018-04-01T00:00:31Z",
}
LABEL = {
    "transaction_id": "t1",
    "account_id": "a1",
    "merchant_id": "m1",
    "timestamp": "2018-04-01T00:00:31Z",
    "is_fraud": True,
    "labelled_at": "2018-04-08T12:00:00Z",
}
INSTANT = 1_522_540_831_000_000  # date -u -d 2018-04-01T00:00:31Z +%s, and six zeros

Parse = Callable[[bytes | None, int], Transaction | Label]
many = settings(max_examples=10 * settings().max_examples)


def payment(**changes: object) -> bytes:
    return json.dumps(PAYMENT | changes).encode()


def label(**changes: object) -> bytes:
    return json.dumps(LABEL | changes).encode()


def raw(field: str, text: str, of: dict[str, Any] = PAYMENT) -> bytes:
    """The message with one field's JSON text as it is given, which json.dumps would not write."""
    return json.dumps(of | {field: "@"}).replace('"@"', text).encode()


def without(field: str, of: dict[str, Any] = PAYMENT) -> bytes:
    return json.dumps({name: value for name, value in of.items() if name != field}).encode()


def refusal(parse: Parse, value: bytes | None) -> InvalidRecord:
    with pytest.raises(InvalidRecord) as caught:
        parse(value, LATEST)
    return caught.value


LONG_ID = "x" * (MAX_ID_LENGTH + 1)
LONG_TEXT = "y" * (MAX_TEXT_LENGTH + 1)

# (parser, message, code, what its text must name: the field and the value as far as there are such)
REFUSED: list[tuple[Parse, bytes | None, str, list[str]]] = [
    (parse_transaction, None, "empty_value", ["no value"]),
    (parse_transaction, b"", "empty_value", ["no value"]),
    (parse_label, None, "empty_value", ["no value"]),
    (parse_transaction, b'{"account_id": "\xff"}', "not_utf8", ["byte 16", "0xff"]),
    (parse_transaction, json.dumps(PAYMENT).encode("utf-16"), "not_utf8", ["byte 0", "0xff"]),
    (parse_label, b"\xc3", "not_utf8", ["byte 0", "0xc3"]),
    (parse_transaction, b"hello", "not_json", ["hello"]),
    (parse_transaction, payment()[:-1], "not_json", ["transaction_id"]),
    (parse_transaction, payment() + b"{}", "not_json", ["transaction_id"]),
    (parse_transaction, b"\xef\xbb\xbf" + payment(), "not_json", ["BOM"]),
    (parse_transaction, raw("account_id", '"\\ud800"'), "not_json", ["surrogate"]),
    (parse_transaction, b"[" * 100_000, "not_json", ["recursion"]),
    (parse_transaction, raw("other", "[" * 100_000 + "]" * 100_000, PAYMENT | {"other": 0}), "not_json", ["recursion"]),
    (parse_label, b"{'is_fraud': true}", "not_json", ["is_fraud"]),
    (parse_transaction, b"[]", "not_an_object", ["[]"]),
    (parse_transaction, b"null", "not_an_object", ["null"]),
    (parse_transaction, b'"text"', "not_an_object", ["text"]),
    (parse_label, b"12", "not_an_object", ["12"]),
    *((parse_transaction, without(field), "missing_field", [field]) for field in PAYMENT),
    *((parse_label, without(field, LABEL), "missing_field", [field]) for field in LABEL),
    (parse_transaction, payment(transaction_id=None), "wrong_type", ["transaction_id", "null"]),
    (parse_transaction, payment(account_id=1.5), "wrong_type", ["account_id", "1.5"]),
    (parse_transaction, payment(merchant_id=["m"]), "wrong_type", ["merchant_id", '["m"]']),
    (parse_transaction, payment(merchant_id=True), "wrong_type", ["merchant_id", "true"]),
    (parse_transaction, payment(amount="12.34"), "wrong_type", ["amount", '"12.34"']),
    (parse_transaction, payment(amount=None), "wrong_type", ["amount", "null"]),
    (parse_transaction, payment(amount=False), "wrong_type", ["amount", "false"]),
    (parse_transaction, payment(timestamp=1_522_540_831), "wrong_type", ["timestamp", "1522540831"]),
    (parse_transaction, payment(transaction_type=3), "wrong_type", ["transaction_type", "3"]),
    (parse_transaction, payment(location={"city": "Paris"}), "wrong_type", ["location", "Paris"]),
    (parse_transaction, payment(device_id=7), "wrong_type", ["device_id", "7"]),
    (parse_label, label(is_fraud=1), "wrong_type", ["is_fraud", "1"]),
    (parse_label, label(is_fraud=None), "wrong_type", ["is_fraud", "null"]),
    (parse_label, label(is_fraud="true"), "wrong_type", ["is_fraud", '"true"']),
    *(
        (parse_transaction, payment(**{f: ""}), "empty_id", [f])
        for f in ("transaction_id", "account_id", "merchant_id")
    ),
    (parse_label, label(merchant_id=""), "empty_id", ["merchant_id"]),
    (parse_transaction, payment(transaction_id=LONG_ID), "id_too_long", ["transaction_id", "65", "xxx"]),
    (parse_transaction, payment(account_id=10**64), "id_too_long", ["account_id", "65", "1000"]),
    (parse_transaction, raw("merchant_id", "9" * 5000), "id_too_long", ["merchant_id", "999"]),
    (parse_label, label(account_id=LONG_ID), "id_too_long", ["account_id", "65"]),
    (parse_transaction, payment(location=LONG_TEXT), "text_too_long", ["location", "257", "yyy"]),
    (parse_transaction, payment(device_id=LONG_TEXT), "text_too_long", ["device_id", "257"]),
    (parse_transaction, payment(transaction_type=LONG_TEXT), "text_too_long", ["transaction_type", "257"]),
    (parse_transaction, raw("amount", "NaN"), "amount_not_finite", ["amount", "nan"]),
    (parse_transaction, raw("amount", "Infinity"), "amount_not_finite", ["amount", "inf"]),
    (parse_transaction, raw("amount", "-Infinity"), "amount_not_finite", ["amount", "-inf"]),
    (parse_transaction, raw("amount", "1e999"), "amount_not_finite", ["amount", "inf"]),
    (parse_transaction, payment(amount=10_000_000_000.01), "amount_out_of_range", ["amount", "10000000000.01"]),
    (parse_transaction, payment(amount=-(10**11)), "amount_out_of_range", ["amount", "-100000000000"]),
    (parse_transaction, payment(amount=10**400), "amount_out_of_range", ["amount", "1000000"]),
    (parse_transaction, raw("amount", "1" * 5000), "amount_out_of_range", ["amount", "1111"]),
    (parse_transaction, payment(timestamp="yesterday"), "timestamp_invalid", ["timestamp", "yesterday"]),
    (parse_transaction, payment(timestamp=""), "timestamp_invalid", ["timestamp", '""']),
    (parse_transaction, payment(timestamp="2018-02-30T00:00:00Z"), "timestamp_invalid", ["2018-02-30"]),
    (parse_transaction, payment(timestamp="2018-04-01T25:00:00Z"), "timestamp_invalid", ["25:00"]),
    (parse_label, label(labelled_at="8.4.2018"), "timestamp_invalid", ["labelled_at", "8.4.2018"]),
    (parse_transaction, payment(timestamp="2018-04-01T00:00:31"), "timestamp_without_offset", ["timestamp", ":31"]),
    (parse_transaction, payment(timestamp="2018-04-01"), "timestamp_without_offset", ["timestamp", "2018-04-01"]),
    (parse_label, label(labelled_at="2018-04-08T12:00:00"), "timestamp_without_offset", ["labelled_at"]),
    (
        parse_transaction,
        payment(timestamp="1969-12-31T23:59:59.999999Z"),
        "timestamp_before_1970",
        ["timestamp", "1969"],
    ),
    (
        parse_transaction,
        payment(timestamp="1970-01-01T00:30:00+01:00"),
        "timestamp_before_1970",
        ["timestamp", "+01:00"],
    ),
    (parse_transaction, payment(timestamp="0001-01-01T00:00:00+14:00"), "timestamp_before_1970", ["timestamp", "0001"]),
    (parse_transaction, payment(timestamp="2026-01-01T00:00:00.000001Z"), "timestamp_in_future", ["timestamp", "2026"]),
    (parse_transaction, payment(timestamp="9999-12-31T23:59:59-14:00"), "timestamp_in_future", ["timestamp", "9999"]),
    (parse_label, label(labelled_at="2026-01-01T00:00:01Z"), "timestamp_in_future", ["labelled_at", "2026"]),
    (parse_label, label(timestamp="2030-01-01T00:00:00Z"), "timestamp_in_future", ["timestamp", "2030"]),
]


@pytest.mark.parametrize(("parse", "value", "code", "named"), REFUSED)
def test_each_fault_has_its_code_and_names_field_value_and_remedy(
    parse: Parse, value: bytes | None, code: str, named: list[str]
) -> None:
    error = refusal(parse, value)
    assert error.code == code
    for word in named:
        assert word in str(error)
    _, _, remedy = str(error).rpartition("; ")
    assert remedy.startswith(("send ", "add ", "check "))


def test_every_code_is_reached() -> None:
    # Only the flow, which knows the watermark, can say that an event is too late.
    assert {code for _, _, code, _ in REFUSED} == set(ERROR_CODES) - {"too_late"}


def test_a_payment_as_the_contract_shows_it() -> None:
    assert parse_transaction(payment(), LATEST) == Transaction("t1", "a1", "m1", 1234, INSTANT)
    full = parse_transaction(payment(transaction_type="online", location="Paris", device_id="phone"), LATEST)
    assert (full.transaction_type, full.location, full.device_id) == ("online", "Paris", "phone")
    nothing = parse_transaction(payment(transaction_type=None, location=None, device_id=None), LATEST)
    assert nothing == parse_transaction(payment(), LATEST)


def test_a_label_as_the_contract_shows_it() -> None:
    known = INSTANT - 31_000_000 + 7 * 86_400_000_000 + 12 * 3_600_000_000
    assert parse_label(label(), LATEST) == Label("t1", "a1", "m1", INSTANT, True, known)


def test_the_limits_themselves_are_allowed() -> None:
    at_limit = payment(
        transaction_id="é" * MAX_ID_LENGTH,
        account_id=10 ** (MAX_ID_LENGTH - 1),
        amount=-MAX_AMOUNT,
        timestamp=rfc3339(LATEST),
        location="é" * MAX_TEXT_LENGTH,
        device_id="",
    )
    parsed = parse_transaction(at_limit, LATEST)
    assert len(parsed.transaction_id) == len(parsed.account_id) == MAX_ID_LENGTH
    assert parsed.amount == -MAX_AMOUNT * 100
    assert parsed.timestamp == LATEST
    assert parsed.device_id == ""
    assert parse_transaction(payment(timestamp="1970-01-01T00:00:00Z"), LATEST).timestamp == 0


def test_unknown_fields_are_ignored_however_they_look() -> None:
    extended = payment(currency="EUR", nested={"a": [1, {"b": None}]}, Amount="x", is_fraud=True)
    assert parse_transaction(extended, LATEST) == parse_transaction(payment(), LATEST)
    assert parse_label(label(analyst="kim", comment=None), LATEST) == parse_label(label(), LATEST)


@given(st.integers(-(10**62), 10**63))
def test_an_integer_id_is_its_decimal_text(number: int) -> None:
    as_number = parse_transaction(payment(transaction_id=number, account_id=number, merchant_id=number), LATEST)
    assert as_number.transaction_id == as_number.account_id == as_number.merchant_id == str(number)
    assert parse_label(label(transaction_id=number), LATEST).transaction_id == str(number)


@given(
    st.datetimes(datetime(1970, 1, 2), datetime(2025, 12, 30)),
    st.integers(-14 * 60, 14 * 60),
)
def test_an_instant_is_the_same_at_every_offset(local: datetime, minutes: int) -> None:
    instant = local.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    parsed = parse_transaction(payment(timestamp=instant.isoformat()), LATEST)
    assert parsed.timestamp == (instant - EPOCH) // MICROSECOND == microseconds(instant)


@given(st.integers(0, LATEST))
def test_rfc3339_is_parsed_back_to_the_microsecond(timestamp: int) -> None:
    text = rfc3339(timestamp)
    assert text.endswith("Z")
    assert parse_transaction(payment(timestamp=text), LATEST).timestamp == timestamp
    assert parse_label(label(labelled_at=text), LATEST).labelled_at == timestamp


def test_rfc3339_shows_a_fraction_only_where_there_is_one() -> None:
    assert rfc3339(INSTANT) == "2018-04-01T00:00:31Z"
    assert rfc3339(INSTANT + 5) == "2018-04-01T00:00:31.000005Z"


def in_decimals(amount: float) -> int:
    """Two decimals, half to even, of the amount's shortest decimal text; by Decimal alone."""
    return int(Decimal(repr(amount)).quantize(Decimal("0.01"), ROUND_HALF_EVEN) * 100)


@many
@given(
    st.one_of(
        st.floats(-MAX_AMOUNT, MAX_AMOUNT),
        st.integers(-200 * MAX_AMOUNT, 200 * MAX_AMOUNT).map(lambda halves: halves / 200),  # every second one is a tie
        st.integers(-200_000, 200_000).map(lambda halves: halves / 200),
        st.integers(-200_000, 200_000).map(lambda halves: math.nextafter(halves / 200, math.inf)),
        st.integers(-2000 * MAX_AMOUNT, 2000 * MAX_AMOUNT).map(lambda mills: mills / 2000),
    )
)
def test_minor_units_round_the_decimal_text_half_to_even(amount: float) -> None:
    assert minor_units(amount) == in_decimals(amount)
    assert parse_transaction(payment(amount=amount), LATEST).amount == in_decimals(amount)


@pytest.mark.parametrize(
    ("amount", "expected"),
    [(0.005, 0), (0.015, 2), (1.005, 100), (1.115, 112), (2.675, 268), (-2.665, -266), (-0.0, 0), (5e-324, 0)],
)
def test_minor_units_of_what_binary_floats_round_wrongly(amount: float, expected: int) -> None:
    assert minor_units(amount) == expected


@given(st.integers(-100 * MAX_AMOUNT, 100 * MAX_AMOUNT))
def test_an_amount_of_whole_minor_units_is_kept(minor: int) -> None:
    assert minor_units(float(Decimal(minor) / 100)) == minor


@pytest.mark.parametrize("amount", [math.nan, math.inf, -math.inf, math.nextafter(MAX_AMOUNT, math.inf), -1e300])
def test_minor_units_refuses_what_is_no_amount(amount: float) -> None:
    with pytest.raises(InvalidRecord) as caught:
        minor_units(amount)
    assert caught.value.code == ("amount_out_of_range" if math.isfinite(amount) else "amount_not_finite")
    assert str(amount) in str(caught.value)


def outcome(parse: Parse, value: bytes) -> tuple[InvalidRecord | None, Transaction | Label | None]:
    try:
        return None, parse(value, LATEST)
    except InvalidRecord as error:
        return error, None


def only_parses_or_refuses(value: bytes) -> None:
    for parse, kind in ((parse_transaction, Transaction), (parse_label, Label)):
        refused, parsed = outcome(parse, value)
        if refused:
            assert refused.code in ERROR_CODES
            # The message becomes a Kafka header, which must be UTF-8 and is no place for a whole payload.
            assert len(str(refused).encode()) < 1000
        else:
            assert isinstance(parsed, kind)
            assert 0 <= parsed.timestamp <= LATEST
            assert all(0 < len(i) <= MAX_ID_LENGTH for i in (parsed.account_id, parsed.merchant_id))


@pytest.mark.parametrize("field", sorted({*PAYMENT, *LABEL, "location", "other"}))
def test_half_a_surrogate_pair_is_refused_wherever_it_stands(field: str) -> None:
    # JSON allows the escape, but no UTF-8 text can hold the character: what reads it must not stumble.
    value = raw(field, '"\\ud800"', PAYMENT | LABEL)
    for parse in (parse_transaction, parse_label):
        only_parses_or_refuses(value)
        if field in {"transaction_id", "account_id", "merchant_id", "timestamp"}:
            refusal(parse, value)


@many
@given(st.binary(max_size=80))
def test_any_bytes_are_parsed_or_refused(value: bytes) -> None:
    only_parses_or_refuses(value)


_odd: list[Any] = [None, True, 0, -1, 10**400, 1e308, -0.0, math.nan, "", "\ud800", LONG_ID, [], [[]], {}, {"a": [1]}]
_odd += ["2018-04-01T00:00:31Z", "2018-04-01T00:00:31", "2018-04-01", "12", "Infinity"]
_values = st.sampled_from(_odd) | st.integers() | st.floats() | st.text(max_size=5)
_fields = st.sampled_from([*PAYMENT, *LABEL, "transaction_type", "location", "device_id", "other"])


@many
@given(st.lists(st.tuples(_fields, _values), max_size=3), _fields, st.booleans())
def test_any_object_is_parsed_or_refused(changes: list[tuple[str, Any]], field: str, keep: bool) -> None:
    record = PAYMENT | LABEL | dict(changes)
    if not keep:
        record.pop(field, None)
    only_parses_or_refuses(json.dumps(record).encode())


@many
@given(st.data())
def test_any_damage_to_a_message_is_parsed_or_refused(data: st.DataObject) -> None:
    whole = json.dumps(PAYMENT | LABEL | {"location": "Orléans"}, ensure_ascii=False).encode()
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + 3)))
    only_parses_or_refuses(whole[:start] + data.draw(st.binary(max_size=3)) + whole[end:])
