"""Skip-sets in the notation of planners, and what they cost.

Planners name a set by strings: the name of a unit means that it is left unquantized, its
`wide_name` that it has 16-bit activations, and its `fp8_name` that it is in FP8.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

WIDE_SHARE = 128 / 1024
"""Bit operations of a multiplication of 8-bit weights with 16-bit activations, as a fraction of
those in float. It is the relative cost of widening a unit instead of leaving it in float."""

FP8_SHARE = 64 / 1024
"""The same fraction for a multiplication of 8-bit weights with 8-bit activations. One in FP8 is as
wide as one in INT8; the cost keeps units in INT8 that FP8 does not help."""

IN_16_BITS = " in 16 bits"
"""Suffix that planners add to a unit's name to mean its 16-bit activations."""

IN_FP8 = " in FP8"
"""Suffix that planners add to a unit's name to mean the unit in FP8."""

SHARES = {IN_FP8: FP8_SHARE, IN_16_BITS: WIDE_SHARE}
"""Suffix -> cost of that format as a fraction of float's, in ascending order."""


class SetParts(NamedTuple):
    """The units of a set by what they run in.

    skip: units left out.
    wide: units with 16-bit activations.
    fp8: units in FP8.
    """

    skip: tuple[str, ...]
    wide: tuple[str, ...]
    fp8: tuple[str, ...]


def wide_name(unit: str) -> str:
    """Return the name that planners use for a unit with 16-bit activations.

    The bare name of a unit means that it is left out.
    """
    return unit + IN_16_BITS


def fp8_name(unit: str) -> str:
    """Return the name that planners use for a unit in FP8."""
    return unit + IN_FP8


def unit_of(name: str) -> str:
    """Return the unit that a name in the notation of planners is about.

    >>> unit_of(wide_name("conv1")), unit_of(fp8_name("conv1")), unit_of("conv1")
    ('conv1', 'conv1', 'conv1')
    """
    for suffix in SHARES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def share_of(name: str) -> float:
    """Return the cost of a name in the notation of planners, as a fraction of the cost of leaving
    its unit out.

    >>> share_of(fp8_name("conv1")), share_of(wide_name("conv1")), share_of("conv1")
    (0.0625, 0.125, 1.0)
    """
    return next((share for suffix, share in SHARES.items() if name.endswith(suffix)), 1.0)


def names_of_set(
    skip: Iterable[str], wide: Iterable[str] = (), fp8: Iterable[str] = ()
) -> tuple[str, ...]:
    """Return a set in the notation of planners: names of units left out, `wide_name`s of units with
    16-bit activations, and `fp8_name`s of units in FP8."""
    return (*skip, *map(wide_name, wide), *map(fp8_name, fp8))


def parts_of_set(names: Iterable[str]) -> SetParts:
    """Split a set in the notation of planners by what its units run in.

    >>> parts_of_set(["fc", wide_name("conv1"), fp8_name("conv2")])
    SetParts(skip=('fc',), wide=('conv1',), fp8=('conv2',))
    """
    skip, wide, fp8 = list[str](), list[str](), list[str]()
    for name in names:
        if name.endswith(IN_16_BITS):
            wide.append(unit_of(name))
        elif name.endswith(IN_FP8):
            fp8.append(unit_of(name))
        else:
            skip.append(name)
    return SetParts(tuple(skip), tuple(wide), tuple(fp8))


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
class Raise:
    """A layer that has to run in 16 bits because of what it writes, although its unit does not, on
    a target whose operations read and write one type.

    unit: unit of the layer. Nothing is paid if it has 16-bit activations or is left out.
    readers: units that read what the layer writes, "" for the model's outputs. If one of them does
        not run in INT8, it wants that in 16 bits; the outputs always do.
    cost: cost of running the layer in 16 bits instead of INT8.
    """

    unit: str
    readers: tuple[str, ...]
    cost: float

    def is_paid(self, outside: Container[str]) -> bool:
        """Return whether the layer runs in 16 bits because of what it writes.

        outside: units that do not run in INT8, and "".
        """
        return self.unit not in outside and any(reader in outside for reader in self.readers)


@dataclass(frozen=True)
class CostModel:
    """What the model costs to run with a skip-set left out of INT8.

    kind: where the numbers come from ("macs", "operations", "table", "engine").
    unit: "ms" for measured times; "work" is not a time and only good for comparisons.
    base: cost of everything in INT8, without borders.
    units: unit -> cost added by leaving it out; negative if it is faster in float. In another
        format a unit adds its share of that (`SHARES`), unless the name of the unit in that format
        has an entry of its own.
    borders: costs of conversions between units.
    note: a reason not to trust the numbers; "" if there is none.
    error: standard deviation of the measured time of a skip-set around the prediction; 0 if it was
        not estimated.
    raises: layers that run in 16 bits if others do; empty for targets whose operations may read one
        type and write another.
    """

    kind: str
    unit: Literal["ms", "work"]
    base: float
    units: dict[str, float]
    borders: tuple[Border, ...] = ()
    note: str = ""
    error: float = 0.0
    raises: tuple[Raise, ...] = ()

    def of(self, names: Iterable[str]) -> float:
        """Return the cost of a set, given in the notation of planners."""
        names = set(names)
        outside = _outside(names)
        cut = sum(
            border.cost for border in self.borders if (border.a in outside) != (border.b in outside)
        )
        own = sum(self._own(name) for name in names)
        return self.base + own + cut + self.raised_cost(names)

    def raised(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the units that a set, given in the notation of planners, has in INT8, and that
        have a layer which runs in 16 bits because of what it writes."""
        return tuple(dict.fromkeys(layer.unit for layer in self._raised(names)))

    def raised_cost(self, names: Iterable[str]) -> float:
        """Return the cost of these layers running in 16 bits."""
        return sum(layer.cost for layer in self._raised(names))

    def _raised(self, names: Iterable[str]) -> Iterator[Raise]:
        outside = _outside(set(names))
        return (layer for layer in self.raises if layer.is_paid(outside))

    def _own(self, name: str) -> float:
        if name in self.units:
            return self.units[name]
        return share_of(name) * self.units[unit_of(name)]


def _outside(names: Collection[str]) -> set[str]:
    """Return these names, those of their units, and "" for what no unit runs."""
    return {*names, *map(unit_of, names), ""}


def cost_of(names: Collection[str], cost: CostModel | None) -> float:
    """Return the cost by which skip-sets are compared: that of the model, or the size of the set
    without one.

    names: a set in the notation of planners.
    """
    if cost is not None:
        return cost.of(names)
    return sum(map(share_of, names))


def unit_cost(units: Iterable[str]) -> CostModel:
    """Return a cost model that counts units, for a model of which neither times nor work are
    known."""
    return CostModel("units", "work", 0.0, dict.fromkeys(units, 1.0))


def predicted_ms(names: Collection[str], cost: CostModel | None) -> float | None:
    """Return the predicted time of the whole engine in milliseconds.

    names: a set in the notation of planners.
    Returns None if the cost model holds no times, or if units of the set have 16-bit activations or
    are in FP8, for which no time was measured.
    """
    names = tuple(names)
    is_timed = all(share_of(name) == 1 for name in names)
    if cost is None or cost.unit != "ms" or not is_timed:
        return None
    return cost.of(names)
