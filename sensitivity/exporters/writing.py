"""Writes an ONNX file completely or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir as ir

from sensitivity.errors import ExportError, WriteError
from sensitivity.files import write_whole
from sensitivity.onnx_graph.load import LARGEST_BYTES


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError inside the `with` into a WriteError that names `path`."""
    try:
        yield
    except OSError as error:
        raise WriteError(
            f"Expected to write {path}, got: {error.strerror or error}; free space or choose "
            "another folder with --out."
        ) from error


def save(model: ir.Model | onnx.ModelProto, path: Path) -> Path:
    """Write the file completely or not at all.

    Raises WriteError, and ExportError for a model that is too large for a single file.
    """
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    if proto.ByteSize() > LARGEST_BYTES:
        raise ExportError(
            f"Expected a model smaller than 2 GB for {path}, got {proto.ByteSize() / 1e9:.2f} GB."
        )
    write_whole(path, proto.SerializeToString())
    return path
