"""Finds the inputs that a convolution over images reads for some positions of its output."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """The sliding window of a convolution over images; each field is for height and width.

    size: of the kernel.
    strides: steps between two positions of the output.
    dilations: steps between two neighbours in the window.
    """

    size: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]

    def indices(
        self, positions: Indices, sides: tuple[int, ...]
    ) -> tuple[Indices, Indices, Indices]:
        """Return the samples, rows and columns of a padded batch that the window covers.

        They broadcast to [n, kernel height, kernel width].

        positions: n positions of the output, counted over samples, rows and columns.
        sides: height and width of the output.
        """
        height, width = sides
        sample, position = np.divmod(positions, height * width)
        row, column = np.divmod(position, width)
        rows, columns = self._along(0, row), self._along(1, column)
        return sample[:, None, None], rows[:, :, None], columns[:, None, :]

    def _along(self, axis: int, positions: Indices) -> Indices:
        """Return the indices along one side of the padded image, [n, kernel]."""
        steps = np.arange(self.size[axis]) * self.dilations[axis]
        return np.asarray(positions[:, None] * self.strides[axis] + steps)
