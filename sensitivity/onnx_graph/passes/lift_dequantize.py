"""Move a DequantizeLinear in front of operations that only move integers, so that it stands behind
its QuantizeLinear.

x -> Q -> MaxPool -> Transpose -> DQ -> Conv  becomes  x -> Q -> DQ -> MaxPool -> Transpose -> Conv

The values are the same: such operations give each integer as it came, and a MaxPool or ReduceMax
the integer of the largest value.
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
    given,
    graph_of,
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
"""Operations whose output holds values of their first input, and what else they read is no value of
a tensor."""

MOVED = dict.fromkeys(FIRST_INPUT, (0,)) | {"Where": (1, 2)}
"""By kind of operation: the places of the inputs whose values come out of it. A Concat has as many
as it has inputs."""

ORDERED = {"MaxPool", "ReduceMax", "ReduceMin"}
"""Those that compare integers: as their values are ordered, unless a scale is negative."""

PAD_VALUE = 2
"""Input of Pad that holds the value to fill with."""


class LiftDequantize(ir.passes.InPlacePass):
    """Leaves a DQ where it is if its channels or blocks could not be told behind the operation any
    more."""

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
            model.graph.sort()  # constants may stand behind what reads them now
        return ir.passes.PassResult(model, modified=changed)


@dataclass(frozen=True)
class _Mover:
    """node: the operation. moved: places of the inputs whose integers it moves. axis: of the
    channels in front of it; None for one scale."""

    node: ir.Node
    moved: tuple[int, ...]
    axis: int | None


def _mover_before(dequantize: ir.Node) -> _Mover:
    """Return the operation in front of a DQ. Raises NoMatch unless it moves integers of a Q or of
    the file, and the DQ can be in front of it."""
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
    """Return which inputs hold the values that come out of this operation; none where it
    computes."""
    if node.op_type == "Concat":
        return tuple(range(len(node.inputs)))
    return MOVED.get(node.op_type, ())


def _only_moves(node: ir.Node) -> bool:
    """Return whether this one, with its attributes, computes nothing."""
    match node.op_type:
        case "Resize":
            return qdq.takes_nearest(node) and "extrapolation_value" not in node.attributes
        case "MaxPool":
            return len(node.outputs) == 1
        case "Pad":
            fill = given(node, PAD_VALUE)
            return fill not in qdq.variable_inputs(node)
    return True


def is_quantized(value: ir.Value | None) -> bool:
    """Return whether integers come from a Q or are stored in the file, perhaps moved or clipped
    since."""
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
    """Where the channel axis is in front of the operation. Raises NoMatch where it is not there as
    it is behind. dimensions: of the scales; several where they are in blocks."""
    require(dimensions <= 1)
    match node.op_type:
        case "Identity":
            return axis
        case "MaxPool":
            # It leaves every channel of axis 0 and 1 in its place.
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
    """Let the operation move what the DQ gives. Returns the new DQs, which may be lifted
    further."""
    node, made = mover.node, []
    levels, graph_of_mover = first_input(dequantize), graph_of(node)
    key = (node, *dequantize.inputs[1:], mover.axis)
    if key not in lifted:
        inputs = list(node.inputs)
        for place in mover.moved:
            before = _dequantize(dequantize, inputs[place], mover, place)
            graph_of_mover.insert_before(node, before)
            inputs[place] = before.outputs[0]
            made.append(before)
        if node.op_type == "Pad" and node.attributes.get_string("mode", "constant") == "constant":
            inputs = _with_fill(graph, node, inputs, dequantize)
        lifted[key] = _copy(node, inputs, dequantize)
        graph_of_mover.insert_after(node, lifted[key])
    _replace(dequantize.outputs[0], lifted[key].outputs[node.outputs.index(levels)])
    graph_of(dequantize).remove(dequantize, safe=True)
    return made


def _dequantize(old: ir.Node, levels: ir.Value | None, mover: _Mover, place: int) -> ir.Node:
    """Return the same DQ for an input of the mover."""
    attributes = dict(old.attributes)
    attributes.pop("axis", None)
    if mover.axis is not None:
        attributes["axis"] = ir.AttrInt64("axis", mover.axis)
    suffix = "" if place == mover.moved[0] else f"_{place}"
    given = ir.Value(
        name=f"{value_name(levels)}_dequantized_{old.name}{suffix}",
        type=old.outputs[0].type,
    )
    return ir.Node(
        old.domain,
        old.op_type,
        [levels, *old.inputs[1:]],
        list(attributes.values()),
        name=f"{old.name}{suffix}",
        outputs=[given],
    )


def _copy(node: ir.Node, inputs: list[ir.Value | None], dequantize: ir.Node) -> ir.Node:
    """Return the operation on float values. It keeps its name: where others still read its
    integers, they are named anew."""
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
    """Return the inputs of a Pad with the float value of the integer that it fills with, which is 0
    where it names none."""
    scale = qdq.known(dequantize.inputs[1])
    level = _first(qdq.constant(given(node, PAD_VALUE)))
    offset = _first(qdq.constant(qdq.zero_point_value(dequantize)))
    value = scale.reshape(-1)[0] * (level - offset)
    padded = [*inputs, None][: PAD_VALUE + 1]
    padded[PAD_VALUE] = add(graph, f"{node.name}_fill", np.asarray(value, scale.dtype))
    return [*padded, *inputs[PAD_VALUE + 1 :]]


def _first(levels: NDArray[Any] | None) -> int:
    """Return the first of these integers; 0 where the file leaves them out."""
    return 0 if levels is None else int(levels.reshape(-1)[0])


def _replace(old: ir.Value, new: ir.Value) -> None:
    """Let all that reads the old value read the new one, under the name that a graph's output
    has."""
    if old.is_graph_output():
        old.name, new.name = f"{old.name}_moved", old.name
        new.type, new.shape = old.type, old.shape
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def remove_dead(graph: ir.Graph) -> None:
    """Remove what quantizes, dequantizes or moves and is read by nothing, from the last to the
    first."""
    candidates = of_kind(graph.all_nodes(), *qdq.PAIR, *MOVED, "Concat")
    remove_unread(reversed(candidates))
