"""Brings a Q/DQ graph of any tool into the form in which pairs are looked for, without changing
what it computes."""

from __future__ import annotations

import onnx_ir as ir

from sensitivity.onnx_graph.calls import written_out
from sensitivity.onnx_graph.passes.fold_moved_integers import FoldMovedIntegers
from sensitivity.onnx_graph.passes.lift_dequantize import LiftDequantize, remove_dead
from sensitivity.onnx_graph.passes.names_of_bodies import NamesOfBodies
from sensitivity.onnx_graph.passes.one_clip_per_pair import OneClipPerPair
from sensitivity.onnx_graph.passes.one_grid_per_pair import OneGridPerPair


def canonical(model: ir.Model) -> ir.Model:
    """Return the same model with each DQ directly after its Q, or with one Clip between them, both
    on one grid.

    Model-local functions are inlined first, since pairs may be in them, and names in subgraphs are
    made unique. The model given may be changed.
    Raises OnnxFileError if a function cannot be inlined.
    """
    model = written_out(model)
    # ONNX Runtime's quantizer leaves unread pairs for tensors that only branches of an If read.
    remove_dead(model.graph)
    NamesOfBodies()(model)
    OneClipPerPair()(model)
    LiftDequantize()(model)
    FoldMovedIntegers()(model)
    OneGridPerPair()(model)
    return model
