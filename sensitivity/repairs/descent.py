"""Chooses between the two neighbouring levels of each weight, from the inputs and the float
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

BLOCK = 64
"""Inputs after which the residuals of all others are brought up to date, by one matrix product: an
update of all of them after each input takes far longer to move through memory."""

Array = NDArray[Any]


def learned_moves(weight: Array, grid: Grid, inputs: Array, outputs: Array) -> NDArray[np.int8]:
    """Return by how many levels each weight moves off its nearest level: -1, 0 or 1.

    Both the inputs and the outputs are centred, since the bias takes up their means.

    weight: [channels, ...], with the output channels first.
    grid: of the weight; one scale, or one for each output channel.
    inputs: [n, groups, fan_in], the quantized inputs of the kernel at n positions of the output.
    outputs: [n, channels], the float outputs at the same positions.
    """
    groups, fan_in = inputs.shape[1:]
    channels = len(weight) // groups
    scale = np.broadcast_to(grid.scale.reshape(-1), len(weight)).reshape(groups, channels, 1)
    low, high = grid.low - grid.zero_point, grid.high - grid.zero_point
    steps = (weight.reshape(groups, channels, fan_in) / scale).astype(np.float64)
    covariance, cross = _covariances(inputs, outputs)
    variances = np.diagonal(covariance, axis1=1, axis2=2)
    ridge = (RIDGE + fan_in / len(inputs)) * variances.mean(axis=1)
    ridge = np.maximum(ridge, 1e-30).reshape(-1, 1, 1)
    quadratic = covariance + ridge * np.eye(fan_in)
    linear = cross / scale.astype(np.float64) + ridge * steps
    nearest = np.clip(np.rint(steps), low, high)
    other = np.clip(nearest + np.sign(steps - nearest), low, high)
    chosen = _coordinate_descent(quadratic, linear, nearest, other)
    return np.asarray((chosen - nearest).reshape(weight.shape), np.int8)


def _covariances(inputs: Array, outputs: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the covariances of the inputs, [groups, fan_in, fan_in], and those of outputs with
    inputs, [groups, channels, fan_in].

    inputs, outputs: as for `learned_moves`. Products of `ROWS` of them are summed in float32, and
    these sums in float64.
    """
    groups, fan_in = inputs.shape[1:]
    channels = outputs.shape[1] // groups
    mean_input, mean_output = inputs.mean(axis=0), outputs.mean(axis=0)
    covariance, cross = np.zeros((groups, fan_in, fan_in)), np.zeros((groups, channels, fan_in))
    for start in range(0, len(inputs), ROWS):
        rows = slice(start, start + ROWS)
        centred_inputs = np.moveaxis(inputs[rows] - mean_input, 1, 0)
        centred_outputs = outputs[rows] - mean_output
        by_group = centred_outputs.reshape(len(centred_outputs), groups, channels)
        covariance += centred_inputs.transpose(0, 2, 1) @ centred_inputs
        cross += by_group.transpose(1, 2, 0) @ centred_inputs
    return covariance / len(inputs), cross / len(inputs)


def _coordinate_descent(
    quadratic: Array, linear: Array, nearest: Array, other: Array
) -> NDArray[np.float64]:
    """Return the level of each weight, its nearest or its other one, [groups, channels, fan_in].

    The levels w of each channel minimize w Q w - 2 w L. All channels are treated at once.

    quadratic: Q, [groups, fan_in, fan_in].
    linear: L, [groups, channels, fan_in].
    """
    low, high = np.minimum(nearest, other), np.maximum(nearest, other)
    chosen = nearest.copy()
    residual = linear - chosen @ quadratic
    fan_in = chosen.shape[-1]
    for _ in range(SWEEPS):
        for start in range(0, fan_in, BLOCK):
            block = slice(start, start + BLOCK)
            before = chosen[:, :, block].copy()
            _sweep(
                quadratic[:, block, block],
                residual[:, :, block].copy(),
                chosen[:, :, block],
                low[:, :, block],
                high[:, :, block],
            )
            residual -= (chosen[:, :, block] - before) @ quadratic[:, block]
    return chosen


def _sweep(quadratic: Array, residual: Array, chosen: Array, low: Array, high: Array) -> None:
    """Move each input's levels in `chosen` to the best ones, given those of the inputs before it.

    residual: of the inputs, which is brought up to date on the way.
    low, high: levels between which those of each weight have to stay.
    """
    for at in range(chosen.shape[-1]):
        curvature = quadratic[:, at, at][:, None]
        best = np.rint(chosen[:, :, at] + residual[:, :, at] / curvature)
        level = np.clip(best, low[:, :, at], high[:, :, at])
        move = level - chosen[:, :, at]
        residual -= move[:, :, None] * quadratic[:, at][:, None]
        chosen[:, :, at] = level
