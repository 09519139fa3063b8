"""The text fields of an entity's events, stored small: a code for each event, and each text once."""

from __future__ import annotations

from array import array
from typing import Final

END: Final = b"\xff"  # between texts, because it occurs in no UTF-8
_WIDER: Final = {"B": "H", "H": "I", "I": "Q", "i": "q"}


class Tally:
    """How often each code of a field occurs in a window, and how many codes do."""

    __slots__ = ("counts", "distinct")

    def __init__(self) -> None:
        self.counts: array[int] = array("I")
        self.distinct = 0

    def gain(self, code: int) -> None:
        """An event with this code enters the window."""
        if code >= len(self.counts):
            self.counts.extend([0] * (code + 1 - len(self.counts)))
        self.distinct += not self.counts[code]
        self.counts[code] += 1

    def lose(self, code: int) -> None:
        """An event with this code leaves the window."""
        self.counts[code] -= 1
        self.distinct -= not self.counts[code]

    def holds(self, code: int) -> bool:
        """Whether an event with this code is in the window."""
        return 0 < code < len(self.counts) and self.counts[code] > 0


class Field:
    """One text field of the entity's events: a small code for each (0 = missing), and the texts in order of code."""

    __slots__ = ("codes", "texts")

    def __init__(self, codes: array[int], texts: bytes) -> None:
        self.codes = codes
        self.texts = texts

    def code(self, text: str | None) -> int:
        """The text's code: 0 for a missing one, -1 for one that does not occur."""
        if text is None:
            return 0
        at = self.texts.find(END + text.encode() + END)
        return -1 if at < 0 else self.texts.count(END, 0, at) + 1

    def insert(self, at: int, text: str | None) -> None:
        """Puts an event with this text at its place among the events."""
        code = self.code(text)
        if code < 0 and text is not None:
            self.texts += text.encode() + END
            code = self.texts.count(END) - 1
        self.codes = inserted(self.codes, at, code)

    def drop(self, n: int) -> bool:
        """Forgets the first n events; true if codes have changed because texts had come to outnumber events."""
        del self.codes[:n]
        if self.texts.count(END) <= len(self.codes) + 8:
            return False
        texts = self.texts.split(END)
        used = sorted(set(self.codes) - {0})
        renamed = {0: 0} | {code: new for new, code in enumerate(used, 1)}
        self.texts = END + b"".join(texts[code] + END for code in used)
        self.codes = array(self.codes.typecode, [renamed[code] for code in self.codes])
        return True


def inserted(values: array[int], at: int, value: int) -> array[int]:
    """The array with the value in it, of a wider type where the value needs one."""
    try:
        values.insert(at, value)
    except OverflowError:
        return inserted(array(_WIDER[values.typecode], values), at, value)
    return values
