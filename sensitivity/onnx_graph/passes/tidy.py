"""Cleans up at the end of every export: removes what is not used, and gives the rest plain
names."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common


class PlainNames(ir.passes.InPlacePass):
    """Strips `.folded`, `.on_grid` and `.transposed` from the names of initializers if the plain
    name is free."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for name, value in list(model.graph.initializers.items()):
            plain = name.replace(".folded", "").replace(".on_grid", "").replace(".transposed", "")
            if plain != name and plain not in model.graph.initializers:
                value.name = plain
                modified = True
        return ir.passes.PassResult(model, modified=modified)


def tidy() -> ir.passes.PassBase:
    """Return the pass for the end of an export, after which nothing is unread and every name is
    plain and unique."""
    return ir.passes.Sequential(
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        PlainNames(),
        common.TopologicalSortPass(),
        common.NameFixPass(),
    )
