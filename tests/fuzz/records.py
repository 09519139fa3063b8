"""Records as no producer should send them, and honest ones between: the same for a seed, without end.

Time passes in them, a step a record, so that windows fill and empty as in a stream.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from random import Random
from typing import Any, Final, NamedTuple

from features.transaction import MAX_ID_LENGTH, MAX_TEXT_LENGTH

BEGIN: Final = datetime(2020, 1, 1, tzinfo=UTC)
STEP: Final = timedelta(seconds=60)
ACCOUNTS: Final = 300
MERCHANTS: Final = 150
HUGE: Final = 100_000  # characters
RARELY: Final = 2_000  # of so many records one is huge

Object = dict[str, Any]


class Raw(NamedTuple):
    """JSON text to be written as it stands."""

    text: str


class Fuzzed(NamedTuple):
    """A record on its way to the topic of transactions or that of labels; ``clock``: the time that has come by then."""

    purpose: str
    key: bytes | None
    value: bytes | None
    clock: datetime


NUMBERS: Final = (
    *("0", "-0.0", "-0", "0.005", "1e-5", "1e-400", "4.35", "1.005", "2.675", "0.1e1", "1E2", "12.340000000000000001"),
    *("1e999", "-1e999", "NaN", "Infinity", "-Infinity", "1e308", "1.7976931348623157e308", "5e-324", "1e10", "-1e10"),
    *("10000000000.004", "10000000000.005", "9999999999.995", "1e11", "9007199254740993", "18446744073709551616"),
    *("9" * 30, "-" + "9" * 30, "1" + "0" * 63, "9" * 64, "9" * 65, "9" * 400, "9" * 5000, "0." + "3" * 5000),
    *("01", "+1", "1.", ".5", "0x10", "1_000", "1,5", "--1", "1e", '"12.34"', "true", "null", "[]", "{}"),
)
INSTANTS: Final = (
    *("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-23:59"),
    *("1969-12-31T23:59:59.999999Z", "1970-01-01T00:00:00Z", "1970-01-01T00:00:00+00:01", "0000-00-00T00:00:00Z"),
    *("2016-12-31T23:59:60Z", "2016-12-31T23:59:60.5+00:00", "2016-12-31T24:00:00Z", "2019-02-29T00:00:00Z"),
    *("2019-06-01", "12:00:00Z", "2019-06-01T12:00:00", "2019-06-01T12:00Z", "20190601T120000Z", "2019-W22-6"),
    *("2019-06-01 12:00:00Z", "2019-06-01t12:00:00z", "2019-06-01T12:00:00+2", "2019-06-01T12:00:00+24:00"),
    *("2019-06-01T12:00:00.123456789Z", "2019-06-01T12:00:00,5Z", "2019-06-01T12:00:00.Z", "2019-06-01T12:00:00-00:00"),
    *("٢٠١٩-06-01T12:00:00Z", " 2019-06-01T12:00:00Z", "2019-06-01T12:00:00Z\x00", "-2019-06-01T12:00:00Z", ""),
    *("1559390400", "1559390400000", "now", "01/06/2019", "2019-06-01T12:00:00 UTC", "2019-06-01T12:00:00\u2212 02:00"),
)
TEXTS: Final = (
    *("\x00", "a\x00b", "\x00" * MAX_ID_LENGTH, "\ufeff", "\u202e", "e\u0301", "é", "ﷺ", "😀", "\U0010ffff", " ", "\n"),
    *(
        "😀" * MAX_ID_LENGTH,
        "😀" * (MAX_ID_LENGTH + 1),
        "null",
        "NaN",
        "0",
        "-1",
        "'; drop",
        "${x}",
        "\\",
        '"',
        "\x7f\x80",
    ),
)
ESCAPES: Final = (
    *(r'"\ud800"', r'"\udc00"', r'"\ud83d\ude00"', r'"\ude00\ud83d"', r'"\ud800\u0041"', r'"\u0000"', r'"\u00ff"'),
    *(r'"\x41"', r'"\u12"', r'"\"', '"\x00"', '"\n"', '"\t"', r'"\/"', r'"a\u"', '"', "'a'"),
)
PLAIN: Final = (
    *(
        b"",
        b"\x00",
        b" ",
        b"\n",
        b"null",
        b"true",
        b"0",
        b"-",
        b'"',
        b'"text"',
        b"[]",
        b"{}",
        b"[{}]",
        b"{",
        b"}",
        b"{]",
    ),
    *(b"[" * HUGE, b'{"a":' * HUGE, b"{" + b'"a":1,' * 1000 + b'"a":1}', b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00"),
    *(b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf0\x9f\x98", b"// {}", b"{} {}", b"{},", b"{'a': 1}"),
)


def fuzzed(seed: int) -> Iterator[Fuzzed]:
    """Records without end; some of them are good, some repeat an id, most have one thing or more wrong with them."""
    rng = Random(seed)
    clock = BEGIN
    n = 0
    while True:
        n += 1
        clock += STEP
        purpose = "labels" if rng.random() < 0.2 else "transactions"
        message = _transaction(rng, n, clock) if purpose == "transactions" else _label(rng, n, clock)
        key: bytes | None = str(message["account_id" if purpose == "transactions" else "merchant_id"]).encode()
        value: bytes | None
        if (chance := rng.random()) < 0.35:
            value = _written(message)
        elif chance < 0.8:
            for _ in range(rng.choice((1, 1, 1, 2, 3))):
                rng.choice(CHANGES)(rng, message, clock)
            value = _written(message)
        elif chance < 0.95:
            value = _mutated(rng, _written(message))
        else:
            value = rng.choice((None, rng.randbytes(rng.randrange(60)), rng.choice(PLAIN)))
        if rng.random() < 0.05:
            key = rng.choice((None, b"", b"\x00", b"\xff\xfe", rng.randbytes(20)))
        if rng.randrange(RARELY) == 0:
            key = rng.randbytes(HUGE)
        yield Fuzzed(purpose, key, value, clock)


def _ids(rng: Random, n: int) -> Object:
    # Now and then an id of the last records, which its account may have used.
    number = n if rng.random() < 0.95 else max(1, n - rng.randrange(50))
    own = Random(number)  # so that the account of an id is the same each time
    return {
        "transaction_id": f"t{number}",
        "account_id": f"a{own.randrange(ACCOUNTS)}",
        "merchant_id": f"m{own.randrange(MERCHANTS)}",
    }


def _transaction(rng: Random, n: int, clock: datetime) -> Object:
    message = _ids(rng, n)
    message["amount"] = round(rng.lognormvariate(4, 1.2), 2)
    message["timestamp"] = _instant(rng, clock - timedelta(seconds=rng.randrange(3600)))
    for name, values in (("transaction_type", ("card", None)), ("location", ("Nîmes", "Lyon", None))):
        if rng.random() < 0.8:
            message[name] = rng.choice(values)
    if rng.random() < 0.5:
        message["device_id"] = f"d{rng.randrange(20)}"
    return message


def _label(rng: Random, n: int, clock: datetime) -> Object:
    message = _ids(rng, max(1, n - rng.randrange(10_000)))
    message["timestamp"] = _instant(rng, clock - timedelta(days=rng.randrange(1, 12)))
    message["is_fraud"] = rng.random() < 0.8
    message["labelled_at"] = _instant(rng, clock)
    return message


def _instant(rng: Random, instant: datetime) -> str:
    """The instant in one of the forms that RFC 3339 allows."""
    if rng.random() < 0.7:
        return instant.strftime("%Y-%m-%dT%H:%M:%SZ")
    shifted = instant.astimezone(timezone(timedelta(minutes=rng.choice((-1439, -210, 0, 1, 330, 840, 1439)))))
    return shifted.replace(microsecond=rng.randrange(1_000_000)).isoformat()


def _written(message: Object) -> bytes:
    """The object as JSON."""
    text = ",".join(f"{json.dumps(name)}:{_text(value)}" for name, value in message.items())
    return f"{{{text}}}".encode("utf-8", "surrogatepass")


def _text(value: object) -> str:
    return value.text if isinstance(value, Raw) else json.dumps(value, ensure_ascii=False)


Change = Callable[[Random, Object, datetime], None]


def _number(rng: Random, message: Object, _clock: datetime) -> None:
    message[rng.choice(("amount", "amount", "transaction_id", "account_id", "timestamp"))] = Raw(rng.choice(NUMBERS))


def _instants(rng: Random, message: Object, clock: datetime) -> None:
    field = "labelled_at" if "labelled_at" in message and rng.random() < 0.5 else "timestamp"
    odd = rng.choice((rng.choice(INSTANTS), _instant(rng, clock), clock.isoformat(timespec="minutes")))
    message[field] = odd


def _ages(rng: Random, message: Object, clock: datetime) -> None:
    message["timestamp"] = _instant(rng, clock - timedelta(days=rng.choice((0.9, 1.1, 2, 40, 400))))


def _text_field(rng: Random, message: Object, _clock: datetime) -> None:
    field = rng.choice(("transaction_id", "account_id", "merchant_id", "transaction_type", "location", "device_id"))
    length = rng.choice((0, 1, MAX_ID_LENGTH, MAX_ID_LENGTH + 1, MAX_TEXT_LENGTH, MAX_TEXT_LENGTH + 1))
    mark = str(message.get("transaction_id"))  # or else such ids would soon all be known
    message[field] = rng.choice((rng.choice(TEXTS), rng.choice(TEXTS) + mark, (mark + "x" * length)[:length]))


def _escape(rng: Random, message: Object, _clock: datetime) -> None:
    message[rng.choice((*message, "other"))] = Raw(rng.choice(ESCAPES))


def _type(rng: Random, message: Object, _clock: datetime) -> None:
    values: tuple[object, ...] = (
        None,
        True,
        False,
        0,
        1,
        -1,
        1.5,
        "",
        "true",
        [],
        {},
        ["a"],
        {"a": 1},
        2**63,
        2**64,
        -(2**63) - 1,
    )
    message[rng.choice((*message, "other"))] = rng.choice(values)


def _missing(rng: Random, message: Object, _clock: datetime) -> None:
    if message:
        del message[rng.choice(tuple(message))]


def _twice(rng: Random, message: Object, _clock: datetime) -> None:
    field = rng.choice((*message, "other"))
    first, second = _text(message.get(field)), rng.choice((*NUMBERS, "null", '""', _text(message.get(field))))
    if rng.random() < 0.5:
        first, second = second, first
    message[field] = Raw(f"{first},{json.dumps(field)}:{second}")


def _renamed(rng: Random, message: Object, _clock: datetime) -> None:
    if message:
        field = rng.choice(tuple(message))
        message[rng.choice((field.upper(), field + "\x00", field[:-1], "\u202e" + field))] = message.pop(field)


def _deep(rng: Random, message: Object, _clock: datetime) -> None:
    depth = rng.choice((10, 200, 900, 1100, 3000))  # near 1000 it depends on how deep the parser itself is called
    begin, end = rng.choice((("[", "]"), ('{"a":', "}")))
    message[rng.choice((*message, "other"))] = Raw(begin * depth + "0" + end * rng.choice((depth, depth, depth - 1)))


def _large(rng: Random, message: Object, _clock: datetime) -> None:
    # Most of them are only large, since a million records of 100 kB would fill the disk.
    size = HUGE if rng.randrange(RARELY // 50) == 0 else 300
    name, value = rng.choice(
        (("k" * size, 1), ("other", "v" * size), ("transaction_id", "t" * size), ("a", [0] * size))
    )
    message[name] = value


CHANGES: Final[tuple[Change, ...]] = (
    *(_number, _number, _instants, _instants, _ages, _text_field, _text_field),
    *(_escape, _type, _missing, _twice, _renamed, _deep, _large),
)


def _mutated(rng: Random, value: bytes) -> bytes:
    """The bytes after an accident on the way."""
    text = bytearray(value)
    at = rng.randrange(len(text))
    match rng.randrange(10):
        case 0:
            return bytes(text[:at])
        case 1:
            return bytes(text + text[at:])
        case 2:
            del text[at : at + rng.randrange(1, 10)]
        case 3:
            text[at:at] = rng.randbytes(rng.randrange(1, 5))
        case 4:
            text[at:at] = rng.choice((b"\x00", b"\xef\xbb\xbf", b"\xed\xa0\x80", b'"', b"}", b",", b"e9", b"\\", b"\n"))
        case 5:
            return b"\xef\xbb\xbf" + value
        case 6:
            return value.decode().encode(rng.choice(("utf-16", "utf-16-le", "utf-32", "utf-7")), "surrogatepass")
        case 7:
            return value + rng.choice((b"\x00", b"\n", b" ", b"{}", value))
        case 8:
            text[at] ^= 1 << rng.randrange(8)
        case _:
            other = rng.randrange(len(text))
            text[at], text[other] = text[other], text[at]
    return bytes(text)
