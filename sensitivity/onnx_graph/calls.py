"""Inlines model-local functions, so that what is in them can be found in the graph."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from sensitivity.errors import OnnxFileError
from sensitivity.onnx_graph.walk import name_of

CALL, NAME = "sensitivity.call.", "sensitivity.name"
"""Keys of the metadata that the pass copies to the nodes it inlines, because it renames these
nodes."""


def written_out(model: ir.Model) -> ir.Model:
    """Return the same model with every call of a local function replaced by the function's nodes,
    named <call>/<node>.

    A model without functions is returned unchanged.
    Raises OnnxFileError for functions that cannot be inlined, such as those of another opset than
    the file's.
    """
    if not model.functions:
        return model
    model = model.clone()
    _mark(model)
    try:
        common.InlinePass()(model)
    except (ValueError, ir.passes.PassError) as error:
        said = " ".join(str(error.__cause__ or error).split())
        raise OnnxFileError(
            f"Expected local functions that can be written out in the graph, got: {said}; inline "
            "them with onnx.inliner.inline_local_functions first."
        ) from error
    for node in model.graph.all_nodes():
        calls = [value for key, value in node.metadata_props.items() if key.startswith(CALL)]
        if calls:
            node.name = "/".join([*calls, node.metadata_props[NAME]])
    return model


def _mark(model: ir.Model) -> None:
    """Store each call's name in its metadata, and each node's own name in that of the nodes of
    functions.

    Each function has its own key for the calls in it: an inlined node then has the names of the
    calls of all levels, the outer ones first.
    """
    _mark_calls(model, model.graph, CALL)
    for key, function in model.functions.items():
        for node in function.all_nodes():
            node.metadata_props[NAME] = name_of(node)
        _mark_calls(model, function, f"{CALL}{key}")


def _mark_calls(model: ir.Model, graph: ir.Graph | ir.Function, key: str) -> None:
    """Store the name of each call in its metadata.

    graph: the graph or function that holds the calls.
    key: key of the metadata.
    """
    for node in graph.all_nodes():
        if node.op_identifier() in model.functions:
            node.metadata_props[key] = name_of(node)
