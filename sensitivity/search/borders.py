"""Says what a plan costs on a target whose operations read and write one type."""

from __future__ import annotations

from collections.abc import Iterable

from sensitivity.errors import listed
from sensitivity.records import FP8_SHARE, WIDE_SHARE, CostModel, parts_of_set

INT8_SHARE = FP8_SHARE
"""Bit operations of a multiplication in INT8, as a fraction of those in float. One in FP8 is as
wide."""


def border_notes(names: Iterable[str], cost: CostModel | None) -> tuple[str, ...]:
    """Return a note on the layers that a set has in INT8 and that run in 16 bits because of what
    they write; none if there are none.

    names: a set in the notation of planners.

    >>> from sensitivity.records import Raise, wide_name
    >>> raises = Raise("a", ("b",), 1e6), Raise("b", ("c",), 1e6)
    >>> cost = CostModel("operations", "work", 0.0, {"a": 8e6, "b": 8e6, "c": 8e6}, raises=raises)
    >>> border_notes([], cost)
    ()
    >>> border_notes([wide_name("b")], cost)  # doctest: +ELLIPSIS
    ('In INT8 by the plan, but in 16 bits on this target: a. Its operations ...',)
    >>> border_notes([wide_name("b")], cost)[0].partition("; ")[2]
    'this takes 1.67 times the bit operations of everything in INT8, the plan alone 1.33 times.'
    """
    names = tuple(names)
    raised = cost.raised(names) if cost else ()
    if cost is None or not raised:
        return ()
    taken = ""
    if cost.kind == "operations":
        paid, alone = _bit_operations(names, cost)
        taken = (
            f"; this takes {paid:.2f} times the bit operations of everything in INT8, the plan "
            f"alone {alone:.2f} times"
        )
    return (
        f"In INT8 by the plan, but in 16 bits on this target: {listed(raised, 6)}. Its operations "
        f"read and write one type, and what these write is wanted in 16 bits{taken}.",
    )


def _bit_operations(names: Iterable[str], cost: CostModel) -> tuple[float, float]:
    """Return the bit operations of a set, and those without the layers that run in 16 bits because
    of what they write, both relative to everything in INT8.

    cost: of kind "operations", which counts multiply-accumulates.
    """
    parts = parts_of_set(names)
    in_int8 = INT8_SHARE * sum(cost.units.values())
    alone = in_int8
    for units, share in ((parts.wide, WIDE_SHARE), (parts.skip, 1.0)):
        alone += (share - INT8_SHARE) * sum(map(cost.units.__getitem__, units))
    # A raise costs all that 16 bits do; INT8 is paid already.
    paid = alone + cost.raised_cost(names) * (1 - INT8_SHARE / WIDE_SHARE)
    return paid / in_int8, alone / in_int8
