"""Equalizes activations in Q/DQ files. `repairs/equalization.py` does the same for torch
models.

A file has no gradients. The squared slopes of what a depthwise convolution gives are known from the
activation after it, and its squared weights carry them back to each value that it reads.

The ranges of a tensor's channels are powers of two times one base, so that folding them into the
weights changes exponents alone. Any other factor rounds the weights before and after, and values on
the border of two levels then differ between the file and what was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.clamps import CLAMPING, RELU, UNLIMITED, Limits, limits_of
from sensitivity.onnx_graph.passes.fold_channel_scales import Link, can_fold, links
from sensitivity.onnx_graph.passes.skip_uses import SkipUses, can_be_per_channel, float_constant
from sensitivity.onnx_graph.uses import integer_limits, stored_type
from sensitivity.onnx_graph.walk import is_kind, not_none, only_user, value_name
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.quantizers.onnx.qdq import OnnxQdqModel
from sensitivity.records import Range
from sensitivity.repairs.channel_ranges import BINS, METHOD, SMALLEST
from sensitivity.repairs.samples import Parts
from sensitivity.repairs.slopes import LEAST_WEIGHT

Array = NDArray[Any]

STEPS = 8
"""Bases that are tried: candidate ranges in a factor of two."""

OCTAVES = 4
"""Factors of two in which the range of a channel may be: from an eighth of its largest value to
almost twice that."""

EIGHT_BITS = {"INT8", "UINT8"}

IMAGES = 4
"""Number of axes of images."""

LEAKY_SLOPE = 0.01
"""Slope of a LeakyRelu for negative values if the file does not state it."""


def even_links(source: Any) -> tuple[str, ...]:
    """Return the quantizers of a Q/DQ file whose ranges may be per channel, because the file can
    fold them into the weights around (`passes.fold_channel_scales`)."""
    return tuple(_links(source.model))


def equalized_in_file(
    source: OnnxQdqModel, names: Collection[str], parts: Parts
) -> tuple[Range, ...]:
    """Return a range per channel for each of these quantizers, with the smallest weighted mean
    squared error.

    A convolution before one, with a bias of integers, gets its own range again. Its bias
    becomes float, because its integers are on the grid of the weight as it was.
    """
    every = _links(source.model)
    fits = [_Fit(source, name, every[name]) for name in names if name in every]
    _show(source, fits, parts, _Fit.widen)
    _show(source, fits, parts, _Fit.count)
    givers = {fit.link.giver.name for fit in fits}
    weights = (use for use in source.model.uses if use.role == "weight" and use.unit in givers)
    freed = [source.range(use.name) for use in weights if use.name in source.model.biases]
    return (*(fit.range() for fit in fits), *freed)


def _links(model: OnnxModel) -> dict[str, Link]:
    """Return use -> the link of its pair, for pairs of 8 bits in the main graph."""
    if not can_be_per_channel(model.graph):
        return {}
    free = model.graph.clone()
    SkipUses(frozenset(model.biases.values()), model.weights)(free)
    foldable = {value_name(link.pair.output) for link in links(free.graph) if can_fold(link)}
    found = {link.pair.dequantize: link for link in links(model.graph.graph)}
    return {
        use.name: found[use.pair.dequantize]
        for use in model.uses
        if use.pair.dequantize in found
        and value_name(use.pair.output) in foldable
        and _has_a_range(use.pair)
    }


def _has_a_range(pair: qdq.Pair) -> bool:
    """Return whether the pair has one scale for 8-bit integers, some of which are above 0."""
    if stored_type(pair).name not in EIGHT_BITS or pair.axis is not None:
        return False
    _, high = integer_limits(pair)
    return bool(high > pair.zero_points[0])


class _Fit:
    """Fits the range of each channel of one value."""

    def __init__(self, source: OnnxQdqModel, name: str, link: Link) -> None:
        grid, clamps = source.grid(name), source.model.clamps
        self.link, self._name = link, name
        self._limits = clamps.get(value_name(link.pair.source), UNLIMITED)
        self._slopes = _Slopes(link, clamps)
        self._low, self._high = grid.low - grid.zero_point, grid.high - grid.zero_point
        # How far values reach below 0 at most, where they reach 1 above it.
        self._span = max(1.0, -self._low / self._high)
        self._peaks = np.zeros(link.channels)
        self._counts = np.zeros(link.channels * BINS)

    def widen(self, values: Array, _: Array) -> None:
        """Widen the largest value of each channel, in which its range is measured.

        values: float[n, channels, ...].
        """
        within = np.clip(_flat(values), *self._limits)
        self._peaks = np.maximum(self._peaks, within.max((0, 2)))
        if self._low < 0:
            below = within.min((0, 2)) * (self._high / self._low)
            self._peaks = np.maximum(self._peaks, below)

    def count(self, values: Array, given: Array) -> None:
        """Count the values of each channel by how much their errors matter.

        given: what the reader gives for the values.
        """
        ends = _candidates(self._ends) * self._span
        within = np.clip(_flat(values), *self._limits) / ends[:, None]
        bins = np.clip((within + 1) * (BINS / 2), 0, BINS - 1).astype(np.int64)
        bins += BINS * np.arange(self.link.channels)[:, None]
        weights = self._slopes.weights(given, values.shape)
        np.add.at(self._counts, bins.ravel(), weights.ravel())

    @property
    def _ends(self) -> Array:
        """The first candidate that holds the largest value of each channel, at least `SMALLEST` of
        all."""
        bounded = np.maximum(self._peaks, max(float(self._peaks.max()) * SMALLEST, 1e-6))
        return np.asarray(np.ceil(STEPS * np.log2(bounded)), np.int64)

    def range(self) -> Range:
        """Return the ranges whose weighted squared error is least, among powers of two times one
        base."""
        chosen = _with_one_base(self._ends, self._errors())
        return Range(self._name, METHOD, tuple(_candidates(chosen).tolist()), axis=1)

    def _errors(self) -> Array:
        """Return the weighted squared errors of all candidates near the end of each channel,
        float64[OCTAVES * STEPS, channels]."""
        centres = ((np.arange(BINS) + 0.5) * (2 / BINS) - 1) * self._span
        counts = self._counts.reshape(-1, BINS)

        def errors(part: float) -> Array:
            levels = np.clip(np.rint(centres * (self._high / part)), self._low, self._high)
            return np.asarray(counts @ np.square(levels * (part / self._high) - centres))

        first = STEPS * (1 - OCTAVES)
        parts = _candidates(np.arange(first, first + OCTAVES * STEPS))
        of_one = np.square(_candidates(self._ends), dtype=np.float64) * self._slopes.totals
        return np.asarray(np.stack([errors(part) for part in parts.tolist()]) * of_one)


def _candidates(steps: Array) -> Array:
    """Return candidate ranges, float32 in the shape of their numbers.

    Those whose numbers are STEPS apart differ by exactly a factor of two.

    >>> _candidates(np.array([-8, 0, 4, 12])).tolist()
    [0.5, 1.0, 1.4142135381698608, 2.8284270763397217]
    """
    octaves, rest = np.divmod(steps, STEPS)
    bases = np.exp2(np.arange(STEPS) / STEPS).astype(np.float32)
    return np.asarray(np.ldexp(bases[rest], octaves))


def _with_one_base(ends: Array, errors: Array) -> Array:
    """Return the number of the range of each channel, int64[channels], with the smallest sum of
    errors among ranges that differ by powers of two.

    ends: number of the candidate that holds each channel.
    errors: float64[OCTAVES * STEPS, channels]; of the candidates in turn, the first of which is
        OCTAVES - 1 factors of two below the end.
    """
    channels, by_octave = np.arange(len(ends)), errors.reshape(OCTAVES, STEPS, -1)
    numbers, sums = list[Array](), list[float]()
    for base in range(STEPS):
        above = (base - ends) % STEPS
        tried = by_octave[:, above, channels]
        numbers.append(ends + above + STEPS * (tried.argmin(0) + 1 - OCTAVES))
        sums.append(float(tried.min(0).sum()))
    return numbers[int(np.argmin(sums))]


def _flat(values: Array) -> Array:
    """Return the values with one axis after that of the channels."""
    return values.reshape(*values.shape[:2], -1)


class _Slopes:
    """Tells how much an error of each value matters to what the activation after the reader gives.

    Padding that the file does not state, and other than two-dimensional images, make all errors of
    a channel equal.

    totals: sum of the squared weights of each channel, float64[channels].
    """

    def __init__(self, link: Link, clamps: Mapping[str, Limits]) -> None:
        reader, output = link.reader, link.reader.outputs[0]
        activation = only_user(output)
        limits, self._outside = clamps.get(value_name(output), UNLIMITED), 0.0
        if is_kind(activation, *CLAMPING):
            limits = limits_of(activation) or limits
        if is_kind(activation, "LeakyRelu"):
            limits = RELU
            self._outside = activation.attributes.get_float("alpha", LEAKY_SLOPE) ** 2
        self._low, self._high = limits
        weight = _weight(reader)
        squared = np.square(weight.astype(np.float64)).reshape(link.channels, -1, *weight.shape[2:])
        self.totals = squared.sum(tuple(range(1, squared.ndim)))
        self._taps = _Taps(reader, squared)
        is_stated = reader.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
        self._all_equal = not is_stated or weight.ndim != IMAGES

    def weights(self, given: Array, shape: tuple[int, ...]) -> Array:
        """Return the weight of the error of each value, in this shape: at most 1.01."""
        if self._all_equal:
            return np.ones(shape)
        is_inside = (given > self._low) & (given < self._high)
        return (
            self._taps.carried_back(np.where(is_inside, 1.0, self._outside), shape) + LEAST_WEIGHT
        )


def _weight(reader: ir.Node) -> Array:
    """Return the weight of a depthwise convolution, in float."""
    value = qdq.weight(reader)
    pair = qdq.pair_of(value)
    return qdq.known(value) if pair is None else not_none(float_constant(pair))


class _Taps:
    """Carries numbers from the outputs of a depthwise convolution back to its inputs.

    weight: float64[channels, outputs of a channel, height, width].
    """

    def __init__(self, reader: ir.Node, weight: Array) -> None:
        attributes = reader.attributes
        self._strides = attributes.get_ints("strides", (1, 1))
        self._dilations = attributes.get_ints("dilations", (1, 1))
        self._pads = attributes.get_ints("pads", (0, 0, 0, 0))
        total = weight.sum(tuple(range(1, weight.ndim)), keepdims=True)
        self._weight = weight / np.where(total > 0, total, 1.0)

    def carried_back(self, numbers: Array, shape: tuple[int, ...]) -> Array:
        """Return, for each input, the sum of the numbers of the outputs that read it, each times
        its share of the channel's weights.

        numbers: float[n, outputs, height, width].
        shape: of the inputs.
        """
        samples, channels, *sides = shape
        numbers = numbers.reshape(samples, channels, -1, *numbers.shape[2:])
        top, left, bottom, right = self._pads
        padded = np.zeros((samples, channels, sides[0] + top + bottom, sides[1] + left + right))
        for place in np.ndindex(*self._weight.shape[2:]):
            part = np.einsum("nctyx,ct->ncyx", numbers, self._weight[:, :, *place])
            rows, columns = map(_every, place, self._dilations, self._strides, part.shape[2:])
            padded[:, :, rows, columns] += part
        return padded[:, :, top : top + sides[0], left : left + sides[1]]


def _every(tap: int, dilation: int, stride: int, outputs: int) -> slice:
    """Return where a tap of a convolution reads along one side."""
    first = tap * dilation
    return slice(first, first + stride * (outputs - 1) + 1, stride)


def _show(
    source: OnnxQdqModel,
    fits: Sequence[_Fit],
    parts: Parts,
    see: Callable[[_Fit, Array, Array], None],
) -> None:
    """Call `see` with each fit, what its link quantizes and what the reader of the link gives, for
    each piece of the samples in the float model."""
    ends = {fit: (fit.link.pair.source, fit.link.reader.outputs[0]) for fit in fits}
    names = list(dict.fromkeys(map(value_name, chain.from_iterable(ends.values()))))
    held: dict[str, Array] = {}

    def keep(name: str, array: Array) -> None:
        held[name] = array
        if len(held) < len(names):
            return
        for fit, values in ends.items():
            see(fit, *(held[value_name(value)] for value in values))
        held.clear()

    with source.model.watching(names, keep):
        source.forward(parts.joined())
