"""The model at work: the graph's own scores, in any number; reasons that add up; graphs that cannot serve."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from features.bundle import Bundle, load
from features.definitions import FEATURES
from features.errors import InvalidBundle
from features.inference import session
from features.transaction import Transaction
from flows.model import BATCH, REASONS, Model
from flows.records import Candidates, Decisions, Transactions
from tests.flows import bundles

WIDTH = len(FEATURES)
NAMES = [feature.name for feature in FEATURES]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load(bundles.make(tmp_path_factory.mktemp("models")))


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> Model:
    return Model(bundle)


def score(model: Model, rows: NDArray[np.float64]) -> Decisions:
    transactions = Transactions.of([Transaction(f"t{i}", "a", "m", 0, i) for i in range(len(rows))])
    return model.score(Candidates(transactions, rows.astype(np.float32)))


def random_rows(n: int) -> NDArray[np.float64]:
    """Float64 [n, features] with amounts that straddle the threshold, and holes."""
    rng = np.random.default_rng(1)
    rows = rng.normal(0, 100, (n, WIDTH))
    rows[rng.random(rows.shape) < 0.2] = np.nan
    rows[:, 0] = rng.uniform(0, 400, n)
    return rows


@pytest.mark.parametrize("n", [0, 1, BATCH - 1, BATCH, BATCH + 1, 3 * BATCH + 7])
def test_scores_are_those_of_the_graph_in_batches_of_any_size(bundle: Bundle, model: Model, n: int) -> None:
    rows = random_rows(n)
    decisions = score(model, rows)
    assert decisions.transactions.transaction_id == [f"t{i}" for i in range(n)]
    assert decisions.features.tobytes() == rows.astype(np.float32).tobytes()
    direct = session(bundle.model)
    if n:
        scores, anomaly_scores = direct.run(["score", "anomaly_score"], {"features": rows.astype(np.float32)})
        assert decisions.scores == scores.tolist()
        assert decisions.anomaly_scores == anomaly_scores.tolist()
    assert decisions.alerts == [s >= bundles.THRESHOLD for s in decisions.scores]
    assert [len(column) for column in (decisions.scores, decisions.anomaly_scores, decisions.alerts)] == [n, n, n]


def test_a_score_at_the_threshold_is_an_alert(model: Model) -> None:
    rows = np.zeros((2, WIDTH))
    rows[:, 0] = [bundles.MIDDLE, np.nextafter(np.float32(bundles.MIDDLE), np.float32(0))]
    decisions = score(model, rows)
    at, below = decisions.scores
    assert (at, below < 0.5) == (0.5, True)
    assert decisions.alerts == [True, False]


def test_values_have_names_and_nan_is_none(model: Model) -> None:
    (row,) = random_rows(1).astype(np.float32)
    values = model.values(row)
    assert list(values) == NAMES
    for value, number in zip(values.values(), row, strict=True):
        assert (value is None) == np.isnan(number)
        assert value is None or np.float32(value) == number


def linear(bundle: Bundle, weights: Sequence[float], means: Sequence[float]) -> Model:
    """A model whose log odds are a constant and the sum of weights times features less their means."""
    return Model(msgspec.structs.replace(bundle, model=bundles.graph(weights, means)))


values = st.one_of(st.floats(-1e3, 1e3, width=32), st.just(math.nan))


@given(st.lists(st.lists(values, min_size=8, max_size=8), min_size=1, max_size=4))
def test_reasons_are_what_the_features_add_to_the_log_odds_strongest_first(
    bundle: Bundle, rows: list[list[float]]
) -> None:
    weights, means = [0.9, -0.7, 0.5, 0.3, -0.2, 0.8, 0.4, 0.6], [0.5, -2.0, 100.0, 0.0, 0.0, 1.0, 7.0, -7.0]
    rest = [0.0] * (WIDTH - 8)
    model = linear(bundle, weights + rest, means + rest)
    found = model.reasons(np.array([row + rest for row in rows], np.float32))
    assert len(found) == len(rows)
    for row, reasons in zip(rows, found, strict=True):
        filled = np.where(np.isnan(row), means, row)
        added = dict(zip(NAMES, weights * (filled - means), strict=False))
        contributions = [reason.contribution for reason in reasons]
        assert contributions == sorted(contributions, reverse=True)
        assert all(contribution > 0 for contribution in contributions)
        assert len(reasons) == len({reason.feature for reason in reasons}) <= REASONS
        for reason in reasons:
            assert reason.contribution == pytest.approx(added[reason.feature], abs=1e-3)
            value = row[NAMES.index(reason.feature)]
            assert reason.value is None if math.isnan(value) else np.float32(reason.value or 0.0) == np.float32(value)
        left_out = [added[name] for name in added if name not in {reason.feature for reason in reasons}]
        least = contributions[-1] if len(reasons) == REASONS else 0.0
        assert all(contribution <= least + 1e-3 for contribution in left_out)


def test_a_certain_score_has_reasons_in_full(bundle: Bundle) -> None:
    model = linear(bundle, [100.0] + [0.0] * (WIDTH - 1), [0.0] * WIDTH)
    row = np.zeros((1, WIDTH))
    row[0, 0] = 50
    assert score(model, row).scores == [1.0]
    ((reason,),) = model.reasons(row.astype(np.float32))
    assert (reason.feature, reason.contribution) == ("amount", 5000.0)


def test_a_score_below_what_is_usual_has_no_reasons(bundle: Bundle) -> None:
    model = linear(bundle, [-1.0] * WIDTH, [0.0] * WIDTH)
    assert model.reasons(np.ones((2, WIDTH), np.float32)) == [[], []]
    assert model.reasons(np.ones((0, WIDTH), np.float32)) == []


def cut_short(graph: bytes) -> bytes:
    return graph[: len(graph) // 2]


def other_output(graph: bytes) -> bytes:
    changed = onnx.load_from_string(graph)
    changed.graph.node[-1].output[0] = changed.graph.output[1].name = "outlier"
    return bytes(changed.SerializeToString())


def other_width(graph: bytes) -> bytes:
    changed = onnx.load_from_string(graph)
    changed.graph.input[0].type.tensor_type.shape.dim[1].dim_value = WIDTH - 1
    return bytes(changed.SerializeToString())


def other_input(graph: bytes) -> bytes:
    changed = onnx.load_from_string(graph)
    changed.graph.input[0].name = changed.graph.node[0].input[0] = changed.graph.node[1].input[2] = "rows"
    return bytes(changed.SerializeToString())


def a_column(graph: bytes) -> bytes:
    """Scores of shape [n, 1], as converters like to give them."""
    changed = onnx.load_from_string(graph)
    (squeeze,) = (node for node in changed.graph.node if node.op_type == "Squeeze")
    changed.graph.node.remove(squeeze)
    changed.graph.node[4].input[0] = "column"
    for output in changed.graph.output:
        output.type.tensor_type.shape.dim.add().dim_value = 1
    onnx.checker.check_model(changed)
    return bytes(changed.SerializeToString())


def beyond_explanation(graph: bytes) -> bytes:
    """Scores well, but no longer a sum."""
    changed = onnx.load_from_string(graph)
    (sigmoid,) = (node for node in changed.graph.node if node.op_type == "Sigmoid")
    sigmoid.op_type = "Softsign"
    return bytes(changed.SerializeToString())


@pytest.mark.parametrize(
    "damage", [bytes.upper, cut_short, other_output, other_width, other_input, a_column, beyond_explanation]
)
def test_a_graph_that_cannot_serve_is_refused_at_the_start(bundle: Bundle, damage: Callable[[bytes], bytes]) -> None:
    damaged = msgspec.structs.replace(bundle, model=damage(bundle.model))
    with pytest.raises(InvalidBundle, match="train it again") as raised:
        Model(damaged)
    assert str(bundle.path) in str(raised.value)


def test_the_bundle_on_disk_is_the_one_that_scores(tmp_path: Path) -> None:
    model = Model(load(bundles.make(tmp_path, "2026-01-01")))
    assert (model.version, model.threshold, model.names) == ("2026-01-01", bundles.THRESHOLD, NAMES)
    row = np.zeros((1, WIDTH))
    row[0, 0] = 230.0
    assert score(model, row).scores[0] == pytest.approx(bundles.expected_score(230.0), abs=1e-6)
