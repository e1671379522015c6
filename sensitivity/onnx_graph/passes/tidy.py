"""Last step of every export: remove what is not used, and give what is left plain names."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common


class PlainNames(ir.passes.InPlacePass):
    """Strip `.folded`, `.on_grid` and `.transposed` from initializers whose plain name is free by
    now."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for name, value in list(model.graph.initializers.items()):
            plain = name.replace(".folded", "").replace(".on_grid", "").replace(".transposed", "")
            if plain != name and plain not in model.graph.initializers:
                value.name = plain
                modified = True
        return ir.passes.PassResult(model, modified=modified)


def tidy() -> ir.passes.PassBase:
    """Return the pass at the end of an export: nothing unread, every name plain and given once."""
    return ir.passes.Sequential(
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        PlainNames(),
        common.TopologicalSortPass(),
        common.NameFixPass(),
    )
