"""Moves a DequantizeLinear before operations that only move integers, directly after its
QuantizeLinear.

x -> Q -> MaxPool -> Transpose -> DQ -> Conv  becomes  x -> Q -> DQ -> MaxPool -> Transpose -> Conv

No value changes: such operations pass integers on unchanged, and a MaxPool or ReduceMax gives the
integer of the largest value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.matching import NoMatch, match_or_none, needed, require
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.walk import (
    first_input,
    graph_of,
    input_at,
    of_kind,
    producer,
    remove_unread,
    value_name,
)

FIRST_INPUT = {
    "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity",
    "MaxPool", "Pad",
    "ReduceMax", "ReduceMin", "Reshape", "Resize", "ReverseSequence", "Slice", "SpaceToDepth",
    "Split", "Squeeze", "Tile", "Transpose",
    "Unsqueeze",
}  # fmt: skip
"""Operations whose output holds values of their first input. Their other inputs are not values of a
tensor."""

MOVED = dict.fromkeys(FIRST_INPUT, (0,)) | {"Where": (1, 2)}
"""Operation -> indices of the inputs whose values it passes on. A Concat passes on all its
inputs."""

ORDERED = {"MaxPool", "ReduceMax", "ReduceMin"}
"""Operations that compare integers, which have the same order as their values unless a scale is
negative."""

PAD_VALUE = 2
"""Index of the input of Pad that holds the fill value."""


class LiftDequantize(ir.passes.InPlacePass):
    """Moves each DQ as far forward as its channels or blocks can still be told."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        lifted: dict[Any, ir.Node] = {}
        changed = False
        waiting = of_kind(model.graph.all_nodes(), "DequantizeLinear")
        while waiting:
            dequantize = waiting.pop()
            mover = match_or_none(_mover_before, dequantize)
            if mover is None:
                continue
            waiting += _lift(model.graph, mover, dequantize, lifted)
            changed = True
        if changed:
            remove_dead(model.graph)
            model.graph.sort()  # constants may now stand after what reads them
        return ir.passes.PassResult(model, modified=changed)


@dataclass(frozen=True)
class _Mover:
    """An operation that moves integers.

    moved: indices of the inputs whose integers it moves.
    axis: channel axis before the operation; None for one scale.
    """

    node: ir.Node
    moved: tuple[int, ...]
    axis: int | None


def _mover_before(dequantize: ir.Node) -> _Mover:
    """Return the operation before a DQ.

    Raises NoMatch unless it moves integers from a Q or from the file, and the DQ can stand before
    it.
    """
    node = needed(producer(dequantize.inputs[0]))
    scale = needed(qdq.constant(dequantize.inputs[1]))
    places = moved_places(node)
    moved = [node.inputs[place] for place in places]
    require(bool(moved))
    require(_only_moves(node))
    require(all(map(is_quantized, moved)))
    keeps_order = bool((scale > 0).all())
    require(keeps_order or node.op_type not in ORDERED)
    if scale.size == 1:
        return _Mover(node, places, None)
    require(len(places) == 1)
    return _Mover(node, places, _axis_before(node, qdq.axis_of(dequantize), scale.ndim))


def moved_places(node: ir.Node) -> tuple[int, ...]:
    """Return the indices of the inputs whose values the operation passes on; none if it
    computes."""
    if node.op_type == "Concat":
        return tuple(range(len(node.inputs)))
    return MOVED.get(node.op_type, ())


def _only_moves(node: ir.Node) -> bool:
    """Return whether the operation computes nothing with the attributes that it has."""
    match node.op_type:
        case "Resize":
            return qdq.takes_nearest(node) and "extrapolation_value" not in node.attributes
        case "MaxPool":
            return len(node.outputs) == 1
        case "Pad":
            fill = input_at(node, PAD_VALUE)
            return fill not in qdq.variable_inputs(node)
    return True


def is_quantized(value: ir.Value | None) -> bool:
    """Return whether integers come from a Q or from the file, directly or through moves and
    Clips."""
    if qdq.constant(value) is not None:
        return True
    node = producer(value)
    if node is None:
        return False
    if node.op_type == "QuantizeLinear":
        return True
    if node.op_type == "Clip":
        return is_quantized(node.inputs[0])
    moved = [node.inputs[place] for place in moved_places(node)]
    return bool(moved) and all(map(is_quantized, moved))


