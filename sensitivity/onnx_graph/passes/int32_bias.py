"""Stores biases in int32, without which ONNX Runtime computes a Gemm in float."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.biases import BiasInput, bias_input
from sensitivity.onnx_graph.integer_layers import LARGEST
from sensitivity.onnx_graph.matching import RewriteInTurn, needed, require
from sensitivity.onnx_graph.passes.float_weights import output_is_quantized
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.passes.new_pair import new_dequantize
from sensitivity.onnx_graph.walk import of_kind, source, value_name


@dataclass(frozen=True, eq=False)
class _Bias:
    """A float bias.

    place: the input through which it comes.
    scale: float32[1] or float32[outputs], the scale of the input times that of the weight.
    levels: int32[outputs], the bias in steps of the scale.
    """

    place: BiasInput
    scale: qdq.Array
    levels: qdq.Array


class Int32Bias(RewriteInTurn[ir.Node, _Bias]):
    """Puts the float bias of a Gemm that gives float on the grid of its sums, and that of a MatMul
    and Add, of which the loader makes a Gemm where it knows all sides. The bias changes by at most
    half a step of the sums.

    The last layer of a classifier is mostly such a Gemm. If the output is quantized, ONNX Runtime
    does this by itself.

    layers: the layers to look at; None looks at all.
    """

    def __init__(self, layers: Collection[ir.Node] | None = None) -> None:
        self.layers = layers

    def places(self, graph: ir.Graph) -> Iterable[ir.Node]:
        return of_kind(graph, "Gemm", "MatMul") if self.layers is None else self.layers

    def match(self, place: ir.Node) -> _Bias:
        """Return the bias. Raises NoMatch unless the layer multiplies the output of a pair by
        quantized weights and adds a constant that fits int32."""
        given, weight = map(needed, map(qdq.pair_of, place.inputs[:2]))
        bias_at = bias_input(place)
        require(not output_is_quantized(bias_at.node))
        require(place.attributes.get_float("alpha", 1.0) == 1.0)
        require(place.attributes.get_float("beta", 1.0) == 1.0)
        require(weight.block is None)
        require(needed(qdq.constant(weight.source)).ndim == 2)
        require(weight.axis_in(2) in {None, qdq.output_axis(place, 2)})
        stored = source(needed(bias_at.value), lambda node: node.op_type == "Identity")
        bias = needed(qdq.constant(stored))
        require(bias.ndim == 1)
        step, steps = needed(given.scale), needed(weight.scale).reshape(-1)
        require(step.size == 1)
        require(steps.size in {1, bias.size})
        scale = (step.astype(np.float64).reshape(()) * steps).astype(np.float32)
        require((scale > 0).all())
        levels = np.rint(bias / scale.astype(np.float64))
        require(np.abs(levels).max(initial=0) <= LARGEST)
        return _Bias(bias_at, scale, levels.astype(np.int32))

    def rewrite(self, graph: ir.Graph, found: _Bias) -> None:
        node, name = found.place.node, value_name(found.place.value)
        levels = add(graph, f"{name}.int32", found.levels)
        one_for_all = found.scale.size == 1
        scale = add(graph, f"{name}.scale", found.scale.reshape(()) if one_for_all else found.scale)
        axis = None if one_for_all else 0
        dequantize = new_dequantize(levels, [scale], axis, f"{name}/DequantizeLinear")
        graph.insert_before(node, dequantize)
        node.replace_input_with(found.place.index, dequantize.outputs[0])
