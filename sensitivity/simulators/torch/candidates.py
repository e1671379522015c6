"""Addition of other ranges to a traced graph, so that a model is traced once for all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from sensitivity.quantizers.base import QuantizedModel
from sensitivity.quantizers.torch.native import bias_changes, biased_layers
from sensitivity.simulators.torch.tracing import Node, Traced

Chains = Mapping[int, tuple[int, ...]]
"""Index of a quantizer in the traced graph -> the indices of the nodes that take its place."""


@dataclass(frozen=True)
class TracedCandidates:
    """A traced graph with candidate ranges.

    origins: position of each node that is not an added one -> its position in the traced graph.
    """

    traced: Traced
    origins: Mapping[int, int]


def chains_of(source: QuantizedModel) -> dict[int, tuple[int, ...]]:
    """Return which nodes take the place of each quantizer and of each marked bias.

    For a quantizer these are its own node and then one for each of its candidate ranges. A variant
    switches on one of them at a time. For a bias these are the nodes of its `bias_changes`, by
    their index in `native_quantizers`.
    """
    own = [each.name for each in source.quantizers if each.replaces is None]
    numbers = {name: index for index, name in enumerate(own)}
    chains: defaultdict[int, tuple[int, ...]] = defaultdict(tuple)
    for index, each in enumerate(source.quantizers):
        chains[numbers[each.replaces or each.name]] += (index,)
    biases = {layer: len(own) + at for at, layer in enumerate(biased_layers(source))}
    for number, change in enumerate(bias_changes(source), len(source.quantizers)):
        chains[biases[change.layer]] += (number,)
    return dict(chains)


def with_candidates(traced: Traced, chains: Chains) -> TracedCandidates:
    """Return the graph with a chain of nodes in the place of each quantizer node, and with nothing
    in the place of a bias that no candidate range changes."""
    nodes: list[Node] = []
    origins: dict[int, int] = {}
    last: list[int] = []
    for place, node in enumerate(traced.nodes):
        moved = replace(node, deps=tuple(last[dep] for dep in node.deps))
        indices = chains.get(node.index, ()) if node.kind == "quantizer" else (node.index,)
        if not indices:
            last.append(moved.deps[0])
            continue
        origins[len(nodes)] = place
        for number, index in enumerate(indices):
            deps = moved.deps if number == 0 else (len(nodes) - 1,)
            nodes.append(replace(moved, index=index, deps=deps))
        last.append(len(nodes) - 1)
    outputs = []
    for output, is_constant in zip(traced.outputs, traced.constant, strict=True):
        outputs.append(output if is_constant else last[output])
    inputs = tuple(place if place is None else last[place] for place in traced.inputs)
    return TracedCandidates(
        replace(traced, nodes=tuple(nodes), inputs=inputs, outputs=tuple(outputs)), origins
    )
