"""A Clip at zero, such as ReLU6, as the range of the quantizer behind it."""

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


@dataclass(frozen=True, eq=False)
class _Clipped:
    """A Clip from 0 to `top` in front of the one Q that reads it. scale: of the Q."""

    clip: ir.Node
    top: float
    quantize: ir.Node
    scale: np.ndarray


class ClipByRange(RewriteInTurn[ir.Node, _Clipped]):
    """Clip from 0 to c in front of one uint8 quantizer with zero point 0 goes: the quantizer ends
    at c itself.

    Its scale becomes c / 255 where it reaches further: all 255 steps then lie where values are, so
    they are finer than those of the file. A runtime can compute the layer in front in integers
    then, for nothing stands between it and its quantizer.
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
    """Return the Q that alone reads the value. Raises NoMatch where there is none."""
    require(not value.is_graph_output())
    readers = [use.node for use in value.uses()]
    require(len(readers) == 1)
    require(readers[0].op_type == "QuantizeLinear")
    return readers[0]


def _end_at_top(graph: ir.Graph, found: _Clipped) -> None:
    """Let the Q, and the DQs that read it, end where the Clip does, if they end behind it."""
    if float(found.scale.item()) * STEPS <= found.top:
        return
    name = value_name(found.quantize.inputs[1])
    finer = add(graph, f"{name}.clipped", np.full_like(found.scale, found.top / STEPS))
    for node in (found.quantize, *found.quantize.outputs[0].consumers()):
        node.replace_input_with(1, finer)
