"""Contents of a .tflite file as plain records that need no package."""

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
    """The meaning of a quantized tensor's numbers: (number - zero point) * scale.

    scales: float32[n].
    zero_points: int64[n].
    axis: axis of the n channels; 0 if n is 1.
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
    """A tensor of the file.

    name: unique name, the file's own if that is unique.
    type: type as in the schema, such as "INT8".
    grid: None for numbers that stand for themselves.
    values: values of a constant, in `shape`; None for any other tensor.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    grid: Grid | None = None
    values: Array | None = None


@dataclass(frozen=True, eq=False)
class Operator:
    """An operator of the file.

    kind: kind as in the schema, such as "CONV_2D"; "CUSTOM:" and its code for a custom operator.
    inputs, outputs: indices of tensors; -1 for an input that is left out.
    options: name in the schema -> value, with paddings and activations as words.
    place: number of the operator in the file, from 0.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any]
    place: int


@dataclass(frozen=True, eq=False)
class Graph:
    """The subgraph of a .tflite file.

    file: its name, for messages.
    inputs, outputs: indices of tensors.
    """

    file: str
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
