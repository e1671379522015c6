"""16-bit activations as an alternative to INT8 for a unit; its weights stay as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from sensitivity.errors import ModelError
from sensitivity.quantizers.base import Recalibratable
from sensitivity.records import Range, Unit

WIDE_BITS = 16

PLAIN = "without corrections"
"""Method of a weight's range beside 16-bit activations, where repairs had fitted something to 8."""


def wide_range(own: Range) -> Range:
    """Return the same range in steps of 16 bits."""
    return replace(own, bits=WIDE_BITS)


def wide_ranges(source: Recalibratable, units: Iterable[Unit]) -> dict[str, tuple[Range, ...]]:
    """Return the ranges that give these units 16-bit activations, by unit.

    Left out are units without activations, and units with an activation that is not on an integer
    grid of less than 16 bits.
    """
    by_unit = {}
    for unit in units:
        ranges = _of_unit(source, unit)
        if ranges:
            by_unit[unit.name] = ranges
    return by_unit


def _of_unit(source: Any, unit: Unit) -> tuple[Range, ...]:
    """Return the 16-bit ranges of a unit's activations; empty if one of them cannot have 16
    bits."""
    by_name = {quantizer.name: quantizer for quantizer in source.quantizers}
    ranges = []
    for quantizer in map(by_name.__getitem__, unit.quantizers):
        if quantizer.role == "weight":
            continue
        if quantizer.bits >= WIDE_BITS:
            return ()
        try:
            ranges.append(wide_range(source.range(quantizer.name)))
        except ModelError:  # FP8, blocks and ranges of each batch cannot be widened
            return ()
    return tuple(ranges)


def with_plain_weights(
    wide: Mapping[str, tuple[Range, ...]], units: Iterable[Unit], ranges: Iterable[Range]
) -> dict[str, tuple[Range, ...]]:
    """Return the ranges that give units 16-bit activations, with ranges of their weights that hold
    no correction or rounding: these were fitted to the errors of activations in 8 bits.

    wide: ranges of the activations, by unit.
    ranges: ranges in force.
    """
    plain: dict[str, Range] = {}
    for fitted in ranges:
        if fitted.bias is not None or fitted.rounding is not None:
            plain[fitted.quantizer] = replace(fitted, method=PLAIN, bias=None, rounding=None)
    by_unit = {}
    for unit in units:
        if unit.name in wide:
            weights = filter(None, map(plain.get, unit.quantizers))
            by_unit[unit.name] = (*wide[unit.name], *weights)
    return by_unit
