"""Expresses a Clip at zero, such as ReLU6, as the range of the quantizer after it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.matching import RewriteInTurn, needed, require
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.walk import of_kind, value_name

STEPS = 255
"""Number of steps between the levels of uint8."""


@dataclass(frozen=True, eq=False)
class _Clipped:
    """A Clip from 0 to `top` whose only reader is a Q.

    scale: scale of the Q.
    """

    clip: ir.Node
    top: float
    quantize: ir.Node
    scale: np.ndarray


class ClipByRange(RewriteInTurn[ir.Node, _Clipped]):
    """Removes a Clip from 0 to c before a uint8 quantizer with zero point 0, whose range then
    ends at c.

    If the range reaches further, the scale becomes c / 255: all 255 steps then lie in the range of
    values and are finer than the file's. Without the Clip between a layer and its quantizer, a
    runtime can compute the layer in integers.
    """

    def places(self, graph: ir.Graph) -> Iterable[ir.Node]:
        return of_kind(graph.all_nodes(), "Clip")

    def match(self, place: ir.Node) -> _Clipped:
        low, high = needed(qdq.clip_limits(place))
        require(low == 0 < high < np.inf)
        quantize = _only_quantizer(place.outputs[0])
        scale, zero_point = map(needed, map(qdq.constant, quantize.inputs[1:3]))
        require(scale.size == 1)
        require(zero_point.dtype == np.uint8)
        require(not zero_point.any())
        return _Clipped(place, high, quantize, scale)

    def rewrite(self, graph: ir.Graph, found: _Clipped) -> None:
        _end_at_top(graph, found)
        found.quantize.replace_input_with(0, found.clip.inputs[0])
        graph.remove(found.clip, safe=True)


def _only_quantizer(value: ir.Value) -> ir.Node:
    """Return the Q that is the only reader of the value. Raises NoMatch if there is none."""
    require(not value.is_graph_output())
    readers = [use.node for use in value.uses()]
    require(len(readers) == 1)
    require(readers[0].op_type == "QuantizeLinear")
    return readers[0]


def _end_at_top(graph: ir.Graph, found: _Clipped) -> None:
    """Limit the range of the Q, and of the DQs that read it, to that of the Clip."""
    if float(found.scale.item()) * STEPS <= found.top:
        return
    name = value_name(found.quantize.inputs[1])
    finer = add(graph, f"{name}.clipped", np.full_like(found.scale, found.top / STEPS))
    for node in (found.quantize, *found.quantize.outputs[0].consumers()):
        node.replace_input_with(1, finer)
