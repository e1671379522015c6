"""Inputs to time a file with, when only the file is at hand."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx_ir as ir

from sensitivity.errors import OnnxFileError
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.qdq import check_scales
from sensitivity.runtimes.base import Tensors
from sensitivity.seeds import generator


def check_files(files: Iterable[Path]) -> None:
    """Raise OnnxFileError for the first file that is not whole, not ONNX, too large, has external
    data outside its folder, or scales that are not finite: runtimes time some of those without a
    word."""
    for file in files:
        check_scales(load_model(file), file.name)


def random_inputs(file: Path, *, batch: int = 1, seed: int | None = None) -> Tensors:
    """Seeded normal values for every input of the file; its first axis, if dynamic, becomes
    `batch`.

    The latency of convolutions and matrix products does not depend on the values.
    Raises OnnxFileError where another axis is dynamic: its size cannot be guessed.
    """
    rng = generator(seed)
    model = load_model(file)
    return {
        str(value.name): rng.standard_normal(_shape(value, batch, file)).astype(_dtype(value, file))
        for value in model.graph.inputs
        if value.name not in model.graph.initializers
    }


def _shape(value: ir.Value, batch: int, file: Path) -> list[int]:
    if value.shape is None:
        raise OnnxFileError(
            f"Expected input {value.name!r} of {file} to have a shape, got none; export it with "
            "one."
        )
    first, *rest = value.shape
    known = [size for size in rest if isinstance(size, int)]
    if len(known) < len(rest):
        raise OnnxFileError(
            f"Expected only the first axis of input {value.name!r} of {file} to be dynamic, got "
            f"{value.shape}; give a float file its sizes with --shape when the run begins, or "
            "export it with fixed ones."
        )
    return [first if isinstance(first, int) else batch, *known]


def _dtype(value: ir.Value, file: Path) -> np.dtype[np.generic]:
    if value.dtype is None:
        raise OnnxFileError(
            f"Expected input {value.name!r} of {file} to have a type, got none; export it again."
        )
    return value.dtype.numpy()
