"""The local Apache Kafka as a command.

python -m flows.broker run|start|stop|status [--port 9092] [--data DIR] [--fresh]
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from features.errors import VigieError
from flows.kafka_install import KAFKA_VERSION
from flows.local_kafka import DEFAULT_DATA_DIR, DEFAULT_PORT, ENDING_SIGNALS, HOST, LocalKafka, stop_command


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) not in range(1, 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: give a number from 1 to 65535")
    return int(text)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m flows.broker", description="A local Apache Kafka.")
    actions = parser.add_subparsers(dest="action", required=True)
    for action, text in {
        "run": "run it until Ctrl-C",
        "start": "start it in the background",
        "stop": "stop it, wherever it was started",
        "status": "say whether it runs (exit code 0) or not (3)",
    }.items():
        options = actions.add_parser(action, help=text)
        options.add_argument(
            "--data", type=Path, default=DEFAULT_DATA_DIR, help="where topics and logs are (%(default)s)"
        )
        if action in ("run", "start"):
            options.add_argument("--port", type=_port, default=DEFAULT_PORT, help="clients connect here (%(default)s)")
            options.add_argument("--fresh", action="store_true", help="delete all topics first")
    return parser.parse_args(argv)


def _act(options: argparse.Namespace) -> int:
    kafka = LocalKafka(getattr(options, "port", DEFAULT_PORT), options.data)
    if options.action == "status":
        broker = kafka.running()
        print(f"Kafka runs at {HOST}:{broker.port} (pid {broker.pid})" if broker else "no Kafka runs")
        return 0 if broker else 3
    if options.action == "stop":
        print("Kafka is stopped" if kafka.stop() else "no Kafka was running")
        return 0
    if options.fresh:
        kafka.wipe()
    if options.action == "start":
        kafka.start()
        _print_place(kafka, stop_command(kafka.data_dir))
    else:
        with kafka:
            _print_place(kafka, "Ctrl-C")
            kafka.wait()
    return 0


def _print_place(kafka: LocalKafka, stop: str) -> None:
    print(f"Apache Kafka {KAFKA_VERSION} listens on {kafka.bootstrap_servers}")
    print(f"  data  {kafka.data_dir}\n  log   {kafka.log_file}\n  stop  {stop}", flush=True)


def _interrupt(_signal_number: int, _frame: FrameType | None) -> NoReturn:
    for signal_number in ENDING_SIGNALS:  # a second Ctrl-C must not interrupt the broker's orderly end
        signal.signal(signal_number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _arguments(argv)
    for signal_number in ENDING_SIGNALS:
        signal.signal(signal_number, _interrupt)
    try:
        return _act(options)
    except KeyboardInterrupt:
        print("Kafka is stopped", flush=True)
        return 0 if options.action == "run" else 128 + signal.SIGINT
    except VigieError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
