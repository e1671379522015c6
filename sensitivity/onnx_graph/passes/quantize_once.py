"""Quantizes a value once if it is quantized twice to the same grid."""

from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.matching import match_or_none, needed, require
from sensitivity.onnx_graph.uses import stored_type
from sensitivity.onnx_graph.walk import is_read

MERGED = "sensitivity.merged"
"""Key of metadata: names of quantizers whose pair nothing reads any more, since all its readers
quantize the same value again."""


class QuantizeOnce(ir.passes.InPlacePass):
    """Lets a Q after a DQ of the same grid read what the first pair reads. The second rounding
    changes nothing.

    The quantizer of a residual and that of the next layer then stand side by side, as runtimes
    expect.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = [_read_first(pair) for pair in list(qdq.pairs(model.graph))]
        unread = [pair.name for pair in qdq.pairs(model.graph) if not is_read(pair.dequantize)]
        if unread:
            quantizers = [name.partition("/")[0] for name in unread]
            model.metadata_props[MERGED] = json.dumps(quantizers)
        return ir.passes.PassResult(model, modified=any(changed))


def _read_first(pair: qdq.Pair) -> bool:
    """Let a Q read what the first of the equal pairs before it reads, and return whether
    anything changed."""
    modified = False
    while (source := match_or_none(_source_of_equal_pair, pair)) is not None:
        pair.nodes[0].replace_input_with(0, source)
        modified = True
    return modified


def _source_of_equal_pair(pair: qdq.Pair) -> ir.Value:
    """Return what the pair before this one quantizes.

    Raises NoMatch if there is none, or it has another grid.
    """
    before = needed(qdq.pair_of(pair.source))
    for each in (before, pair):
        require(not each.is_compact)
    require(stored_type(before) is stored_type(pair))
    require((before.axis, before.block) == (pair.axis, pair.block))
    _require_equal(before.scale, pair.scale)
    _require_equal(before.zero_point, pair.zero_point)
    return before.source


def _require_equal(first: qdq.Array | None, second: qdq.Array | None) -> None:
    """Raise NoMatch unless both are known and equal."""
    require(np.array_equal(needed(first), needed(second)))


def merged_quantizers(model: ir.Model) -> set[str]:
    """Return the names of quantizers that the file holds as the pairs of others."""
    return set(json.loads(model.metadata_props.get(MERGED, "[]")))
