"""Finds QuantizeLinear/DequantizeLinear pairs (Q/DQ pairs) in a graph.

activation -> Q -> DQ -> op            an activation pair
FP32 initializer -> Q -> DQ -> op      a weight pair
INT8 initializer -> DQ -> op           a weight pair in the compact form, without a Q
activation -> Q -> Clip -> DQ -> op    a pair whose grid has fewer levels than its type
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import filterfalse
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sensitivity.errors import OnnxFileError
from sensitivity.onnx_graph.matching import match_or_none, needed, require
from sensitivity.onnx_graph.walk import (
    first_input,
    input_at,
    inputs,
    made_by,
    not_none,
    of_kind,
    producer,
    read_by,
)

WEIGHT_INPUT = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
"""Operation with a weight -> index of its weight input. A MatMul of two activations has no weight;
`weight` tells them apart."""

PAIR = {"QuantizeLinear", "DequantizeLinear"}
"""Operations that a Q/DQ pair consists of."""

KEEP_CONSTANT = (*sorted(PAIR), "Transpose", "Cast", "Reshape", "Identity")
"""Operations through which `rooted_at_constant` looks for a constant, such as the weight of a
layer."""

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Pair:
    """One Q/DQ pair. A Q with two DQs makes two pairs.

    quantize: the Q; None in the compact form.
    clip: the Clip between Q and DQ that leaves the grid fewer levels than its type has; None if
        there is no Clip.
    """

    quantize: ir.Node | None
    dequantize: ir.Node
    clip: ir.Node | None = None

    @property
    def nodes(self) -> list[ir.Node]:
        """The nodes of the pair, in the order in which they run."""
        return [node for node in (self.quantize, self.clip, self.dequantize) if node is not None]

    @property
    def source(self) -> ir.Value:
        """The value that is quantized: an activation or an initializer."""
        return first_input(self.nodes[0])

    @property
    def output(self) -> ir.Value:
        """The output of the DQ, in float."""
        return self.dequantize.outputs[0]

    @property
    def name(self) -> str:
        """Name of the Q, or of the DQ in the compact form, or of the output if that node has no
        name."""
        first = self.quantize or self.dequantize
        names = (first.name, self.output.name, "?")
        return next(filter(None, names))

    @property
    def scale(self) -> Array | None:
        """The scale: float[] or float[1] per tensor, float[channels] along `axis`; None if it is
        not a constant."""
        return constant(self.dequantize.inputs[1])

    @property
    def zero_point(self) -> Array | None:
        """The zero point; None if it is left out or not a constant."""
        return constant(zero_point_value(self.dequantize))

    @property
    def zero_points(self) -> Array:
        """The distinct zero points, int64[n], ascending; [0] if none is known."""
        known = self.zero_point
        if known is None:
            return np.zeros(1, np.int64)
        return np.unique(known.astype(np.int64))

    @property
    def axis(self) -> int | None:
        """Channel axis, with ONNX's default if the file does not state it; None per tensor."""
        if scales_of(self.dequantize).size <= 1:
            return None
        return axis_of(self.dequantize)

    @property
    def block(self) -> int | None:
        """Number of values along the axis that share one scale; None if scales are per tensor or
        per channel."""
        return self.dequantize.attributes.get_int("block_size", 0) or None

    def axis_in(self, rank: int) -> int | None:
        """Return the channel axis of a tensor of this rank, counted from the front; None per
        tensor."""
        axis = self.axis
        if axis is None:
            return None
        return axis % rank

    @property
    def limits(self) -> tuple[float, float] | None:
        """The limits of the Clip; None if there is no Clip."""
        if self.clip is None:
            return None
        return clip_limits(self.clip)

    @property
    def of_weight(self) -> bool:
        """Whether the pair quantizes a constant of the file. A stored bias counts too."""
        return constant(self.source) is not None

    @property
    def is_compact(self) -> bool:
        """Whether the file stores the integers and has no Q for them."""
        return self.quantize is None


def pairs(graph: ir.Graph) -> Iterator[Pair]:
    """Return every pair, in the order of the graph's nodes, with those of subgraphs."""
    ends = (node.outputs[0] for node in of_kind(graph.all_nodes(), "DequantizeLinear"))
    return filter(None, map(pair_of, ends))


