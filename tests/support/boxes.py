"""The inverse of `to_image`, for tests that send boxes there and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def to_input(boxes: NDArray[Any], geometry: NDArray[Any]) -> NDArray[np.float64]:
    """Return boxes [..., m, 4] of image pixels in input pixels.

    geometry: [..., 6], see `sensitivity.tasks.detection_images.fit`.
    """
    scale, border = (np.tile(geometry[..., None, first : first + 2], 2) for first in (0, 2))
    return np.asarray(boxes / scale + border)
