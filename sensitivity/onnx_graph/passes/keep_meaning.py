"""Rewrites layers so that ONNX Runtime computes them as the file says."""

from __future__ import annotations

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.fused_layers import (
    biases_of_another_scale,
    dilated_averages,
    matmuls_of_other_scales,
    weights_of_another_axis,
)
from sensitivity.onnx_graph.passes.copy_of import copy_of
from sensitivity.onnx_graph.passes.initializers import add
from sensitivity.onnx_graph.passes.skip_uses import dequantized
from sensitivity.onnx_graph.walk import graph_of, insert_after, not_none


class KeepMeaning(ir.passes.InPlacePass):
    """Rewrites what ONNX Runtime would fuse into an operator that cannot express it. No value
    changes.

    A bias of another scale becomes float, and the loader puts it on the grid that it needs. Weights
    with scales along another axis than the outputs, or of a shape that no integer MatMul takes, and
    pools with dilations get a Sum of one value that keeps them out of the fusion; they are computed
    in float. Dilations that are all 1 are removed.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        pools = list(dilated_averages(graph))
        weighted = [weight.node for weight in weights_of_another_axis(graph)]
        weighted += matmuls_of_other_scales(graph)
        biases = list(biases_of_another_scale(graph))
        for pool in pools:
            _keep_dilations(pool)
        for node in weighted:
            _read_a_copy(node, qdq.WEIGHT_INPUT[node.op_type])
        for bias in biases:
            values = add(graph, f"{bias.pair.source.name}.dequantized", dequantized(bias.pair))
            bias.reader.replace_input_with(bias.index, values)
        return ir.passes.PassResult(model, modified=any((pools, weighted, biases)))


def _keep_dilations(pool: ir.Node) -> None:
    """Remove the dilations of a pool if they are all 1, else keep the pool out of the fusion."""
    if set(pool.attributes.get_ints("dilations", ())) == {1}:
        pool.attributes.pop("dilations")
        return
    output = pool.outputs[0]
    uses = output.uses()
    same = copy_of(output, "same")
    insert_after(output, [same])
    for user, index in uses:
        user.replace_input_with(index, same.outputs[0])


def _read_a_copy(node: ir.Node, index: int) -> None:
    """Let the node read this input through a Sum of one value."""
    same = copy_of(not_none(node.inputs[index]), "same")
    graph_of(node).insert_before(node, same)
    node.replace_input_with(index, same.outputs[0])
