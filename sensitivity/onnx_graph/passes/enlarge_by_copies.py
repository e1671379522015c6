"""Enlarging by a whole factor, as copies of integers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.passes.initializers import add

HOW = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
"""As PyTorch exports it: pixel i of the output is pixel i // factor of the input."""


class EnlargeByCopies(ir.passes.InPlacePass):
    """DQ -> Resize -> Q on one grid, nearest by whole factors, becomes Concat with itself, twice.
    No value changes.

    ONNX Runtime's Resize takes single bytes, Concat whole rows: the two of YOLOv8n at 640 pixels
    take a tenth of the time. Channels come last meanwhile, as they do around them: the Transposes
    cancel with those that it puts there.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = [
            node
            for node in model.graph
            if node.op_type == "Resize" and _factors(node) and _on_one_grid(node)
        ]
        for node in found:
            _copy(model.graph, node, *_factors(node))
        return ir.passes.PassResult(model, modified=bool(found))


def _factors(node: ir.Node) -> tuple[int, ...]:
    """Of height and width; empty where other axes change, a factor is not whole, or the size is not
    known."""
    value, attributes = node.inputs[0], node.attributes
    if (
        any(attributes.get_string(name, "") != wanted for name, wanted in HOW.items())
        or "axes" in attributes
    ):
        return ()
    scales = qdq.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if (
        scales is None
        or scales.size != 4
        or (scales[:2] != 1).any()
        or (scales != np.rint(scales)).any()
    ):
        return ()
    if (
        value is None
        or value.shape is None
        or not all(isinstance(side, int) for side in value.shape[1:])
    ):
        return ()
    return tuple(int(factor) for factor in scales[2:])


def _on_one_grid(node: ir.Node) -> bool:
    pair, users = qdq.pair_of(node.inputs[0]), node.outputs[0].consumers()
    if (
        pair is None
        or pair.quantize is None
        or pair.axis is not None
        or node.outputs[0].is_graph_output()
    ):
        return False
    grid = _grid(pair.quantize)
    return (
        None not in grid
        and bool(users)
        and all(one.op_type == "QuantizeLinear" and _grid(one) == grid for one in users)
    )


def _grid(quantize: ir.Node) -> list[bytes | None]:
    """Scale and zero point; None for what is no constant."""
    constants = [qdq.constant(value) for value in quantize.inputs[1:]]
    return [None if constant is None else constant.tobytes() for constant in constants]


def _copy(graph: ir.Graph, node: ir.Node, down: int, across: int) -> None:
    value, name = node.inputs[0], node.name or node.outputs[0].name
    pair = qdq.pair_of(value)
    assert value is not None
    assert value.shape is not None
    assert pair is not None
    channels, height, width = (int(side) for side in value.shape[1:])  # type: ignore[arg-type]
    last = ir.node(
        "Transpose",
        [pair.dequantize.inputs[0]],
        {"perm": [0, 2, 3, 1]},
        name=f"{name}/ChannelsLast",
    )
    pixels = ir.node("Concat", list(last.outputs) * across, {"axis": 3}, name=f"{name}/Pixels")
    # -1 stands for the batch.
    rows = _reshape(graph, pixels, [-1, height, across * width * channels], f"{name}/Rows")
    copied = ir.node("Concat", list(rows.outputs) * down, {"axis": 2}, name=f"{name}/Copies")
    image = _reshape(graph, copied, [-1, down * height, across * width, channels], f"{name}/Image")
    first = ir.node("Transpose", image.outputs, {"perm": [0, 3, 1, 2]}, name=name)
    made = [last, pixels, rows, copied, image, first]
    for one in made:
        one.outputs[0].type = (
            pair.dequantize.inputs[0].type if pair.dequantize.inputs[0] is not None else None
        )
    graph.insert_before(node, made)
    users = node.outputs[0].consumers()
    for user in users:
        user.outputs[0].replace_all_uses_with(first.outputs[0])
    graph.remove([*users, node], safe=True)


def _reshape(graph: ir.Graph, node: ir.Node, shape: list[int], name: str) -> ir.Node:
    return ir.node(
        "Reshape",
        [node.outputs[0], add(graph, f"{name}.shape", np.array(shape, np.int64))],
        name=name,
    )
