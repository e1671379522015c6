"""Stores weights as the float values that their Q/DQ pair gives, for operations that are computed
in float anyway."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.levels import along
from sensitivity.onnx_graph.matching import RewriteInTurn, needed, require
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.uses import BIAS_INPUT, is_integer_bias
from sensitivity.onnx_graph.walk import input_at, reader_kinds


@dataclass(frozen=True, eq=False)
class _Weight:
    """The weight of an operation that is computed in float.

    name: name of the new initializer.
    values: what the pair of the weight gives.
    """

    node: ir.Node
    name: str
    values: np.ndarray


class FloatWeights(RewriteInTurn[ir.Node, _Weight]):
    """Computes the Q/DQ pair of a weight at export if the operation's output is not quantized. No
    value changes."""

    def places(self, graph: ir.Graph) -> Iterable[ir.Node]:
        return qdq.weighted_nodes(graph)

    def match(self, place: ir.Node) -> _Weight:
        require(not _gives_float_from_integers(place))
        require(not output_is_quantized(place))
        pair = needed(qdq.pair_of(qdq.weight(place)))
        return _Weight(place, f"{pair.source.name}.dequantized", _dequantized(pair))

    def rewrite(self, graph: ir.Graph, found: _Weight) -> None:
        values = add(graph, found.name, found.values)
        found.node.replace_input_with(qdq.WEIGHT_INPUT[found.node.op_type], values)


def _gives_float_from_integers(node: ir.Node) -> bool:
    """Return whether ONNX Runtime's integer kernel of this operation can give float: that of Gemm
    only with an int32 bias, or none."""
    if node.op_type != "Gemm":
        return node.op_type == "MatMul"
    bias = input_at(node, BIAS_INPUT)
    pair = qdq.pair_of(bias)
    return bias is None or (pair is not None and is_integer_bias(pair))


def _dequantized(pair: qdq.Pair) -> np.ndarray:
    """Return what a weight pair gives.

    Raises NoMatch unless it is symmetric int8 from a float constant.
    """
    weight, scale, zero_point = needed(qdq.quantized_constant(pair))
    require(zero_point.dtype == np.int8)
    require(not zero_point.any())
    shaped = along(scale, pair.axis, weight.ndim)
    levels = np.clip(np.rint(weight / shaped), -128, 127)
    result: np.ndarray = (levels * shaped).astype(weight.dtype)
    return result


def output_is_quantized(node: ir.Node) -> bool:
    """Return whether only quantizers read the output, or that of a Relu after it."""
    if node.op_type == "ConvTranspose":
        return False
    value = qdq.behind_relu(node.outputs[0])
    return reader_kinds(value) == {"QuantizeLinear"}
