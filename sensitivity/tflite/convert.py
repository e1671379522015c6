"""The way in: a .tflite file becomes an ONNX file in the run directory."""

from __future__ import annotations

from pathlib import Path

from sensitivity.files import write_whole
from sensitivity.tflite.operators import translated
from sensitivity.tflite.read import read_tflite


def onnx_from_tflite(path: Path) -> bytes:
    """Return the file as ONNX: with Q/DQ pairs where its tensors are quantized, tensors and
    operators by its names. Inputs and outputs are the real numbers, in float32, that quantized ones
    stand for.

    Raises MissingPackage, and TfliteFileError for what cannot be read or translated.
    """
    content: bytes = translated(read_tflite(path)).model().SerializeToString(deterministic=True)
    return content


def onnx_file(path: Path, folder: Path) -> Path:
    """Return the ONNX form of a .tflite file, written into the folder under its name."""
    made = folder / f"{path.stem}.onnx"
    write_whole(made, onnx_from_tflite(path))
    return made
