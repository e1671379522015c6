"""Makes names unique over all graphs. Subgraphs beside each other may share names, which makes
their pairs look alike."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from sensitivity.onnx_graph.walk import all_outputs


class NamesOfBodies(ir.passes.InPlacePass):
    """Renames values and nodes of the subgraphs of If, Loop and Scan whose names are taken. The
    main graph keeps its names."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        values = {value.name for value in _values(model.graph)}
        nodes = {node.name for node in model.graph}
        modified = False
        for body in model.graph.subgraphs():
            modified |= _rename(_values(body), values)
            modified |= _rename(body, nodes)
        return ir.passes.PassResult(model, modified=modified)


def _values(graph: ir.Graph) -> Iterable[ir.Value]:
    """Return every input, initializer and computed value of the graph, once."""
    values = [*graph.inputs, *graph.initializers.values(), *all_outputs(graph)]
    return dict.fromkeys(values)


def _rename(named: Iterable[ir.Value] | Iterable[ir.Node], taken: set[str | None]) -> bool:
    """Rename the items whose names are taken, and return whether there were any. All names count as
    taken afterwards."""
    modified = False
    for each in named:
        name, number = each.name, 1
        while each.name and each.name in taken:
            number += 1
            each.name = f"{name}_{number}"
            modified = True
        taken.add(each.name)
    return modified
