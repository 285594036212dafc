"""Costs of networks in files, against PyTorch's count of the same operations."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch.utils.flop_counter import FlopCounterMode

from convzoo.evaluation.exported_costs import costs_of_onnx, costs_of_program

SHAPES = {
    "weight": (6, 2, 3, 2),
    "bias": (6,),
    "gain": (6,),
    "shift": (6,),
    "mean": (6,),
    "variance": (6,),
    "up": (6, 4, 2, 2),
    "matrix": (18, 7),
    "last": (5, 7),
}


def graph(batch, *nodes):
    """A grouped, strided, dilated convolution, batch norm, a transposed convolution, products."""
    nodes = nodes or (
        helper.make_node(
            "Conv",
            ["x", "weight", "bias"],
            ["conv"],
            group=2,
            strides=[2, 1],
            dilations=[1, 2],
            pads=[1, 1, 1, 1],
        ),
        helper.make_node(
            "BatchNormalization", ["conv", "gain", "shift", "mean", "variance"], ["norm"]
        ),
        helper.make_node("ConvTranspose", ["norm", "up"], ["large"], strides=[2, 2], group=2),
        helper.make_node("MatMul", ["large", "matrix"], ["product"]),
        helper.make_node("ReduceMean", ["product"], ["few"], axes=[1, 2], keepdims=0),
        helper.make_node("Gemm", ["few", "last"], ["logits"], transB=1),
    )
    rng = np.random.default_rng(0)
    stored = {name: rng.random(shape, np.float32) for name, shape in SHAPES.items()}
    return helper.make_model(
        helper.make_graph(
            nodes,
            "graph",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4, "h", "w"])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(values, name) for name, values in stored.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)],
        ir_version=8,
    )


@pytest.mark.parametrize("batch", ["batch", 3])
def test_products_of_a_graph_are_those_that_pytorch_counts(batch):
    t = {name: torch.rand(shape) for name, shape in SHAPES.items()}
    with FlopCounterMode(display=False) as counter:
        x = F.conv2d(torch.rand(1, 4, 9, 9), t["weight"], t["bias"], (2, 1), 1, (1, 2), 2)
        x = F.conv_transpose2d(x, t["up"], stride=2, groups=2)
        (x @ t["matrix"]).mean((1, 2)) @ t["last"].T
    costs = costs_of_onnx(graph(batch), (4, 9, 9))
    assert costs["num_multiply_adds"] == counter.get_total_flops() // 2
    learnt = {name: values for name, values in t.items() if name not in ("mean", "variance")}
    assert costs["num_parameters"] == sum(each.numel() for each in learnt.values())


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Einsum", ["x", "x"], ["logits"], equation="nchw,nchw->nc"),
        helper.make_node("Attention", ["x"], ["logits"], domain="com.microsoft"),
        helper.make_node("MatMul", ["unknown", "matrix"], ["logits"]),
    ],
)
def test_what_cannot_be_counted_is_said_to_be_unknown(node):
    first = helper.make_node("NonZero", ["x"], ["places"])
    second = helper.make_node("Cast", ["places"], ["unknown"], to=TensorProto.FLOAT)
    assert "num_multiply_adds" not in costs_of_onnx(graph(1, first, second, node), (4, 9, 9))


def test_functions_of_a_file_are_looked_into():
    model = graph(1, helper.make_node("Product", ["x"], ["logits"], domain="mine"))
    ones = numpy_helper.from_array(np.ones((9, 2), np.float32))
    body = [
        helper.make_node("Constant", [], ["m"], value=ones),
        helper.make_node("MatMul", ["a", "m"], ["b"]),
    ]
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("mine", "Product", ["a"], ["b"], body, opsets))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    assert costs_of_onnx(model, (4, 9, 9))["num_multiply_adds"] == 4 * 9 * 9 * 2


def test_a_program_is_counted_with_the_images_that_it_takes():
    layer = torch.nn.Conv2d(4, 6, 3, groups=2)
    for batch in (1, 3):
        program = torch.export.export(layer, (torch.zeros(batch, 4, 9, 9),))
        costs = costs_of_program(program, (4, 9, 9))
        assert costs == {"num_parameters": 6 * 2 * 9 + 6, "num_multiply_adds": 49 * 6 * 2 * 9}
