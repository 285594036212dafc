"""A small classifier of colours as ONNX, written node by node."""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from modeling import ConvZooImageProcessor
from tests.support.images import COLOURS

WEIGHTS = np.array(
    [[0.5, -0.2, -0.1], [-0.1, 0.5, -0.3], [-0.2, -0.1, 0.5]], np.float32
)  # class, channel
BIAS = np.array([2.4, -0.2, 0.1], np.float32)


def write_onnx(path, batch="batch", side=None, *, softmax=False, output="logits"):
    """Mean over the pixels, then a linear layer; optionally probabilities."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixel_values"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node(
            "Gemm", ["flat", "weight", "bias"], ["scores" if softmax else output], transB=1
        ),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["scores"], [output]))
    shape = [batch, 3, side or "height", side or "width"]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(WEIGHTS, "weight"), numpy_helper.from_array(BIAS, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


def describe(folder, **facts):
    """What must stand beside a network."""
    ConvZooImageProcessor(18, crop_size=16).save_pretrained(folder)
    (folder / "export.json").write_text(json.dumps({"classes": [*COLOURS]} | facts))
