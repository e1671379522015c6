"""The study: a model's units, and the measurer that says what each of its variants is worth."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from sensitivity.measure.measurer import Measurer
from sensitivity.measure.variants import baselines, skip_variant, unit_variant
from sensitivity.records import Mode, Plan, Quantizer, Unit, Variant


@dataclass(frozen=True)
class Study:
    """What scans and searches work on.

    measurer: gives the scores of variants. units: what is left out of INT8, or kept in it, as one.
    quantizers: all quantizers of the model, in its order; each is in exactly one unit.
    """

    measurer: Measurer
    units: tuple[Unit, ...]
    quantizers: tuple[Quantizer, ...]

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
        """Mode `disable`: only this unit is left unquantized. Mode `enable`: only this unit is
        quantized."""
        return unit_variant(unit, self.quantizers, mode)

    def skip_variant(self, skip: Iterable[str]) -> Variant:
        """The model with the units of these names left unquantized."""
        return skip_variant(skip, self.units)

    def plan_variant(self, plan: Plan) -> Variant:
        """The model as a plan wants it."""
        return Variant("plan", frozenset(plan.quantizers), frozenset(plan.every_range))
