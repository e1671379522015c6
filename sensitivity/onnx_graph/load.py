"""Reads ONNX files of any tool, or says in one sentence why a file cannot be used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from sensitivity.errors import OnnxFileError
from sensitivity.onnx_graph.reach import values_read
from sensitivity.onnx_graph.well_formed import DAMAGED, check_tensors, check_text, check_values

LARGEST_BYTES = 2**31 - 1
"""Largest size of one protobuf message."""


def load_model(path: Path) -> ir.Model:
    """Return the model in `path`. External data is read from the file's own folder only.

    Scales are not checked here, see `qdq.check_scales`.
    Raises OnnxFileError for a file that is missing, not ONNX, cut short, larger than 2 GB, or whose
    external data is missing, cut short or outside the file's folder.
    """
    path = Path(path)
    proto = _parse(path)
    check_text(proto, path)
    check_tensors(_all_tensors(proto), path)
    _check_external_data(proto, path)
    try:
        model: ir.Model = ir.from_proto(proto)
        sort_nodes(model)
    # onnx-ir wraps any exception into a RuntimeError of its own.
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        said = " ".join(str(error.__cause__ or error).split())[:300]
        raise OnnxFileError(
            f"Expected {path} to hold a valid ONNX graph, got: {said}; {DAMAGED}"
        ) from error
    check_values(model, path)
    for graph in model.graphs():
        ir.external_data.set_base_dir(graph, str(path.parent))
    return model


def sort_nodes(model: ir.Model) -> None:
    """Sort the nodes of each graph so that they follow what they read, as runtimes do.

    AMD Quark appends nodes in another order, and ONNX Runtime's quantizer puts an If before
    what only its branches read.
    Raises ValueError for a graph with a cycle.
    """
    for graph in model.graphs():
        own = set(graph)
        seen: set[ir.Node] = set()
        for node in graph:
            needed = {value.producer() for value in values_read(node)} & own
            if not needed <= seen:
                graph.sort()
                break
            seen.add(node)


def _parse(path: Path) -> onnx.ModelProto:
    """Return the parsed file. Raises OnnxFileError if it cannot be read, is too large or is not
    ONNX."""
    try:
        size = path.stat().st_size
        if size > LARGEST_BYTES:
            raise OnnxFileError(
                f"Expected {path} to be smaller than 2 GB, got {size / 1e9:.2f} GB; "
                "save it with its weights as external data."
            )
        data = path.read_bytes()
    except OSError as error:
        raise OnnxFileError(
            f"Expected {path} to be a readable ONNX file, got: {error.strerror or error}."
        ) from error
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise OnnxFileError(
            f"Expected {path} to be a whole ONNX file, got {size} bytes that do not parse; "
            "it is cut short or not ONNX: copy or export it again."
        ) from error
    if not proto.opset_import or not proto.graph.output:
        raise OnnxFileError(
            f"Expected {path} to be an ONNX model, got {size} bytes without a graph or an opset."
        )
    return proto


def _check_external_data(proto: onnx.ModelProto, path: Path) -> None:
    """Raise OnnxFileError unless all external data exists and is smaller than 2 GB."""
    total = 0
    for tensor in _all_tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            total += _checked_length(tensor, path)
    if total > LARGEST_BYTES:
        raise OnnxFileError(
            f"Expected the weights of {path} to be smaller than 2 GB, got {total / 1e9:.2f} GB."
        )


def _checked_length(tensor: onnx.TensorProto, path: Path) -> int:
    """Return the number of bytes beside the file that hold a tensor. Raises OnnxFileError unless
    they exist."""
    folder = path.parent.resolve()
    info = {entry.key: entry.value for entry in tensor.external_data}
    location = info.get("location", "")
    # Resolve links, so that a link out of the folder counts as outside it.
    file = (folder / location).resolve()
    is_beside = location and not os.path.isabs(location) and file.is_relative_to(folder)
    if not is_beside:
        raise OnnxFileError(
            f"Expected external data of {path} to lie in its own folder, got {location!r} for "
            f"{tensor.name}; save the model with its data beside it."
        )
    if not file.is_file():
        raise OnnxFileError(
            f"Expected external data {location!r} of {path} to exist, for {tensor.name}; copy "
            "it beside the model."
        )
    try:
        offset, length = int(info.get("offset", 0)), int(info.get("length", 0))
    except ValueError:
        offset, length = -1, 0
    size = file.stat().st_size
    if min(offset, length) < 0 or offset + length > size:
        raise OnnxFileError(
            f"Expected external data {location!r} of {path} to hold bytes {offset} to "
            f"{offset + length} for {tensor.name}, got a file of {size} bytes; copy or export it "
            "again."
        )
    return length


def _all_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every stored tensor: initializers and attributes, including those of subgraphs and
    functions."""
    yield from _tensors(proto.graph)
    for function in proto.functions:
        for node in function.node:
            yield from _attribute_tensors(node)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        yield from _attribute_tensors(node)


def _attribute_tensors(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor in the attributes of a node, including those of its subgraphs."""
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("g"):
            yield from _tensors(attribute.g)
        for inner in attribute.graphs:
            yield from _tensors(inner)
