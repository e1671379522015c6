"""Which layers of a graph are drawn as one block, so that a reader sees the whole model at once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from sensitivity.records import ModelGraph
from sensitivity.reporting.graph.neighbours import Neighbours

FLAT = 32
"""Layers up to which none are folded."""

BLOCKS = 26
"""Blocks at most, where the model allows that."""

LARGE = 3
"""A block of more than this share of all layers is taken apart, where its names say how: one in
`LARGE`."""

RESIDUAL = ("Add", "Sum", "Mul")
"""Joins that belong to the last of their terms, as the sum behind a block does."""

END = re.compile(r"[./]")


@dataclass(frozen=True)
class Block:
    """name: what the names of its layers begin with, or that of its first layer. nodes: positions
    in the graph, in its order; one for what is not folded."""

    name: str
    nodes: tuple[int, ...]


def folded(graph: ModelGraph) -> tuple[Block, ...]:
    """Every node of the graph in one block, in the graph's order.

    Layers are folded by their names where these have parts ("model.4.cv1.conv"), else by the graph:
    what nothing else leads to goes with what leads to it. Inputs and outputs stay alone, and a join
    goes with its neighbours where they are all in one block.
    """
    blocks = [f"{node.kind} {node.name}" for node in graph.nodes]
    layers = graph.of_kind("layer")
    for at in layers:
        blocks[at] = graph.nodes[at].name
    if len(layers) > FLAT:
        by_name = blocks_by_name([blocks[at] for at in layers])
        for at in layers:
            blocks[at] = by_name.get(blocks[at], blocks[at])
        fold = _take_joins if by_name else _merge
        fold(graph, blocks)
    members: dict[str, list[int]] = {}
    for at, block in enumerate(blocks):
        members.setdefault(block, []).append(at)
    return tuple(_block(graph, name, nodes) for name, nodes in members.items())


def _block(graph: ModelGraph, name: str, nodes: Sequence[int]) -> Block:
    """name: what the names of its layers begin with, or else of any use only to tell it from
    others."""
    layers = [graph.nodes[at].name for at in nodes if graph.nodes[at].kind == "layer"]
    is_beginning = len(layers) > 1 and all(layer.startswith(name) for layer in layers)
    first = layers[0] if layers else graph.nodes[nodes[0]].name
    return Block(name if is_beginning else first, tuple(nodes))


def blocks_by_name(names: Sequence[str]) -> dict[str, str]:
    """Name -> what its block is called; nothing where the names have no parts that would do.

    The largest block is taken apart until all are small.

    >>> blocks_by_name([f"blocks.{at}.{part}" for at in range(12) for part in ("fc1", "fc2")])[
    ...     "blocks.11.fc2"
    ... ]
    'blocks.11'
    >>> blocks_by_name([f"Conv_{at}" for at in range(50)])
    {}
    """
    blocks = dict.fromkeys(names, "")
    while True:
        sizes = Counter(blocks.values())
        block, size = sizes.most_common(1)[0]
        parts = {name: _longer(name, block) for name in names if blocks[name] == block}
        new = len(set(parts.values()))
        is_too_fine = len(sizes) - 1 + new > BLOCKS or new == size
        if size * LARGE <= len(names) or is_too_fine:
            return blocks if len(sizes) > 1 else {}
        blocks |= parts


def _longer(name: str, block: str) -> str:
    """The beginning of a name that has one part more than its block."""
    end = END.search(name, len(block) + 1)
    return name[: end.start()] if end else name


def _take_joins(graph: ModelGraph, blocks: list[str]) -> None:
    """Put joins into blocks of layers. blocks: of each node, changed in place."""
    near = Neighbours(graph.edges)
    joins = graph.of_kind("join")
    own = {blocks[at] for at in joins}
    for at in joins:
        _take_join(blocks, at, near.before[at], own)
    for at in joins[::-1]:
        _take_join(blocks, at, near.after[at], own)
    for at in joins:
        terms = [blocks[other] for other in near.before[at]]
        is_sum = graph.nodes[at].operation in RESIDUAL
        if is_sum and blocks[at] in own and _has_layers(terms[-1], own):
            _take_sum(graph, blocks, at, terms)


def _take_join(blocks: list[str], at: int, around: Sequence[int], own: Collection[str]) -> None:
    """Put a join that is still in a block of its own into that of all nodes on one side of it."""
    found = {blocks[other] for other in around}
    if len(found) == 1 and blocks[at] in own and all(_has_layers(one, own) for one in found):
        blocks[at] = found.pop()


def _has_layers(block: str, own: Collection[str]) -> bool:
    """Whether a block is not that of one join, input or output."""
    return block not in own and not block.startswith(("input ", "output "))


def _take_sum(graph: ModelGraph, blocks: list[str], at: int, terms: Sequence[str]) -> None:
    """Put a sum into the block of its last term, where that makes no cycle."""
    last = terms[-1]
    if not _reached_from(last, graph, blocks) & (set(terms) - {last}):
        blocks[at] = last


def _reached_from(block: str, graph: ModelGraph, blocks: Sequence[str]) -> set[str]:
    """All blocks behind a block, without itself."""
    near = Neighbours(graph.edges)
    found: set[int] = set()
    ready = [at for at, own in enumerate(blocks) if own == block]
    while ready:
        new = set(near.after[ready.pop()]) - found
        found |= new
        ready += new
    return {blocks[at] for at in found} - {block}


def _merge(graph: ModelGraph, blocks: list[str]) -> None:
    """Join blocks to their only neighbour on one side, the smallest first: that makes no cycle.

    blocks: of each node, changed in place.
    """
    inner = set(graph.of_kind("layer", "join"))
    edges = [edge for edge in graph.edges if inner.issuperset(edge)]
    while len({blocks[at] for at in inner}) > BLOCKS:
        pair = _smallest_pair(edges, blocks)
        if pair is None:
            return
        first, second = pair
        blocks[:] = [first if block == second else block for block in blocks]


def _smallest_pair(
    edges: Iterable[tuple[int, int]], blocks: Sequence[str]
) -> tuple[str, str] | None:
    """Two blocks, one of which leads to nothing but the other or is led to by nothing else; None
    where there are none."""
    between = {(blocks[before], blocks[after]) for before, after in edges}
    between = {(first, second) for first, second in between if first != second}
    leading_in = Counter(second for _, second in between)
    leading_out = Counter(first for first, _ in between)
    alone = [
        (first, second)
        for first, second in between
        if leading_in[second] == 1 or leading_out[first] == 1
    ]
    sizes = Counter(blocks)
    return min(alone, key=lambda pair: (sizes[pair[0]] + sizes[pair[1]], pair), default=None)
