"""Quantizers stand before operations that only move values, so that integers are moved."""

from __future__ import annotations

from itertools import chain

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.walk import graph_of, is_read

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
    """Whether an operation that moves the values stands before the pair and may stand after it."""
    if pair.quantize is None or pair.axis is not None or pair.output.is_graph_output():
        return False
    move = pair.source.producer()
    if move is None or not _moves_computed(move):
        return False
    return move.op_type in CUTS or _only_quantized(pair.source)


def _moves_computed(move: ir.Node) -> bool:
    moved = qdq.moved_values(move)
    return bool(moved) and all(qdq.constant(value) is None for value in moved)


def _only_quantized(value: ir.Value) -> bool:
    """Whether nothing reads the value in float."""
    if value.is_graph_output():
        return False
    return all(user.op_type == "QuantizeLinear" for user in value.consumers())


def _put_before(pair: qdq.Pair) -> None:
    """The operation is copied, with a pair like this one on each value that it moves; what nothing
    reads is removed."""
    move, graph = pair.source.producer(), graph_of(pair.dequantize)
    assert move is not None
    data = qdq.moved_values(move)
    quantized = [_pair_on(value, pair, f".{index}") for index, value in enumerate(data)]
    values = [dequantize.outputs[0] for _, dequantize in quantized]
    copy = _copy(move, [*values, *move.inputs[len(data) :]], f".{pair.name}")
    graph.insert_before(move, [*chain.from_iterable(quantized), copy])
    pair.output.replace_all_uses_with(copy.outputs[pair.source.index() or 0])
    for node in (pair.dequantize, pair.quantize, move):
        if node is not None and not is_read(node):
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
