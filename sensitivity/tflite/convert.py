"""Converts a .tflite file to an ONNX file in the run directory."""

from __future__ import annotations

from pathlib import Path

from sensitivity.files import write_whole
from sensitivity.tflite.operators import translated
from sensitivity.tflite.read import read_tflite


def onnx_from_tflite(path: Path) -> bytes:
    """Return the file as ONNX, with Q/DQ pairs for its quantized tensors, and with its names of
    tensors and operators.

    Inputs and outputs are in float32: the real numbers that quantized ones stand for.

    Raises MissingPackage without LiteRT's package, and TfliteFileError for what cannot be read or
    translated.
    """
    content: bytes = translated(read_tflite(path)).model().SerializeToString(deterministic=True)
    return content


def onnx_file(path: Path, folder: Path) -> Path:
    """Write the ONNX form of a .tflite file into the folder, under its name, and return its
    path."""
    written = folder / f"{path.stem}.onnx"
    write_whole(written, onnx_from_tflite(path))
    return written
