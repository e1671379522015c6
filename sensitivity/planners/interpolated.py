"""For a raced scan: which prefix to try next comes from the cheap signal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sensitivity.planners.base import Choice, Goal, Judge, Search
from sensitivity.stats.racing_prefix import Tried, next_size


class InterpolatedPlanner:
    """Tries the shortest prefix that probably meets the target, given the signal that is left and
    all tries so far.

    signal: unit -> mean distortion of the outputs when only this unit is quantized, >= 0. A plan
    takes a few tries where bisection takes log2(N) near-undecidable ones (`stats.racing_prefix`);
    every try is judged by the metric all the same. Units that the target does not need are not
    sought: each try near the target is a pass over `confirm`.
    """

    name = "interpolated"

    def __init__(self, signal: Mapping[str, float]) -> None:
        self._signal = signal

    def choose(self, ranking: Sequence[str], judge: Judge, goal: Goal) -> Choice:
        search, tried = Search(judge), list[Tried]()
        noise = [self._signal[unit] for unit in ranking]
        while (size := next_size(noise, tried, goal.start - goal.floor)) is not None:
            found = search.judged(tuple(ranking[:size]))
            tried.append(Tried(size, goal.start - found.metric, found.error, found.met, found.part))
        met = [one.size for one in tried if one.met]
        if not met:
            return search.best_missed(ranking)
        return search.choice(tuple(ranking[: min(met)]))
