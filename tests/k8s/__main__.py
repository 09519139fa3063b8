"""The manifests on a real Kubernetes control plane: made, struck, rescaled, and nothing lost and nothing twice.

    python -m tests.k8s [--kills 3] [--seed 1] [--rate 150]

Needs root on Linux, Go (to build the control plane once), Java and Maven (for Kafka). Exit status 1 where something did
not go as the runbook says, 2 where this machine lacks something.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import statistics
import sys
from typing import Final

from rich.console import Console
from rich.table import Table

from features.errors import VigieError
from flows.local_kafka import ENDING_SIGNALS
from tests.k8s import programs
from tests.k8s.cluster import Cluster
from tests.k8s.scenario import Report, Scenario

PLACE: Final = programs.CACHE / "run"
SHOWN: Final = 3  # violations of a kind

console = Console()


def main() -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser("python -m tests.k8s", description="The manifests on a real control plane.")
    parser.add_argument("--kills", type=int, default=3, help="how often each end is repeated (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the records (%(default)s)")
    parser.add_argument("--rate", type=float, default=150, help="records a second (%(default)s)")
    options = parser.parse_args()
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.default_int_handler)  # so that all ends with this program
    try:
        programs.require()
        shutil.rmtree(PLACE, ignore_errors=True)
        with Cluster(PLACE) as cluster:
            scenario = Scenario(cluster, seed=options.seed, rate=options.rate, kills=options.kills, say=say)
            try:
                report = scenario.run()
            except BaseException:
                say(cluster.told())
                raise
    except KeyboardInterrupt:
        return 130
    except (programs.Missing, VigieError) as error:
        print(f"k8s-test: {error}", file=sys.stderr)
        return 2
    except AssertionError as failure:
        print(f"k8s-test: {failure}", file=sys.stderr)
        return 1
    show(report)
    return int(report.findings.total() > 0)


def say(text: str) -> None:
    """Something that has happened."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def show(report: Report) -> None:
    """Prints all that is to be told."""
    for kind, found in report.findings.violations.items():
        for text in found[:SHOWN]:
            say(f"{kind}: {text}")
    table = Table("", "times", "scores again after", "without a score", title="Seconds, median and maximum")
    for name, pauses in report.pauses.items():
        since, silence = ([getattr(pause, field) for pause in pauses] for field in ("since", "silence"))
        table.add_row(name, str(len(pauses)), spread(since), spread(silence))
    console.print(table)
    result = Table(show_header=False)
    result.add_row("records in", f"{report.expected.records:,}")
    result.add_row("  accepted", f"{len(report.expected.accepted):,}")
    result.add_row("  to be rejected", f"{len(report.expected.refused):,}")
    for kind, count in report.findings.counts().items():
        result.add_row(kind, str(count))
    console.print(result)


def spread(seconds: list[float]) -> str:
    """Median and maximum."""
    return f"{statistics.median(seconds):.1f}, {max(seconds):.1f}"


if __name__ == "__main__":
    sys.exit(main())
