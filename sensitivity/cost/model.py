"""From the work of a model's layers to what each skip-set costs: by arithmetic, or by measured
times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from sensitivity.cost.table import Table
from sensitivity.onnx_graph.work import OUTSIDE, Layer, LayerShape, Work
from sensitivity.records import Border, CostModel, Unit

INT8_SPEED = 4.0
"""Multiply-accumulates that integer units do while float ones do one: 4 times as many lanes of a
quarter of the width."""

MACS_PER_BYTE = 16.0
"""Multiply-accumulates in float32 that a machine does while it moves one byte."""

INSTEAD = {"table": "; --cost engine measures whole files"}

LEAST_SCALE, MOST_SCALE = 1 / 3, 3.0
"""Between these the sum of single layers is corrected to the whole engines; beyond, the table is of
something else."""


def unit_of_layer(layers: Sequence[Layer], units: Sequence[Unit]) -> dict[str, tuple[str, ...]]:
    """Node -> the units that take it out of INT8: of single quantizers, that of its input and that
    of its weight."""
    owner = {quantizer: unit.name for unit in units for quantizer in unit.quantizers}
    found = {}
    for layer in layers:
        owners = [owner[name] for name in layer.quantizers if name in owner]
        found[layer.node] = tuple(dict.fromkeys(owners))
    return found


def work_cost(work: Work, units: Sequence[Unit]) -> CostModel:
    """Arithmetic and bytes: a roofline (Williams et al. 2009) of stated balance, in float32
    multiply-accumulates. No time."""
    added = {
        layer.node: _roofline(layer.shape, INT8=False) - _roofline(layer.shape, INT8=True)
        for layer in work.layers
    }
    moved = {
        link: MACS_PER_BYTE * 5 * float(np.prod(link.size)) for link in work.links
    }  # 1 byte read, 4 written, or back
    borders = [(link.before, link.after, moved[link]) for link in work.links]
    base = sum(_roofline(layer.shape, INT8=True) for layer in work.layers)
    return _model("macs", "work", base, added, borders, unit_of_layer(work.layers, units), units)


def table_cost(
    work: Work,
    units: Sequence[Unit],
    table: Table,
    int8_ms: float | None = None,
    float_ms: float | None = None,
) -> CostModel:
    """Measured times of layers and conversions, put together.

    int8_ms, float_ms: of the whole engines. With them the base is what is measured, and differences
    are scaled so that the model says `float_ms` for everything left out; a scale that is out of
    hand is not used.
    """
    added = {layer.node: _difference(layer.shape, table) for layer in work.layers}
    borders = []
    for link in work.links:
        time = table.conversion(link.size)
        # A tensor from outside can only be quantized, one to the outside only dequantized.
        cost = time.to_int8 if link.before == OUTSIDE else time.to_float
        if OUTSIDE not in (link.before, link.after):
            cost = (time.to_int8 + time.to_float) / 2
        borders.append((link.before, link.after, cost))
    base = sum(table.layer(layer.shape).int8 for layer in work.layers)
    owners = unit_of_layer(work.layers, units)
    model = _model("table", "ms", base, added, borders, owners, units)
    return model if int8_ms is None or float_ms is None else _anchored(model, int8_ms, float_ms)


def _anchored(model: CostModel, int8_ms: float, float_ms: float) -> CostModel:
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
    borders = tuple(Border(one.a, one.b, one.cost * scale) for one in model.borders)
    units = {unit: ms * scale for unit, ms in model.units.items()}
    scaled = replace(model, base=0.0, units=units, borders=borders, note=note)
    return replace(scaled, base=int8_ms - scaled.of(()))


def _model(
    kind: str,
    unit: str,
    base: float,
    added: Mapping[str, float],
    borders: Sequence[tuple[str, str, float]],
    owners: Mapping[str, tuple[str, ...]],
    units: Sequence[Unit],
) -> CostModel:
    per_unit = {one.name: 0.0 for one in units}
    for node, value in added.items():
        for owner in owners[node]:
            per_unit[owner] += value
    merged: dict[tuple[str, str], float] = {}
    for before, after, cost in borders:
        # With single quantizers as units, the first one of a layer stands for it.
        a, b = (owners[node][0] if owners.get(node) else OUTSIDE for node in (before, after))
        if a != b:
            key = (b, a) if a == OUTSIDE else (a, b)
            merged[key] = merged.get(key, 0.0) + cost
    found = tuple(Border(a, b, cost) for (a, b), cost in merged.items())
    return CostModel(kind, "ms" if unit == "ms" else "work", base, per_unit, found)


def _roofline(shape: LayerShape, *, INT8: bool) -> float:  # noqa: N803 - the word of the docs
    arithmetic = shape.macs / INT8_SPEED if INT8 else float(shape.macs)
    return max(arithmetic, MACS_PER_BYTE * shape.values * (1 if INT8 else 4))


def _difference(shape: LayerShape, table: Table) -> float:
    time = table.layer(shape)
    return time.float_ - time.int8
