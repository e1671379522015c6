"""Which exported files are one and the same: a plan that leaves nothing out is everything in INT8,
under another name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import onnx

from sensitivity.timing.protocol import Variant

ORDER: tuple[Variant, ...] = ("float", "int8", "partial")


def same_files(files: Mapping[Variant, Path]) -> dict[Variant, Variant]:
    """Each of the float, INT8 and partial files -> the first one that computes the same with the
    same numbers."""
    first: dict[str, Variant] = {}
    return {
        variant: first.setdefault(digest(files[variant]), variant)
        for variant in ORDER
        if variant in files
    }


def digest(file: Path) -> str:
    """Of nodes and numbers, wherever the numbers are stored; not of the file's name, metadata and
    remarks."""
    model = onnx.load(file)
    found = hashlib.sha256()
    for tensor in sorted(model.graph.initializer, key=lambda tensor: tensor.name):
        found.update(f"{tensor.name} {tensor.data_type} {list(tensor.dims)}".encode())
        found.update(onnx.numpy_helper.to_array(tensor).tobytes())
    graph = model.graph
    del graph.initializer[:]
    del graph.value_info[:]
    del graph.metadata_props[:]
    graph.name = graph.doc_string = ""
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    found.update(graph.SerializeToString(deterministic=True))
    return found.hexdigest()
