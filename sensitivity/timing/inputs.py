"""Generates inputs to time a file with, from the file alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
import onnx_ir as ir

from sensitivity.errors import OnnxFileError
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.qdq import check_scales
from sensitivity.runtimes.base import Tensors
from sensitivity.seeds import generator


def check_files(files: Iterable[Path]) -> None:
    """Raise OnnxFileError for the first file that cannot be timed properly.

    Such a file is truncated, not ONNX, too large, or has external data outside its folder or scales
    that are not finite. Runtimes time some of these without an error.
    """
    for file in files:
        check_scales(load_model(file), file.name)


def random_inputs(
    file: Path,
    *,
    batch: int = 1,
    seed: int | None = None,
    sizes: Mapping[str, Sequence[int]] | None = None,
) -> Tensors:
    """Return seeded normal values for every input of the file.

    The latency of convolutions and matrix products does not depend on the values.

    sizes: name of an input -> shape of one sample, for the sides that the file leaves open. Without
        it the first axis, if open, becomes `batch`.
    Raises OnnxFileError if the size of another axis is unknown.
    """
    rng = generator(seed)
    model = load_model(file)
    known = sizes or {}
    return {
        str(value.name): rng.standard_normal(
            _shape(value, known.get(str(value.name), (batch,)), file)
        ).astype(_dtype(value, file))
        for value in model.graph.inputs
        if value.name not in model.graph.initializers
    }


def _shape(value: ir.Value, sample: Sequence[int], file: Path) -> list[int]:
    """Return the shape of an input.

    sample: the first sides of a sample of this input, or all of them.
    """
    if value.shape is None:
        raise OnnxFileError(
            f"Expected input {value.name!r} of {file} to have a shape, got none; export it with "
            "one."
        )
    sides = zip_longest(value.shape, sample)
    shape = [side if isinstance(side, int) else size for side, size in sides]
    if None in shape:
        raise OnnxFileError(
            f"Expected only the first axis of input {value.name!r} of {file} to be dynamic, got "
            f"{value.shape}; give a float file its sizes with --shape when the run begins, or "
            "export it with fixed ones."
        )
    return shape


def _dtype(value: ir.Value, file: Path) -> np.dtype[np.generic]:
    if value.dtype is None:
        raise OnnxFileError(
            f"Expected input {value.name!r} of {file} to have a type, got none; export it again."
        )
    return value.dtype.numpy()