def pair_of(value: ir.Value | None) -> Pair | None:
    """Return the pair whose DQ gives this value; None if no pair does.

    An INT32 bias after a DQ is a pair without a Q.
    """
    node = made_by(value, "DequantizeLinear")
    levels = input_at(node, 0)
    if node is None or levels is None:
        return None
    clip = _limiting_clip(levels)
    if clip is not None:
        levels = first_input(clip)
    quantize = made_by(levels, "QuantizeLinear")
    if quantize is None and constant(levels) is None:
        return None
    return Pair(quantize, node, clip)


def _limiting_clip(value: ir.Value) -> ir.Node | None:
    """Return the Clip that gives the value, if its limits are known."""
    clip = made_by(value, "Clip")
    if clip is None or clip_limits(clip) is None:
        return None
    return clip


def clip_limits(clip: ir.Node) -> tuple[float, float] | None:
    """Return the limits of a Clip, -inf or inf for a limit it does not have; None if the graph
    computes a limit."""
    low = _clip_end(clip, "min", 1, -np.inf)
    high = _clip_end(clip, "max", 2, np.inf)
    if low is None or high is None:
        return None
    return low, high


def _clip_end(clip: ir.Node, name: str, index: int, unlimited: float) -> float | None:
    """Return one limit of a Clip: an attribute up to opset 10, an input from opset 11 on."""
    value = input_at(clip, index)
    if value is None:
        return clip.attributes.get_float(name, unlimited)
    end = constant(value)
    if end is None:
        return None
    return float(end.reshape(-1)[0])


def moved_values(node: ir.Node) -> list[ir.Value]:
    """Return the inputs whose values this operation gives unchanged, so that they may be rounded
    before or after it.

    Returns an empty list for operations that compute. A MaxPool counts as moving, since the largest
    rounded value is the largest value rounded.
    """
    if node.op_type == "Concat":
        return inputs(node)
    if _moves_first_input(node):
        return inputs(node)[:1]
    return []


def _moves_first_input(node: ir.Node) -> bool:
    """Return whether the operation gives the values of its first input unchanged."""
    if node.op_type == "MaxPool":
        # A second output holds indices, which the operation computes.
        return len(node.outputs) == 1
    return node.op_type in {"Slice", "Split"} or takes_nearest(node)


def takes_nearest(node: ir.Node) -> bool:
    """Return whether this is a Resize that computes no new values."""
    return node.op_type == "Resize" and node.attributes.get_string("mode", "nearest") == "nearest"


def quantized(value: ir.Value | None) -> bool:
    """Return whether the value comes from integers, directly from a DQ or through operations that
    only move values."""
    node = producer(value)
    if node is None:
        return False
    if node.op_type == "DequantizeLinear":
        return True
    moved = moved_values(node)
    return bool(moved) and all(map(quantized, moved))


def through_transpose(value: ir.Value | None) -> Pair | None:
    """Return the pair that gives this value, directly or through a Transpose, as in a Linear layer
    written as MatMul."""
    transpose = made_by(value, "Transpose")
    if transpose is None:
        return pair_of(value)
    return pair_of(transpose.inputs[0])


def quantized_constant(pair: Pair) -> tuple[Array, Array, Array] | None:
    """Return the constant that a Q quantizes, its scale and its zero point.

    Returns None for the compact form, and if the graph computes one of the three.
    """
    return match_or_none(_quantized_constant, pair)


def _quantized_constant(pair: Pair) -> tuple[Array, Array, Array]:
    """Return the same as `quantized_constant`, but raise NoMatch instead of returning None."""
    require(not pair.is_compact)
    return needed(constant(pair.source)), needed(pair.scale), needed(pair.zero_point)


def behind_relu(value: ir.Value) -> ir.Value:
    """Return the output of the Relu that is the only reader of the value; the value itself if there
    is none.

    Runtimes compute a Relu within the operation before it.
    """
    relu = read_by(value, "Relu")
    if relu is None:
        return value
    return relu.outputs[0]


def activation(node: ir.Node) -> ir.Value | None:
    """Return the first input of an operation with a weight."""
    return node.inputs[0]