def _axis_before(node: ir.Node, axis: int, dimensions: int) -> int:
    """Return the channel axis before the operation.

    axis: the channel axis after it.
    dimensions: rank of the scales; more than 1 for blocks.
    Raises NoMatch if the channels before it are not those after it.
    """
    require(dimensions <= 1)
    match node.op_type:
        case "Identity":
            return axis
        case "MaxPool":
            # A MaxPool does not move the channels of axis 0 and 1.
            require(axis in (0, 1))
            return axis
        case "Transpose":
            order = node.attributes.get_ints("perm", ())
            require(bool(order))
            return order[axis % len(order)]
    raise NoMatch


def _lift(
    graph: ir.Graph, mover: _Mover, dequantize: ir.Node, lifted: dict[Any, ir.Node]
) -> list[ir.Node]:
    """Let the operation move the output of the DQ, and return the new DQs, which may be moved
    further.

    lifted: operations on float values by what they replace, to which new ones are added.
    """
    node, new = mover.node, []
    levels, graph_of_mover = first_input(dequantize), graph_of(node)
    key = (node, *dequantize.inputs[1:], mover.axis)
    if key not in lifted:
        inputs = list(node.inputs)
        for place in mover.moved:
            before = _dequantize(dequantize, inputs[place], mover, place)
            graph_of_mover.insert_before(node, before)
            inputs[place] = before.outputs[0]
            new.append(before)
        if node.op_type == "Pad" and node.attributes.get_string("mode", "constant") == "constant":
            inputs = _with_fill(graph, node, inputs, dequantize)
        lifted[key] = _copy(node, inputs, dequantize)
        graph_of_mover.insert_after(node, lifted[key])
    _replace(dequantize.outputs[0], lifted[key].outputs[node.outputs.index(levels)])
    graph_of(dequantize).remove(dequantize, safe=True)
    return new


def _dequantize(old: ir.Node, levels: ir.Value | None, mover: _Mover, place: int) -> ir.Node:
    """Return the same DQ for an input of the mover."""
    attributes = dict(old.attributes)
    attributes.pop("axis", None)
    if mover.axis is not None:
        attributes["axis"] = ir.AttrInt64("axis", mover.axis)
    suffix = "" if place == mover.moved[0] else f"_{place}"
    output = ir.Value(
        name=f"{value_name(levels)}_dequantized_{old.name}{suffix}",
        type=old.outputs[0].type,
    )
    return ir.Node(
        old.domain,
        old.op_type,
        [levels, *old.inputs[1:]],
        list(attributes.values()),
        name=f"{old.name}{suffix}",
        outputs=[output],
    )


def _copy(node: ir.Node, inputs: list[ir.Value | None], dequantize: ir.Node) -> ir.Node:
    """Return the operation on float values, with the original's name.

    The original is renamed, since others may still read its integers.
    """
    outputs = [
        ir.Value(
            name=f"{value.name}_{dequantize.name}",
            type=dequantize.outputs[0].type,
            shape=value.shape,
        )
        for value in node.outputs
    ]
    attributes = list(node.attributes.values())
    new = ir.Node(node.domain, node.op_type, inputs, attributes, name=node.name, outputs=outputs)
    node.name = f"{node.name}_integers"
    return new


def _with_fill(
    graph: ir.Graph, node: ir.Node, inputs: list[ir.Value | None], dequantize: ir.Node
) -> list[ir.Value | None]:
    """Return the inputs of a Pad with its fill value in float.

    Without a fill value, a Pad fills with the integer 0.
    """
    scale = qdq.known(dequantize.inputs[1])
    level = _first(qdq.constant(input_at(node, PAD_VALUE)))
    offset = _first(qdq.constant(qdq.zero_point_value(dequantize)))
    value = scale.reshape(-1)[0] * (level - offset)
    padded = [*inputs, None][: PAD_VALUE + 1]
    padded[PAD_VALUE] = add(graph, f"{node.name}_fill", np.asarray(value, scale.dtype))
    return [*padded, *inputs[PAD_VALUE + 1 :]]


def _first(levels: NDArray[Any] | None) -> int:
    """Return the first of these integers; 0 if the file leaves them out."""
    return 0 if levels is None else int(levels.reshape(-1)[0])


def _replace(old: ir.Value, new: ir.Value) -> None:
    """Let all readers of the old value read the new one, which takes over the name of a graph
    output."""
    if old.is_graph_output():
        old.name, new.name = f"{old.name}_moved", old.name
        new.type, new.shape = old.type, old.shape
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def remove_dead(graph: ir.Graph) -> None:
    """Remove Qs, DQs and moving operations that nothing reads, from the last to the first."""
    candidates = of_kind(graph.all_nodes(), *qdq.PAIR, *MOVED, "Concat")
    remove_unread(reversed(candidates))
