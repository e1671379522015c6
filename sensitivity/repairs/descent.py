"""The choice between the two neighbouring levels of each weight, from the inputs and the float
outputs of its layer.

The mean squared error of an output channel is a quadratic form of its weights (Nagel et al. 2020,
"Up or down? Adaptive rounding for post-training quantization", section 3). It is minimized by
coordinate descent, as in Zhang et al. 2024, "COMQ", without gradients or a learning rate.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity.records import Grid

OUTPUTS = 8192
"""Positions of a layer's output, over all samples, on which its rounding is learned. With 20,000
positions for MobileNetV1's 200 images the outputs came no nearer to float."""

MOST_INPUTS = 2304
"""Largest number of inputs of one output for which rounding is learned, that of 3x3 kernels over
256 channels. The matrix has this many rows and columns. Larger layers keep their rounding."""

RIDGE = 1e-3
"""Penalty for moving off the float weights, as a fraction of the mean square of an input. If there
are only as many outputs as inputs, the penalty equals that mean square."""

SWEEPS = 2
"""Passes of the coordinate descent over all inputs of a layer."""

ROWS = 1024
"""Positions whose products are added up at a time."""

Array = NDArray[Any]


def learned_moves(weight: Array, grid: Grid, seen: Array, outputs: Array) -> NDArray[np.int8]:
    """Return by how many levels each weight moves off its nearest level: -1, 0 or 1.

    Both the inputs and the outputs are centred, since the bias takes up their means.

    weight: [channels, ...], with the output channels first.
    grid: of the weight; one scale, or one for each output channel.
    seen: [n, groups, inputs], the inputs of the kernel.
    outputs: [n, channels], the float outputs at the same positions.
    """
    groups, inputs = seen.shape[1:]
    channels = len(weight) // groups
    scale = np.broadcast_to(grid.scale.reshape(-1), len(weight)).reshape(groups, channels, 1)
    low, high = grid.low - grid.zero_point, grid.high - grid.zero_point
    steps = (weight.reshape(groups, channels, inputs) / scale).astype(np.float64)
    square, mixed = _moments(seen, outputs)
    diagonal = np.diagonal(square, axis1=1, axis2=2)
    ridge = (RIDGE + inputs / len(seen)) * diagonal.mean(axis=1)
    ridge = np.maximum(ridge, 1e-30).reshape(-1, 1, 1)
    square = square + ridge * np.eye(inputs)
    mixed = mixed / scale.astype(np.float64) + ridge * steps
    nearest = np.clip(np.rint(steps), low, high)
    other = np.clip(nearest + np.sign(steps - nearest), low, high)
    chosen = _descended(square, mixed, nearest, other)
    return np.asarray((chosen - nearest).reshape(weight.shape), np.int8)


def _moments(seen: Array, outputs: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean products of centred inputs with each other, [groups, inputs, inputs], and
    with centred outputs, [groups, channels, inputs].

    seen, outputs: as for `learned_moves`. Only `ROWS` of them are held in float64 at a time.
    """
    groups, inputs = seen.shape[1:]
    channels = outputs.shape[1] // groups
    mean_seen, mean_output = seen.mean(axis=0), outputs.mean(axis=0)
    square, mixed = np.zeros((groups, inputs, inputs)), np.zeros((groups, channels, inputs))
    for start in range(0, len(seen), ROWS):
        rows = slice(start, start + ROWS)
        centred = np.moveaxis(seen[rows] - mean_seen, 1, 0).astype(np.float64)
        wanted = (outputs[rows] - mean_output).astype(np.float64)
        by_group = wanted.reshape(len(wanted), groups, channels)
        square += centred.transpose(0, 2, 1) @ centred
        mixed += by_group.transpose(1, 2, 0) @ centred
    return square / len(seen), mixed / len(seen)


def _descended(square: Array, mixed: Array, nearest: Array, other: Array) -> NDArray[np.float64]:
    """Choose for each weight its nearest or its other level, minimizing w S w - 2 w M by coordinate
    descent.

    S is `square` and M is `mixed`. All channels are treated at once. Returns levels [groups,
    channels, inputs].
    """
    low, high = np.minimum(nearest, other), np.maximum(nearest, other)
    chosen = nearest.copy()
    residual = mixed - chosen @ square
    for _ in range(SWEEPS):
        for at in range(chosen.shape[-1]):
            diagonal = square[:, at, at][:, None]
            best = np.rint(chosen[:, :, at] + residual[:, :, at] / diagonal)
            level = np.clip(best, low[:, :, at], high[:, :, at])
            move = level - chosen[:, :, at]
            residual -= move[:, :, None] * square[:, at][:, None]
            chosen[:, :, at] = level
    return chosen
