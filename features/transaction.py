"""What enters the stream: transactions and labels, validated, with exact amounts and instants.

Amounts become integer minor units and instants become microseconds since 1970-01-01 UTC, so that everything computed
from them is exact. A record that cannot be used raises ``InvalidRecord`` with one of the codes in ``ERROR_CODES``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated, Final, NoReturn, TypeVar

import msgspec

from features.errors import InvalidRecord

MAX_ID_LENGTH: Final = 64
MAX_TEXT_LENGTH: Final = 256
MAX_AMOUNT: Final = 10_000_000_000  # major units, either sign (refunds are negative)
MICROSECOND: Final = timedelta(microseconds=1)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY: Final = 86_400_000_000  # microseconds
_SURE: Final = 0.499  # so far from a tie, rounding the product is rounding the decimal

ERROR_CODES: Final = {
    "empty_value": "the message has no value",
    "not_utf8": "the bytes are not UTF-8",
    "not_json": "the text is not JSON",
    "not_an_object": "the JSON is not an object",
    "missing_field": "a required field is absent",
    "wrong_type": "a field has a type that the contract does not allow",
    "empty_id": "an id is the empty string",
    "id_too_long": f"an id has more than {MAX_ID_LENGTH} characters",
    "text_too_long": f"a text field has more than {MAX_TEXT_LENGTH} characters",
    "amount_not_finite": "the amount is NaN or infinite",
    "amount_out_of_range": f"the amount is beyond {MAX_AMOUNT:,} major units",
    "timestamp_invalid": "a timestamp is not RFC 3339",
    "timestamp_without_offset": "a timestamp does not say its offset from UTC",
    "timestamp_before_1970": "a timestamp lies before 1970-01-01",
    "timestamp_in_future": "a timestamp lies in the future by more than the tolerance",
    "too_late": "the event is older than the allowed lateness, so its windows would have holes",
}

_Instant = Annotated[datetime, msgspec.Meta(tz=True)]
_Id = str | int


class Transaction(msgspec.Struct, frozen=True, gc=False):
    """One payment. ``amount`` in minor units, ``timestamp`` in microseconds since 1970-01-01 UTC."""

    transaction_id: str
    account_id: str
    merchant_id: str
    amount: int
    timestamp: int
    transaction_type: str | None = None
    location: str | None = None
    device_id: str | None = None


class Label(msgspec.Struct, frozen=True, gc=False):
    """What became known of a transaction. ``timestamp`` is the transaction's; both instants as in ``Transaction``."""

    transaction_id: str
    account_id: str
    merchant_id: str
    timestamp: int
    is_fraud: bool
    labelled_at: int


class _TransactionMessage(msgspec.Struct, gc=False):
    transaction_id: _Id
    account_id: _Id
    merchant_id: _Id
    amount: float
    timestamp: _Instant
    transaction_type: str | None = None
    location: str | None = None
    device_id: str | None = None


# What keeps to the contract is recognized by the decoder itself; the rest is looked at field by field.
_UsualId = (
    Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH)] | Annotated[int, msgspec.Meta(ge=0, le=2**62)]
)
_UsualText = Annotated[str, msgspec.Meta(max_length=MAX_TEXT_LENGTH)] | None


class _UsualTransaction(msgspec.Struct, gc=False):
    transaction_id: _UsualId
    account_id: _UsualId
    merchant_id: _UsualId
    amount: Annotated[float, msgspec.Meta(ge=-MAX_AMOUNT, le=MAX_AMOUNT)]
    timestamp: _Instant
    transaction_type: _UsualText = None
    location: _UsualText = None
    device_id: _UsualText = None


class _LabelMessage(msgspec.Struct, gc=False):
    transaction_id: _Id
    account_id: _Id
    merchant_id: _Id
    timestamp: _Instant
    is_fraud: bool
    labelled_at: _Instant


M = TypeVar("M", bound=msgspec.Struct)

