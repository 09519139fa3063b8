"""What each feature of a row adds to the log odds of its score, exactly, from a bundle's own graph and numpy alone.

The graph is read once, backwards from the sigmoid before ``score``. What feeds it has to be a weighted sum of

- tree ensembles, whose ``nodes_hitrates`` hold the covers of their nodes: ``features.shapley``;
- linear models, ``MatMul`` of columns that each come from one feature (a value, or whether it is missing). With
  independent features the Shapley values are weight * (x - mean) (Lundberg and Lee, "A unified approach to interpreting
  model predictions", 2017, corollary 1); training exports columns less their means, so that a column adds weight * x;
- the exponential of such a sum. It is passed on in proportion, that is, all contributions are multiplied by the slope
  of the chord from the base to the row: the Shapley values of the sum keep their order and their shares (Chen,
  Lundberg, Lee, "Explaining a series of models by propagating Shapley values", 2022).

So ``base`` and a row's contributions add up to the log odds of its score, calibration included, whatever the champion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from features.errors import InvalidBundle
from features.shapley import Floats, Leaves, Rows, TreeValues, joined
from features.trees import leaves_of

ROWS: Final = "features"
SCORE: Final = "score"

Columns = Callable[[Rows], NDArray[Any]]  # rows float32 [n, F] -> [n, F], each column from the same feature

_UNCHANGED: Final = frozenset({"Identity", "Cast", "Squeeze"})
_SUMS: Final = frozenset({"Add", "Sub", "Sum", "Mean"})
_OF_COLUMNS: Final[dict[str, Callable[..., NDArray[Any]]]] = {
    "IsNaN": np.isnan,
    "Where": np.where,
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
}


class _Part(Protocol):
    """Something that is ``base`` plus the sum of what a call gives, float64 [n, F], for rows float32 [n, F]."""

    base: float

    def __call__(self, rows: Rows) -> Floats: ...


@dataclass(frozen=True)
class _Sum:
    """A weighted sum in the making: the leaves of all its trees are put together, to be looked up at once."""

    constant: float = 0.0
    leaves: tuple[Leaves, ...] = ()
    parts: tuple[tuple[float, _Part], ...] = ()

    def scaled(self, factor: float) -> _Sum:
        return _Sum(
            self.constant * factor,
            tuple(leaves.scaled(factor) for leaves in self.leaves),
            tuple((weight * factor, part) for weight, part in self.parts),
        )

    def plus(self, other: _Sum) -> _Sum:
        return _Sum(self.constant + other.constant, self.leaves + other.leaves, self.parts + other.parts)


class _Whole:
    """A sum that is complete."""

    def __init__(self, of: _Sum, width: int) -> None:
        trees: list[tuple[float, _Part]] = [(1.0, TreeValues(joined(list(of.leaves)), width))] if of.leaves else []
        self._parts = [*trees, *of.parts]
        self._width = width
        self.base = of.constant + sum(weight * part.base for weight, part in self._parts)

    def __call__(self, rows: Rows) -> Floats:
        added = np.zeros((len(rows), self._width))
        for weight, part in self._parts:
            added += weight * part(rows)
        return added


class _Linear:
    base = 0.0

    def __init__(self, columns: Columns, weights: Floats) -> None:
        self._columns = columns
        self._weights = weights

    def __call__(self, rows: Rows) -> Floats:
        added: Floats = self._columns(rows) * self._weights
        return added


class _Exponential:
    def __init__(self, exponent: _Part) -> None:
        self._exponent = exponent
        self.base = float(np.exp(exponent.base))

    def __call__(self, rows: Rows) -> Floats:
        added = self._exponent(rows)
        rise = added.sum(axis=1, keepdims=True)
        # (exp(rise) - 1) / rise, which is 1 where nothing rises.
        chord: Floats = np.divide(np.expm1(rise), rise, out=np.ones_like(rise), where=rise != 0)
        return self.base * chord * added


class Contributions:
    """The contributions to the log odds of a graph's score. ``base``: the log odds with nothing known."""

    base: float

    def __init__(self, graph: bytes, source: object) -> None:
        """``graph`` is one that onnxruntime loads; ``source`` is how errors name it.

        Raises ``InvalidBundle`` where it is not of the kind that training exports, or its trees have no covers.
        """
        try:
            whole = _Reader(onnx.load_from_string(graph).graph).log_odds()
        except InvalidBundle as error:
            raise InvalidBundle(f"{source}: {error}, so its alerts cannot be explained; train it again") from error
        self.base = whole.base
        self._whole = whole

    def __call__(self, rows: Rows) -> Floats:
        """What each feature adds to the log odds, float64 [n, F], of rows float32 [n, F] (NaN = missing)."""
        return self._whole(rows)


