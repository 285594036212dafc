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


def write_onnx(path, batch="batch", side=None, *, softmax=False, output="logits", linear=None):
    """Mean over the pixels, then a linear layer (weight, bias); optionally probabilities."""
    weight, bias = linear or (WEIGHTS, BIAS)
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
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, len(bias)])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


def describe(folder, **facts):
    """What must stand beside a network."""
    ConvZooImageProcessor(18, crop_size=16).save_pretrained(folder)
    (folder / "export.json").write_text(json.dumps({"classes": [*COLOURS]} | facts))


def write_onnx_of_imagenet(folder):
    """A network of the 1000 classes that answers class N to an image of grey 40 * N."""
    folder.mkdir()
    numbers = np.arange(1000, dtype=np.float32)  # (grey - 40 N)^2 without grey^2
    weight = np.repeat(80 / 3 * numbers[:, None], 3, axis=1)
    write_onnx(folder / "model.onnx", linear=(weight, -1600 * numbers**2))
    plain = {"rescale_factor": 1.0, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    ConvZooImageProcessor(18, crop_size=16, **plain).save_pretrained(folder)
    described = {"file": "model.onnx", "classes": "imagenet-1k"}
    (folder / "export.json").write_text(json.dumps(described))
