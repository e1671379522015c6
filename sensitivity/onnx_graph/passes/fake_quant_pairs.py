"""Writes TensorFlow's fake-quant operations, which tf2onnx leaves in a file if it cannot convert
them, as Q/DQ pairs.

x -> FakeQuantWithMinMaxVars(min, max)     becomes     x -> Q -> DQ
x -> the same with fewer than 8 bits       becomes     x -> Q -> Clip -> DQ
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sensitivity.errors import OnnxFileError
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.passes.initializers import add, remove_constant
from sensitivity.onnx_graph.passes.new_pair import new_pair
from sensitivity.onnx_graph.walk import first_input, graph_of, input_at, name_of

FAKE_QUANT = (
    "FakeQuantWithMinMaxArgs",
    "FakeQuantWithMinMaxVars",
    "FakeQuantWithMinMaxVarsPerChannel",
)
MOST_BITS = 8
NEVER_SEEN = 1e-20
"""Width of an empty range, on whose grid all values are next to 0, as in TensorFlow."""

Array = NDArray[np.float64]


class FakeQuantPairs(ir.passes.InPlacePass):
    """Replaces each fake-quant operation by a Q/DQ pair.

    Scales and zero points are TensorFlow's: the range is moved so that 0 is on the grid. A value
    half way between two levels differs, since Q rounds to the even level and TensorFlow up. A
    narrow range of 8 bits gets no Clip, as in tf2onnx: values below it reach one level further.
    Raises OnnxFileError for ranges that the graph computes, and for more than 8 bits.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = [node for node in model.graph.all_nodes() if is_fake_quant(node)]
        for node in nodes:
            _replace(node, _grid(node))
        return ir.passes.PassResult(model, modified=bool(nodes))


def is_fake_quant(node: ir.Node) -> bool:
    """Return whether this is one of TensorFlow's fake-quant operations."""
    return node.op_type in FAKE_QUANT


@dataclass(frozen=True, eq=False)
class TensorFlowGrid:
    """The grid of a fake-quant operation.

    scale, zero_point: float64[n], n = 1 per tensor.
    levels: smallest and largest level, of an unsigned type.
    """

    bits: int
    scale: Array
    zero_point: Array
    levels: tuple[int, int]

    @property
    def shift(self) -> int:
        """The number subtracted from each level, so that a grid around 0 becomes signed, as
        TensorRT takes it."""
        middle = 2 ** (self.bits - 1)
        return middle if np.all(self.zero_point == middle) else 0

    @property
    def kind(self) -> type[np.integer[Any]]:
        """The type that holds the levels."""
        return np.int8 if self.shift else np.uint8

    @property
    def limits(self) -> list[int]:
        """The smallest and the largest level, minus the shift."""
        return [level - self.shift for level in self.levels]


def _grid(node: ir.Node) -> TensorFlowGrid:
    """Return the grid of a fake-quant operation. Raises OnnxFileError for more than 8 bits."""
    bits = node.attributes.get_int("num_bits", MOST_BITS)
    if bits > MOST_BITS:
        raise OnnxFileError(
            f"Expected {node.op_type} at {name_of(node)} to have up to {MOST_BITS} bits, got "
            f"{bits}; train the model with num_bits={MOST_BITS}."
        )
    low, high = (_end(node, place) for place in (1, 2))
    smallest, largest = node.attributes.get_int("narrow_range", 0), 2**bits - 1
    scale = np.maximum(high - low, NEVER_SEEN) / (largest - smallest)
    zero_point = np.clip(np.floor(smallest - low / scale + 0.5), smallest, largest)
    return TensorFlowGrid(bits, scale, zero_point, (smallest, largest))


def _end(node: ir.Node, place: int) -> Array:
    """Return the smallest or the largest value of the range, float64[n].

    place: 1 for the smallest, 2 for the largest.
    """
    if node.op_type == "FakeQuantWithMinMaxArgs":
        name, usual = ("min", -6.0) if place == 1 else ("max", 6.0)
        return np.array([node.attributes.get_float(name, usual)])
    end = qdq.constant(input_at(node, place))
    if end is None:
        raise OnnxFileError(
            f"Expected the range of {node.op_type} at {name_of(node)} to be constant, got one that "
            "the graph computes; convert the model as it is saved for inference (training=False), "
            "with its variables frozen."
        )
    return end.astype(np.float64).reshape(-1)


def _replace(node: ir.Node, grid: TensorFlowGrid) -> None:
    """Replace the operation by a pair. The Q takes over its name."""
    graph, name, output = graph_of(node), name_of(node), node.outputs[0]
    per_channel = node.op_type.endswith("PerChannel")
    shape = -1 if per_channel else ()
    zero_point = (grid.zero_point - grid.shift).astype(grid.kind)
    parameters = (
        add(graph, f"{name}/scale", grid.scale.astype(np.float32).reshape(shape)),
        add(graph, f"{name}/zero_point", zero_point.reshape(shape)),
    )
    axis = -1 if per_channel else None  # TensorFlow has channels on the last axis
    names = (name, f"{name}/DequantizeLinear")
    quantize, dequantize = new_pair(first_input(node), parameters, axis, names)
    nodes = [quantize, dequantize]
    if grid.bits < MOST_BITS:
        limits = [add(graph, f"{name}/limit", np.array(end, grid.kind)) for end in grid.limits]
        clip = ir.node("Clip", [quantize.outputs[0], *limits], name=f"{name}/Clip")
        dequantize.replace_input_with(0, clip.outputs[0])
        nodes.insert(1, clip)
    for each in nodes[:-1]:
        each.outputs[0].name = f"{each.name}.levels"
    result = dequantize.outputs[0]
    result.type, result.shape = output.type, output.shape
    result.name, output.name = output.name, f"{output.name}.before"
    graph.insert_before(node, nodes)
    ir.convenience.replace_all_uses_with(output, result, replace_graph_outputs=True)
    ends = [input_at(node, place) for place in (1, 2)]
    graph.remove(node, safe=True)
    for end in filter(None, ends):
        remove_constant(end)
