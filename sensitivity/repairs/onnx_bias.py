"""Bias correction of Q/DQ files. `repairs/bias.py` does the same for torch models."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import ModelError
from sensitivity.quantizers.onnx.qdq import OnnxQdqModel
from sensitivity.records import Range
from sensitivity.repairs.samples import Advance, Parts
from sensitivity.simulators.onnx.layers import Layers
from sensitivity.simulators.onnx.network import Unsplittable


def corrections_in_file(
    source: OnnxQdqModel, parts: Parts, ranges: Iterable[Range], left_out: Collection[str]
) -> dict[str, tuple[Range, tuple[float, ...]]]:
    """Return {weight quantizer: (its range, correction of its operation's bias per output
    channel)}.

    ranges: ranges that replace those of quantizers.
    left_out: quantizers that stay disabled.
    Returns nothing for a file that cannot be run in parts.
    """
    known = {changed.quantizer: replace(changed, bias=None) for changed in ranges}
    weights = weights_in_force(source, known, left_out)
    off = frozenset(left_out) | source.model.skipped
    with source.with_ranges({**known, **weights}.values()):
        try:
            layers = Layers(source.model, parts.joined())
            with parts.show(2 * len(weights)) as advance:
                biases = Biases(source, weights, advance)
                layers.run(layers.everything, biases.nodes, biases.keep)
                layers.run(off, biases.nodes, biases.correct)
        except Unsplittable:
            return {}
    return {name: (weights[name], delta) for name, delta in biases.deltas.items()}


def weights_in_force(
    source: OnnxQdqModel, known: Mapping[str, Range], left_out: Collection[str]
) -> dict[str, Range]:
    """Return weight quantizer -> its range, for the operations whose bias can be changed.

    Replacing the range of a weight also turns its integer bias into float, so corrections are
    measured with all of these ranges replaced.

    known: ranges that replace those of quantizers.
    left_out: quantizers that stay disabled.
    """
    weights: dict[str, Range] = {}
    for name in source.model.bias_places.keys() - set(left_out):
        own = _range(source, name)
        if own is not None:
            weights[name] = known.get(name, own)
    return weights


def _range(source: OnnxQdqModel, name: str) -> Range | None:
    try:
        return source.range(name)
    except ModelError:  # FP8, blocks: no range to attach the bias to
        return None


class Biases:
    """The corrections of biases, found layer by layer.

    nodes: weight quantizer -> the operation that adds its layer's bias.
    deltas: weight quantizer -> correction per output channel.
    """

    def __init__(self, source: OnnxQdqModel, weights: Collection[str], advance: Advance) -> None:
        self._advance = advance
        self._places = {name: source.model.bias_places[name] for name in weights}
        self._expected: dict[str, NDArray[np.float64]] = {}
        self.nodes = {name: place.node for name, place in self._places.items()}
        self.deltas: dict[str, tuple[float, ...]] = {}

    def axis(self, name: str) -> int:
        """Return the axis of the channels in a layer's output."""
        return self._places[name].channel_axis

    def keep(self, name: str, output: list[NDArray[Any]]) -> None:
        """Keep the means of a float layer's output."""
        self._advance(1, 0)
        self._expected[name] = _channel_means(output, self.axis(name))

    def correct(self, name: str, output: list[NDArray[Any]]) -> list[NDArray[Any]] | None:
        """Return the corrected output of a quantized layer, and remember the correction."""
        self._advance(1, 0)
        axis = self.axis(name)
        error = (self._expected[name] - _channel_means(output, axis)).astype(output[0].dtype)
        if not np.isfinite(error).all():
            return None
        self.deltas[name] = tuple(error.astype(np.float32).tolist())
        shape = [1] * output[0].ndim
        shape[axis] = -1
        return [array + error.reshape(shape) for array in output]


def _channel_means(output: list[NDArray[Any]], axis: int) -> NDArray[np.float64]:
    """Return the means float64[channels] over all pieces of an output, which have equal sizes."""
    rows = [np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) for array in output]
    means = [row.mean(1, dtype=np.float64) for row in rows]
    return np.asarray(np.mean(means, axis=0), np.float64)
