"""The rule that people write by hand, to compare a measured plan with: detection heads stay float,
and without any the first and the last layers.

Source: NVIDIA's and ultralytics' guides for quantized detectors leave the head out; papers on
quantized classifiers keep the first and the last layer, since DoReFa-Net (Zhou et al. 2016).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

from sensitivity.planners.base import Choice, Goal, Judge, Search, in_order
from sensitivity.records import Unit


class RulePlanner:
    """Leaves out what the rule says, whatever the target: neither more nor less."""

    name = "rule"
    searches = False

    def choose(self, ranking: Sequence[str], judge: Judge, goal: Goal) -> Choice:
        search = Search(judge)
        search.step(())
        return search.choice(in_order(ranking, goal.by_hand))


def by_hand(units: Iterable[Unit], ends: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Return the units that the rule leaves out. ends: for each end of the graph its units, the
    nearest first."""
    heads = [unit.name for unit in units if unit.kind == "head"]
    if heads:
        return tuple(heads)
    outermost = chain.from_iterable(end[:1] for end in ends)
    return tuple(dict.fromkeys(outermost))
