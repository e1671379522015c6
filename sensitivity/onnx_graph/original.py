"""The float weights of the model that a Q/DQ file was made from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sensitivity.errors import OnnxFileError
from sensitivity.onnx_graph.passes.skip_uses import Weights, dequantized
from sensitivity.onnx_graph.uses import Use

NEAR = 0.51
"""Of a step: how far a weight may be from what it was rounded to. Beyond the ends of the grid it may be farther."""

MOST = 0.99
"""Part of a tensor's values that must be so near."""


def original_weights(uses: Iterable[Use], original: ir.Model, name: str) -> Weights:
    """Name of each stored weight -> its float values in the original model, found by name or else by value.

    Weights that are nowhere in the original are left out. name: of its file. Raises OnnxFileError where none is found.
    """
    known = {key: value.const_value.numpy() for key, value in original.graph.initializers.items() if value.const_value}
    stored = {use.pair.source.name or "": use.pair for use in uses if use.pair.quantize is None}
    found: dict[str, NDArray[Any]] = {}
    for key, pair in stored.items():
        values = dequantized(pair)
        step = np.max(np.abs(pair.scale)) if pair.scale is not None else 0.0
        first = known.get(key.removesuffix("_quantized"))
        candidates = ([] if first is None else [first]) + [array for array in known.values() if array is not first]
        match = next((array for array in candidates if _is_original(array, values, step)), None)
        if match is not None:
            found[key] = match
    if stored and not found:
        raise OnnxFileError(
            f"Expected {name} to be the float model that was quantized, got none of the {len(stored)} quantized "
            "weights in it; give the very file that the quantizer read."
        )
    return found


def _is_original(array: NDArray[Any], values: NDArray[Any], step: float) -> bool:
    if array.shape != values.shape or array.dtype.kind != "f":
        return False
    near = np.abs(array - values) <= NEAR * step + 1e-6 * np.abs(values)
    return bool(near.mean() >= MOST) if near.size else True
