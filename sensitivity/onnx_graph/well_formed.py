"""What a damaged file may hold that parses all the same: text that is none, tensors of another size
than they say, and values that nobody makes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import onnx
import onnx_ir as ir

from sensitivity.errors import OnnxFileError, SensitivityError

DAMAGED = (
    "it is damaged or was written wrongly: check it with onnx.checker.check_model, or export "
    "it again."
)


TYPED = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


@contextmanager
def blamed_on(path: Path) -> Iterator[None]:
    """Inside the `with`, an exception that nobody foresaw is the file's where ONNX's own checker
    refuses the file.

    Raises OnnxFileError then; where the checker finds nothing the exception is our bug and goes on
    as it is.
    """
    try:
        yield
    except SensitivityError:
        raise
    except Exception as error:
        found = refused(path)
        if found is None:
            raise
        raise found from error


def refused(path: Path) -> OnnxFileError | None:
    """What ONNX's checker has against a file; None where it has nothing."""
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:  # noqa: BLE001 - its exceptions share no base class
        said = " ".join(str(error).split())[:300]
        return OnnxFileError(f"Expected {path} to be a valid ONNX file, got: {said}; {DAMAGED}")
    return None


def check_tensors(tensors: Iterable[onnx.TensorProto], path: Path) -> None:
    """Raise OnnxFileError where a stored tensor has no known type, or holds more or less than its
    shape says."""
    for tensor in tensors:
        problem = _problem(tensor)
        if problem:
            raise OnnxFileError(
                f"Expected the tensor {tensor.name!r} in {path} to be whole, got {problem}; "
                f"{DAMAGED}"
            )


def _problem(tensor: onnx.TensorProto) -> str | None:
    texts = chain.from_iterable((entry.key, entry.value) for entry in tensor.external_data)
    if any(isinstance(text, bytes) for text in (tensor.name, *texts)):
        return "a name that is not UTF-8"
    try:
        kind = ir.DataType(tensor.data_type)
    except ValueError:
        return f"the data type {tensor.data_type}, which is none"
    if kind == ir.DataType.UNDEFINED or min(tensor.dims, default=0) < 0:
        return f"the data type {kind.name} and shape {list(tensor.dims)}"
    size = math.prod(tensor.dims)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        given = next((entry.value for entry in tensor.external_data if entry.key == "length"), None)
        unit = None if given is None or not given.isdigit() else int(given)
    else:
        unit = len(tensor.raw_data) if tensor.HasField("raw_data") else None
    if (
        kind != ir.DataType.STRING
        and unit is not None
        and unit != math.ceil(size * kind.bitwidth / 8)
    ):
        return f"{unit} bytes for {kind.name} of shape {list(tensor.dims)}"
    typed = max(len(getattr(tensor, name)) for name in TYPED)
    packed = (size, 2 * size, math.ceil(size / 2), math.ceil(size / 4))
    if unit is None and tensor.data_location != onnx.TensorProto.EXTERNAL and typed not in packed:
        return f"{typed} values for shape {list(tensor.dims)}"
    return None


def check_text(proto: onnx.ModelProto, path: Path) -> None:
    """Raise OnnxFileError where a name is not UTF-8, which protobuf gives as bytes."""
    for text in _texts(proto):
        if isinstance(text, bytes):
            raise OnnxFileError(
                f"Expected the names in {path} to be UTF-8, got {text[:60]!r}; {DAMAGED}"
            )


def _texts(proto: onnx.ModelProto) -> Iterator[str | bytes]:
    """Every name of the model, its graphs and its functions."""
    yield from (proto.producer_name, proto.producer_version, proto.domain, proto.doc_string)
    yield from (entry.domain for entry in proto.opset_import)
    yield from chain.from_iterable((entry.key, entry.value) for entry in proto.metadata_props)
    yield from _graph_texts(proto.graph)
    for function in proto.functions:
        yield from (function.name, function.domain, function.doc_string)
        yield from chain(function.input, function.output, function.attribute)
        yield from (entry.domain for entry in function.opset_import)
        yield from chain.from_iterable(map(_node_texts, function.node))


def _graph_texts(graph: onnx.GraphProto) -> Iterator[str | bytes]:
    yield from (graph.name, graph.doc_string)
    for value in chain(graph.input, graph.output, graph.value_info):
        yield from (value.name, value.doc_string)
        yield from (side.dim_param for side in value.type.tensor_type.shape.dim)
    yield from chain.from_iterable((tensor.name, tensor.doc_string) for tensor in graph.initializer)
    yield from chain.from_iterable(map(_node_texts, graph.node))


def _node_texts(node: onnx.NodeProto) -> Iterator[str | bytes]:
    yield from (node.name, node.op_type, node.domain, node.doc_string)
    yield from chain(node.input, node.output)
    for attribute in node.attribute:
        yield from (attribute.name, attribute.doc_string, attribute.ref_attr_name, attribute.t.name)
        for graph in (attribute.g, *attribute.graphs):
            yield from _graph_texts(graph)


def check_values(model: ir.Model, path: Path) -> None:
    """Raise OnnxFileError where an operation or an output reads a value that nobody makes."""
    _check_graph(model.graph, frozenset(), path)
    for function in model.functions.values():
        _check_graph(function, frozenset(), path)


def _check_graph(graph: ir.Graph | ir.Function, outer: frozenset[ir.Value], path: Path) -> None:
    known = set(outer) | set(graph.inputs)
    if isinstance(graph, ir.Graph):
        known |= set(graph.initializers.values())
    known |= {value for node in graph for value in node.outputs}
    for node in graph:
        for value in node.inputs:
            if value is not None and value not in known:
                raise _unmade(value, node.name or node.op_type, path)
        for attribute in node.attributes.values():
            if attribute.is_ref():
                continue
            if attribute.type == ir.AttributeType.UNDEFINED:
                raise OnnxFileError(
                    f"Expected the attribute {attribute.name!r} of {node.name or node.op_type} in "
                    f"{path} to have a type, got none; {DAMAGED}"
                )
            if attribute.type == ir.AttributeType.GRAPH:
                _check_graph(attribute.as_graph(), frozenset(known), path)
            elif attribute.type == ir.AttributeType.GRAPHS:
                for inner in attribute.as_graphs():
                    _check_graph(inner, frozenset(known), path)
    for value in graph.outputs:
        if value not in known:
            raise _unmade(value, "its outputs", path)


def _unmade(value: ir.Value, reader: str, path: Path) -> OnnxFileError:
    return OnnxFileError(
        f"Expected the value {value.name!r} that {reader} reads in {path} to be an input, a "
        f"constant or what an operation makes, got none of that name; {DAMAGED}"
    )
