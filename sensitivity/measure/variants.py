"""The variants that a scan measures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sensitivity.quantizers.base import quantizers_of
from sensitivity.records import Mode, Quantizer, Unit, Variant, names_of

BASELINES = ("float", "quantized", "weights only", "activations only")
"""Names of the baselines: everything disabled, nothing disabled, only weights quantized, only
activations quantized."""

BASE_OF: dict[Mode, str] = {"disable": "quantized", "enable": "float"}
"""Mode -> baseline that its variants are compared with."""


def baselines(quantizers: Sequence[Quantizer]) -> dict[str, Variant]:
    """Return the variants that all others are compared with, by their names in `BASELINES`."""
    every = frozenset(names_of(quantizers))
    weights = frozenset(quantizer.name for quantizer in quantizers if quantizer.role == "weight")
    disabled = {
        "float": every,
        "quantized": frozenset[str](),
        "weights only": every - weights,
        "activations only": weights,
    }
    return {name: Variant(name, disabled[name]) for name in BASELINES}


def unit_variant(unit: Unit, quantizers: Sequence[Quantizer], mode: Mode) -> Variant:
    """Return the model with only this unit unquantized (mode `disable`) or only this unit quantized
    (mode `enable`)."""
    own = frozenset(unit.quantizers)
    if mode == "disable":
        return Variant(f"without {unit.name}", own)
    return Variant(f"only {unit.name}", frozenset(names_of(quantizers)) - own)


def skip_variant(skip: Iterable[str], units: Sequence[Unit]) -> Variant:
    """Return the model with these units left unquantized."""
    skipped = set(skip)
    return Variant(f"skip {len(skipped)} of {len(units)}", quantizers_of(skipped, units))
