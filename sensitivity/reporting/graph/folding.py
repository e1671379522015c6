"""Which layers of a graph are drawn as one block, so that a reader sees the whole model at once."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter

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

Pair = tuple[str, str]


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
        _fold(graph, blocks)
    members = defaultdict[str, list[int]](list)
    for at, block in enumerate(blocks):
        members[block].append(at)
    return tuple(_block(graph, name, nodes) for name, nodes in members.items())


def _fold(graph: ModelGraph, blocks: list[str]) -> None:
    """Fold by names where they have parts, else by the graph. blocks: of each node, changed in
    place; each layer is in one of its own."""
    layers = graph.of_kind("layer")
    by_name = blocks_by_name([blocks[at] for at in layers])
    if not by_name:
        _merge(graph, blocks)
        return
    for at in layers:
        blocks[at] = by_name[blocks[at]]
    _take_joins(graph, blocks)


def _block(graph: ModelGraph, name: str, nodes: Sequence[int]) -> Block:
    """name: what the names of its layers begin with, or else of any use only to tell it from
    others."""
    own = [graph.nodes[at] for at in nodes]
    layers = [node.name for node in own if node.kind == "layer"]
    is_beginning = all(layer.startswith(name) for layer in layers)
    if len(layers) > 1 and is_beginning:
        return Block(name, tuple(nodes))
    first = next(iter(layers), own[0].name)
    return Block(first, tuple(nodes))


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
        inside = [name for name in names if blocks[name] == block]
        parts = {name: _longer(name, block) for name in inside}
        new = len(set(parts.values()))
        is_small = size * LARGE <= len(names)
        is_too_fine = new == size or len(sizes) - 1 + new > BLOCKS
        if is_small or is_too_fine:
            break
        blocks |= parts
    return blocks if len(sizes) > 1 else {}


def _longer(name: str, block: str) -> str:
    """The beginning of a name that has one part more than its block."""
    end = END.search(name, len(block) + 1)
    return name[: end.start()] if end else name


def _take_joins(graph: ModelGraph, blocks: list[str]) -> None:
    """Put joins into blocks of layers. blocks: of each node, changed in place."""
    near = Neighbours(graph.edges)
    joins = graph.of_kind("join")
    alone = {blocks[at] for at in graph.of_kind("join", "input", "output")}
    for at in joins:
        _take_join(blocks, at, near.before[at], alone)
    for at in reversed(joins):
        _take_join(blocks, at, near.after[at], alone)
    sums = [at for at in joins if graph.nodes[at].operation in RESIDUAL]
    for at in sums:
        if blocks[at] in alone:
            _take_sum(near, blocks, at, alone)


def _take_join(blocks: list[str], at: int, around: Sequence[int], alone: Collection[str]) -> None:
    """Put a join that is still in a block of its own into that of all nodes on one side of it.

    around: the nodes on that side. alone: blocks of one join, input or output.
    """
    found = {blocks[other] for other in around}
    if blocks[at] in alone and len(found) == 1 and found.isdisjoint(alone):
        blocks[at] = found.pop()


def _take_sum(near: Neighbours, blocks: list[str], at: int, alone: Collection[str]) -> None:
    """Put a sum into the block of its last term, where that has layers and makes no cycle."""
    *others, last = [blocks[term] for term in near.before[at]]
    if last not in alone and _reached_from(last, near, blocks).isdisjoint(others):
        blocks[at] = last


def _reached_from(block: str, near: Neighbours, blocks: Sequence[str]) -> set[str]:
    """All blocks behind a block, without itself."""
    found = set[int]()
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
    spare = len({blocks[at] for at in inner}) - BLOCKS
    for _ in range(spare):
        pair = _smallest_pair(edges, blocks)
        if pair is None:
            return
        first, second = pair
        blocks[:] = [first if block == second else block for block in blocks]


def _smallest_pair(edges: Iterable[tuple[int, int]], blocks: Sequence[str]) -> Pair | None:
    """Two blocks, one of which leads to nothing but the other or is led to by nothing else; None
    where there are none."""
    touching = {(blocks[before], blocks[after]) for before, after in edges}
    between = {(first, second) for first, second in touching if first != second}
    leading_out = Counter(map(itemgetter(0), between))
    leading_in = Counter(map(itemgetter(1), between))
    sizes = Counter(blocks)
    alone = [pair for pair in between if 1 in (leading_out[pair[0]], leading_in[pair[1]])]

    def size(pair: Pair) -> tuple[int, Pair]:
        first, second = pair
        return sizes[first] + sizes[second], pair

    return min(alone, key=size, default=None)
