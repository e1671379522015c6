"""Mixed-integer linear programs, solved by SciPy's HiGHS, that propose skip-sets from a loss model
and a cost model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from sensitivity.planners.loss_model import Weights
from sensitivity.records import CostModel, unit_cost

MOST_PAIRS = 150
"""Number of pairs in a program, at most: those of the largest weights. The effect of the others
shows when sets are judged."""

NEGLIGIBLE = 1e-3
"""A pair is left out of the program if its weight is below this fraction of the largest one."""

MISSING = -1
"""Index in place of a variable for an end of a border at which there is no unit."""

TIME_LIMIT_S = 10.0


@dataclass(frozen=True)
class Program:
    """The programs of one search.

    units: names, in the order of the weights.
    cost: cost model of skip-sets; None counts units.
    after: as in `Goal`.
    """

    units: tuple[str, ...]
    cost: CostModel | None
    after: Mapping[str, str] = field(default_factory=dict)

    def cheapest(
        self, weights: Weights, allowed: float, tried: Collection[frozenset[str]], below: float
    ) -> tuple[str, ...] | None:
        """Return the cheapest untried set that the model allows, or None if there is none.

        weights: the loss model.
        allowed: largest modelled loss of the set.
        tried: sets that the answer must not be.
        below: cost that the set has to stay under.
        """
        cost, loss, rows = self._parts(weights, tried, below)
        rows.at_most(loss, allowed - float(weights.units.sum()))
        return self._solved(cost, rows)

    def surest(
        self, weights: Weights, tried: Collection[frozenset[str]], below: float
    ) -> tuple[str, ...] | None:
        """Return the untried set with the least modelled loss, or None if there is none.

        weights: the loss model.
        tried: sets that the answer must not be.
        below: cost that the set has to stay under.
        """
        _, loss, rows = self._parts(weights, tried, below)
        return self._solved(loss, rows)

    def _parts(
        self, weights: Weights, tried: Collection[frozenset[str]], below: float
    ) -> tuple[np.ndarray, np.ndarray, _Rows]:
        """Return the cost and the loss of a set by variable, and the constraints; the loss leaves
        out that of quantizing all units.

        Variables: x[n], binary, 1 for a skipped unit; y, 1 for each border that is cut; r, 1 for
        each layer that is raised; z, 1 for each pair that is quantized.
        """
        n = len(self.units)
        index = {unit: column for column, unit in enumerate(self.units)}
        model = self.cost or unit_cost(self.units)
        borders = [border for border in model.borders if border.cost > 0]
        pairs = _largest(weights.pairs)
        first_pair = n + len(borders) + len(model.raises)
        width = first_pair + len(pairs)
        cost, loss, rows = np.zeros(width), np.zeros(width), _Rows(width)
        cost[:n] = [model.units[unit] for unit in self.units]
        loss[:n] = -weights.units
        for column, border in enumerate(borders, n):
            cost[column] = border.cost
            rows.cut(column, index.get(border.a, MISSING), index.get(border.b, MISSING))
        for column, layer in enumerate(model.raises, n + len(borders)):
            cost[column] = layer.cost
            for reader in layer.readers:
                rows.raised(column, index.get(layer.unit), index.get(reader, MISSING))
        for column, (i, j) in enumerate(pairs, first_pair):
            loss[column] = weights.pairs[i, j]
            rows.both(column, i, j, heavier=loss[column] > 0)
        rows.at_most(cost, below - model.base)
        self._bar(rows, tried)
        for unit in self.after.keys() & index.keys():
            rows.add({index[unit]: 1.0, index[self.after[unit]]: -1.0}, 0.0)
        return cost, loss, rows

    def _bar(self, rows: _Rows, tried: Iterable[frozenset[str]]) -> None:
        """Exclude these sets from the answers."""
        for skip in tried:
            rows.other_than([unit in skip for unit in self.units])

    def _solved(self, objective: np.ndarray, rows: _Rows) -> tuple[str, ...] | None:
        """Return the set that minimizes the objective, or None if the solver finds none."""
        n = len(self.units)
        solution = milp(
            objective, integrality=np.r_[np.ones(n, int), np.zeros(len(objective) - n, int)],
            bounds=Bounds(0, 1), constraints=rows.constraint(),
            options={"time_limit": TIME_LIMIT_S},
        )  # fmt: skip
        if solution.x is None:
            return None
        skipped = np.flatnonzero(solution.x[:n] > 0.5)
        return tuple(self.units[column] for column in skipped)


class _Rows:
    """Rows of `matrix @ variables <= upper`."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._rows: list[dict[int, float]] = []
        self._upper: list[float] = []

    def add(self, row: dict[int, float], upper: float) -> None:
        """Add a row.

        row: variable -> coefficient.
        upper: largest value of the row.
        """
        self._rows.append(row)
        self._upper.append(upper)

    def at_most(self, row: np.ndarray, upper: float) -> None:
        """Add the row of a dense coefficient vector."""
        self.add({int(column): float(row[column]) for column in np.flatnonzero(row)}, upper)

    def cut(self, y: int, a: int, b: int) -> None:
        """Add y >= |x[a] - x[b]|, where an end that is MISSING counts as skipped."""
        for first, second in ((a, b), (b, a)):
            row = {y: -1.0, first: 1.0, second: -1.0}
            of_missing = row.pop(MISSING, 0.0)
            self.add(row, -of_missing)

    def raised(self, r: int, unit: int | None, reader: int) -> None:
        """Add r >= x[reader] - x[unit], where a reader that is MISSING counts as skipped.

        unit: None for a unit that is never skipped.
        """
        row = {r: -1.0, reader: 1.0}
        if unit is not None:
            row[unit] = -1.0
        of_missing = row.pop(MISSING, 0.0)
        self.add(row, -of_missing)

    def both(self, z: int, i: int, j: int, *, heavier: bool) -> None:
        """Make z stand for "neither i nor j is skipped".

        heavier: whether the pair increases the loss. A program that minimizes the loss then lowers
            z by itself, so z is only bounded from below; otherwise it is only bounded from above.
        """
        if heavier:
            self.add({z: -1.0, i: -1.0, j: -1.0}, -1.0)
        else:
            self.add({z: 1.0, i: 1.0}, 1.0)
            self.add({z: 1.0, j: 1.0}, 1.0)

    def other_than(self, skipped: Sequence[bool]) -> None:
        """Exclude this set from the answers."""
        signs = np.where(skipped, 1.0, -1.0)
        self.at_most(signs, sum(skipped) - 1.0)

    def constraint(self) -> LinearConstraint:
        """Return the rows as SciPy's constraint."""
        lengths = list(map(len, self._rows))
        rows = np.repeat(np.arange(len(lengths)), lengths)
        columns = list(chain.from_iterable(self._rows))
        values = list(chain.from_iterable(row.values() for row in self._rows))
        matrix = coo_array((values, (rows, columns)), shape=(len(self._rows), self._width))
        return LinearConstraint(matrix.tocsr(), -np.inf, np.array(self._upper))


def _largest(pairs: np.ndarray) -> list[tuple[int, int]]:
    """Return the index pairs of the pairs in the program, the largest weights first."""
    sizes = np.abs(pairs)
    rows, columns = np.nonzero(sizes > NEGLIGIBLE * sizes.max())
    order = np.argsort(-sizes[rows, columns], kind="stable")[:MOST_PAIRS]
    return [(int(rows[position]), int(columns[position])) for position in order]