def weight(node: ir.Node) -> ir.Value | None:
    """Return the weight input of a node, quantized or not.

    Returns None for an operation without a weight, which a MatMul of two activations is too.
    """
    value = input_at(node, WEIGHT_INPUT.get(node.op_type))
    if not rooted_at_constant(value):
        return None
    return value


def output_axis(node: ir.Node, rank: int) -> int:
    """Return the axis of the output channels in a weight of this rank: the only axis that its
    scales may run along.

    The weight of a grouped ConvTranspose has no such axis; a rule of lint reports per-channel
    scales there.
    """
    is_turned = bool(node.attributes.get_int("transB", 0))
    axes = {"MatMul": rank - 1, "Gemm": int(not is_turned), "Conv": 0, "ConvTranspose": 1}
    return axes[node.op_type]


def weighted_nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    """Return every operation with a weight, in the graph's order, including those in the bodies of
    an If or Loop."""
    return filter(weight, graph.all_nodes())


def variable_inputs(node: ir.Node) -> list[ir.Value]:
    """Return the inputs that are not constants. A quantized constant is returned, because its pair
    computes it."""
    return [value for value in inputs(node) if constant(value) is None]


def computed_inputs(node: ir.Node) -> list[ir.Value]:
    """Return the inputs that depend on the model's inputs. Constants, and values computed from a
    constant alone, do not."""
    return list(filterfalse(rooted_at_constant, inputs(node)))


def rooted_at_constant(value: ir.Value | None) -> bool:
    """Return whether the value is a constant, or comes from one through operations in
    `KEEP_CONSTANT`.

    value: None, an input that is left out, gives False.
    """
    while value is not None and constant(value) is None:
        value = input_at(made_by(value, *KEEP_CONSTANT), 0)
    return value is not None


def constant(value: ir.Value | None) -> Array | None:
    """Return the array of an initializer or of a Constant node; None for any other value."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None:
        return None
    return tensor.numpy()


def source_of(value: ir.Value | None) -> ir.Value | None:
    """Return the value that is quantized by the pair before this value; the value itself if
    there is no pair."""
    pair = pair_of(value)
    return value if pair is None else pair.source


def stored(value: ir.Value | None) -> Array | None:
    """Return the array of the value, or of what its pair quantizes; None if that is not a
    constant."""
    return constant(source_of(value))


def only_number(array: Array | None) -> float | None:
    """Return the number in an array of size 1; None for any other array, and for None."""
    if array is None or array.size != 1:
        return None
    return float(array.item())


def zero_point_value(node: ir.Node) -> ir.Value | None:
    """Return the zero point input of a Q or DQ; None if it is left out."""
    return input_at(node, 2)


def axis_of(node: ir.Node) -> int:
    """Return the axis of a Q or DQ, or the default of opset 13 and later if the file does not state
    it."""
    return node.attributes.get_int("axis", 1)


def scales_of(node: ir.Node) -> Array:
    """Return the scales of a Q or DQ; an empty array if the graph computes them."""
    scale = constant(node.inputs[1])
    return np.zeros(0) if scale is None else scale


def check_scales(model: ir.Model, name: str) -> None:
    """Raise OnnxFileError for the first scale in the model that is not finite and positive.

    name: name of the file, for the message.

    Scales of stored integers may also be 0 (a channel whose weights are all 0) or negative (a block
    whose largest value is positive), because runtimes only multiply by them.
    """
    for node in of_kind(model.graph.all_nodes(), *PAIR):
        wrong = _wrong_scales(node)
        if wrong.size:
            raise OnnxFileError(
                f"Expected every scale in {name} to be finite and above 0, got {wrong[0]} at "
                f"{node.name}; calibrate that quantizer again or leave it out."
            )


def _wrong_scales(node: ir.Node) -> Array:
    """Return the scales of a Q or DQ that are not finite, or not positive where they must be."""
    scale = scales_of(node)
    is_stored = node.op_type == "DequantizeLinear" and constant(node.inputs[0]) is not None
    lowest = -np.inf if is_stored else 0
    return scale[~(np.isfinite(scale) & (scale > lowest))]


def known(value: ir.Value | None) -> Array:
    """Return the array of a value that the caller knows to be a constant."""
    return not_none(constant(value))
