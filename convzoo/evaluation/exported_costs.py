"""Count parameters and multiply-adds of a network in a file, as `convzoo.layers` of a model."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NotRequired

from typing_extensions import TypedDict

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto
    from torch.export import ExportedProgram

Sizes = dict[str, list[int]]  # name of a tensor -> its shape
STANDARD = ("", "ai.onnx")  # the domains of ONNX itself
# Products of other kinds, and graphs inside of a node.
UNCOUNTED = ("Attention", "DeformConv", "Einsum", "GRU", "If", "LSTM", "Loop", "RNN", "Scan")
HARMLESS = ("QuantizeLinear", "DequantizeLinear")  # of other domains, too
LARGE = 1000  # numbers of a tensor that no shape is computed from


class Costs(TypedDict):
    """What a network in a file consists of, and what an image costs.

    Attributes:
        num_parameters: numbers that it has learnt. Scales and zero points of 8 bits, means and
            variances of batch norms, and constants without a dimension are none.
        num_multiply_adds: of convolutions and products of matrices for one image, biases not
            counted; absent where it has other products, or sizes that depend on the image.
    """

    num_parameters: int
    num_multiply_adds: NotRequired[int]


def costs_of_program(program: "ExportedProgram", shape: Sequence[int]) -> Costs:
    """Count a program of torch.export.

    Args:
        program: takes images (N, C, H, W).
        shape: channels, height and width of an image.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    (given, *_) = taken_by(program)
    num_images = given if isinstance(given, int) else 2
    module = program.module()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(torch.zeros(num_images, *shape))
    costs: Costs = {"num_parameters": sum(each.numel() for each in program.parameters())}
    if count := counter.get_total_flops() // 2 // num_images:
        costs["num_multiply_adds"] = count
    return costs


def taken_by(program: "ExportedProgram") -> Sequence[Any]:
    """Return the shape of the images that a program takes; of a free size it has a symbol."""
    (given,) = [
        node.meta["val"].shape
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in program.graph_signature.user_inputs
    ]
    shape: Sequence[Any] = given
    return shape


def costs_of_onnx(model: "ModelProto", shape: Sequence[int]) -> Costs:
    """Count a graph of ONNX, with weights of 8 bits or of floats.

    Args:
        model: takes images (N, C, H, W). It is changed: the sizes get fixed and weights lost.
        shape: channels, height and width of an image.
    """
    from onnx import TensorProto, inliner, shape_inference

    if model.functions:
        model = inliner.inline_local_functions(model)
    graph = model.graph
    others = _not_learnt(graph.node)
    learnt = [
        each
        for each in graph.initializer
        if each.dims and each.name not in others and each.data_type != TensorProto.INT64
    ]
    costs: Costs = {"num_parameters": sum(math.prod(each.dims) for each in learnt)}
    for each in learnt:
        if math.prod(each.dims) > LARGE:
            each.ClearField("raw_data")
    (images,) = (each for each in graph.input if each.name not in _names(graph.initializer))
    sizes = images.type.tensor_type.shape.dim
    num_images = sizes[0].dim_value or 1
    for place, size in zip(sizes, (num_images, *shape), strict=True):
        place.dim_value = size
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    try:
        inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    except shape_inference.InferenceError:  # the file may be anybody's
        return costs
    known = {each.name: list(each.dims) for each in inferred.initializer}
    for value in (*inferred.input, *inferred.output, *inferred.value_info):
        if value.type.tensor_type.HasField("shape"):
            known[value.name] = [each.dim_value for each in value.type.tensor_type.shape.dim]
    try:
        count = sum(_products(node, known) for node in inferred.node)
    except LookupError:  # a KeyError is one
        return costs
    if count:
        costs["num_multiply_adds"] = count // num_images
    return costs


def _names(values: Sequence[Any]) -> set[str]:
    return {each.name for each in values}


def _not_learnt(nodes: "Sequence[NodeProto]") -> set[str]:
    """Names of the tensors that a network stores and has not learnt."""
    first = {"QuantizeLinear": 1, "DequantizeLinear": 1, "BatchNormalization": 3}
    names = (node.input[first[node.op_type] :] for node in nodes if node.op_type in first)
    return {name for each in names for name in each}


def _products(node: "NodeProto", known: Sizes) -> int:
    """Count the multiply-adds of a node.

    Raises:
        LookupError: if that is not known.
    """
    if node.op_type in PRODUCTS:
        sizes = {name: known[name] for name in (*node.input, *node.output) if name in known}
        if not all(map(math.prod, sizes.values())):
            raise LookupError(f"the sizes of {node.name} are not known")
        return PRODUCTS[node.op_type](node, known)
    if node.op_type in UNCOUNTED or (node.domain not in STANDARD and node.op_type not in HARMLESS):
        raise LookupError(f"the products of a {node.op_type} are not known")
    return 0


def _convolution(weight: int) -> "Callable[[NodeProto, Sizes], int]":
    """Count of a convolution whose weight (out, in / groups, height, width) is that input."""
    return lambda node, known: (
        math.prod(known[node.output[0]]) * math.prod(known[node.input[weight]][1:])
    )


def _transposed(node: "NodeProto", known: Sizes) -> int:
    return math.prod(known[node.input[0]]) * math.prod(known[node.input[1]][1:])


def _matrices(node: "NodeProto", known: Sizes) -> int:
    turned = any(each.name == "transA" and each.i for each in node.attribute)
    return math.prod(known[node.output[0]]) * known[node.input[0]][-2 if turned else -1]


PRODUCTS: "dict[str, Callable[[NodeProto, Sizes], int]]" = {
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "FusedConv": _convolution(1),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _transposed,
    "Gemm": _matrices,
    "MatMul": _matrices,
    "MatMulInteger": _matrices,
    "QLinearMatMul": _matrices,
}
