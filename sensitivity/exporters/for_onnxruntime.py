"""Copies of a Q/DQ file that ONNX Runtime computes as the file says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from sensitivity.errors import ExportError
from sensitivity.exporters.evaluate import arrays_of
from sensitivity.exporters.example import Example
from sensitivity.exporters.verification import LoweringCheck
from sensitivity.exporters.verify_lowering import check_lowering
from sensitivity.exporters.writing import save
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.passes.keep_float import KeepFloat
from sensitivity.onnx_graph.passes.keep_meaning import KeepMeaning
from sensitivity.onnx_graph.passes.movable_int8 import MovableInt8
from sensitivity.onnx_graph.passes.room_for_bias import RoomForBias
from sensitivity.tasks.scoring import Scoring

TARGET = "onnxruntime"


def faithful_copies(
    files: Mapping[str, Path],
    example_inputs: Any,
    *,
    scoring: Scoring | None = None,
    left_out: dict[str, str] | None = None,
) -> dict[str, LoweringCheck]:
    """Write model.<variant>.onnxruntime.onnx beside each file that ONNX Runtime would change while
    loading it.

    Nothing else is changed: files of a Q/DQ source keep the form that their toolkit gave them. A
    copy of an earlier plan that is no longer needed is removed. Returns the name of each copy ->
    its check.

    left_out: receives the name of each copy that does not compute what it should -> the reason; the
        copy is removed. None raises ExportError instead.
    """
    checks = {}
    example = Example(arrays_of(files["float"], example_inputs))
    for variant in ("int8", "partial"):
        file = files[variant]
        out = file.with_name(f"model.{variant}.{TARGET}.onnx")
        try:
            judged = scoring and scoring.of(variant)
            check = faithful_copy(file, files["float"], example, judged)
        except ExportError as error:
            if left_out is None:
                raise
            left_out[out.name] = (
                f"not written, although ONNX Runtime computes something other than {file.name}: "
                f"{error}"
            )
            check = None
        if check is None:
            out.unlink(missing_ok=True)
        else:
            checks[out.name] = check
    return checks


def faithful_copy(
    file: Path, unquantized: Path, example: Example, scoring: Scoring | None = None
) -> LoweringCheck | None:
    """Write and check the copy of one file; None if it needs none.

    The arguments are those of `check_lowering`. Raises ExportError, and removes the copy, if it
    does not compute what it should.
    """
    made = faithful(load_model(file))
    if made is None:
        return None
    made.metadata_props["sensitivity.lowered"] = TARGET
    copy = save(made, file.with_name(f"{file.stem}.{TARGET}.onnx"))
    try:
        return check_lowering(file, copy, unquantized, example, scoring)
    except ExportError:
        copy.unlink()
        raise


def faithful(model: ir.Model) -> ir.Model | None:
    """Return a model that ONNX Runtime computes as it says, or None if the given one already is."""
    result = ir.passes.Sequential(KeepMeaning(), RoomForBias(), KeepFloat(), MovableInt8())(model)
    return result.model if result.modified else None
