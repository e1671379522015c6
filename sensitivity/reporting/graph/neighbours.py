"""What stands before and behind each node of a graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable


class Neighbours:
    """before, after: node -> the nodes that it reads, and those that read it, in their order."""

    def __init__(self, edges: Iterable[tuple[int, int]]) -> None:
        self.before: dict[int, list[int]] = defaultdict(list)
        self.after: dict[int, list[int]] = defaultdict(list)
        for one, other in sorted(edges):
            self.before[other].append(one)
            self.after[one].append(other)
