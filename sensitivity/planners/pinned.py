"""Search with units that the user has decided about: left out of quantization in every plan, or in
none."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from sensitivity.planners.base import Choice, Goal, Judge, Judged, Planner, Skip, in_order
from sensitivity.records import Border, CostModel, Raise

OUTSIDE = ""
"""End of a border at which there is no unit."""


@dataclass(frozen=True)
class _Whole:
    """Function that adds the pinned units to a set of free units, in the order of the ranking."""

    ranking: Sequence[str]
    pinned: Skip

    def __call__(self, free: Iterable[str]) -> Skip:
        return in_order(self.ranking, (*self.pinned, *free))


class PinnedPlanner:
    """Planner that lets another planner search over the free units."""

    def __init__(self, planner: Planner, skip: Sequence[str], keep: Sequence[str]) -> None:
        """Set the planner and the pinned units.

        planner: planner that chooses among the free units.
        skip: units that are left out in every set tried.
        keep: units that are quantized in every set tried.
        """
        self.name = planner.name
        self.searches = bool(getattr(planner, "searches", True))
        self._planner = planner
        self._skip = tuple(skip)
        self._keep = frozenset(keep)

    def choose(self, ranking: Sequence[str], judge: Judge, goal: Goal) -> Choice:
        whole = _Whole(ranking, self._skip)

        def judged(free: Skip) -> Judged:
            return judge(whole(free))

        pinned = self._keep.union(self._skip)
        free = [unit for unit in ranking if unit not in pinned]
        choice = self._planner.choose(free, judged, self._of_free_units(goal, whole))
        return choice.changed(whole)

    def _of_free_units(self, goal: Goal, whole: _Whole) -> Goal:
        """Return the goal for a planner that knows only the units left to decide."""
        goal = goal.measured_as(whole)
        if goal.cost is None:
            return goal
        return replace(goal, cost=given(goal.cost, self._skip, self._keep))


def given(cost: CostModel, skip: Collection[str], keep: Collection[str]) -> CostModel:
    """Return the cost model of the units left to decide; it gives a set of them the cost that
    `cost` gives this set and `skip` together.

    A border to a unit that is always left out becomes a border to the outside. A border to a unit
    that is always kept is cut exactly if the other end is left out. A layer of such a unit may
    still be raised.
    """
    base, units = cost.base, dict(cost.units)
    borders: list[Border] = []
    for border in cost.borders:
        match _open_ends(border, skip, keep):
            case [""]:
                base += border.cost
            case [unit]:
                units[unit] += border.cost
            case [first, second] if first != OUTSIDE:
                borders.append(Border(first, second, border.cost))
    base += sum(map(units.pop, skip))
    free = {name: ms for name, ms in units.items() if name not in keep}
    raises = tuple(_open_raises(cost.raises, skip, keep))
    return replace(cost, base=base, units=free, borders=tuple(borders), raises=raises)


def _open_raises(
    raises: Iterable[Raise], skip: Collection[str], keep: Collection[str]
) -> Iterator[Raise]:
    """Yield the raises that may still be paid, without readers that are always kept.

    Readers that are always left out count as the outside.
    """
    for layer in raises:
        readers = [OUTSIDE if name in skip else name for name in layer.readers if name not in keep]
        if layer.unit not in skip and readers:
            yield replace(layer, readers=tuple(dict.fromkeys(readers)))


def _open_ends(border: Border, skip: Collection[str], keep: Collection[str]) -> list[str]:
    """Return the ends of a border that are not always kept, units before the outside.

    Units that are always left out count as the outside.
    """
    names = dict.fromkeys(skip, OUTSIDE)
    ends = [names.get(end, end) for end in (border.a, border.b)]
    open_ends = [end for end in ends if end not in keep]
    return sorted(open_ends, key=_is_outside)


def _is_outside(end: str) -> bool:
    return end == OUTSIDE
