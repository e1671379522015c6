"""Checks a Q/DQ ONNX file alone, on generated inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity.preflight.check import by_severity, check_model, unexecuted
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.quantizers.onnx.qdq import OnnxQdqModel
from sensitivity.records import Finding
from sensitivity.seeds import generator

MADE_UP_SIDE = 1
"""Length of an axis that the file leaves open."""


def check_file(path: Path, float_model: Path | None = None) -> tuple[Finding, ...]:
    """Return what speaks against a scan of this file, errors first.

    float_model: the float file that it was made from; None if there is none.
    Raises OnnxFileError for a file that cannot be read or switched.
    """
    source = OnnxQdqModel(OnnxModel(path, float_path=float_model))
    inputs = made_up(source.model)
    executed = source.executed(inputs)
    missing = [quantizer for quantizer in source.quantizers if quantizer.name not in executed]
    return by_severity([*check_model(source, inputs), *unexecuted(missing), MADE_UP])


def made_up(model: Any) -> dict[str, NDArray[Any]]:
    """Return one batch for the model's inputs: normal numbers, and 0 for integers, which may be
    indices."""
    draw = generator()
    return {value.name: _values(value, draw) for value in model.get_inputs()}


def _values(value: Any, draw: np.random.Generator) -> NDArray[Any]:
    shape = [side if isinstance(side, int) else MADE_UP_SIDE for side in value.shape]
    kind = np.dtype(KINDS.get(value.type, "int64"))
    return draw.normal(size=shape).astype(kind) if kind.kind == "f" else np.zeros(shape, kind)


KINDS = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
}
"""ONNX Runtime's names of input types; all others are taken as int64."""

MADE_UP = Finding(
    "inputs-made-up",
    "note",
    "",
    "The file was checked without data, on made-up inputs: its metric and its splits were not "
    "checked.",
    "",
)
