"""Cost of skip-sets, from the arithmetic of a model's layers or from their measured times."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from sensitivity.cost.table import Table
from sensitivity.onnx_graph.work import OUTSIDE, Layer, LayerShape, Link, Work
from sensitivity.records import WIDE_SHARE, Border, CostModel, Raise, Unit, names_of

INT8_SPEED = 4.0
"""Multiply-accumulates in INT8 in the time of one in float: vectors have 4 times as many lanes of a
quarter of the width."""

MACS_PER_BYTE = 16.0
"""Multiply-accumulates in float32 in the time that a machine needs to move one byte."""

INSTEAD = {"table": "; --cost engine measures whole files"}

LEAST_SCALE, MOST_SCALE = 1 / 3, 3.0
"""Smallest and largest scale that corrects the sum of single layers to the whole engines. With a
scale outside, the table measures something else."""


def unit_of_layer(layers: Sequence[Layer], units: Sequence[Unit]) -> dict[str, tuple[str, ...]]:
    """Return node -> the units that take it out of INT8.

    If units are single quantizers, these are the units of its input and of its weight.
    """
    owner = _owner(units)
    units_of = {}
    for layer in layers:
        owners = filter(None, map(owner.get, layer.quantizers))
        units_of[layer.node] = tuple(dict.fromkeys(owners))
    return units_of


def _owner(units: Iterable[Unit]) -> dict[str, str]:
    """Return quantizer -> its unit."""
    owner = dict[str, str]()
    for unit in units:
        owner |= dict.fromkeys(unit.quantizers, unit.name)
    return owner


def work_cost(work: Work, units: Sequence[Unit]) -> CostModel:
    """Return the cost in float32 multiply-accumulates, from arithmetic and bytes instead of times.

    This is a roofline model (Williams et al. 2009) with a fixed balance of arithmetic and memory.
    """
    base, added, borders = 0.0, {}, []
    for layer in work.layers:
        in_int8 = _roofline(layer.shape, INT8=True)
        base += in_int8
        added[layer.node] = _roofline(layer.shape, INT8=False) - in_int8
    for link in work.links:
        # Each value is read as 1 byte and written as 4, or the other way round.
        cost = MACS_PER_BYTE * 5 * float(np.prod(link.size))
        borders.append((link.before, link.after, cost))
    owners = unit_of_layer(work.layers, units)
    per_unit = _per_unit(added, owners, units)
    return CostModel("macs", "work", base, per_unit, _between_units(borders, owners))


def operations_cost(work: Work, units: Sequence[Unit]) -> CostModel:
    """Return the cost in multiply-accumulates alone, for processors that keep activations on the
    chip.

    What a unit adds is its multiply-accumulates; everything in INT8 costs nothing.
    """
    macs = {layer.node: float(layer.shape.macs) for layer in work.layers}
    per_unit = _per_unit(macs, unit_of_layer(work.layers, units), units)
    return CostModel("operations", "work", 0.0, per_unit)


def with_raises(cost: CostModel, work: Work, units: Sequence[Unit]) -> CostModel:
    """Return the cost for a target whose operations read and write one type.

    A layer then runs in 16 bits if a unit that reads what it writes does, or runs in float. Its
    share of its unit's cost is that of its multiply-accumulates.
    """
    owner = _owner(units) | {OUTSIDE: OUTSIDE}
    # If units are single quantizers, the first one of a layer is that of its activation.
    first = {node: own[0] for node, own in unit_of_layer(work.layers, units).items() if own}
    macs = defaultdict[str, int](int)
    for layer in work.layers:
        macs[first.get(layer.node, OUTSIDE)] += layer.shape.macs
    raises = []
    for layer in work.layers:
        name = first.get(layer.node)
        readers = dict.fromkeys(map(owner.get, work.readers[layer.node]))
        others = tuple(reader for reader in readers if reader not in {None, name})
        if name is not None and others:
            part = layer.shape.macs / max(macs[name], 1)
            raises.append(Raise(name, others, WIDE_SHARE * part * cost.units[name]))
    return replace(cost, raises=tuple(raises))


def table_cost(
    work: Work,
    units: Sequence[Unit],
    table: Table,
    int8_ms: float | None = None,
    float_ms: float | None = None,
) -> CostModel:
    """Return the cost as the sum of the measured times of layers and conversions.

    int8_ms, float_ms: times of the whole engines; None if they were not measured. With both, the
        base is measured, and differences are scaled so that leaving everything out costs
        `float_ms`. A scale outside the limits is not used, and a note says so.
    """
    added = {layer.node: _difference(layer.shape, table) for layer in work.layers}
    borders = [(link.before, link.after, _conversion(link, table)) for link in work.links]
    base = sum(table.layer(layer.shape).int8 for layer in work.layers)
    owners = unit_of_layer(work.layers, units)
    per_unit = _per_unit(added, owners, units)
    model = CostModel("table", "ms", base, per_unit, _between_units(borders, owners))
    if int8_ms is None or float_ms is None:
        return model
    return _anchored(model, int8_ms, float_ms)


def _conversion(link: Link, table: Table) -> float:
    """Return the time to convert one tensor between float and INT8.

    A tensor from outside can only be quantized, and one to the outside only dequantized.
    """
    time = table.conversion(link.size)
    if link.before == OUTSIDE:
        return time.to_int8
    if link.after == OUTSIDE:
        return time.to_float
    return (time.to_int8 + time.to_float) / 2


def _anchored(model: CostModel, int8_ms: float, float_ms: float) -> CostModel:
    """Return the model scaled to the times of two whole engines, see `table_cost`."""
    every = tuple(model.units)
    span = model.of(every) - model.of(())
    scale = (float_ms - int8_ms) / span if span else 1.0
    note = ""
    if not LEAST_SCALE <= scale <= MOST_SCALE:
        note = (
            f"The {model.kind} says that leaving everything out of INT8 takes {span:+.3g} ms, the "
            f"whole engines say {float_ms - int8_ms:+.3g} ms: do not trust the predicted "
            f"times{INSTEAD.get(model.kind, '')}."
        )
        scale = 1.0
    borders = tuple(replace(border, cost=border.cost * scale) for border in model.borders)
    units = {unit: ms * scale for unit, ms in model.units.items()}
    scaled = replace(model, base=0.0, units=units, borders=borders, note=note)
    return replace(scaled, base=int8_ms - scaled.of(()))


def _per_unit(
    added: Mapping[str, float], owners: Mapping[str, tuple[str, ...]], units: Sequence[Unit]
) -> dict[str, float]:
    """Return what each unit adds to the cost if it is left out.

    added: the same for each node.
    """
    per_unit = dict.fromkeys(names_of(units), 0.0)
    for node, cost in added.items():
        for owner in owners[node]:
            per_unit[owner] += cost
    return per_unit


def _between_units(
    borders: Sequence[tuple[str, str, float]], owners: Mapping[str, tuple[str, ...]]
) -> tuple[Border, ...]:
    """Return the cost for each pair of units if only one of the two is left out.

    borders: the same for pairs of nodes, or of a node and OUTSIDE.
    """
    # If units are single quantizers, the first one of a layer represents it.
    first = {node: units[0] for node, units in owners.items() if units}
    merged = defaultdict[tuple[str, str], float](float)
    for before, after, cost in borders:
        unit, other = first.get(before, OUTSIDE), first.get(after, OUTSIDE)
        if unit == other:
            continue
        if unit == OUTSIDE:
            unit, other = other, unit
        merged[unit, other] += cost
    return tuple(Border(unit, other, cost) for (unit, other), cost in merged.items())


def _roofline(shape: LayerShape, *, INT8: bool) -> float:  # noqa: N803 - the word of the docs
    arithmetic, width = float(shape.macs), 4
    if INT8:
        arithmetic, width = shape.macs / INT8_SPEED, 1
    return max(arithmetic, MACS_PER_BYTE * shape.values * width)


def _difference(shape: LayerShape, table: Table) -> float:
    time = table.layer(shape)
    return time.float_ - time.int8
