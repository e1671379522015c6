"""ONNX files that choose the best boxes themselves, for one-to-one heads (v10, 26).

The last bit of near ties decides which boxes are the best and in which order. A model that chooses
could therefore be neither scanned nor compared value by value. For that reason the model that is
scanned and exported gives all its candidates. The choice is appended to the verified file
afterwards, and checked on the candidates that this file gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import ExportError
from sensitivity.exporters.simulate import first_samples, flat_inputs
from sensitivity.exporters.writing import save
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.passes.best_boxes import BestBoxes
from sensitivity.runtimes.base import Tensors
from sensitivity.runtimes.onnxruntime import OnnxRuntime

MOST = 300
"""The number of boxes that ultralytics chooses."""

SAMPLES = 2
"""Samples on which the choice is checked."""


def with_best_boxes(
    file: Path, example_inputs: Any, *, classes: int, most: int = MOST
) -> dict[str, str]:
    """Write model.<...>.end2end.onnx beside a file that gives candidates, and return its name with
    a sentence that says what was checked of it.

    The first output of the new file is [n, most, 6 + more]: x1 y1 x2 y2, confidence, class, and
    mask coefficients or key points; the most confident box comes first.

    file: the verified file.
    example_inputs: a batch of inputs, the first samples of which are used for the check.
    classes: the number of classes.
    most: the number of boxes to choose.
    Raises ExportError if the new file does not choose the best of the candidates that `file` gives.
    """
    chooser = save(
        BestBoxes(classes, most)(load_model(file)).model,
        file.with_name(f"{file.stem}.end2end.onnx"),
    )
    names, tensors = flat_inputs(first_samples(example_inputs, SAMPLES))
    arrays = [tensor.detach().cpu().numpy() for tensor in tensors]
    inputs = dict(zip(names, arrays, strict=True))
    candidates, *other_outputs = _outputs(file, inputs)
    chosen, *same_outputs = _outputs(chooser, inputs)
    are_best = [
        chosen_best(rows, of_image.T, classes, most)
        for rows, of_image in zip(chosen, candidates, strict=True)
    ]
    are_same = [
        np.array_equal(before, after)
        for before, after in zip(other_outputs, same_outputs, strict=True)
    ]
    if not all(are_best + are_same):
        raise ExportError(
            f"Expected {chooser.name} to choose the best {chosen.shape[1]} of the candidates of "
            f"{file.name}, got others; this is a fault of the export: please report it."
        )
    return {
        chooser.name: f"{file.name} and the choice of {chosen.shape[1]} boxes, the best of its "
        f"candidates on {len(chosen)} samples"
    }


def chosen_best(rows: NDArray[Any], candidates: NDArray[Any], classes: int, most: int) -> bool:
    """Return whether these rows are the most confident pairs of anchor and class, the most
    confident first. Of several equally confident pairs at the end, any may be chosen.

    rows: [most, 6 + more], the chosen boxes of one image.
    candidates: [anchors, 4 + classes + more], the candidates of the same image.
    """
    confidences = candidates[:, 4 : 4 + classes]
    best = np.sort(confidences, axis=None)[::-1][: min(most, len(candidates))]
    if not np.array_equal(rows[:, 4], best):
        return False
    lowest = best[-1]
    anchors, labels = np.nonzero(confidences > lowest)
    columns = [
        candidates[anchors, :4],
        confidences[anchors, labels],
        labels,
        candidates[anchors, 4 + classes :],
    ]
    expected = np.column_stack(columns).astype(rows.dtype)
    return np.array_equal(_sorted(rows[rows[:, 4] > lowest]), _sorted(expected))


def _sorted(rows: NDArray[Any]) -> NDArray[Any]:
    """Return the same rows in an order that depends on their values alone."""
    return rows[np.lexsort(rows.T)]


def _outputs(file: Path, inputs: Tensors) -> Sequence[NDArray[Any]]:
    with OnnxRuntime(optimize=False).build(file) as engine:
        return [np.asarray(output) for output in engine.run(inputs).values()]
