"""Reasons to doubt that a Q/DQ file with everything unquantized is its float model, if that was not
given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sensitivity.errors import listed
from sensitivity.onnx_graph.clamps import UNLIMITED
from sensitivity.onnx_graph.qdq import only_number
from sensitivity.onnx_graph.uses import grid_limits
from sensitivity.onnx_graph.walk import value_name
from sensitivity.quantizers.base import weights_and_activations
from sensitivity.quantizers.onnx.batches import feed
from sensitivity.quantizers.onnx.float_model import first_samples, run_batch, with_outputs
from sensitivity.quantizers.onnx.model import OnnxModel, session
from sensitivity.records import Finding, names_of

MUCH = 0.05
"""Fraction of a tensor's float values beyond its pair's range above which calibration does not
explain it. Clipping by percentile or entropy leaves out some tenths of a percent."""


def float_doubts(model: OnnxModel, inputs: Any) -> tuple[Finding, ...]:
    """Return one warning with all reasons, or nothing if there are none.

    inputs: one batch.
    Raises TaskError if the batch does not fit the file.
    """
    reasons = [*_integer_weights(model), *_clamping(model), *_beyond(model, inputs)]
    if not reasons:
        return ()
    message = (
        f"Expected {model.path.name} with everything unquantized to be its float model, which "
        f"cannot be proved without that: {'; '.join(reasons)}."
    )
    return (
        Finding(
            "float-doubtful",
            "warning",
            model.path.name,
            message,
            "Give --float-model, the file it was made from.",
        ),
    )


def _integer_weights(model: OnnxModel) -> Iterator[str]:
    """Yield a reason if the file has weights as integers only."""
    weights, _ = weights_and_activations(model.uses)
    stored = {use.pair.source.name for use in weights if use.pair.is_compact}
    if stored:
        yield f"it has only the integers of {len(stored)} weights, whose rounding cannot be undone"


def _clamping(model: OnnxModel) -> Iterator[str]:
    """Yield a reason if pairs clamp at 0."""
    if model.clamps:
        yield (
            f"{len(model.clamps)} pairs clamp at 0 ({listed(sorted(model.clamps))}): a Relu stays "
            "in their place, and whether they also stand for the other end of a Clip is not known"
        )


def _beyond(model: OnnxModel, inputs: Any) -> Iterator[str]:
    """Yield a reason if many of the float values are beyond the range of their pair."""
    off = model.without(frozenset(names_of(model.uses)))
    ranges = _ranges_of_computed(model, off)
    if not ranges:
        return
    arrays = first_samples(feed(inputs, names_of(model.get_inputs())), 1)
    runner = session(with_outputs(off, list(ranges)), model.path.name, model.custom_ops)
    values = run_batch(runner, arrays, list(ranges))
    shares = {name: _share_beyond(values[name], name, model, ends) for name, ends in ranges.items()}
    by_share = sorted(shares, key=shares.__getitem__, reverse=True)
    much = [name for name in by_share if shares[name] > MUCH]
    if not much:
        return
    most, others = much[0], much[1:]
    elsewhere = f", and more than {MUCH:.0%} on {listed(others)}" if others else ""
    yield (
        f"of the float values of one sample {shares[most]:.0%} are beyond the range of the pair on "
        f"{most}{elsewhere}: the pair may stand for a Clip, or was calibrated on other data"
    )


def _ranges_of_computed(model: OnnxModel, off: ir.Model) -> dict[str, tuple[float, float]]:
    """Return `_ranges` for the tensors that an operation of the unquantized graph computes."""
    ranges = _ranges(model)
    computed: set[str] = set()
    for node in off.graph:
        computed.update(map(value_name, node.outputs))
    return {name: ranges[name] for name in ranges if name in computed}


def _ranges(model: OnnxModel) -> dict[str, tuple[float, float]]:
    """Return tensor -> smallest and largest value of its pair's grid, for pairs with one scale."""
    _, activations = weights_and_activations(model.uses)
    ranges = {}
    for use in activations:
        pair, limits = use.pair, grid_limits(use.pair)
        step = only_number(pair.scale)
        if pair.quantize is None or limits is None or step is None:
            continue
        offset = 0.0 if pair.zero_point is None else float(pair.zero_point.reshape(-1)[0])
        low, high = limits
        ranges[value_name(pair.source)] = ((low - offset) * step, (high - offset) * step)
    return ranges


def _share_beyond(
    values: NDArray[Any], name: str, model: OnnxModel, ends: tuple[float, float]
) -> float:
    """Return the fraction of the values beyond the ends. What a remaining Relu clamps is not
    counted."""
    if not values.size:
        return 0.0
    low, high = ends
    values = np.clip(values, *model.clamps.get(name, UNLIMITED))
    slack = 0.01 * (high - low)
    outside = (values < low - slack) | (values > high + slack)
    return float(outside.mean())
