"""The flow on this machine, as one process or several.

    python -m flows [-p 3] [-r recovery] [any other option of bytewax.run]

Runs ``python -m bytewax.run flows.score`` with the options given, which is just as safe; with a recovery directory, a
snapshot each second is the default. With ``-p``, as many processes as that share the work: they end together, cleanly
when this one is told to stop, and with an error as soon as one of them does. Where ``VIGIE_PODS`` is set, this is one
of so many pods of a StatefulSet.
"""

from __future__ import annotations

import signal
import sys

if __name__ == "__main__":
    # The first process of a container hears no signal that it does not ask for, and all that follows takes a while.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))

import argparse
import os
import runpy
import subprocess
import time
from collections.abc import Sequence
from types import FrameType
from typing import Final

from features.errors import VigieError
from flows import invocation
from flows.local_kafka import HOST, free_port
from flows.settings import Settings

PEERS_END: Final = 5.0  # seconds that the others have to end by themselves when one has failed


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser("python -m flows", description="Score transactions from Kafka to Kafka.")
    parser.add_argument("-p", "--processes", type=int, default=1, help="how many share the work (1)")
    parser.add_argument("-r", "--recovery-directory", default=os.environ.get("BYTEWAX_RECOVERY_DIRECTORY"))
    parser.add_argument("-s", "--snapshot-interval", default=os.environ.get("BYTEWAX_SNAPSHOT_INTERVAL", "1"))
    parser.add_argument("-b", "--backup-interval", default=os.environ.get("BYTEWAX_RECOVERY_BACKUP_INTERVAL", "0"))
    options, others = parser.parse_known_args(arguments)
    if options.processes < 1:
        parser.error(f"--processes is {options.processes}; give at least 1")
    if options.recovery_directory:
        others += ["-r", options.recovery_directory, "-s", options.snapshot_interval, "-b", options.backup_interval]
    try:
        settings = Settings.from_environment(os.environ)
        if settings.pods is not None:
            if options.processes != 1:
                parser.error(f"--processes is {options.processes}, but VIGIE_PODS is set: a pod is one process")
            others += invocation.of_pod(settings.pods, os.environ)
    except VigieError as error:
        print(f"vigie: {error}", file=sys.stderr)
        return 1
    if options.processes == 1:
        return _run(others)
    return _run_cluster(options.processes, others, settings.stop_timeout.total_seconds() + PEERS_END)


def _run(options: Sequence[str]) -> int:
    sys.argv = ["bytewax.run", "flows.score", *options]
    try:
        runpy.run_module("bytewax.run", run_name="__main__", alter_sys=True)
    except Exception as error:
        # The engine wraps what a step raises; what Vigie raises says all there is to say.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, VigieError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        print(f"vigie: {cause}", file=sys.stderr)
        return 1
    return 0


def _run_cluster(count: int, options: Sequence[str], patience: float) -> int:
    addresses = ";".join(f"{HOST}:{free_port()}" for _ in range(count))
    command = [sys.executable, "-m", "flows", *options, "-a", addresses, "-i"]
    workers: list[subprocess.Popen[bytes]] = []

    def tell(number: int, _frame: FrameType | None) -> None:
        for worker in workers:
            if worker.poll() is None:
                worker.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, tell)
    # Sessions of their own: a Ctrl-C reaches them once, by way of this process.
    workers += (subprocess.Popen([*command, str(index)], start_new_session=True) for index in range(count))
    while all(worker.poll() is None for worker in workers):
        time.sleep(0.1)
    failed = any(worker.poll() for worker in workers)
    give_up = time.monotonic() + (PEERS_END if failed else patience)
    while any(worker.poll() is None for worker in workers) and time.monotonic() < give_up:
        time.sleep(0.1)
    for worker in workers:
        worker.kill()
    statuses = [worker.wait() for worker in workers]
    return 1 if any(statuses) else 0


if __name__ == "__main__":
    sys.exit(main())
