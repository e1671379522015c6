"""The study: a model's units, and the measurer of its variants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain

from sensitivity.measure.measurer import Measurer
from sensitivity.measure.variants import baselines, skip_variant, unit_variant
from sensitivity.records import (
    Mode,
    Plan,
    Quantizer,
    Range,
    Unit,
    Variant,
    Widened,
    parts_of_set,
)


@dataclass(frozen=True)
class Study:
    """What scans and searches work on.

    measurer: gives the scores of variants.
    units: groups of layers that are left out of INT8, or kept in it, together.
    quantizers: all quantizers of the model, in its order; each is in exactly one unit.
    wide: unit -> ranges of all its activations in 16 bits, for units that may have these in place
        of float; ranges of its weights too if they change with them.
    """

    measurer: Measurer
    units: tuple[Unit, ...]
    quantizers: tuple[Quantizer, ...]
    wide: Mapping[str, tuple[Range, ...]] = field(default_factory=dict)

    @cached_property
    def baselines(self) -> dict[str, Variant]:
        """The variants that all others are compared with, by their names in
        `variants.BASELINES`."""
        return baselines(self.quantizers)

    @property
    def float_variant(self) -> Variant:
        """The model with every quantizer disabled."""
        return self.baselines["float"]

    def unit_variant(self, unit: Unit, mode: Mode) -> Variant:
        """Return the model with only this unit unquantized (mode `disable`) or only this unit
        quantized (mode `enable`)."""
        return unit_variant(unit, self.quantizers, mode)

    def skip_variant(self, names: Iterable[str]) -> Variant:
        """Return the model with a planner's set: units named plainly are left unquantized, the
        others have 16-bit activations."""
        skip, wide = parts_of_set(names)
        ranges = chain.from_iterable(map(self.wide.__getitem__, wide))
        return replace(skip_variant(skip, self.units), ranges=frozenset(ranges))

    def widened(self, names: Iterable[str]) -> tuple[Widened, ...]:
        """Return the units of a planner's set that have 16 bits."""
        return tuple(Widened(unit, self.wide[unit]) for unit in parts_of_set(names)[1])

    def plan_variant(self, plan: Plan) -> Variant:
        """Return the model as a plan wants it."""
        return Variant("plan", frozenset(plan.quantizers), frozenset(plan.every_range))
