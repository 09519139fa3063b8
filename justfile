# Vigie's recipes. Further words go through to the program: just train history.parquet --as-of 2018-09-01
# (exec: a signal to just reaches the program itself)

set positional-arguments

python := ".venv/bin/python"
uv_version := "0.13.9"

# lists what there is
[private]
default:
    @just --list --unsorted

# .venv with a fitting Python and the pinned packages
[group('setup')]
setup:
    #!/bin/sh
    # uv makes the environment, and brings a Python where the machine has none that fits (the engine has wheels for
    # 3.11 and 3.12 only). Where uv is missing, pip fetches it into .cache.
    set -eu
    wanted="$(cksum <requirements.lock) {{ uv_version }}"
    [ "$(cat .venv/made-from 2>/dev/null)" = "$wanted" ] && exit 0
    # One at a time: in a fresh clone two recipes may be started side by side.
    mkdir -p .cache
    until mkdir .cache/setup.lock 2>/dev/null; do
        kill -0 "$(cat .cache/setup.lock/pid 2>/dev/null || echo 0)" 2>/dev/null || rm -rf .cache/setup.lock
        sleep 0.2
    done
    echo $$ >.cache/setup.lock/pid
    trap 'rm -rf .cache/setup.lock' EXIT
    [ "$(cat .venv/made-from 2>/dev/null)" = "$wanted" ] && exit 0
    quiet="$([ -t 2 ] || echo --quiet)"
    uv="$(command -v uv || echo .cache/uv/bin/uv)"
    [ -x "$uv" ] || python3 -m pip install --quiet --target .cache/uv 'uv=={{ uv_version }}'
    echo "making .venv (about 1 GB, once)" >&2
    "$uv" venv --quiet --clear --python '>=3.11,<3.13' .venv || {
        echo "no Python 3.11 or 3.12 here, and none could be downloaded: install one (apt install python3.11," \
            "brew install python@3.12), then run this again" >&2
        exit 1
    }
    "$uv" pip sync $quiet --require-hashes --python .venv requirements.lock
    echo "$wanted" >.venv/made-from

# pins the packages that pyproject.toml asks for: all for .venv, and those of the images
[group('setup')]
lock:
    #!/bin/sh
    set -eu
    pin() {
        uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
            --custom-compile-command 'just lock' pyproject.toml --output-file "$@"
    }
    pin requirements.lock --extra training --group dev
    pin k8s/scorer.lock --constraint requirements.lock
    pin k8s/training.lock --constraint requirements.lock --extra training

# everything, end to end: broker, history, training, flow, live traffic, alerts
[group('run')]
demo *words: setup
    @exec {{ python }} -m flows.demo "$@"

# a labelled history with fraud bots: just simulate out.parquet
[group('data')]
simulate *words: setup
    @exec {{ python }} -m training.simulate "$@"

# the data part of the report alone: just explore history.parquet
[group('data')]
explore *words: setup
    @exec {{ python }} -m training.explore "$@"

# history to bundle (simulated without DATA): just train history.parquet
[group('model')]
train *words: setup
    @exec {{ python }} -m training.train "$@"

# opens the newest report
[group('model')]
report: setup
    @exec {{ python }} -m webbrowser -t "file://$(pwd)/artifacts/models/current/report.html"

# MLflow's page on the logged trainings
[group('model')]
mlflow *words: setup
    @exec {{ python }} -m training.tracking "$@"

# a local Apache Kafka, until Ctrl-C
[group('run')]
kafka *words: setup
    @exec {{ python }} -m flows.broker run "$@"

# the flow: Kafka in, Kafka out
[group('run')]
score *words: setup
    @exec {{ python }} -m flows "$@"

# a recovery store that knows the past: just warm history.parquet -r recovery
[group('run')]
warm *words: setup
    @exec {{ python }} -m flows.warm "$@"

# a history to Kafka, at any speed: just replay history.parquet --speed 60
[group('run')]
replay *words: setup
    @exec {{ python }} -m flows.replay "$@"

# rejected records, sent in again once what was wrong is mended: just redrive --code too_late
[group('run')]
redrive *words: setup
    @exec {{ python }} -m flows.redrive "$@"

# are the stream's features those of the batch, row by row? just parity history.parquet
[group('check')]
parity *words: setup
    @exec {{ python }} -m bench.parity "$@"

# how long a history's features take, and in which memory, beside pandas: just bench-features history.parquet
[group('check')]
bench-features *words: setup
    @exec {{ python }} -m bench.features "$@"

# are the reasons of alerts right, and what do they cost?
[group('check')]
bench-reasons *words: setup
    @exec {{ python }} -m bench.reasons "$@"

# how much of a simulated history's fraud could be found, and how much the model finds
[group('check')]
bench-ceiling *words: setup
    @exec {{ python }} -m bench.ceiling "$@"

# what the anomaly score adds on a kind of fraud that was never seen: just bench-novelty history.parquet
[group('check')]
bench-novelty *words: setup
    @exec {{ python }} -m bench.novelty "$@"

# our models beside the Handbook's, by its protocol (simulated without DATA): just bench-quality history.parquet
[group('check')]
bench-quality *words: setup
    @exec {{ python }} -m bench.quality "$@"

# Vigie's speed beside what a user would take instead, on one Kafka: about ten minutes
[group('check')]
bench *words: setup
    @exec {{ python }} -m bench.speed "$@"

# the same in about two minutes, with fewer contenders and rounds
[group('check')]
bench-quick *words: setup
    @exec {{ python }} -m bench.speed --quick "$@"

# does the flow's memory grow? ten minutes of steady traffic
[group('check')]
bench-soak *words: setup
    @exec {{ python }} -m bench.speed --soak 10 "$@"

# nothing lost, nothing twice: the flow on a real Kafka, killed at random for ten minutes
[group('check')]
chaos *words: setup
    @exec {{ python }} -m tests.chaos "$@"

# the manifests on a real Kubernetes control plane, its pods as processes: as root on Linux, with Go; 15 minutes
[group('check')]
k8s-test *words: setup
    @exec {{ python }} -m tests.k8s "$@"

# all tests, three at a time since most of them wait: just test -n 0 tests/flows/test_score.py
[group('check')]
test *words: setup
    @exec {{ python }} -m pytest -n 3 --dist loadscope --no-loadscope-reorder "$@"

# a million records as no producer should send them, through the real flow
[group('check')]
fuzz *words: setup
    @exec {{ python }} -m tests.fuzz "$@"

# style, types, tests of the house's rules
[group('check')]
lint: setup
    @.venv/bin/ruff check
    @.venv/bin/ruff format --check
    @.venv/bin/mypy features flows training bench tests

# formats the code
[group('check')]
fmt: setup
    @.venv/bin/ruff check --fix
    @.venv/bin/ruff format
