"""Cost of units from whole engines: a Bayesian linear model of engines with one or several units
left out.

Two builds of one file differ by some percent, and so does the sum of single layers from the whole
engine. A layer may cost no more than that. Each unit is therefore left out of several engines, as
light objects are weighed together (Hotelling 1944, "Some improvements in weighing and other
experimental techniques"), and its time in the table counts too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from sensitivity.records import CostModel
from sensitivity.seeds import generator
from sensitivity.stats.evidence import likeliest

TOGETHER, PARTITIONS = 8, 3
"""Approximate number of units left out together, and how often every unit is in such a set."""

SHARES = (0.0, 0.25, 0.5, 1.0, 2.0)
"""Fractions of the table's time for a border that are tried. It is next to nothing if the layer in
front converts while it writes."""

SCALES, NOISES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0), (0.003, 0.01, 0.03, 0.1, 0.3, 0.6, 1.0, 1.5, 2.0)
"""Variances of the units' times about the table's, and standard deviations of engines about the
sum, that are tried. Both are relative to what leaving one unit out adds."""

FITS = 0.1
"""Largest error of the model for the float engine, as a fraction of its time, that gives no
note."""

OUT_OF_HAND = (
    "Engines with some units out of INT8 add up to {says:.3g} ms for all of them, the float engine "
    "takes {whole:.3g} ms: do not trust the predicted times of large skip-sets."
)


def engine_sets(units: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the skip-sets to time: none, all, each unit alone, and random partitions of all
    units."""
    rng = generator()
    sets = [(), tuple(units), *((unit,) for unit in units)]
    number = max(2, round(len(units) / TOGETHER))
    for _ in range(PARTITIONS):
        parts = np.array_split(rng.permutation(len(units)), number)
        sets += [tuple(units[place] for place in sorted(part)) for part in parts]
    return list(dict.fromkeys(sets))


def engine_cost(table: CostModel, ms: Mapping[tuple[str, ...], float]) -> CostModel:
    """Return the cost of units that agrees best with the measured times of whole engines.

    The share of the borders' time, the distance of units from the table and that of engines from
    the sum are those under which the measured times are likeliest.

    table: made by `table_cost`, scaled to the engines of all INT8 and of float. It is the prior of
        each unit and of each border.
    ms: skip-set -> time of its engine, for the sets of `engine_sets`.
    """
    every, int8_ms = tuple(table.units), ms[()]
    sets = [skip for skip in ms if skip]
    added = np.array([ms[skip] - int8_ms for skip in sets])
    out = np.array([np.isin(every, skip) for skip in sets], dtype=np.float64)
    guess = np.array(list(table.units.values()))
    moved = np.array([_cut(table, skip) - _cut(table, ()) for skip in sets])
    size = max(float(np.sqrt(np.mean(added[out.sum(axis=1) == 1] ** 2))), 1e-9)
    own, noises = size**2 * out @ out.T, [size * noise for noise in NOISES]
    surprises = [added - out @ guess - share * moved for share in SHARES]
    fits = [likeliest(own, surprise, SCALES, noises) for surprise in surprises]
    best = max(range(len(SHARES)), key=lambda at: fits[at].log_likelihood)
    share, known = SHARES[best], fits[best]
    units = guess + known.scale * size**2 * out.T @ (known.inverse @ surprises[best])
    model = CostModel(
        kind="engine",
        unit="ms",
        base=int8_ms - share * _cut(table, ()),
        units=dict(zip(every, units.tolist(), strict=True)),
        borders=tuple(replace(border, cost=border.cost * share) for border in table.borders),
        error=known.noise,
    )
    float_ms = ms[every]
    if abs(model.of(every) - float_ms) <= FITS * float_ms:
        return model
    return replace(model, note=OUT_OF_HAND.format(says=model.of(every), whole=float_ms))


def _cut(model: CostModel, skip: Sequence[str]) -> float:
    return model.of(skip) - model.base - sum(model.units[unit] for unit in skip)
