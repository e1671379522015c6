"""Names that are unique over all graphs: bodies beside each other may share them, and then their
pairs look alike."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import onnx_ir as ir


class NamesOfBodies(ir.passes.InPlacePass):
    """Give values and nodes of the bodies of If, Loop and Scan another name where theirs is taken.
    The main graph keeps its own."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        values = {value.name for value in _values(model.graph)}
        nodes = {node.name for node in model.graph}
        changed = False
        for body in model.graph.subgraphs():
            for named, taken in ((_values(body), values), (iter(body), nodes)):
                changed |= _rename(named, taken)
        return ir.passes.PassResult(model, modified=changed)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Every value that the graph itself makes or is given, once."""
    computed = chain.from_iterable(node.outputs for node in graph)
    yield from dict.fromkeys(chain(graph.inputs, graph.initializers.values(), computed))


def _rename(named: Iterator[ir.Value] | Iterator[ir.Node], taken: set[str | None]) -> bool:
    changed = False
    for one in named:
        if not one.name:
            continue
        name, number = one.name, 1
        while one.name in taken:
            number += 1
            one.name = f"{name}_{number}"
            changed = True
        taken.add(one.name)
    return changed
