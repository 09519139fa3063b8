"""Records for the flow in the cluster, and what comes of them: scores as they come, and a verdict at the end."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Final, NamedTuple

from tests.chaos import topic_log, verifier
from tests.chaos.sender import Sender
from tests.chaos.stream import Stream
from tests.chaos.topic_log import Watch
from tests.flows.running import PURPOSES
from tests.flows.traffic import DAY

PARTITIONS: Final = 4  # as the topics Job makes them
EARLY: Final = 5.0  # seconds that a label is sent before it counts
SETTLED: Final = 3.0  # seconds without another record after which there will be none
SILENCE: Final = 2.0  # seconds without a score that are none of a flow at work
PATIENCE: Final = 60.0  # seconds without another record after which none is awaited


class Pause(NamedTuple):
    """``since``: seconds from the cause until scores come again for good; ``silence``: seconds without any."""

    since: float
    silence: float


class Traffic:
    """A producer that never stops, and readers of what the flow writes."""

    def __init__(self, bootstrap: str, *, seed: int, rate: float, days_a_second: float = 0.5) -> None:
        self._bootstrap = bootstrap
        self._topics = {purpose: purpose for purpose in PURPOSES}
        stream = Stream(seed, PARTITIONS, days_a_second * DAY / rate, round(EARLY * days_a_second * DAY))
        self._sender = Sender(bootstrap, self._topics, stream, rate)
        self._watch = Watch(bootstrap, self._topics, ["scored", "rejected"])

    def start(self) -> None:
        """Records flow."""
        self._watch.start()
        self._sender.start()

    def stop(self) -> None:
        """No more are sent or read."""
        self._sender.stop()
        self._watch.stop()

    def check(self) -> None:
        """Raises what has stopped the producer, if anything has."""
        self._sender.check()

    def scores_since(self, moment: float) -> bool:
        """Whether a score has come that was written after that moment (of ``time.time``)."""
        return self._watch.first_after(moment) is not None

    def pause(self, cause: float) -> Pause:
        """What has ended since the cause (of ``time.time``) of silences; several count as one long one."""
        came = [readable for _, readable in list(self._watch.came)]
        gaps = [(after - before, after) for before, after in pairwise(came) if after > cause]
        silences = [gap for gap in gaps if gap[0] >= SILENCE] or [max(gaps)]
        return Pause(silences[-1][1] - cause, sum(seconds for seconds, _ in silences))

    def finish(self) -> verifier.Expected:
        """Sends no more, and returns when all has come out, or nothing comes any more: what must have come."""
        self._sender.finish()
        inputs = {name: topic_log.read(self._bootstrap, self._topics[name]) for name in ("transactions", "labels")}
        expected = verifier.judge("transactions", inputs["transactions"], "labels", inputs["labels"])
        changed, last = time.monotonic(), -1
        while time.monotonic() - changed < (PATIENCE if last < expected.outputs else SETTLED):
            time.sleep(0.1)
            if (now := sum(self._watch.counts.values())) != last:
                changed, last = time.monotonic(), now
        self._watch.finish()
        return expected

    def verify(self, expected: verifier.Expected) -> verifier.Findings:
        """What is wrong with the outputs; to be called when the flow has ended."""
        outputs = [topic_log.read(self._bootstrap, self._topics[name]) for name in ("scored", "alerts", "rejected")]
        return verifier.verify(expected, *outputs)
