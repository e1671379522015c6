"""The nodes before and after each node of a graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable


class Neighbours:
    """The neighbours of each node.

    before: node -> the nodes that it reads, in order.
    after: node -> the nodes that read it, in order.
    """

    def __init__(self, edges: Iterable[tuple[int, int]]) -> None:
        self.before = defaultdict[int, list[int]](list)
        self.after = defaultdict[int, list[int]](list)
        for before, after in sorted(edges):
            self.before[after].append(before)
            self.after[before].append(after)
