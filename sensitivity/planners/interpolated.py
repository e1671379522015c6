"""Search after a raced scan: the cheap signal says which prefix to try next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sensitivity.planners.base import Choice, Goal, Judge, Search
from sensitivity.stats.racing_prefix import Tried, next_size


class InterpolatedPlanner:
    """Planner that tries the shortest prefix that probably meets the target, given the remaining
    signal and all tries so far.

    A plan takes a few tries, where bisection takes log2(N) tries that are nearly undecidable
    (`stats.racing_prefix`). Every try is still judged by the metric. Units that the target does not
    need are not searched for, because each try near the target is a pass over `confirm`.
    """

    name = "interpolated"

    def __init__(self, signal: Mapping[str, float]) -> None:
        """Set the signal.

        signal: unit -> mean distortion of the outputs when only this unit is quantized, >= 0.
        """
        self._signal = signal

    def choose(self, ranking: Sequence[str], judge: Judge, goal: Goal) -> Choice:
        search, tried = Search(judge), list[Tried]()
        noise = [self._signal[unit] for unit in ranking]
        while (size := next_size(noise, tried, goal.start - goal.floor)) is not None:
            judged = search.judged(tuple(ranking[:size]))
            loss = goal.start - judged.metric + judged.margin
            tried.append(Tried(size, loss, judged.error, judged.met, judged.part))
        met = [prefix.size for prefix in tried if prefix.met]
        if not met:
            return search.best_missed(ranking)
        return search.choice(tuple(ranking[: min(met)]))
