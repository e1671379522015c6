"""Lowers the canonical files of a run for runtimes, and checks the results against them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sensitivity.errors import ExportError
from sensitivity.exporters.example import Example
from sensitivity.exporters.for_onnxruntime import faithful_copy
from sensitivity.exporters.lower import LowerTarget, lower_file
from sensitivity.exporters.verification import LoweringCheck
from sensitivity.exporters.verify_lowering import check_lowering
from sensitivity.tasks.scoring import Scoring


def lower_files(
    files: Mapping[str, Path],
    targets: Sequence[LowerTarget],
    example: Example,
    *,
    scoring: Scoring | None = None,
    left_out: dict[str, str] | None = None,
) -> dict[str, LoweringCheck]:
    """Write model.<variant>.<target>.onnx beside each canonical file, and return name of the file
    -> its check.

    The float file lowered for TensorRT is the FP16 baseline and is named so.

    files: canonical files by variant ("float", "int8", "partial").
    left_out: receives the name of each file that does not compute what it should -> the reason. The
        file is removed and the canonical one serves instead; for ONNX Runtime a copy of it, if that
        runtime would compute it differently. None raises ExportError once it is removed.
    """
    checks = {}
    for target in targets:
        for variant, canonical in files.items():
            has_nothing_to_lower = variant == "float" and target != "tensorrt"
            is_needless = variant == "int8" and target == "qnn"  # for comparing times alone
            if has_nothing_to_lower or is_needless:
                continue
            name = "fp16" if variant == "float" else variant
            lowered = canonical.with_name(f"model.{name}.{target}.onnx")
            try:
                lower_file(canonical, target, lowered)
                judged = scoring and scoring.of(variant)
                check = check_lowering(canonical, lowered, files["float"], example, judged)
            except ExportError as error:
                lowered.unlink(missing_ok=True)
                if left_out is None:
                    raise
                reason = "left out, so the canonical file is benched"
                copied = None
                if target == "onnxruntime":
                    copied = _faithful(canonical, files["float"], example)
                if copied is not None:
                    checks[lowered.name] = copied
                    reason = "changed only where ONNX Runtime would compute something else"
                left_out[lowered.name] = f"{reason}: {error}"
            else:
                checks[lowered.name] = check
    return checks


def _faithful(canonical: Path, unquantized: Path, example: Example) -> LoweringCheck | None:
    """Return the check of a copy that ONNX Runtime computes as the canonical file says; None if no
    copy is needed or possible."""
    try:
        return faithful_copy(canonical, unquantized, example)
    except ExportError:
        # The canonical file serves instead, and the reason has already been recorded.
        return None
