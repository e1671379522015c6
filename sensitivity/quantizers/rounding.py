"""The rounding of weight values away from the nearest level, as text that a plan can hold."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import ModelError


def pack(moves: NDArray[np.int8]) -> str:
    """Return these rounding moves as text.

    moves: -1, 0 or 1 level from the nearest one for each value of a weight.

    >>> moves = np.array([[0, 1], [-1, 0]], np.int8)
    >>> unpack(pack(moves), (2, 2)).tolist()
    [[0, 1], [-1, 0]]
    """
    values = np.ascontiguousarray(moves, np.int8).tobytes()
    return base64.b64encode(zlib.compress(values)).decode("ascii")


def unpack(text: str, shape: Sequence[int]) -> NDArray[np.int8]:
    """Return the moves of a weight of this shape. Raises ModelError for text that does not fit such
    a weight."""
    expected = int(np.prod(shape))
    try:
        values = zlib.decompress(base64.b64decode(text, validate=True))
    except (ValueError, zlib.error) as error:
        raise ModelError(
            f"Expected the rounding of a weight of {expected} values, got text that cannot be "
            "unpacked; search for the plan again."
        ) from error
    if len(values) != expected:
        raise ModelError(
            f"Expected the rounding of a weight of {expected} values, got one of {len(values)}; "
            "search for the plan again."
        )
    return np.frombuffer(values, np.int8).reshape(tuple(shape))
