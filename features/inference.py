"""The one way to ONNX Runtime, for the stream, for training and for the benchmarks."""

from __future__ import annotations

import os

# Otherwise it writes an id of this machine into the home directory and sends events to its makers: no bank allows that.
# It looks when it is imported, so that has to come after.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime


def session(graph: bytes) -> onnxruntime.InferenceSession:
    """The graph, ready to run on the thread that calls it.

    Raises whatever ONNX Runtime raises for a graph that it cannot load; it has a dozen types for that.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
