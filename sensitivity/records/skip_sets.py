"""Skip-sets in the notation of planners, and what they cost.

Planners name a set by strings: the name of a unit means that it is left unquantized, and its
`wide_name` means that it has 16-bit activations.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

WIDE_SHARE = 128 / 1024
"""Bit operations of a multiplication of 8-bit weights with 16-bit activations, as a fraction of
those in float. It is the relative cost of widening a unit instead of leaving it in float."""

IN_16_BITS = " in 16 bits"
"""Suffix that planners add to a unit's name to mean its 16-bit activations."""


def wide_name(unit: str) -> str:
    """Return the name that planners use for a unit with 16-bit activations.

    The bare name of a unit means that it is left out.
    """
    return unit + IN_16_BITS


def names_of_set(skip: Iterable[str], wide: Iterable[str]) -> tuple[str, ...]:
    """Return a set in the notation of planners: names of units left out, and `wide_name`s of units
    with 16-bit activations."""
    return (*skip, *map(wide_name, wide))


def parts_of_set(names: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split a set in the notation of planners into units left out and units with 16-bit
    activations.

    >>> parts_of_set(["fc", wide_name("conv1")])
    (('fc',), ('conv1',))
    """
    skip, wide = list[str](), list[str]()
    for name in names:
        if name.endswith(IN_16_BITS):
            wide.append(name.removesuffix(IN_16_BITS))
        else:
            skip.append(name)
    return tuple(skip), tuple(wide)


@dataclass(frozen=True)
class Border:
    """Two units that exchange a tensor.

    b: "" for what is never quantized, such as the model's input.
    cost: cost of converting the tensor, paid if exactly one of the units is left unquantized.
    """

    a: str
    b: str
    cost: float


@dataclass(frozen=True)
class CostModel:
    """What the model costs to run with a skip-set left out of INT8.

    kind: where the numbers come from ("macs", "operations", "table", "engine").
    unit: "ms" for measured times; "work" is not a time and only good for comparisons.
    base: cost of everything in INT8, without borders.
    units: unit -> cost added by leaving it out; negative if it is faster in float. With 16-bit
        activations a unit adds `WIDE_SHARE` of that, unless its `wide_name` has an entry of its
        own.
    borders: costs of conversions between units.
    note: a reason not to trust the numbers; "" if there is none.
    error: standard deviation of the measured time of a skip-set around the prediction; 0 if it was
        not estimated.
    """

    kind: str
    unit: Literal["ms", "work"]
    base: float
    units: dict[str, float]
    borders: tuple[Border, ...] = ()
    note: str = ""
    error: float = 0.0

    def of(self, names: Iterable[str]) -> float:
        """Return the cost of a set, given in the notation of planners."""
        names = set(names)
        outside = {*names, *parts_of_set(names)[1], ""}
        cut = sum(
            border.cost for border in self.borders if (border.a in outside) != (border.b in outside)
        )
        return self.base + sum(self._own(name) for name in names) + cut

    def _own(self, name: str) -> float:
        if name in self.units:
            return self.units[name]
        return WIDE_SHARE * self.units[name.removesuffix(IN_16_BITS)]


def cost_of(names: Collection[str], cost: CostModel | None) -> float:
    """Return the cost by which skip-sets are compared: that of the model, or the size of the set
    without one.

    names: a set in the notation of planners.
    """
    if cost is not None:
        return cost.of(names)
    skip, wide = parts_of_set(names)
    return len(skip) + WIDE_SHARE * len(wide)


def unit_cost(units: Iterable[str]) -> CostModel:
    """Return a cost model that counts units, for a model of which neither times nor work are
    known."""
    return CostModel("units", "work", 0.0, dict.fromkeys(units, 1.0))


def predicted_ms(names: Collection[str], cost: CostModel | None) -> float | None:
    """Return the predicted time of the whole engine in milliseconds.

    names: a set in the notation of planners.
    Returns None if the cost model holds no times, or if the set has 16-bit activations, for which
    no time was measured.
    """
    if cost is None or cost.unit != "ms" or parts_of_set(names)[1]:
        return None
    return cost.of(names)
