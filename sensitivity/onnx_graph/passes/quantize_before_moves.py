"""Quantizers stand before operations that only move values, so that integers are moved."""

from __future__ import annotations

import onnx_ir as ir

from sensitivity.onnx_graph import qdq

CUTS = {"Slice", "Split"}


class QuantizeBeforeMoves(ir.passes.InPlacePass):
    """x -> Slice -> Q -> DQ becomes x -> Q -> DQ -> Slice. No value changes: what is moved is
    rounded as it is later.

    A cut value may have readers in float: they get theirs from a cut of its own. Other operations
    that such readers need stay, as two of them cost more than is won. Pairs and operations that are
    equal afterwards are left for common subexpression elimination to merge.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        while (pair := next(filter(_behind_move, qdq.pairs(model.graph)), None)) is not None:
            _put_before(pair)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _behind_move(pair: qdq.Pair) -> bool:
    move = pair.source.producer()
    if pair.quantize is None or pair.axis is not None or pair.output.is_graph_output():
        return False
    moved = qdq.moved_values(move) if move is not None else []
    if move is None or not moved or any(qdq.constant(value) is not None for value in moved):
        return False
    only_here = all(user.op_type == "QuantizeLinear" for user in pair.source.consumers())
    return move.op_type in CUTS or (only_here and not pair.source.is_graph_output())


def _put_before(pair: qdq.Pair) -> None:
    """The operation is copied, with a pair like this one on each value that it moves; what nothing
    reads is removed."""
    move, graph = pair.source.producer(), pair.dequantize.graph
    assert move is not None
    assert graph is not None
    data = qdq.moved_values(move)
    quantized = [_pair_on(value, pair, f".{index}") for index, value in enumerate(data)]
    copy = _copy(
        move,
        [*(dequantize.outputs[0] for _, dequantize in quantized), *move.inputs[len(data) :]],
        f".{pair.name}",
    )
    graph.insert_before(move, [node for nodes in quantized for node in nodes] + [copy])
    pair.output.replace_all_uses_with(copy.outputs[pair.source.index() or 0])
    for node in (pair.dequantize, pair.quantize, move):
        if node is not None and not any(
            output.uses() or output.is_graph_output() for output in node.outputs
        ):
            graph.remove(node, safe=True)


def _pair_on(value: ir.Value, pair: qdq.Pair, suffix: str) -> tuple[ir.Node, ir.Node]:
    assert pair.quantize is not None
    quantize = _copy(pair.quantize, [value, *pair.quantize.inputs[1:]], suffix)
    dequantize = _copy(pair.dequantize, [quantize.outputs[0], *pair.dequantize.inputs[1:]], suffix)
    for node in (quantize, dequantize):
        node.outputs[0].shape = value.shape
    return quantize, dequantize


def _copy(node: ir.Node, inputs: list[ir.Value | None], suffix: str) -> ir.Node:
    """The same operation on other inputs, named like it."""
    made = ir.node(
        node.op_type,
        inputs,
        node.attributes,
        num_outputs=len(node.outputs),
        name=f"{node.name}{suffix}",
    )
    for new, old in zip(made.outputs, node.outputs, strict=True):
        new.name, new.type, new.shape = f"{old.name}{suffix}", old.type, old.shape
    return made
