"""Fuzzed records through the real flow: every one must come to its end, and memory must stay flat.

python -m tests.fuzz [--records 1000000] [--seed 7] [--snapshot-every 1]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from flows.local_kafka import LocalKafka, free_port
from tests.flows.running import running
from tests.fuzz.stream import through

TENTHS = 10
WARM = 3  # tenths, by which the windows of the first records have emptied again
GROWTH = 1.25  # more than that, and memory is not flat


def main() -> int:
    """The command line; exit status 1 where a record has no outcome or a wrong one, or memory grows."""
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--snapshot-every", default="1", metavar="SECONDS", help="of the flow's recovery store")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vigie-fuzz-") as folder:
        recovery = {
            "BYTEWAX_RECOVERY_DIRECTORY": f"{folder}/recovery",
            "BYTEWAX_SNAPSHOT_INTERVAL": options.snapshot_every,
            "BYTEWAX_RECOVERY_BACKUP_INTERVAL": "0",
        }
        with (
            LocalKafka(free_port(), Path(folder) / "kafka") as kafka,
            running(kafka.bootstrap_servers, Path(folder), recovery) as flow,
        ):
            found = through(flow, options.records, options.seed, TENTHS, tell=lambda line: print(line, flush=True))
    print(f"\n{options.records:,} records in {found.seconds:.0f} s, {options.records / found.seconds:,.0f} records/s")
    for end, times in sorted(found.ends.items(), key=lambda item: -item[1]):
        print(f"  {end:<26}{times:>10,}")
    wrong = found.wrong
    if found.resident[-1] > GROWTH * found.resident[WARM - 1]:
        wrong.append(f"the flow grew from {found.resident[WARM - 1]:,} to {found.resident[-1]:,} MB")
    for line in wrong[:20]:
        print(line, file=sys.stderr)
    print(f"{len(wrong):,} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
