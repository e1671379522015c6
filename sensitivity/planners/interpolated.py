"""Search after a raced scan: the cheap signal says which prefix to try next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sensitivity.planners.base import Choice, Goal, Judge, Search, Skip
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
        search = Search(judge)
        found = interpolated(ranking, self._signal, search, goal)
        return search.best_missed(ranking) if found is None else search.choice(found)


def interpolated(
    ranking: Sequence[str],
    signal: Mapping[str, float],
    search: Search,
    goal: Goal,
    always: Sequence[str] = (),
) -> Skip | None:
    """Return the shortest prefix tried that meets the target, or None if none does.

    ranking, signal: as for `InterpolatedPlanner`.
    always: units that are left out besides every prefix, none of the ranking.
    """

    def skip_of(size: int) -> Skip:
        return (*always, *ranking[:size])

    def judged(size: int) -> Tried:
        found = search.judged(skip_of(size))
        loss = goal.start - found.metric + found.margin
        return Tried(size, loss, found.error, found.met, found.part)

    noise = [signal[unit] for unit in ranking]
    known = [size for size in range(len(ranking) + 1) if search.knows(skip_of(size))]
    tried = list(map(judged, known)) if 0 in known else []
    while (size := next_size(noise, tried, goal.start - goal.floor)) is not None:
        tried.append(judged(size))
    met = [prefix.size for prefix in tried if prefix.met]
    return skip_of(min(met)) if met else None
