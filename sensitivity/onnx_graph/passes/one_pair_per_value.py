"""Gives each activation one Q/DQ pair, which all operations read that can compute in integers."""

from __future__ import annotations

from collections import defaultdict

import onnx_ir as ir

from sensitivity.onnx_graph import qdq

ELEMENTWISE = {
    "Add", "Mul", "Concat", "LeakyRelu", "Sigmoid", "MaxPool", "AveragePool", "GlobalAveragePool",
    "Resize", "Split",
    "Slice", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze",
}  # fmt: skip
"""Operations without weights that have integer kernels."""


ONLY_SHAPE = {"Shape", "Size"}
"""Operations that read no values, so that integers will do."""


class OnePairPerValue(ir.passes.InPlacePass):
    """Lets operations without weights read the quantized value of an activation that has a pair.

    Several pairs on one value become one with the largest scale. Weighted operations that are left
    unquantized keep reading the unquantized value.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        pairs_on: defaultdict[ir.Value, list[qdq.Pair]] = defaultdict(list)
        for pair in qdq.pairs(model.graph):
            if not pair.is_compact and not pair.of_weight:
                pairs_on[pair.source].append(pair)
        modified = [share(value, found) for value, found in pairs_on.items()]
        return ir.passes.PassResult(model, modified=any(modified))


def share(value: ir.Value, pairs: list[qdq.Pair]) -> bool:
    """Let all readers of these pairs of `value` read the pair with the largest scale, and return
    whether anything changed.

    Readers of the value itself that have integer kernels read this pair too.
    """
    kept = max(pairs, key=_largest_scale)
    others = [pair for pair in pairs if pair is not kept]
    for pair in others:
        pair.output.replace_all_uses_with(kept.output)
    # Operations that only read the shape get the integers, so that no float value is kept for them.
    in_place = dict.fromkeys(ELEMENTWISE, kept.output)
    in_place |= dict.fromkeys(ONLY_SHAPE, kept.nodes[0].outputs[0])
    uses = [(user, index) for user, index in value.uses() if user.op_type in in_place]
    for user, index in uses:
        user.replace_input_with(index, in_place[user.op_type])
    return bool(others or uses)


def _largest_scale(pair: qdq.Pair) -> float:
    return float(qdq.scales_of(pair.dequantize).max(initial=0.0))
