"""Turns signed activations into unsigned ones, for runtimes whose fast or correct kernels need
uint8."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.matching import RewriteInTurn, needed, require
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.sign import non_negative
from sensitivity.onnx_graph.walk import of_kind, value_name

UNSIGNED = {np.dtype(np.int8): ir.DataType.UINT8, np.dtype(np.int16): ir.DataType.UINT16}
"""Signed type -> the unsigned one that it becomes."""
BEYOND = 1.1
"""Largest end of a range for zero point 0, as a multiple of the end of the grid. Ranges come from
the quantized model, whose values go a few per cent beyond those of the float model that amax comes
from."""


@dataclass(frozen=True, eq=False)
class _Signed:
    """A Q of an int8 activation.

    source: the value that it quantizes.
    zero_point: int8, as in the file.
    """

    quantize: ir.Node
    source: ir.Value
    zero_point: np.ndarray


class UnsignedActivations(RewriteInTurn[ir.Node, _Signed]):
    """Turns int8 activations into uint8 with a zero point that is 128 larger: the same grid and the
    same values.

    Weights stay signed.

    zero_point_0: whether tensors that cannot be negative, and whose zero point is 0, keep the zero
        point 0 and the scale. Their values up to amax stay the same; larger ones are clipped at
        twice amax.
    ranges: name of a value -> its smallest and largest value. A tensor keeps the zero point 0 only
        if its range ends near the end of the grid, so that clipping later changes next to nothing.
        With None, the sign alone decides.
    """

    def __init__(
        self, *, zero_point_0: bool, ranges: Mapping[str, tuple[float, float]] | None = None
    ) -> None:
        self.zero_point_0, self.ranges = zero_point_0, ranges

    def places(self, graph: ir.Graph) -> Iterable[ir.Node]:
        return of_kind(graph.all_nodes(), "QuantizeLinear")

    def match(self, place: ir.Node) -> _Signed:
        source = needed(place.inputs[0])
        zero_point = needed(qdq.constant(qdq.zero_point_value(place)))
        of_weight = qdq.constant(source) is not None
        require(not of_weight)
        require(zero_point.dtype in UNSIGNED)
        return _Signed(place, source, zero_point)

    def rewrite(self, graph: ir.Graph, found: _Signed) -> None:
        quantize, zero_point = found.quantize, found.zero_point
        shift = 0 if self._keeps_0(found) else -np.iinfo(zero_point.dtype).min
        unsigned = UNSIGNED[zero_point.dtype]
        shifted = (zero_point.astype(np.int64) + shift).astype(unsigned.numpy())
        name = value_name(qdq.zero_point_value(quantize)) or "zero_point"
        value = add(graph, f"{name}.unsigned", shifted)
        output = quantize.outputs[0]
        for node in (quantize, *of_kind(output.consumers(), "DequantizeLinear")):
            node.replace_input_with(2, value)
        output.type = ir.TensorType(unsigned)

    def _keeps_0(self, found: _Signed) -> bool:
        """Return whether the zero point stays 0, with the same scale."""
        if not self.zero_point_0 or found.zero_point.any():
            return False
        return non_negative(found.source) and self._ends_within(found)

    def _ends_within(self, found: _Signed) -> bool:
        """Return whether the value's range ends near the largest level of int8, or before it.

        Returns False if the range or the scale is not known.
        """
        if self.ranges is None:
            return True
        _, high = self.ranges.get(value_name(found.source), (0.0, np.inf))
        scale = qdq.scales_of(found.quantize)
        largest = np.iinfo(found.zero_point.dtype).max * scale
        return scale.size > 0 and high <= BEYOND * float(largest.min())
