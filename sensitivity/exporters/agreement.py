"""Decides how closely two executions of one model must agree, in outputs and in the metric."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import numpy as np

from sensitivity.arrays import mean_square, without_same_infinities
from sensitivity.errors import ExportError
from sensitivity.exporters.verification import METRIC_ALPHA, METRIC_TOLERANCE, MetricCheck
from sensitivity.records import Scores
from sensitivity.stats.jackknife import pseudo_values
from sensitivity.stats.paired import differs
from sensitivity.tasks.scoring import Scoring

Outputs = Sequence[np.ndarray]


def relative_rms(outputs: Outputs, others: Outputs, unit: Outputs) -> float:
    """Return the RMS of outputs - others, relative to the RMS of unit.

    Each output has the same weight, whatever its scale and size. The same infinite value on both
    sides, such as the logit of a masked class, is no difference.
    """
    parts = []
    for output, other, reference in zip(outputs, others, unit, strict=True):
        power = mean_square(reference)
        error = float(np.mean(np.square(np.subtract(*without_same_infinities(output, other)))))
        parts.append(error / power if power else float(error != 0))
    return float(np.sqrt(np.mean(parts)))


def most_agree(outputs: Outputs, expected: Outputs, unquantized: Outputs, limit: float) -> bool:
    """Return whether more than half of the samples differ by at most the limit, and no sample by
    more than quantization changes it.

    A value near a rounding boundary may flip where the file's sums have another last bit, and in a
    deep model one flip changes many outputs of its sample. A fault of the export shows in all of
    them.

    outputs, expected, unquantized: the outputs of the file, of the simulated model and of the float
        model, each float[n, ...].
    limit: largest relative RMS.
    """
    counts = {len(output) if output.ndim else 0 for output in (*outputs, *expected)}
    if len(counts) > 1:
        return False
    differences, changes = [], []
    for at in range(counts.pop()):
        file = [output[at] for output in outputs]
        simulated = [output[at] for output in expected]
        float_model = [output[at] for output in unquantized]
        differences.append(relative_rms(file, simulated, float_model))
        changes.append(relative_rms(float_model, simulated, float_model))
    agreeing = sum(difference <= limit for difference in differences)
    is_rounding = all(map(operator.le, differences, changes))
    return is_rounding and agreeing > len(differences) / 2


def agreed(
    file: str, reference: str, expected: Scores, scores: Scores, scoring: Scoring
) -> MetricCheck:
    """Compare the metric of two sets of scores of the same samples.

    file, reference: what the message calls the two sides.
    expected, scores: scores of the reference and of the file.
    Raises ExportError if the metrics differ by more than 0.3 points and by more than chance.
    """
    aggregate = scoring.aggregate
    check = MetricCheck(float(aggregate(expected)), float(aggregate(scores)), len(scores))
    limit = METRIC_TOLERANCE * scoring.full_scale
    apart = not abs(check.file - check.simulated) <= limit
    if apart and (len(scores) < 2 or _differ(expected, scores, aggregate)):
        raise ExportError(
            f"Expected the metric of {file} in ONNX Runtime within {limit:.4g} of "
            f"{check.simulated:.4g}, that of {reference}, got {check.file:.4g} on {check.n} "
            "samples; check that the metric depends on the outputs only."
        )
    return check


def _differ(expected: Scores, scores: Scores, aggregate: Callable[[Scores], float]) -> bool:
    return differs(
        pseudo_values(expected, aggregate), pseudo_values(scores, aggregate), alpha=METRIC_ALPHA
    )
