"""Types in which a Q/DQ pair can store its levels, and the level that a value becomes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sensitivity.errors import ExportError
from sensitivity.records import Grid

Array = NDArray[np.float32]

E4M3 = ir.DataType.FLOAT8E4M3FN
INTEGERS = {4: ir.DataType.INT4, 8: ir.DataType.INT8, 16: ir.DataType.INT16}
"""Number of bits -> signed integer type that QuantizeLinear gives."""

FIRST_OPSET = {E4M3: 19, ir.DataType.INT4: 21, ir.DataType.INT16: 21}
"""Type -> first opset in which QuantizeLinear has it. INT8 has been there since opset 13."""

BLOCKS_OPSET = 21
"""First opset in which QuantizeLinear has a scale per block."""

OPSET = 17
"""Opset of files that hold INT8 alone: the newest that TensorRT 8.6 reads."""


def level_type(name: str, grid: Grid) -> ir.DataType:
    """Return the type of a grid's levels in a file.

    name: name of the quantizer, for the message.
    Raises ExportError unless the grid is FP8 E4M3, or symmetric and signed with 4, 8 or 16 bits,
    full or narrow.
    """
    if grid.is_float:
        return E4M3
    kinds = {2 ** (bits - 1) - 1: kind for bits, kind in INTEGERS.items()}
    is_symmetric = grid.zero_point == 0 and grid.low in {-grid.high, -grid.high - 1}
    if is_symmetric and grid.high in kinds:
        return kinds[grid.high]
    raise ExportError(
        f"Expected {name} to be symmetric and signed with 4, 8 or 16 bits, got integers {grid.low} "
        f"to {grid.high} with zero point {grid.zero_point}; calibrate it with a symmetric range "
        "(unsigned=False in ModelOpt and pytorch-quantization, qscheme=torch.per_tensor_symmetric "
        "in PT2E), or leave its layer out."
    )


def opset_of(name: str, grid: Grid) -> int:
    """Return the first opset that has this grid; 0 if every opset has it. Raises as
    `level_type`."""
    first = FIRST_OPSET.get(level_type(name, grid), 0)
    if grid.block is None:
        return first
    return max(first, BLOCKS_OPSET)


def numpy_type(kind: ir.DataType) -> np.dtype[np.generic]:
    """Return the numpy type of arrays of levels."""
    return np.dtype(kind.numpy())


def nearest_levels(steps: NDArray[np.floating], kind: ir.DataType) -> Array:
    """Return the levels that Q gives, as float32 of the same shape: rounded half to even, and
    clipped to the type.

    steps: values divided by their scales, of any shape.

    >>> nearest_levels(np.float32([0.5, 1.5, -200.0]), ir.DataType.INT8).tolist()
    [0.0, 2.0, -128.0]
    >>> nearest_levels(np.float32([0.49, 17.2, 500.0]), E4M3).tolist()
    [0.5, 18.0, 448.0]
    """
    low, high = limits_of(kind)
    clipped = np.clip(steps, low, high)
    if kind.is_floating_point():
        rounded: Array = clipped.astype(numpy_type(kind)).astype(np.float32)
        return rounded
    levels: Array = np.rint(clipped).astype(np.float32)
    return levels


def limits_of(kind: ir.DataType) -> tuple[float, float]:
    """Return the smallest and largest level of a type."""
    if kind.is_floating_point():
        largest = float(ml_dtypes.finfo(kind.numpy()).max)  # type: ignore[no-untyped-call]
        return -largest, largest
    levels = 2 ** int(kind.bitwidth)
    low = -(levels // 2) if kind.is_signed() else 0
    return low, low + levels - 1


def broadcast_scale(scale: Array, grid: Grid, shape: tuple[int, ...]) -> Array:
    """Return a grid's scales in a shape that broadcasts against a tensor of this shape."""
    if grid.block is not None and grid.axis is not None:
        size = shape[grid.axis]
        return np.repeat(scale, grid.block, axis=grid.axis).take(range(size), axis=grid.axis)
    return along(scale, grid.axis, len(shape))


def along(scale: np.ndarray, axis: int | None, ndim: int) -> np.ndarray:
    """Return a scale [channels] in a shape that broadcasts along `axis` of a tensor with `ndim`
    axes.

    axis: None for one scale per tensor.
    """
    if axis is None or scale.size == 1:
        return scale.reshape(())
    shape = [1] * ndim
    shape[axis] = -1
    return scale.reshape(shape)
