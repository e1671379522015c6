"""Chooses which layers of a graph are drawn as one block, so that the whole model fits in one
view."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter

from sensitivity.records import ModelGraph
from sensitivity.reporting.graph.neighbours import Neighbours

FLAT = 32
"""Largest number of layers in a graph in which none are folded."""

BLOCKS = 26
"""Largest number of blocks, if the model allows that."""

LARGE = 3
"""A block of more than one in `LARGE` layers of the model is split, if their names allow it."""

RESIDUAL = ("Add", "Sum", "Mul")
"""Joins that belong to the last of their terms, as the sum at the end of a block does."""

END = re.compile(r"[./]")

Pair = tuple[str, str]


@dataclass(frozen=True)
class Block:
    """Nodes that are drawn as one.

    name: the common beginning of its layers' names, or the name of its first layer.
    nodes: positions in the graph, in its order; one for a node that is not folded.
    """

    name: str
    nodes: tuple[int, ...]


def folded(graph: ModelGraph) -> tuple[Block, ...]:
    """Return every node of the graph in one block, in the graph's order.

    Layers are folded by their names if these have parts ("model.4.cv1.conv"), otherwise by the
    graph: a layer joins its only reader, or the only layer that it reads. Inputs and outputs stay
    alone. A join goes with its neighbours if they are all in one block.
    """
    folding = _Folding(graph)
    if len(graph.of_kind("layer")) > FLAT:
        folding.fold()
    members = defaultdict[str, list[int]](list)
    for position, block in enumerate(folding.blocks):
        members[block].append(position)
    return tuple(_block(graph, name, nodes) for name, nodes in members.items())


def _block(graph: ModelGraph, name: str, nodes: Sequence[int]) -> Block:
    """Return the block of these nodes.

    name: the common beginning of its layers' names, or any text that tells it from others.
    """
    own = [graph.nodes[position] for position in nodes]
    layers = [node.name for node in own if node.kind == "layer"]
    is_beginning = all(layer.startswith(name) for layer in layers)
    if len(layers) < 2 or not is_beginning:
        name = next(iter(layers), own[0].name)
    return Block(name, tuple(nodes))


def blocks_by_name(names: Sequence[str]) -> dict[str, str]:
    """Return name -> its block. The largest block is split until all are small.

    Returns an empty dict if the names have no useful parts.

    >>> blocks_by_name([f"blocks.{at}.{part}" for at in range(12) for part in ("fc1", "fc2")])[
    ...     "blocks.11.fc2"
    ... ]
    'blocks.11'
    >>> blocks_by_name([f"Conv_{at}" for at in range(50)])
    {}
    """
    blocks = dict.fromkeys(names, "")
    parts = _parts_of_largest(blocks)
    while parts:
        blocks |= parts
        parts = _parts_of_largest(blocks)
    is_whole = len(set(blocks.values())) == 1
    return {} if is_whole else blocks


def _parts_of_largest(blocks: dict[str, str]) -> dict[str, str]:
    """Return name -> its smaller block, for the names in the largest block.

    Returns an empty dict if that block is small, or cannot be split into few enough.

    blocks: name -> its block.
    """
    sizes = Counter(blocks.values())
    largest, size = sizes.most_common(1)[0]
    if size * LARGE <= len(blocks):
        return {}
    inside = [name for name, block in blocks.items() if block == largest]
    parts = {name: _longer(name, largest) for name in inside}
    new = len(set(parts.values()))
    is_too_fine = new == size or len(sizes) - 1 + new > BLOCKS
    return {} if is_too_fine else parts


def _longer(name: str, block: str) -> str:
    """Return the beginning of a name that has one part more than its block."""
    end = END.search(name, len(block) + 1)
    if end is None:
        return name
    return name[: end.start()]


class _Folding:
    """Which block each node of a graph is in, while blocks are joined.

    blocks: name of each node's block. At first every node has its own.
    alone: blocks of one join, input or output.
    """

    def __init__(self, graph: ModelGraph) -> None:
        self.graph = graph
        self.near = Neighbours(graph.edges)
        self.blocks = [f"{node.kind} {node.name}" for node in graph.nodes]
        self.alone = frozenset(self.of(graph.of_kind("join", "input", "output")))
        for position in graph.of_kind("layer"):
            self.blocks[position] = graph.nodes[position].name

    def of(self, nodes: Iterable[int]) -> list[str]:
        """Return the blocks of these nodes."""
        return [self.blocks[position] for position in nodes]

    def fold(self) -> None:
        """Join the layers by their names if these have parts, otherwise by the graph."""
        layers = self.graph.of_kind("layer")
        by_name = blocks_by_name(self.of(layers))
        if not by_name:
            self.merge()
            return
        for position in layers:
            self.blocks[position] = by_name[self.blocks[position]]
        self.take_joins()

    def take_joins(self) -> None:
        """Put joins into blocks of layers."""
        joins = self.graph.of_kind("join")
        for position in joins:
            self._take_join(position, self.near.before[position])
        for position in reversed(joins):
            self._take_join(position, self.near.after[position])
        for position in joins:
            if self.graph.nodes[position].operation in RESIDUAL:
                self._take_sum(position)

    def _take_join(self, position: int, around: Sequence[int]) -> None:
        """Put a join that is still alone into the block of all nodes on one side of it.

        around: these nodes.
        """
        neighbours = set(self.of(around))
        if self.blocks[position] in self.alone and len(neighbours) == 1:
            self._put(position, neighbours.pop())

    def _take_sum(self, position: int) -> None:
        """Put a sum that is still alone into the block of its last term, if that makes no cycle."""
        if self.blocks[position] in self.alone:
            *others, last = self.of(self.near.before[position])
            if self._behind(last).isdisjoint(others):
                self._put(position, last)

    def _put(self, position: int, block: str) -> None:
        """Put a node into a block, unless that has no layers."""
        if block not in self.alone:
            self.blocks[position] = block

    def _behind(self, block: str) -> set[str]:
        """Return all blocks that depend on a block, without itself."""
        reached = set[int]()
        ready = [position for position, own in enumerate(self.blocks) if own == block]
        while ready:
            new = set(self.near.after[ready.pop()]) - reached
            reached |= new
            ready += new
        return set(self.of(reached)) - {block}

    def merge(self) -> None:
        """Join blocks to their only neighbour on one side, the smallest first, which makes no
        cycle."""
        inner = set(self.graph.of_kind("layer", "join"))
        edges = [edge for edge in self.graph.edges if inner.issuperset(edge)]
        spare = len(set(self.of(inner))) - BLOCKS
        for _ in range(spare):
            pair = _smallest_pair(edges, self.blocks)
            if pair is None:
                return
            kept, joined = pair
            self.blocks = [kept if block == joined else block for block in self.blocks]


def _smallest_pair(edges: Iterable[tuple[int, int]], blocks: Sequence[str]) -> Pair | None:
    """Return two blocks of which one is the only neighbour of the other on one side.

    It is the smallest such pair; None if there is none.
    """
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
