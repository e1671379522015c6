"""Stores weights as INT8 or FP8 instead of FP32 and a Q."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.levels import E4M3, along, nearest_levels
from sensitivity.onnx_graph.matching import RewriteInTurn, needed
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.passes.insert_qdq import to_levels
from sensitivity.onnx_graph.uses import stored_type


@dataclass(frozen=True, eq=False)
class _FloatWeight:
    """A pair whose weight is stored as `values`, in float."""

    pair: qdq.Pair
    values: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray


class Int8Weights(RewriteInTurn[qdq.Pair, _FloatWeight]):
    """Turns FP32 initializer -> Q -> DQ into INT8 or FP8 initializer -> DQ, with the same levels.

    The levels do not depend on the type that the rest of the graph computes in.
    """

    def places(self, graph: ir.Graph) -> Iterable[qdq.Pair]:
        return qdq.pairs(graph)

    def match(self, place: qdq.Pair) -> _FloatWeight:
        return _FloatWeight(place, *needed(qdq.quantized_constant(place)))

    def rewrite(self, graph: ir.Graph, found: _FloatWeight) -> None:
        pair, kind = found.pair, stored_type(found.pair)
        name = "fp8" if kind == E4M3 else "int8"
        stored = _levels(found, kind).astype(found.zero_point.dtype)
        pair.dequantize.replace_input_with(
            0, add(graph, f"{pair.source.name}.{name}", stored, kind)
        )


def _levels(found: _FloatWeight, kind: ir.DataType) -> np.ndarray:
    """Return the levels that the pair's Q gives, as floating-point numbers."""
    if kind == E4M3:
        return nearest_levels(
            found.values / along(found.scale, found.pair.axis, found.values.ndim), E4M3
        )
    ends = np.iinfo(found.zero_point.dtype)
    limits = ends.min, ends.max
    return to_levels(found.values, found.scale, found.zero_point, found.pair.axis, limits)
