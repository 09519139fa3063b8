"""What a transaction costs, in work and not in time: bytecode instructions and bytes, step by step.

    python -m tests.flows.cost

Counted without compilation, so that the kernels' instructions count like all others, and with fixed hashes: the same
counts on every machine, for one version of Python. Prints them as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any, Final, cast

from features.bundle import load
from features.definitions import DAY, FEATURES, reach
from features.transaction import MICROSECOND, Label, Transaction, parse_label, parse_transaction
from flows.intake import Intake, Reading
from flows.journal import NOTHING, Memory
from flows.lanes import Lane, Lanes, PartitionId
from flows.messages import Messages
from flows.model import Model
from flows.outbox import Outbox
from flows.records import ForAccounts, ForMerchants, Outgoing
from flows.settings import Settings
from flows.windows import AccountWindows, MerchantWindows
from tests.flows import bundles
from tests.flows.traffic import Feed, Read, history, label_message, transaction_message

WORLD: Final = {"NUMBA_DISABLE_JIT": "1", "PYTHONHASHSEED": "0"}
FILLED: Final = 400  # transactions that fill the windows, uncounted
COUNTED: Final = 300
BATCH: Final = 50


class Instructions:
    """Counts the bytecode instructions that are executed within ``counting``, by step."""

    def __init__(self) -> None:
        self.by_step: dict[str, int] = {}
        self._count = 0

    def _trace(self, frame: FrameType, event: str, _argument: object) -> Any:
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            self._count += 1
        return self._trace

    @contextmanager
    def counting(self, step: str) -> Any:
        """Adds what is executed to the step."""
        self._count = 0
        sys.settrace(self._trace)
        try:
            yield
        finally:
            sys.settrace(None)
            self.by_step[step] = self.by_step.get(step, 0) + self._count


class Desk:
    """In place of the Kafka client: takes records and keeps their weight."""

    def __init__(self) -> None:
        self.weight = 0

    def produce(self, _topic: str, value: bytes, key: bytes, *_: object) -> None:
        """Takes one."""
        self.weight += len(value) + len(key)


def counts() -> dict[str, float]:
    """By step and transaction, of transactions of 40 accounts and 25 merchants with labels among them."""
    settings = Settings.from_environment({})
    transactions, labels = history(FILLED + COUNTED)
    events: list[Transaction | Label] = [*labels, *transactions]
    events.sort(key=lambda e: e.labelled_at if isinstance(e, Label) else e.timestamp)
    work, desk = Instructions(), Desk()
    with TemporaryDirectory() as folder:
        model = Model(load(bundles.make(Path(folder))))
        messages = Messages(model, scored_features=False)
        memory = Memory(Path(folder) / "journal", reach(FEATURES) // MICROSECOND)
        intake = Intake(settings, 1, memory, NOTHING, 0)
        merchants, accounts = MerchantWindows(FEATURES), AccountWindows(FEATURES)
        outbox = cast("Any", Outbox.__new__(Outbox))
        outbox._producer = desk
        lane_id: PartitionId = ("transactions", 0)
        lanes: Lanes[Reading] = Lanes({lane_id: Lane(parse_transaction, 0, 0, settles=True)})
        feed = Feed(DAY)
        message = cast("Any", Read())

        def parse(values: Sequence[tuple[Callable[[bytes, int], Transaction | Label], bytes]]) -> list[Reading]:
            return [Reading(parser(value, 1 << 62), late=False, message=message) for parser, value in values]

        def wait(readings: Sequence[Reading]) -> list[Reading]:
            for offset, reading in enumerate(readings):
                event = reading.event
                instant = event.labelled_at if isinstance(event, Label) else cast("Transaction", event).timestamp
                lanes.delivers(lane_id).add(offset, instant, reading)
            return lanes.release(1 << 62)

        done = 0
        written = intake.save().length
        for start in range(0, len(events), BATCH):
            some = events[start : start + BATCH]
            watermark = feed.watermark
            for event in some:
                feed.reading(event)
            if done < FILLED <= done + sum(isinstance(event, Transaction) for event in some):
                work.by_step.clear()
                desk.weight, counted, written = 0, 0, intake.save().length
            values = [
                (parse_label, label_message(event).value or b"")
                if isinstance(event, Label)
                else (parse_transaction, transaction_message(event).value or b"")
                for event in some
            ]
            with work.counting("parse"):
                readings = parse(cast("Any", values))
            with work.counting("order"):
                readings = wait(readings)
            with work.counting("take in"):
                dealt = intake.take(readings, watermark)
            for part in dealt:
                if isinstance(part, ForMerchants):
                    with work.counting("merchant windows"):
                        rows, _ = merchants.on_batch([part])
            for_accounts: list[Any] = [part for part in dealt if isinstance(part, ForAccounts)]
            if not for_accounts:
                continue
            with work.counting("account windows"):
                (candidates,), _ = accounts.on_batch([*for_accounts, *rows])
            with work.counting("score"):
                decisions = model.score(candidates)
            with work.counting("write"):
                decisions.alerts[:] = [False] * len(decisions.alerts)  # reasons are another matter
                outgoing: list[Outgoing] = messages.scored(decisions)
                outbox._produce("scored", 0, outgoing, {}, asked=False)
            done += len(decisions.scores)
            counted = counted + len(decisions.scores) if done > FILLED else 0
        written = intake.save().length - written
        intake.close()
    found = {step: total / counted for step, total in work.by_step.items()}
    return found | {"bytes in the journal": written / counted, "bytes to Kafka": desk.weight / counted}


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in WORLD.items()):
        os.execve(sys.executable, [sys.executable, "-m", "tests.flows.cost"], os.environ | WORLD)
    warnings.simplefilter("ignore", RuntimeWarning)  # words that wrap around, as they do when compiled
    print(json.dumps(counts(), indent=1))