_decode_usual = msgspec.json.Decoder(_UsualTransaction).decode
_decode_transaction = msgspec.json.Decoder(_TransactionMessage).decode
_decode_label = msgspec.json.Decoder(_LabelMessage).decode


def parse_transaction(value: bytes | None, latest: int) -> Transaction:
    """The transaction in a message of the ``transactions`` topic.

    ``latest`` is the newest believable instant (now plus the future tolerance), in microseconds since 1970.
    Raises ``InvalidRecord``.
    """
    try:
        message = _decode_usual(value or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _checked_transaction(value, latest)
    since = message.timestamp - EPOCH
    timestamp = since.days * _DAY + since.seconds * 1_000_000 + since.microseconds
    scaled = message.amount * 100.0
    amount = round(scaled)
    if not 0 <= timestamp <= latest or abs(scaled - amount) > _SURE:
        return _checked_transaction(value, latest)
    transaction_id, account_id, merchant_id = message.transaction_id, message.account_id, message.merchant_id
    return Transaction(
        transaction_id if type(transaction_id) is str else str(transaction_id),
        account_id if type(account_id) is str else str(account_id),
        merchant_id if type(merchant_id) is str else str(merchant_id),
        amount,
        timestamp,
        message.transaction_type,
        message.location,
        message.device_id,
    )


def _checked_transaction(value: bytes | None, latest: int) -> Transaction:
    message = _decoded(value, _decode_transaction, _TransactionMessage)
    return Transaction(
        _id("transaction_id", message.transaction_id),
        _id("account_id", message.account_id),
        _id("merchant_id", message.merchant_id),
        minor_units(message.amount),
        _instant("timestamp", message.timestamp, latest),
        _text("transaction_type", message.transaction_type),
        _text("location", message.location),
        _text("device_id", message.device_id),
    )


def parse_label(value: bytes | None, latest: int) -> Label:
    """The label in a message of the ``labels`` topic; arguments and errors as for ``parse_transaction``."""
    message = _decoded(value, _decode_label, _LabelMessage)
    return Label(
        _id("transaction_id", message.transaction_id),
        _id("account_id", message.account_id),
        _id("merchant_id", message.merchant_id),
        _instant("timestamp", message.timestamp, latest),
        message.is_fraud,
        _instant("labelled_at", message.labelled_at, latest),
    )


def minor_units(amount: float) -> int:
    """An amount in major units as integer minor units: two decimals, half to even, of its shortest decimal text.

    Raises ``InvalidRecord`` (``amount_not_finite``, ``amount_out_of_range``).
    """
    if not -MAX_AMOUNT <= amount <= MAX_AMOUNT:
        if math.isfinite(amount):
            raise InvalidRecord(
                "amount_out_of_range", f"amount is {amount}; send major units between -{MAX_AMOUNT} and {MAX_AMOUNT}"
            )
        raise InvalidRecord("amount_not_finite", f"amount is {amount}; send a finite number of major units")
    scaled = amount * 100.0
    nearest = round(scaled)
    # The product is off by less than 2e-4 in this range, so only near a tie can rounding it differ from the decimal.
    if abs(scaled - nearest) < _SURE:
        return nearest
    return int((Decimal(repr(amount)) * 100).to_integral_value(ROUND_HALF_EVEN))


def microseconds(instant: datetime) -> int:
    """An aware instant as microseconds since 1970-01-01 UTC."""
    return (instant - EPOCH) // MICROSECOND


def rfc3339(timestamp: int) -> str:
    """Microseconds since 1970-01-01 UTC as RFC 3339 text in UTC; the fraction only where there is one."""
    return (EPOCH + timestamp * MICROSECOND).replace(tzinfo=None).isoformat() + "Z"


def _decoded(value: bytes | None, decode: Callable[[bytes], M], message: type[M]) -> M:
    if not value:
        raise InvalidRecord("empty_value", "the message has no value; send one JSON object a message")
    try:
        return decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        _explain(value, message, error)


def _id(field: str, value: _Id) -> str:
    text = value if isinstance(value, str) else str(value)
    if 0 < len(text) <= MAX_ID_LENGTH:
        return text
    if not text:
        raise InvalidRecord("empty_id", f"{field} is empty; send 1 to {MAX_ID_LENGTH} characters")
    raise InvalidRecord(
        "id_too_long", f"{field} has {len(text)} characters ({text[:20]}...); send at most {MAX_ID_LENGTH}"
    )


def _text(field: str, value: str | None) -> str | None:
    if value is None or len(value) <= MAX_TEXT_LENGTH:
        return value
    raise InvalidRecord(
        "text_too_long", f"{field} has {len(value)} characters ({value[:20]}...); send at most {MAX_TEXT_LENGTH}"
    )


def _instant(field: str, value: datetime, latest: int) -> int:
    timestamp = microseconds(value)
    if 0 <= timestamp <= latest:
        return timestamp
    if timestamp < 0:
        raise InvalidRecord("timestamp_before_1970", f"{field} is {value.isoformat()}; send an instant since 1970")
    raise InvalidRecord(
        "timestamp_in_future",
        f"{field} is {value.isoformat()}, later than {rfc3339(latest)}; check the producer's clock, or raise "
        "VIGIE_FUTURE_TOLERANCE",
    )


def _explain(value: bytes, message: type[msgspec.Struct], error: Exception) -> NoReturn:
    """Finds out, slowly, why a value did not decode, and raises the ``InvalidRecord`` that says so."""
    try:
        text = value.decode()
    except UnicodeDecodeError as bad:
        raise InvalidRecord("not_utf8", f"byte {bad.start} is 0x{value[bad.start]:02x}; send UTF-8") from error
    try:
        # Unlike the fast decoder, this one reads NaN, Infinity and 1e999, which then get a code of their own.
        # An integer of thousands of digits is too long by its first few hundred, which Python agrees to read.
        record = json.loads(text, parse_int=lambda digits: int(digits[:400]))
    except (ValueError, RecursionError) as bad:
        raise InvalidRecord("not_json", f"{bad} in {text[:60]!r}; send one JSON object") from error
    if not isinstance(record, dict):
        raise InvalidRecord("not_an_object", f"the JSON is {text[:60]!r}; send one JSON object") from error
    for field in msgspec.structs.fields(message):
        if field.required and field.name not in record:
            raise InvalidRecord("missing_field", f"{field.name} is missing; add it to the object") from error
    try:
        for field in msgspec.structs.fields(message):
            if field.name in record:
                _explain_field(field.name, field.type, record[field.name], error)
    except UnicodeEncodeError as bad:
        raise InvalidRecord("not_json", f"half of a surrogate pair in {text[:60]!r}; send Unicode text") from bad
    raise InvalidRecord("not_json", f"{error} in {text[:60]!r}; send strict JSON") from error


def _explain_field(name: str, expected: object, value: object, error: Exception) -> None:
    shown = f"{name} is {json.dumps(value)[:60]}"
    if expected == _Id and isinstance(value, str | int) and not isinstance(value, bool):
        _id(name, value)
    elif expected is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            minor_units(float(value))
        except OverflowError:
            raise InvalidRecord("amount_out_of_range", f"{shown}; send at most {MAX_AMOUNT} major units") from error
    elif expected is _Instant and isinstance(value, str):
        try:
            parsed = datetime.fromisoformat(value)
        except ValueError:
            parsed = None
        if parsed is not None and parsed.tzinfo is None:
            remedy = "add the offset from UTC, such as Z or +02:00"
            raise InvalidRecord("timestamp_without_offset", f"{shown}; {remedy}") from error
        try:
            msgspec.convert(value, _Instant)
        except msgspec.ValidationError:
            remedy = "send RFC 3339, such as 2018-04-01T00:00:31Z"
            raise InvalidRecord("timestamp_invalid", f"{shown}; {remedy}") from error
    else:
        try:
            msgspec.convert(value, expected)
        except msgspec.ValidationError as bad:
            raise InvalidRecord("wrong_type", f"{shown}: {bad}; send the type that the contract names") from error