class _Reader:
    """Finds out what the graph does between the features and the score."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._makers: dict[str, onnx.NodeProto] = {output: node for node in graph.node for output in node.output}
        self._constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        widths = {value.name: value.type.tensor_type.shape.dim for value in graph.input}
        if len(widths.get(ROWS, ())) != 2:
            raise InvalidBundle(f"the model has no input {ROWS!r} [n, F]")
        self._width = int(widths[ROWS][1].dim_value)

    def log_odds(self) -> _Whole:
        node = self._maker(SCORE)
        while node.op_type in _UNCHANGED:
            node = self._maker(node.input[0])
        if node.op_type != "Sigmoid":
            raise InvalidBundle(f"the model's score comes from {node.op_type} instead of Sigmoid")
        return _Whole(self._sum(node.input[0]), self._width)

    def _maker(self, name: str) -> onnx.NodeProto:
        if name not in self._makers:
            raise InvalidBundle(f"nothing in the model computes {name!r}")
        return self._makers[name]

    def _sum(self, name: str) -> _Sum:
        if name in self._constants:
            return _Sum(self._number(name))
        node = self._maker(name)
        inputs = list(node.input)
        match node.op_type:
            case "TreeEnsembleRegressor" if inputs == [ROWS]:
                leaves, constant = leaves_of(node)
                return _Sum(constant, (leaves,))
            case "MatMul" if inputs[1] in self._constants:
                weights = self._constants[inputs[1]].astype(np.float64).reshape(-1)
                return _Sum(parts=((1.0, _Linear(self._columns(inputs[0]), weights)),))
            case "Exp":
                return _Sum(parts=((1.0, _Exponential(_Whole(self._sum(inputs[0]), self._width))),))
            case "Mul" if inputs[1] in self._constants:
                return self._sum(inputs[0]).scaled(self._number(inputs[1]))
            case "Div" if inputs[1] in self._constants:
                return self._sum(inputs[0]).scaled(1 / self._number(inputs[1]))
            case operator if operator in _UNCHANGED:
                return self._sum(inputs[0])
            case operator if operator in _SUMS:
                return self._total(operator, inputs)
        raise InvalidBundle(f"the model has {node.op_type}({', '.join(inputs)}) between features and score")

    def _total(self, operator: str, inputs: list[str]) -> _Sum:
        total = _Sum()
        for position, each in enumerate(inputs):
            minus = operator == "Sub" and position == 1
            total = total.plus(self._sum(each).scaled(-1.0 if minus else 1.0))
        return total.scaled(1 / len(inputs)) if operator == "Mean" else total

    def _number(self, name: str) -> float:
        value = self._constants[name]
        if value.size != 1:
            raise InvalidBundle(f"the model's constant {name!r} has shape {value.shape} instead of a single number")
        return float(value.reshape(()))

    def _columns(self, name: str) -> Columns:
        if name == ROWS:
            return lambda rows: rows
        if name in self._constants:
            value = self._constants[name]
            return lambda _rows: value
        node = self._maker(name)
        arguments = [self._columns(i) for i in node.input]
        if node.op_type == "Cast" and helper.get_node_attr_value(node, "to") == onnx.TensorProto.DOUBLE:
            return lambda rows: arguments[0](rows).astype(np.float64)
        if node.op_type not in _OF_COLUMNS:
            raise InvalidBundle(f"the model has {node.op_type}({', '.join(node.input)}) between features and score")
        return partial(_apply, _OF_COLUMNS[node.op_type], arguments)


def _apply(operator: Callable[..., NDArray[Any]], arguments: list[Columns], rows: Rows) -> NDArray[Any]:
    return operator(*(argument(rows) for argument in arguments))
