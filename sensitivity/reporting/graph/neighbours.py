"""What stands before and behind each node of a graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable


class Neighbours:
    """before, after: node -> the nodes that it reads, and those that read it, in their order."""

    def __init__(self, edges: Iterable[tuple[int, int]]) -> None:
        self.before = defaultdict[int, list[int]](list)
        self.after = defaultdict[int, list[int]](list)
        for before, after in sorted(edges):
            self.before[after].append(before)
            self.after[before].append(after)
