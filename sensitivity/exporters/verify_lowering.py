"""Does a lowered file still compute what the canonical one does?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sensitivity.errors import ExportError
from sensitivity.exporters.evaluate import evaluate_file
from sensitivity.exporters.verification import FLOAT_TOLERANCE, LoweringCheck
from sensitivity.exporters.verify import agreed, relative_rms
from sensitivity.onnx_graph.load import load_model
from sensitivity.records import Scores
from sensitivity.runtimes.base import Tensors
from sensitivity.runtimes.onnxruntime import OnnxRuntime
from sensitivity.tasks.base import mean

LARGEST = {"fp16": 0.0, "openvino": 0.0, "tensorrt": 1.5, "onnxruntime": 3.0}
"""Largest relative RMS against the canonical file, as a multiple of what quantization itself
changes.

fp16: the float file, where nothing is quantized. openvino: the same grid, so nothing but float
rounding. tensorrt: FP16 moves values across rounding boundaries; two roundings that know nothing of
each other differ by 1.4 times what each of them costs. onnxruntime: quantizes more.
"""

FP16_TOLERANCE = 0.01
"""For files that quantize little or nothing."""


def check_lowering(
    canonical: Path,
    lowered: Path,
    unquantized: Path,
    inputs: Tensors,
    *,
    batches: Iterable[tuple[Any, Any]] | None = None,
    score: Callable[[Any, Any], ArrayLike] | None = None,
    aggregate: Callable[[Scores], float] = mean,
    full_scale: float = 1.0,
) -> LoweringCheck:
    """Compare outputs on one batch, and with `batches` and `score` (as in a task) the metric.

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
    runtime = OnnxRuntime(optimize=target == "onnxruntime")
    expected, plain = (
        _outputs(reference, canonical, inputs),
        _outputs(reference, unquantized, inputs),
    )
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
    if batches is not None and score is not None:
        _, first = evaluate_file(canonical, batches, score, aggregate)
        _, second = evaluate_file(lowered, batches, score, aggregate, runtime=runtime)
        metric = agreed(lowered.name, canonical.name, first, second, aggregate, full_scale)
    return LoweringCheck(target, rms, own, metric)


def _outputs(runtime: OnnxRuntime, file: Path, inputs: Tensors) -> list[np.ndarray]:
    with runtime.build(file) as engine:
        return [np.asarray(output, np.float64) for output in engine.run(inputs).values()]
