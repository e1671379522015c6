"""Copies of a Q/DQ file that ONNX Runtime computes as the file says, and in integers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import onnx_ir as ir

from sensitivity.errors import ExportError
from sensitivity.exporters.example import Example
from sensitivity.exporters.verification import LoweringCheck
from sensitivity.exporters.verify_lowering import check_lowering
from sensitivity.exporters.writing import save
from sensitivity.onnx_graph.float_gemms import float_gemms
from sensitivity.onnx_graph.integer_layers import shared_int8
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.passes.int32_bias import Int32Bias
from sensitivity.onnx_graph.passes.keep_float import KeepFloat
from sensitivity.onnx_graph.passes.keep_meaning import KeepMeaning
from sensitivity.onnx_graph.passes.movable_int8 import MovableInt8
from sensitivity.onnx_graph.passes.room_for_bias import RoomForBias
from sensitivity.onnx_graph.passes.unsigned import UnsignedActivations
from sensitivity.tasks.scoring import Scoring

TARGET = "onnxruntime"


def faithful_copies(
    files: Mapping[str, Path],
    example: Example,
    *,
    scoring: Scoring | None = None,
    left_out: dict[str, str] | None = None,
) -> dict[str, LoweringCheck]:
    """Write model.<variant>.onnxruntime.onnx beside each file that ONNX Runtime would change while
    loading it, or compute in float where it need not.

    Nothing else is changed: files of a Q/DQ source keep the form that their toolkit gave them. A
    copy of an earlier plan that is no longer needed is removed. Returns the name of each copy ->
    its check.

    left_out: receives the name of each copy that does not compute what it should -> the reason. It
        is then changed only where ONNX Runtime would compute something else, and is removed if this
        is wrong too. None raises ExportError in place of removing it.
    """
    checks = {}
    reasons = {} if left_out is None else left_out
    for variant, file in files.items():
        if variant == "float":
            continue
        out = file.with_name(f"model.{variant}.{TARGET}.onnx")
        judged = scoring and scoring.of(variant)
        try:
            check = faithful_copy(file, files["float"], example, judged, made_by=fast)
        except ExportError as error:
            reasons[out.name] = (
                f"left as it is but where ONNX Runtime would compute something else: {error}"
            )
            check = _right_copy(file, files["float"], example, judged, left_out)
        if check is None:
            out.unlink(missing_ok=True)
        else:
            checks[out.name] = check
    return checks


def _right_copy(
    file: Path,
    unquantized: Path,
    example: Example,
    scoring: Scoring | None,
    left_out: dict[str, str] | None,
) -> LoweringCheck | None:
    """Write and check a copy without changes for speed; parameters as in `faithful_copies`."""
    try:
        return faithful_copy(file, unquantized, example, scoring)
    except ExportError as error:
        if left_out is None:
            raise
        left_out[f"{file.stem}.{TARGET}.onnx"] = (
            f"not written, although ONNX Runtime computes something other than {file.name}: {error}"
        )
        return None


def faithful_copy(
    file: Path,
    unquantized: Path,
    example: Example,
    scoring: Scoring | None = None,
    *,
    made_by: Callable[[ir.Model], ir.Model | None] | None = None,
) -> LoweringCheck | None:
    """Write and check the copy of one file; None if it needs none.

    The other arguments are those of `check_lowering`. Raises ExportError, and removes the copy, if
    it does not compute what it should.

    made_by: `faithful` or `fast`; None is `faithful`.
    """
    made = (made_by or faithful)(load_model(file))
    if made is None:
        return None
    made.metadata_props["sensitivity.lowered"] = TARGET
    copy = save(made, file.with_name(f"{file.stem}.{TARGET}.onnx"))
    try:
        return check_lowering(file, copy, unquantized, example, scoring)
    except ExportError:
        copy.unlink()
        raise


def fast(model: ir.Model) -> ir.Model | None:
    """Return a model as `faithful` does, in which moreover no layer runs in float for its types
    alone; None if the given model already is one.

    Activations become uint8 on the same grid if ONNX Runtime would leave some in int8, and the bias
    of a Gemm becomes int32 if it alone keeps it from integers, by at most half a step of the sums.
    """
    right = faithful(model)
    made = model if right is None else right
    is_changed = right is not None
    if any(shared_int8(made)):
        is_changed |= UnsignedActivations(zero_point_0=False)(made).modified
    layers = [layer.node for layer in float_gemms(made) if layer.lacks_int32_bias]
    of_main_graph = [node for node in layers if node.graph is made.graph]
    is_changed |= Int32Bias(of_main_graph)(made).modified
    return made if is_changed else None


def faithful(model: ir.Model) -> ir.Model | None:
    """Return a model that ONNX Runtime computes as it says, or None if the given one already is."""
    result = ir.passes.Sequential(KeepMeaning(), RoomForBias(), KeepFloat(), MovableInt8())(model)
    return result.model if result.modified else None
