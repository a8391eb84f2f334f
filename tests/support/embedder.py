"""A stand-in for ArcFace's weights, which are not published freely: the same input and output, random inside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def random_arcface(path: Path) -> None:
    """Write a random network with ArcFace's input and output: [N,3,112,112] to [N,512]."""
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.standard_normal((512, 3, 8, 8)).astype(np.float32), "w")
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input.1", "w"], ["a"], strides=[8, 8]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("GlobalAveragePool", ["b"], ["c"]),
            helper.make_node("Flatten", ["c"], ["683"]),
        ],
        "arcface",
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, ["N", 3, 112, 112])],
        [helper.make_tensor_value_info("683", TensorProto.FLOAT, ["N", 512])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
