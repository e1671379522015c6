"""Names that are unique over all graphs: bodies beside each other may share them, and then their
pairs look alike."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from sensitivity.onnx_graph.walk import all_outputs


class NamesOfBodies(ir.passes.InPlacePass):
    """Give values and nodes of the bodies of If, Loop and Scan another name where theirs is taken.
    The main graph keeps its own."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        values = {value.name for value in _values(model.graph)}
        nodes = {node.name for node in model.graph}
        modified = False
        for body in model.graph.subgraphs():
            modified |= _rename(_values(body), values)
            modified |= _rename(body, nodes)
        return ir.passes.PassResult(model, modified=modified)


def _values(graph: ir.Graph) -> Iterable[ir.Value]:
    """Return every value that the graph itself makes or is given, once."""
    values = [*graph.inputs, *graph.initializers.values(), *all_outputs(graph)]
    return dict.fromkeys(values)


def _rename(named: Iterable[ir.Value] | Iterable[ir.Node], taken: set[str | None]) -> bool:
    """Give another name to what has a taken one; all names count as taken afterwards. Whether any
    had one."""
    modified = False
    for each in named:
        name, number = each.name, 1
        while each.name and each.name in taken:
            number += 1
            each.name = f"{name}_{number}"
            modified = True
        taken.add(each.name)
    return modified
