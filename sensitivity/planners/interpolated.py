"""For a raced scan: which prefix to try next comes from the cheap signal, then prune back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sensitivity.planners.base import Choice, Goal, Judge, Search
from sensitivity.planners.greedy import pruned
from sensitivity.stats.racing_prefix import Tried, next_size

PATIENCE = 1
"""Units that turn out needed after which pruning stops: each try costs samples of `confirm`."""


class InterpolatedPlanner:
    """Tries the prefix at which the signal that is left explains the loss that is allowed (`stats.racing_prefix`).

    signal: unit -> mean distortion of the outputs when only this unit is quantized, >= 0. A plan takes a few tries
    where bisection takes log2(N) near-undecidable ones; every try is judged by the metric all the same.
    """

    name = "interpolated"

    def __init__(self, signal: Mapping[str, float]) -> None:
        self._signal = signal

    def choose(self, ranking: Sequence[str], judge: Judge, goal: Goal) -> Choice:
        search, tried = Search(judge), list[Tried]()
        noise = [self._signal[unit] for unit in ranking]
        while (size := next_size(noise, tried, goal.start - goal.floor)) is not None:
            step = search.step(tuple(ranking[:size]))
            tried.append(Tried(size, goal.start - step.metric, step.n, step.met))
        met = [one.size for one in tried if one.met]
        if not met:
            return search.best_missed(ranking)
        return search.choice(pruned(ranking[: min(met)], search, PATIENCE))
