"""Copies of a Q/DQ file that OpenVINO computes as the file says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from sensitivity.errors import ExportError
from sensitivity.exporters.example import Example
from sensitivity.exporters.verification import LoweringCheck
from sensitivity.exporters.verify_lowering import check_lowering
from sensitivity.exporters.writing import save
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.passes.unsigned import UnsignedActivations
from sensitivity.onnx_graph.walk import of_kind

TARGET = "openvino"


def exact_copies(
    files: Mapping[str, Path], example: Example, *, left_out: dict[str, str] | None = None
) -> dict[str, LoweringCheck]:
    """Write model.<variant>.openvino.onnx beside each file of which OpenVINO computes wrong values:
    those with int8 activations and a Concat (SQ601). In the copy they are uint8 on the same grids.

    A copy of an earlier plan that is no longer needed is removed. Returns the name of each copy ->
    its check.

    left_out: receives the name of each copy that does not compute what it should, and is removed ->
        the reason. None raises ExportError instead.
    """
    checks = {}
    for variant in ("int8", "partial"):
        file = files[variant]
        out = file.with_name(f"model.{variant}.{TARGET}.onnx")
        made = _exact(load_model(file))
        if made is None:
            out.unlink(missing_ok=True)
            continue
        made.metadata_props["sensitivity.lowered"] = TARGET
        copy = save(made, out)
        try:
            checks[out.name] = check_lowering(file, copy, files["float"], example, same_ends=True)
        except ExportError as error:
            copy.unlink()
            if left_out is None:
                raise
            left_out[out.name] = (
                f"not written, although OpenVINO computes wrong values of {file.name}: {error}"
            )
    return checks


def _exact(model: ir.Model) -> ir.Model | None:
    """Return a model that OpenVINO computes as it says, or None if the given one already is."""
    if not any(of_kind(model.graph.all_nodes(), "Concat")):
        return None
    result = UnsignedActivations(zero_point_0=False)(model)
    return result.model if result.modified else None
