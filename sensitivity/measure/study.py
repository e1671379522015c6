"""The study: a model's units, and the measurer of its variants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain

from sensitivity.measure.measurer import Measurer
from sensitivity.measure.variants import baselines, skip_variant, unit_variant
from sensitivity.records import (
    InFp8,
    Mode,
    Plan,
    Quantizer,
    Range,
    Unit,
    Variant,
    Widened,
    fp8_name,
    parts_of_set,
    wide_name,
)


@dataclass(frozen=True)
class Study:
    """What scans and searches work on.

    measurer: gives the scores of variants.
    units: groups of layers that are left out of INT8, or kept in it, together.
    quantizers: all quantizers of the model, in its order; each is in exactly one unit.
    wide: unit -> ranges of all its activations in 16 bits, for units that may have these in place
        of float; ranges of its weights too if they change with them.
    fp8: unit -> ranges of all its quantizers in FP8, for units that may have these.
    """

    measurer: Measurer
    units: tuple[Unit, ...]
    quantizers: tuple[Quantizer, ...]
    wide: Mapping[str, tuple[Range, ...]] = field(default_factory=dict)
    fp8: Mapping[str, tuple[Range, ...]] = field(default_factory=dict)

    @cached_property
    def formats(self) -> dict[str, tuple[Range, ...]]:
        """Name of a unit in another format than its own or float, in the notation of planners ->
        the ranges that give it that format."""
        wide = {wide_name(unit): ranges for unit, ranges in self.wide.items()}
        return wide | {fp8_name(unit): ranges for unit, ranges in self.fp8.items()}

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
        others have the format that their name says."""
        names = tuple(names)
        skip = parts_of_set(names).skip
        changed = [name for name in names if name not in skip]
        ranges = chain.from_iterable(map(self.formats.__getitem__, changed))
        return replace(skip_variant(skip, self.units), ranges=frozenset(ranges))

    def widened(self, names: Iterable[str]) -> tuple[Widened, ...]:
        """Return the units of a planner's set that have 16 bits."""
        return tuple(Widened(unit, self.wide[unit]) for unit in parts_of_set(names).wide)

    def in_fp8(self, names: Iterable[str]) -> tuple[InFp8, ...]:
        """Return the units of a planner's set that are in FP8."""
        return tuple(InFp8(unit, self.fp8[unit]) for unit in parts_of_set(names).fp8)

    def plan_variant(self, plan: Plan) -> Variant:
        """Return the model as a plan wants it."""
        return Variant("plan", frozenset(plan.quantizers), frozenset(plan.every_range))
