"""ONNX Runtime as everyone here uses it: on one thread, and silent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

ADD = """
import sys
import numpy as np
from features.inference import session
(found,) = session(sys.stdin.buffer.read()).run(None, {"x": np.array([1.5], np.float32)})
print(found[0])
"""


@pytest.fixture(scope="module")
def graph() -> bytes:
    """A graph that doubles its one number."""
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    inside = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "x"], ["y"])], "twice", [x], [y])
    opset = onnx.helper.make_opsetid("", 18)
    encoded: bytes = onnx.helper.make_model(inside, opset_imports=[opset], ir_version=10).SerializeToString()
    return encoded


def test_a_process_that_infers_leaves_nothing_in_the_home_directory_and_says_nothing(
    graph: bytes, tmp_path: Path
) -> None:
    told = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    command = [sys.executable, "-c", ADD]
    done = subprocess.run(
        command, input=graph, capture_output=True, timeout=60, check=False, env={**told, "HOME": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.split() == [b"3.0"]
    assert done.stderr == b""
    assert not list(tmp_path.iterdir())
