"""Finds damage in files that parse all the same: names that are not UTF-8, tensors whose size is
not that of their shape, and values that nothing computes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from sensitivity.errors import OnnxFileError, SensitivityError
from sensitivity.onnx_graph.walk import bodies, inputs

DAMAGED = (
    "it is damaged or was written wrongly: check it with onnx.checker.check_model, or export "
    "it again."
)


TYPED = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
"""Fields of a tensor that hold its values as numbers or strings, and not as raw bytes."""


@contextmanager
def blamed_on(path: Path) -> Iterator[None]:
    """Turn an unforeseen exception inside the `with` into OnnxFileError if ONNX's own checker
    refuses the file.

    If the checker finds nothing, the exception is our bug and is raised unchanged.
    """
    try:
        yield
    except SensitivityError:
        raise
    except Exception as error:
        refusal = refused(path)
        if refusal is None:
            raise
        raise refusal from error


def refused(path: Path) -> OnnxFileError | None:
    """Return the complaint of ONNX's checker about a file; None if it has none."""
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:  # noqa: BLE001 - its exceptions share no base class
        complaint = " ".join(str(error).split())[:300]
        return OnnxFileError(
            f"Expected {path} to be a valid ONNX file, got: {complaint}; {DAMAGED}"
        )
    return None


def check_tensors(tensors: Iterable[onnx.TensorProto], path: Path) -> None:
    """Raise OnnxFileError if a stored tensor has no known type, or holds more or less than its
    shape says."""
    for tensor in tensors:
        problem = _problem(tensor)
        if problem:
            raise OnnxFileError(
                f"Expected the tensor {tensor.name!r} in {path} to be whole, got {problem}; "
                f"{DAMAGED}"
            )


def _problem(tensor: onnx.TensorProto) -> str | None:
    """Return what is wrong with a stored tensor; None if nothing is."""
    if _has_broken_text(tensor):
        return "a name that is not UTF-8"
    try:
        kind = ir.DataType(tensor.data_type)
    except ValueError:
        return f"the data type {tensor.data_type}, which is none"
    shape = list(tensor.dims)
    if kind == ir.DataType.UNDEFINED or min(shape, default=0) < 0:
        return f"the data type {kind.name} and shape {shape}"
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return _problem_in_bytes(kind, shape, _external_bytes(tensor))
    if tensor.HasField("raw_data"):
        return _problem_in_bytes(kind, shape, len(tensor.raw_data))
    return _problem_in_numbers(shape, max(len(getattr(tensor, name)) for name in TYPED))


def _problem_in_bytes(kind: ir.DataType, shape: list[int], stored: int | None) -> str | None:
    """Return why this number of bytes does not fit the type and the shape; None if it does.

    stored: number of bytes that hold the values; None if the file does not say.
    """
    needed = math.ceil(math.prod(shape) * kind.bitwidth / 8)
    # The shape does not say how long a string is.
    is_unknown = stored is None or kind == ir.DataType.STRING
    if is_unknown or stored == needed:
        return None
    return f"{stored} bytes for {kind.name} of shape {shape}"


def _problem_in_numbers(shape: list[int], stored: int) -> str | None:
    """Return why this number of entries does not fit the shape; None if it does.

    stored: number of entries that hold the values.
    """
    size = math.prod(shape)
    # A complex number takes two entries; two or four small integers share one.
    packed = (size, 2 * size, math.ceil(size / 2), math.ceil(size / 4))
    if stored in packed:
        return None
    return f"{stored} values for shape {shape}"


def _has_broken_text(tensor: onnx.TensorProto) -> bool:
    """Return whether protobuf gives a name as bytes, because it is not UTF-8."""
    texts = _fields(tensor.external_data, "key", "value")
    return any(isinstance(text, bytes) for text in (tensor.name, *texts))


def _external_bytes(tensor: onnx.TensorProto) -> int | None:
    """Return the number of bytes that another file holds of a tensor; None if this file does not
    say."""
    # If a key occurs several times, its first entry counts.
    entries = {entry.key: entry.value for entry in reversed(tensor.external_data)}
    length = entries.get("length", "")
    if not length.isdigit():
        return None
    return int(length)


