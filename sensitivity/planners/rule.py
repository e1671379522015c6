"""The rule that people apply by hand, for comparison with a measured plan: detection heads stay
float; without heads, the first and the last layers do.

Source: NVIDIA's and ultralytics' guides for quantized detectors leave the head out; papers on
quantized classifiers keep the first and the last layer, since DoReFa-Net (Zhou et al. 2016).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

from sensitivity.planners.base import Choice, Goal, Judge, Search, in_order
from sensitivity.records import Unit


class RulePlanner:
    """Planner that leaves out exactly the units of the rule, whatever the target."""

    name = "rule"
    searches = False

    def choose(self, ranking: Sequence[str], judge: Judge, goal: Goal) -> Choice:
        search = Search(judge)
        search.step(())
        return search.choice(in_order(ranking, goal.by_hand))


def by_hand(units: Iterable[Unit], ends: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Return the units that the rule leaves out.

    units: all units of the model.
    ends: units of each end of the graph, the nearest first.
    """
    heads = [unit.name for unit in units if unit.kind == "head"]
    if heads:
        return tuple(heads)
    outermost = chain.from_iterable(end[:1] for end in ends)
    return tuple(dict.fromkeys(outermost))
