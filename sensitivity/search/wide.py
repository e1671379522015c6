"""Activations in 16 bits for units that would be left out: their weights stay in 8."""

from __future__ import annotations

from dataclasses import replace

from sensitivity.records import Range

WIDE_BITS = 16


def wide_range(own: Range) -> Range:
    """The same range in steps of 16 bits."""
    return replace(own, bits=WIDE_BITS)