def check_text(proto: onnx.ModelProto, path: Path) -> None:
    """Raise OnnxFileError if a name is not UTF-8, which protobuf gives as bytes."""
    for text in _texts(proto):
        if isinstance(text, bytes):
            raise OnnxFileError(
                f"Expected the names in {path} to be UTF-8, got {text[:60]!r}; {DAMAGED}"
            )


def _texts(proto: onnx.ModelProto) -> Iterator[str | bytes]:
    """Yield every name of the model, its graphs and its functions."""
    yield from (proto.producer_name, proto.producer_version, proto.domain, proto.doc_string)
    yield from _fields(proto.opset_import, "domain")
    yield from _fields(proto.metadata_props, "key", "value")
    yield from _graph_texts(proto.graph)
    for function in proto.functions:
        yield from (function.name, function.domain, function.doc_string)
        yield from chain(function.input, function.output, function.attribute)
        yield from _fields(function.opset_import, "domain")
        yield from chain.from_iterable(map(_node_texts, function.node))


def _fields(messages: Iterable[Any], *names: str) -> Iterator[str | bytes]:
    """Yield the fields of these names, message by message."""
    for message in messages:
        for name in names:
            yield getattr(message, name)


def _graph_texts(graph: onnx.GraphProto) -> Iterator[str | bytes]:
    """Yield every name of a graph and its subgraphs."""
    yield from (graph.name, graph.doc_string)
    for value in chain(graph.input, graph.output, graph.value_info):
        yield from (value.name, value.doc_string)
        yield from _fields(value.type.tensor_type.shape.dim, "dim_param")
    yield from _fields(graph.initializer, "name", "doc_string")
    yield from chain.from_iterable(map(_node_texts, graph.node))


def _node_texts(node: onnx.NodeProto) -> Iterator[str | bytes]:
    """Yield every name of a node and its subgraphs."""
    yield from (node.name, node.op_type, node.domain, node.doc_string)
    yield from chain(node.input, node.output)
    for attribute in node.attribute:
        yield from (attribute.name, attribute.doc_string, attribute.ref_attr_name, attribute.t.name)
        for graph in (attribute.g, *attribute.graphs):
            yield from _graph_texts(graph)


def check_values(model: ir.Model, path: Path) -> None:
    """Raise OnnxFileError if an operation or an output reads a value that nothing computes."""
    _check_graph(model.graph, frozenset(), path)
    for function in model.functions.values():
        _check_graph(function, frozenset(), path)


def _check_graph(graph: ir.Graph | ir.Function, outer: frozenset[ir.Value], path: Path) -> None:
    """Raise OnnxFileError for values and attributes of one graph and its subgraphs.

    outer: values that the graphs around this one provide.
    path: path of the file.
    """
    known = _made_in(graph) | outer
    for node in graph:
        reader = node.name or node.op_type
        _check_made(inputs(node), known, reader, path)
        _check_attributes(node, reader, path)
        for body in bodies(node):
            _check_graph(body, known, path)
    _check_made(graph.outputs, known, "its outputs", path)


def _check_made(
    values: Iterable[ir.Value], known: frozenset[ir.Value], reader: str, path: Path
) -> None:
    """Raise OnnxFileError for a value that nothing computes.

    known: values that exist.
    reader: what reads the values, in words.
    """
    for value in values:
        if value not in known:
            raise OnnxFileError(
                f"Expected the value {value.name!r} that {reader} reads in {path} to be an input, "
                f"a constant or what an operation makes, got none of that name; {DAMAGED}"
            )


def _check_attributes(node: ir.Node, reader: str, path: Path) -> None:
    """Raise OnnxFileError for an attribute without a type."""
    for attribute in node.attributes.values():
        has_type = attribute.is_ref() or attribute.type != ir.AttributeType.UNDEFINED
        if not has_type:
            raise OnnxFileError(
                f"Expected the attribute {attribute.name!r} of {reader} in {path} to have a "
                f"type, got none; {DAMAGED}"
            )


def _made_in(graph: ir.Graph | ir.Function) -> frozenset[ir.Value]:
    """Return the inputs, the initializers and the computed values of a graph, without those of its
    subgraphs."""
    stored = graph.initializers.values() if isinstance(graph, ir.Graph) else ()
    computed = chain.from_iterable(node.outputs for node in graph)
    return frozenset(chain(graph.inputs, stored, computed))
