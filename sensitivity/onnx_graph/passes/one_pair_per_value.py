"""One Q/DQ pair for each activation, read by all that can compute in integers."""

from __future__ import annotations

import onnx_ir as ir

from sensitivity.onnx_graph import qdq

ELEMENTWISE = {
    "Add", "Mul", "Concat", "LeakyRelu", "Sigmoid", "MaxPool", "AveragePool", "GlobalAveragePool",
    "Resize", "Split",
    "Slice", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze",
}  # fmt: skip
"""Operations without weights that have integer kernels."""


ONLY_SHAPE = {"Shape", "Size"}
"""Operations that read no values: integers will do."""


class OnePairPerValue(ir.passes.InPlacePass):
    """Where an activation is quantized, let operations without weights read the quantized value
    too.

    Several pairs on one value become one, with the largest scale. Weighted operations that are left
    unquantized keep reading the unquantized value.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        sources: dict[ir.Value, list[qdq.Pair]] = {}
        for pair in qdq.pairs(model.graph):
            if pair.quantize is not None and not pair.of_weight:
                sources.setdefault(pair.source, []).append(pair)
        modified = [share(value, found) for value, found in sources.items()]
        return ir.passes.PassResult(model, modified=any(modified))


def share(value: ir.Value, found: list[qdq.Pair]) -> bool:
    """Let all that reads one of these pairs of `value` read the pair with the largest scale, and
    whatever reads the value itself and can. Whether that changed anything."""
    kept = max(found, key=lambda pair: float(qdq.scales_of(pair.dequantize).max(initial=0.0)))
    modified = False
    for pair in found:
        if pair is not kept:
            pair.output.replace_all_uses_with(kept.output)
            modified = True
    for user, index in list(value.uses()):
        if user.op_type in ELEMENTWISE:
            user.replace_input_with(index, kept.output)
            modified = True
        elif user.op_type in ONLY_SHAPE and kept.quantize is not None:
            # or the float value would have to be kept too
            user.replace_input_with(index, kept.quantize.outputs[0])
            modified = True
    return modified
