"""Widens weight scales so that the bias fits INT32 in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.integer_layers import MARGIN, IntegerLayer, integer_layers
from sensitivity.onnx_graph.levels import along
from sensitivity.onnx_graph.matching import RewriteInTurn, needed, require
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.walk import name_of


@dataclass(frozen=True, eq=False)
class _Narrow:
    """A layer with a weight whose scales are too small for its bias.

    wider: scales that are large enough.
    """

    node: ir.Node
    pair: qdq.Pair
    wider: np.ndarray


class RoomForBias(RewriteInTurn[IntegerLayer, _Narrow]):
    """Raises the scales of weights whose bias does not fit INT32 on the grid that ONNX Runtime
    uses.

    These weights are rounded more coarsely: each by at most 2^-32 of the bias, in units of the
    input's scale. The layer gets a pair of its own; other layers keep the shared pair.
    """

    def places(self, graph: ir.Graph) -> Iterable[IntegerLayer]:
        return integer_layers(graph)

    def match(self, place: IntegerLayer) -> _Narrow:
        pair = needed(place.weight)
        scale = needed(pair.scale)
        smallest = needed(place.smallest_weight_scale())
        is_too_small = smallest > scale
        require(is_too_small.any())
        wider = np.where(is_too_small, smallest * MARGIN, scale).astype(scale.dtype)
        return _Narrow(place.node, pair, wider)

    def rewrite(self, graph: ir.Graph, found: _Narrow) -> None:
        node, pair = found.node, found.pair
        quantize, dequantize = pair.quantize, pair.dequantize
        scale = add(graph, f"{pair.output.name}.scale_for_bias", found.wider)
        if quantize is None:
            stored = add(graph, f"{pair.output.name}.for_bias", _on_grid(pair, found.wider))
        else:
            copy = _copy(quantize, [pair.source, scale, *quantize.inputs[2:]])
            stored = copy.outputs[0]
            graph.insert_before(node, copy)
        copy = _copy(dequantize, [stored, scale, *dequantize.inputs[2:]])
        graph.insert_before(node, copy)
        node.replace_input_with(qdq.WEIGHT_INPUT[node.op_type], copy.outputs[0])


def _on_grid(pair: qdq.Pair, wider: np.ndarray) -> np.ndarray:
    """Return the integers of a stored weight on a wider grid."""
    stored = qdq.known(pair.source)
    levels, axis = stored.astype(np.float64), pair.axis_in(stored.ndim)
    scale = qdq.known(pair.dequantize.inputs[1]).astype(np.float64)
    zero = np.zeros(())
    if pair.zero_point is not None:
        zero = along(pair.zero_point.astype(np.float64), axis, stored.ndim)
    ratio = along(scale / wider, axis, stored.ndim)
    return np.asarray(np.rint((levels - zero) * ratio) + zero).astype(stored.dtype)


def _copy(node: ir.Node, inputs: list[ir.Value | None]) -> ir.Node:
    """Return a copy of a Q or DQ on other inputs."""
    name = f"{name_of(node)}_for_bias"
    copy = ir.Node(node.domain, node.op_type, inputs, node.attributes.values(), name=name)
    copy.outputs[0].name = f"{node.outputs[0].name}_for_bias"
    copy.outputs[0].type, copy.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
    return copy
