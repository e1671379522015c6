"""What a .tflite file holds, as plain records that need no package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

QUANTIZED = ("INT8", "UINT8", "INT16")
"""Types whose numbers stand for real ones between two operators."""


@dataclass(frozen=True, eq=False)
class Grid:
    """What the numbers of a quantized tensor mean: (number - zero point) * scale.

    scales: float32[n]. zero_points: int64[n]. axis: of the n channels; 0 where n is 1.
    """

    scales: Array
    zero_points: Array
    axis: int = 0

    @property
    def per_channel(self) -> bool:
        """Whether channels have scales of their own."""
        return self.scales.size > 1

    def same_as(self, other: Grid | None) -> bool:
        """Return whether both give every number the same meaning."""
        if other is None or self.scales.size != other.scales.size:
            return False
        same_scales = np.array_equal(self.scales, other.scales)
        return same_scales and np.array_equal(self.zero_points, other.zero_points)


@dataclass(frozen=True, eq=False)
class Tensor:
    """name: unique, and as in the file wherever that is. type: as in the schema, "INT8". grid: None
    for numbers that mean themselves. values: of a constant, in `shape`; None for any other."""

    name: str
    shape: tuple[int, ...]
    type: str
    grid: Grid | None = None
    values: Array | None = None


@dataclass(frozen=True, eq=False)
class Operator:
    """kind: as in the schema, "CONV_2D"; of a custom operator "CUSTOM:" and its code. inputs,
    outputs: indices of tensors; -1 for an input that is left out. options: by their names in the
    schema, paddings and activations as words. place: number in the file, from 0."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any]
    place: int


@dataclass(frozen=True, eq=False)
class Graph:
    """file: its name, for messages. inputs, outputs: indices of tensors."""

    file: str
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
