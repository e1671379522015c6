"""Verifies that a lowered file still computes what the canonical one does."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from sensitivity.errors import ExportError
from sensitivity.exporters.agreement import agreed, relative_rms
from sensitivity.exporters.evaluate import file_scores
from sensitivity.exporters.example import Example
from sensitivity.exporters.lower_openvino import unsigned
from sensitivity.exporters.verification import FLOAT_TOLERANCE, LoweringCheck
from sensitivity.exporters.writing import save
from sensitivity.onnx_graph.load import load_model
from sensitivity.runtimes.onnxruntime import OnnxRuntime
from sensitivity.tasks.scoring import Scoring

LARGEST = {"fp16": 0.0, "openvino": 0.0, "tensorrt": 1.5, "onnxruntime": 3.0, "qnn": 3.0}
"""Largest relative RMS from the canonical file, as a multiple of what quantization itself changes.

- fp16: the float file, in which nothing is quantized.
- openvino: the same grid, so only float rounding is allowed. It is compared with the canonical file
  with the same zero points. These may clip a few values later, which the comparison of the metric
  covers. Copies of Q/DQ files clip no later.
- tensorrt: FP16 moves values across rounding boundaries; two independent roundings differ by 1.4
  times the error of each.
- onnxruntime: more is quantized.
- qnn: everything is.
"""

FP16_TOLERANCE = 0.01
"""Largest relative RMS of files that quantize little or nothing."""


USE_CANONICAL = "use the canonical file"
INSTEAD = {"qnn": "quantize the float model with the settings of `export --config ort`"}
"""Target -> what serves in place of a lowered file that is wrong, where the canonical one does
not."""


def check_lowering(
    canonical: Path,
    lowered: Path,
    unquantized: Path,
    example: Example,
    scoring: Scoring | None = None,
    *,
    same_ends: bool = False,
) -> LoweringCheck:
    """Compare the outputs on the example batch, and the metric if `scoring` is given.

    Files for ONNX Runtime run as users run them, the others with its optimizations off.

    unquantized: the float file of the same export.
    same_ends: whether a file for OpenVINO has the canonical file's ranges, and clips no later.
    Raises ExportError with the file and the numbers.
    """
    target = load_model(lowered).metadata_props.get("sensitivity.lowered", "")
    if target not in LARGEST:
        raise ExportError(
            f"Expected a file lowered by this tool, got {lowered.name} without a label that says "
            "for what."
        )
    reference = OnnxRuntime(optimize=False)
    is_for_onnxruntime = target == "onnxruntime"
    runtime = OnnxRuntime(optimize=is_for_onnxruntime)
    if target == "openvino" and not same_ends:
        with TemporaryDirectory() as folder:
            compared = save(unsigned(load_model(canonical)), Path(folder) / canonical.name)
            expected = _exact(example.outputs_in(reference, compared))
    else:
        expected = _exact(example.outputs(canonical))
    plain = _exact(example.outputs(unquantized))
    rms = relative_rms(_exact(example.outputs_in(runtime, lowered)), expected, plain)
    own = relative_rms(plain, expected, plain)
    limit = max(LARGEST[target] * own, FLOAT_TOLERANCE if target == "openvino" else FP16_TOLERANCE)
    if not rms <= limit:
        raise ExportError(
            f"Expected outputs of {lowered.name} to differ from {canonical.name} by at most "
            f"{limit:.2g} (relative RMS), got {rms:.2g}, where quantization itself changes "
            f"{own:.2g}; {INSTEAD.get(target, USE_CANONICAL)}."
        )
    metric = None
    if scoring is not None:
        first = file_scores(canonical, scoring)
        second = file_scores(lowered, scoring, optimize=is_for_onnxruntime)
        metric = agreed(lowered.name, canonical.name, first, second, scoring)
    return LoweringCheck(target, rms, own, metric)


def _exact(outputs: Iterable[np.ndarray]) -> list[np.ndarray]:
    return [np.asarray(output, np.float64) for output in outputs]
