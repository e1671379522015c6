"""Bias correction of Q/DQ files. `repairs/bias.py` does the same for torch models."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import ModelError
from sensitivity.quantizers.onnx.qdq import OnnxQdqModel
from sensitivity.records import Range
from sensitivity.repairs.samples import Parts
from sensitivity.simulators.onnx.layers import Layers
from sensitivity.simulators.onnx.network import Unsplittable


def lacking_biases(
    source: OnnxQdqModel, parts: Parts, ranges: Iterable[Range], left_out: Collection[str]
) -> dict[str, tuple[Range, tuple[float, ...]]]:
    """Return {weight quantizer: (its range, correction of its operation's bias per output
    channel)}.

    ranges: ranges that replace those of quantizers.
    left_out: quantizers that stay disabled.
    Returns nothing for a file that cannot be run in parts.
    """
    model = source.model
    known = {changed.quantizer: replace(changed, bias=None) for changed in ranges}
    weights: dict[str, Range] = {}
    for name in model.bias_places.keys() - set(left_out):
        own = _range(source, name)
        if own is not None:
            weights[name] = known.get(name, own)
    # Replacing the range of a weight also turns its integer bias into float, so the correction is
    # measured in that state.
    with source.with_ranges({**known, **weights}.values()):
        try:
            deltas = _deltas(source, weights, parts.joined(), frozenset(left_out))
        except Unsplittable:
            return {}
    return {name: (weights[name], delta) for name, delta in deltas.items()}


def _range(source: OnnxQdqModel, name: str) -> Range | None:
    try:
        return source.range(name)
    except ModelError:  # FP8, blocks: no range to attach the bias to
        return None


def _deltas(
    source: OnnxQdqModel, weights: Collection[str], inputs: Any, left_out: frozenset[str]
) -> dict[str, tuple[float, ...]]:
    model = source.model
    places = {name: model.bias_places[name] for name in weights}
    nodes = {name: place.node for name, place in places.items()}
    layers = Layers(model, inputs)
    expected: dict[str, NDArray[np.float64]] = {}
    deltas: dict[str, tuple[float, ...]] = {}

    def keep(name: str, output: list[NDArray[Any]]) -> None:
        expected[name] = _channel_means(output, places[name].channel_axis)

    def correct(name: str, output: list[NDArray[Any]]) -> list[NDArray[Any]] | None:
        axis = places[name].channel_axis
        lacking = (expected[name] - _channel_means(output, axis)).astype(output[0].dtype)
        if not np.isfinite(lacking).all():
            return None
        deltas[name] = tuple(lacking.astype(np.float32).tolist())
        shape = [1] * output[0].ndim
        shape[axis] = -1
        return [array + lacking.reshape(shape) for array in output]

    layers.run(layers.everything, nodes, keep)
    layers.run(left_out | model.skipped, nodes, correct)
    return deltas


def _channel_means(output: list[NDArray[Any]], axis: int) -> NDArray[np.float64]:
    """Return the means float64[channels] over all pieces of an output, which have equal sizes."""
    rows = [np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) for array in output]
    means = [row.mean(1, dtype=np.float64) for row in rows]
    return np.asarray(np.mean(means, axis=0), np.float64)
