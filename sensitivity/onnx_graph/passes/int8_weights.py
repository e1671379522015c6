"""Stores weights as INT8 instead of FP32 and a Q."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.matching import RewriteInTurn, needed
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.passes.insert_qdq import to_levels


@dataclass(frozen=True, eq=False)
class _FloatWeight:
    """A pair whose weight is stored as `values`, in float."""

    pair: qdq.Pair
    values: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray


class Int8Weights(RewriteInTurn[qdq.Pair, _FloatWeight]):
    """Turns FP32 initializer -> Q -> DQ into INT8 initializer -> DQ, with the same levels.

    The levels do not depend on the type that the rest of the graph computes in.
    """

    def places(self, graph: ir.Graph) -> Iterable[qdq.Pair]:
        return qdq.pairs(graph)

    def match(self, place: qdq.Pair) -> _FloatWeight:
        return _FloatWeight(place, *needed(qdq.quantized_constant(place)))

    def rewrite(self, graph: ir.Graph, found: _FloatWeight) -> None:
        pair, zero_point = found.pair, found.zero_point
        ends = np.iinfo(zero_point.dtype)
        limits = ends.min, ends.max
        levels = to_levels(found.values, found.scale, zero_point, pair.axis, limits)
        stored = levels.astype(zero_point.dtype)
        pair.dequantize.replace_input_with(0, add(graph, f"{pair.source.name}.int8", stored))
