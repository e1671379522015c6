"""Files for runtimes, lowered from the canonical ones of a run and checked against them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sensitivity.errors import ExportError
from sensitivity.exporters.for_onnxruntime import faithful_copy
from sensitivity.exporters.lower import LowerTarget, lower_file
from sensitivity.exporters.simulate import flat_inputs
from sensitivity.exporters.verification import LoweringCheck
from sensitivity.exporters.verify_lowering import check_lowering
from sensitivity.runtimes.base import Tensors
from sensitivity.tasks.batches import as_numpy
from sensitivity.tasks.scoring import Scoring


def lower_files(
    files: Mapping[str, Path],
    targets: Sequence[LowerTarget],
    example_inputs: Any,
    *,
    scoring: Scoring | None = None,
    left_out: dict[str, str] | None = None,
) -> dict[str, LoweringCheck]:
    """Write model.<variant>.<target>.onnx beside each canonical file; name of the file -> what its
    check found.

    files: canonical, by variant ("float", "int8", "partial"). The float file lowered for TensorRT
    is the FP16 baseline and is named so. Raises ExportError where a lowered file does not compute
    what it should; with `left_out` such a file is removed, and its name and the reason are put
    there: the canonical one serves in its place, for ONNX Runtime a copy of it where that runtime
    would compute something else.
    """
    names, tensors = flat_inputs(example_inputs)
    inputs = {name: as_numpy(tensor) for name, tensor in zip(names, tensors, strict=True)}
    found = {}
    for target in targets:
        for variant, canonical in files.items():
            has_nothing_to_lower = variant == "float" and target != "tensorrt"
            if has_nothing_to_lower:
                continue
            name = "fp16" if variant == "float" else variant
            lowered = canonical.with_name(f"model.{name}.{target}.onnx")
            try:
                lower_file(canonical, target, lowered)
                check = check_lowering(canonical, lowered, files["float"], inputs, scoring)
            except ExportError as error:
                if left_out is None:
                    raise
                lowered.unlink(missing_ok=True)
                reason = "left out, so the canonical file is benched"
                copied = None
                if target == "onnxruntime":
                    copied = _faithful(canonical, files["float"], inputs)
                if copied is not None:
                    found[lowered.name] = copied
                    reason = "changed only where ONNX Runtime would compute something else"
                left_out[lowered.name] = f"{reason}: {error}"
            else:
                found[lowered.name] = check
    return found


def _faithful(canonical: Path, unquantized: Path, inputs: Tensors) -> LoweringCheck | None:
    """The canonical file with what ONNX Runtime would else change; None where it needs none, or it
    cannot be had."""
    try:
        return faithful_copy(canonical, unquantized, inputs)
    except ExportError:
        # the canonical file serves, and the reason why nothing else does is told already
        return None
