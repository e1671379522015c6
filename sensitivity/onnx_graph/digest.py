"""Tells whether two ONNX files compute the same with the same numbers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import onnx_ir as ir


def content(model: ir.Model) -> bytes:
    """Return the model as bytes, which are the same for equal models.

    Values of attributes lose their names: `onnx_ir.convenience.get_const_tensor` gives those of
    Constants the name of the node's output, so that reading a model would change it.
    """
    proto = ir.to_proto(model)
    _remove_names(proto.graph)
    return bytes(proto.SerializeToString(deterministic=True))


def _remove_names(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                attribute.t.ClearField("name")
            for body in (attribute.g, *attribute.graphs):
                _remove_names(body)


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
