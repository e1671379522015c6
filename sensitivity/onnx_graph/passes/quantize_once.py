"""A value that is quantized twice to the same grid is quantized once."""

from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.uses import stored_type
from sensitivity.onnx_graph.walk import is_read

MERGED = "sensitivity.merged"
"""Metadata: names of quantizers whose pair was left without readers, since all that read it
quantize the same again."""


class QuantizeOnce(ir.passes.InPlacePass):
    """DQ -> Q to the same grid reads what the first pair reads: the second rounding changes
    nothing.

    So the quantizer of a residual and that of the next layer stand side by side, as runtimes expect
    them.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = [_read_first(pair) for pair in list(qdq.pairs(model.graph))]
        unread = [pair for pair in qdq.pairs(model.graph) if not is_read(pair.dequantize)]
        if unread:
            names = [pair.name.partition("/")[0] for pair in unread]
            model.metadata_props[MERGED] = json.dumps(names)
        return ir.passes.PassResult(model, modified=any(changed))


def _read_first(pair: qdq.Pair) -> bool:
    """Let a Q read what the first of the equal pairs in front of it reads; False where it does."""
    modified = False
    before = qdq.pair_of(pair.source)
    while pair.quantize is not None and before is not None and _same_grid(before, pair):
        pair.quantize.replace_input_with(0, before.source)
        before = qdq.pair_of(pair.source)
        modified = True
    return modified


def merged_quantizers(model: ir.Model) -> set[str]:
    """Names of quantizers that are in the file as the pairs of others."""
    return set(json.loads(model.metadata_props.get(MERGED, "[]")))


def _same_grid(first: qdq.Pair, second: qdq.Pair) -> bool:
    if first.quantize is None or (first.axis, first.block) != (second.axis, second.block):
        return False
    if stored_type(first) is not stored_type(second):
        return False
    pairs = ((first.scale, second.scale), (first.zero_point, second.zero_point))
    return all(
        one is not None and other is not None and np.array_equal(one, other) for one, other in pairs
    )
