"""Tells whether two ONNX files compute the same with the same numbers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx


def digest(file: Path) -> str:
    """Return the SHA-256 of the file's nodes and numbers, in hexadecimal.

    It does not depend on where the numbers are stored, nor on the file's name, metadata and doc
    strings.
    """
    model = onnx.load(file)
    sha256 = hashlib.sha256()
    for tensor in sorted(model.graph.initializer, key=lambda tensor: tensor.name):
        sha256.update(f"{tensor.name} {tensor.data_type} {list(tensor.dims)}".encode())
        sha256.update(onnx.numpy_helper.to_array(tensor).tobytes())
    graph = model.graph
    del graph.initializer[:]
    del graph.value_info[:]
    del graph.metadata_props[:]
    graph.name = graph.doc_string = ""
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    sha256.update(graph.SerializeToString(deterministic=True))
    return sha256.hexdigest()
