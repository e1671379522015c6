"""Learned rounding of Q/DQ files. `repairs/rounding.py` does the same for torch models."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sensitivity.onnx_graph.levels import along
from sensitivity.onnx_graph.uses import Use
from sensitivity.quantizers.onnx.qdq import OnnxQdqModel
from sensitivity.quantizers.onnx.ranges import ON_GRID, float_weight, weight_on_grid
from sensitivity.quantizers.rounding import pack
from sensitivity.records import Range
from sensitivity.repairs.descent import MOST_INPUTS, OUTPUTS, learned_moves
from sensitivity.repairs.onnx_bias import Biases, weights_in_force
from sensitivity.repairs.onnx_kernels import Kernel, kernel_of
from sensitivity.repairs.samples import Advance, Parts
from sensitivity.repairs.windows import Indices
from sensitivity.seeds import generator
from sensitivity.simulators.onnx.layers import Layers
from sensitivity.simulators.onnx.network import Unsplittable

Arrays = list[NDArray[Any]]

WEIGHT_INPUT = 1
"""Index of the weight among the inputs of an operation that has a `Kernel`."""


def learned_in_file(
    source: OnnxQdqModel, parts: Parts, ranges: Iterable[Range], left_out: Collection[str]
) -> dict[str, Range]:
    """Return weight quantizer -> its range, with a learned rounding where one is better and a bias
    correction.

    ranges: ranges that replace those of quantizers, without biases and roundings.
    left_out: quantizers that stay disabled.
    Returns nothing for a file that cannot be run in parts.
    """
    known = {changed.quantizer: changed for changed in ranges}
    in_force = weights_in_force(source, known, left_out)
    weights = {name: new_range for name, new_range in in_force.items() if not new_range.fp8}
    off = frozenset(left_out) | source.model.skipped
    with source.with_ranges({**known, **weights}.values()):
        try:
            layers = Layers(source.model, parts.joined())
            with parts.show(2 * len(weights)) as advance:
                learner = _Learner(source, weights, advance)
                biases, learn = learner.biases, learner.learn
                layers.run(layers.everything, biases.nodes, learner.keep)
                operations = {name: layer.node for name, layer in learner.layers.items()}
                layers.run(off, biases.nodes, biases.correct, operations, learn)
        except Unsplittable:
            return {}
    deltas, learned = learner.biases.deltas, {**weights, **learner.learned}
    return {name: replace(learned[name], bias=delta) for name, delta in deltas.items()}


@dataclass(frozen=True, eq=False)
class _Layer:
    """An operation whose rounding can be learned.

    use: use of its weight.
    weight: its float values.
    """

    node: ir.Node
    use: Use
    weight: NDArray[Any]
    kernel: Kernel


@dataclass(frozen=True, eq=False)
class _Target:
    """Float outputs of a layer, which the quantized layer should reproduce.

    positions: for each piece of the batch, sampled positions of its output, ascending.
    outputs: float32[n, channels], the outputs at these positions of all pieces.
    sides: sides of the output, without its samples and channels.
    """

    positions: Sequence[Indices]
    outputs: NDArray[np.float32]
    sides: tuple[int, ...]


class _Learner:
    """Learns the roundings and biases of a file, one layer after the other."""

    def __init__(
        self, source: OnnxQdqModel, weights: Mapping[str, Range], advance: Advance
    ) -> None:
        self._source, self._weights = source, weights
        self._targets: dict[str, _Target] = {}
        self.biases = Biases(source, weights, advance)
        self.layers = _layers(source, weights)
        self.learned: dict[str, Range] = {}

    def keep(self, name: str, output: Arrays) -> None:
        """Keep the target of a layer, sampled from its float output."""
        self.biases.keep(name, output)
        if name not in self.layers:
            return
        rows = [np.moveaxis(array, self.biases.axis(name), -1) for array in output]
        shape = rows[0].shape[:-1]
        count = int(np.prod(shape))
        drawn = np.sort(generator().permutation(count * len(rows))[:OUTPUTS])
        positions = [drawn[drawn // count == piece] % count for piece in range(len(rows))]
        sampled = [
            row.reshape(count, -1)[at].astype(np.float32)
            for row, at in zip(rows, positions, strict=True)
        ]
        self._targets[name] = _Target(positions, np.concatenate(sampled), shape[1:])

    def learn(self, name: str, inputs: Sequence[Mapping[int, NDArray[Any]]]) -> dict[int, Any]:
        """Learn the rounding of a layer's weight, and return the rounded weight by the index of
        its input."""
        layer, target = self.layers[name], self._targets.pop(name)
        sampled = [
            layer.kernel.inputs_of(positions, piece[0], target.sides)
            for piece, positions in zip(inputs, target.positions, strict=True)
        ]
        weight = np.moveaxis(layer.weight, layer.kernel.axis, 0)
        moves = learned_moves(
            weight.astype(np.float32),
            self._source.grid(name),
            np.concatenate(sampled),
            target.outputs,
        )
        if not moves.any():
            return {}
        stored = np.moveaxis(moves, 0, layer.kernel.axis)
        self.learned[name] = replace(self._weights[name], rounding=pack(stored))
        grid = self._source.new_grids([self.learned[name]])[name]
        return {WEIGHT_INPUT: weight_on_grid(layer.use, grid)}


def _layers(source: OnnxQdqModel, weights: Collection[str]) -> dict[str, _Layer]:
    """Return the layers of these weights whose rounding can be learned."""
    layers = {}
    for path in source.model.paths:
        is_direct = path.is_weight and len(path.links) == 1
        if is_direct and path.last_use.name in weights:
            layer = _layer(source, path.last_use, path.operation)
            if layer is not None:
                layers[path.last_use.name] = layer
    return layers


def _layer(source: OnnxQdqModel, use: Use, node: ir.Node) -> _Layer | None:
    """Return the layer; None if it has too many inputs, if `kernel_of` does not know how it reads
    them, or if all that is known of its weight are the levels."""
    weight = float_weight(source.model, use)
    kernel = None if weight is None else kernel_of(node, weight.shape)
    if weight is None or kernel is None:
        return None
    grid = source.grid(use.name)
    steps = weight / along(grid.scale, grid.axis, weight.ndim)
    is_on_grid = np.abs(steps - np.rint(steps)).max(initial=0.0) <= ON_GRID
    is_small = weight.size // weight.shape[kernel.axis] <= MOST_INPUTS
    return _Layer(node, use, weight, kernel) if is_small and not is_on_grid else None
