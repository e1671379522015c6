"""Model-local functions written out, so that what is in them is seen as what runs."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from sensitivity.errors import OnnxFileError
from sensitivity.onnx_graph.walk import name_of

CALL, NAME = "sensitivity.call.", "sensitivity.name"
"""Metadata that the pass carries to the nodes it writes out: it gives them names of its own."""


def written_out(model: ir.Model) -> ir.Model:
    """Return the same model with every call of a local function replaced by the function's nodes,
    named <call>/<node>.

    A model without functions comes back as it is. Raises OnnxFileError for functions that cannot be
    written out, such as those of another opset than the file.
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
    """Note in each call which one it is, and in each node of a function how it is called there.

    Calls have one key for each function that holds them: what is inside gets those of all levels,
    the outer ones first.
    """
    _mark_calls(model, model.graph, CALL)
    for key, function in model.functions.items():
        for node in function.all_nodes():
            node.metadata_props[NAME] = name_of(node)
        _mark_calls(model, function, f"{CALL}{key}")


def _mark_calls(model: ir.Model, graph: ir.Graph | ir.Function, key: str) -> None:
    """Note in each call of a function what it is called. key: of its metadata."""
    for node in graph.all_nodes():
        if node.op_identifier() in model.functions:
            node.metadata_props[key] = name_of(node)
