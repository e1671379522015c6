"""Does a lowered file still compute what the canonical one does?"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from sensitivity.errors import ExportError
from sensitivity.exporters.agreement import agreed, relative_rms
from sensitivity.exporters.evaluate import file_scores
from sensitivity.exporters.lower_openvino import unsigned
from sensitivity.exporters.verification import FLOAT_TOLERANCE, LoweringCheck
from sensitivity.exporters.writing import save
from sensitivity.onnx_graph.load import load_model
from sensitivity.runtimes.base import Tensors
from sensitivity.runtimes.onnxruntime import OnnxRuntime
from sensitivity.tasks.scoring import Scoring

LARGEST = {"fp16": 0.0, "openvino": 0.0, "tensorrt": 1.5, "onnxruntime": 3.0}
"""Largest relative RMS against the canonical file, as a multiple of what quantization itself
changes.

fp16: the float file, where nothing is quantized. openvino: the same grid, so nothing but float
rounding, against the canonical file with the same zero points: they let a few values be clipped
later, which the metric is asked about. tensorrt: FP16 moves values across rounding boundaries; two
roundings that know nothing of each other differ by 1.4 times what each of them costs. onnxruntime:
quantizes more.
"""

FP16_TOLERANCE = 0.01
"""For files that quantize little or nothing."""


def check_lowering(
    canonical: Path,
    lowered: Path,
    unquantized: Path,
    inputs: Tensors,
    scoring: Scoring | None = None,
) -> LoweringCheck:
    """Compare outputs on one batch, and the metric where `scoring` is given.

    unquantized: the float file of the same export. Files for ONNX Runtime run in it as users run
    them, the others with its optimizations off. Raises ExportError that names the file and the
    numbers.
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
    with TemporaryDirectory() as folder:
        compared = canonical
        if target == "openvino":
            compared = save(unsigned(load_model(canonical)), Path(folder) / canonical.name)
        expected = _outputs(reference, compared, inputs)
    plain = _outputs(reference, unquantized, inputs)
    rms = relative_rms(_outputs(runtime, lowered, inputs), expected, plain)
    own = relative_rms(plain, expected, plain)
    limit = max(LARGEST[target] * own, FLOAT_TOLERANCE if target == "openvino" else FP16_TOLERANCE)
    if not rms <= limit:
        raise ExportError(
            f"Expected outputs of {lowered.name} to differ from {canonical.name} by at most "
            f"{limit:.2g} (relative RMS), got {rms:.2g}, where quantization itself changes "
            f"{own:.2g}; use the canonical file."
        )
    metric = None
    if scoring is not None:
        first = file_scores(canonical, scoring)
        second = file_scores(lowered, scoring, optimize=is_for_onnxruntime)
        metric = agreed(lowered.name, canonical.name, first, second, scoring)
    return LoweringCheck(target, rms, own, metric)


def _outputs(runtime: OnnxRuntime, file: Path, inputs: Tensors) -> list[np.ndarray]:
    with runtime.build(file) as engine:
        return [np.asarray(output, np.float64) for output in engine.run(inputs).values()]
