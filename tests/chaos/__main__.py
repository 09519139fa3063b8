"""The proof of delivery: the flow on a real Kafka, struck at random for minutes, then held against its input.

    python -m tests.chaos [--minutes 10] [--seed 1] [--rate 150] [--days-a-second 0.5]
    python -m tests.chaos --sabotage hygiene|suppression

Exit status 1 where anything was lost, twice, wrong or hung. With ``--sabotage`` a part of the flow that prevents this
is switched off, and the status is 1 where the harness does not notice.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Final

from rich.console import Console
from rich.table import Table

from features.errors import VigieError
from flows.local_kafka import ENDING_SIGNALS, LocalKafka, free_port
from tests.chaos.chaos import Act, Chaos, Recovery, Report, at_random
from tests.chaos.cluster import Cluster
from tests.chaos.sabotage import SCENARIOS

PLACE: Final = Path(".cache/chaos")
SHOWN: Final = 3  # violations of a kind

console = Console()


def main() -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser("python -m tests.chaos", description="Nothing lost, nothing twice.")
    parser.add_argument("--minutes", type=float, default=10, help="how long records flow (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the records and of what happens when (%(default)s)")
    parser.add_argument("--rate", type=float, default=150, help="records a second (%(default)s)")
    parser.add_argument("--days-a-second", type=float, default=0.5, help="how fast event time runs (%(default)s)")
    parser.add_argument("--sabotage", choices=sorted(SCENARIOS), help="switch off what prevents violations")
    options = parser.parse_args()
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.default_int_handler)  # so that broker and workers end with the harness
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    try:
        with LocalKafka(free_port(), PLACE / "kafka") as broker:
            cluster = Cluster(broker.bootstrap_servers, PLACE)
            chaos = Chaos(cluster, broker, seed=options.seed, rate=options.rate, days_a_second=options.days_a_second)
            try:
                if options.sabotage:
                    report = SCENARIOS[options.sabotage](chaos, sabotaged=True)
                else:
                    report = chaos.run(at_random(Random(options.seed), options.minutes * 60))
            finally:
                chaos.close()
    except KeyboardInterrupt:
        return 130
    except VigieError as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 2
    show(report)
    if options.sabotage:
        return int(not report.findings.total())
    return int(report.violations() > 0)


def show(report: Report) -> None:
    """Prints all that is to be told."""
    for kind, found in report.findings.violations.items():
        for text in found[:SHOWN]:
            console.print(f"{kind}: {text}", markup=False, highlight=False, soft_wrap=True)
    for text in report.faults:
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    expected = report.expected
    table = Table(title="Chaos", show_header=False, title_justify="left")
    table.add_row("seconds, days of event time", f"{report.seconds:.0f}, {report.days:.0f}")
    table.add_row("records in", f"{expected.records:,}")
    table.add_row("  accepted", f"{len(expected.accepted):,}")
    table.add_row("  duplicates", f"{expected.duplicates:,}")
    table.add_row("  labels", f"{len(expected.labels):,}")
    late = sum(refusal.code == "too_late" for refusal in expected.refused.values())
    table.add_row("  to be rejected: too late, others", f"{late:,}, {len(expected.refused) - late:,}")
    for act, times in sorted(report.acts.items()):
        table.add_row(str(act), f"{times}")
        table.add_row("  seconds to the first new scored record", spread(r for r in report.recoveries if r.act is act))
    for workers, times in sorted(report.starts.items()):
        table.add_row(f"starts with {workers} worker{'s' * (workers > 1)}", f"{times}")
        struck = (r for r in report.recoveries if r.workers == workers and r.act is not Act.KILL_BROKER)
        table.add_row("  seconds to the first new scored record", spread(struck))
    table.add_row("  struck while starting, so that a worker waited for a dead one", f"{report.waiting}")
    table.add_row("ends that nobody asked for", f"{report.unasked}")
    table.add_section()
    for kind, count in report.findings.counts().items():
        table.add_row(kind, f"{count}")
    table.add_row("hung or ended wrongly", f"{len(report.faults)}")
    console.print(table)


def spread(recoveries: Iterable[Recovery]) -> str:
    """Median and maximum of their seconds."""
    seconds = [recovery.seconds for recovery in recoveries]
    return f"median {statistics.median(seconds):.1f}, max {max(seconds):.1f}" if seconds else "never"


if __name__ == "__main__":
    sys.exit(main())
