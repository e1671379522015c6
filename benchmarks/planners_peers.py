"""How other tools choose a skip set, written as planners of this project, so that both can be
compared in one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sensitivity.planners.base import Choice, Goal, Judge, Search

Worst = Callable[[tuple[str, ...]], float]
"""The metric of a skip set on the ranking subset: the samples on which quantization costs most."""


class PrefixPlanner:
    """Layers in the order of a scan in isolation, added one at a time until the target is met.

    This is what the sensitivity scripts of YOLOv6 and pytorch-quantization do. Rows are counted.
    """

    name = "ranked prefix"

    def choose(self, ranking: Sequence[str], judge: Judge, goal: Goal) -> Choice:
        search = Search(judge)
        for size in range(len(ranking) + 1):
            if search.met(tuple(ranking[:size])):
                return search.choice(tuple(ranking[:size]))
        return search.best_missed(ranking)


class NncfPlanner:
    """Accuracy control as in NNCF: layers are ranked on the worst samples and reverted one by one.

    If a revert lowers the metric on the whole set, it is undone, that layer is not tried again, and
    the others are ranked anew with the layers reverted so far.

    worst: the metric on the ranking subset.
    """

    name = "NNCF-style greedy"

    def __init__(self, worst: Worst) -> None:
        self._worst = worst

    def choose(self, ranking: Sequence[str], judge: Judge, goal: Goal) -> Choice:
        search, kept, barred = Search(judge), tuple[str, ...](), set[str]()
        queue = self._ranked(ranking, kept, barred)
        while not search.met(kept) and queue:
            tried = (*kept, queue.pop(0))
            if search.step(tried).metric >= search.step(kept).metric:
                kept = tried
            else:
                barred.add(tried[-1])
                queue = self._ranked(ranking, kept, barred)
        return search.choice(kept) if search.met(kept) else search.best_missed(ranking)

    def _ranked(self, ranking: Sequence[str], kept: tuple[str, ...], barred: set[str]) -> list[str]:
        left = [unit for unit in ranking if unit not in kept and unit not in barred]
        return sorted(left, key=lambda unit: -self._worst((*kept, unit)))
