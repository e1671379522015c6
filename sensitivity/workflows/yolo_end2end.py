"""Files that choose the best boxes themselves, for one-to-one heads (v10, 26), made from the files
that are verified.

Which boxes are the best, and in which order, turns on the last bit of near ties, so a model that
chooses could be neither scanned nor compared value by value. So all candidates are compared; the
choice is put behind them afterwards, and checked on the very candidates that it is given.
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
"""As many as ultralytics chooses."""

SAMPLES = 2


def with_best_boxes(
    file: Path, example_inputs: Any, *, classes: int, most: int = MOST
) -> dict[str, str]:
    """Write model.<...>.end2end.onnx beside a file that gives candidates, and return what was
    checked of it by its name.

    Its first output is [n, most, 6 + more]: x1 y1 x2 y2, confidence, class, and coefficients of
    masks or key points; most confident first. Raises ExportError where it does not choose the best
    of the candidates that `file` gives.
    """
    made = save(
        BestBoxes(classes, most)(load_model(file)).model,
        file.with_name(f"{file.stem}.end2end.onnx"),
    )
    names, tensors = flat_inputs(first_samples(example_inputs, SAMPLES))
    inputs = {
        name: tensor.detach().cpu().numpy() for name, tensor in zip(names, tensors, strict=True)
    }
    (candidates, *others), (found, *same) = _outputs(file, inputs), _outputs(made, inputs)
    wrong = sum(
        not chosen_best(rows, each.T, classes, most)
        for rows, each in zip(found, candidates, strict=True)
    ) or not all(np.array_equal(one, other) for one, other in zip(others, same, strict=True))
    if wrong:
        raise ExportError(
            f"Expected {made.name} to choose the best {found.shape[1]} of the candidates of "
            f"{file.name}, got others; this is a fault of the export: please report it."
        )
    return {
        made.name: f"{file.name} and the choice of {found.shape[1]} boxes, the best of its "
        f"candidates on {len(found)} samples"
    }


def chosen_best(rows: NDArray[Any], candidates: NDArray[Any], classes: int, most: int) -> bool:
    """Whether rows [most, 6 + more] are the most confident pairs of anchor and class, most
    confident first.

    candidates: [anchors, 4 + classes + more]. Among equals at the end any may be chosen.
    """
    confidences = candidates[:, 4 : 4 + classes]
    best = np.sort(confidences, axis=None)[::-1][: min(most, len(candidates))]
    if not np.array_equal(rows[:, 4], best):
        return False
    anchors, labels = np.nonzero(confidences > best[-1])
    expected = np.column_stack(
        [
            candidates[anchors, :4],
            confidences[anchors, labels],
            labels,
            candidates[anchors, 4 + classes :],
        ]
    )
    return np.array_equal(
        _sorted(rows[rows[:, 4] > best[-1]]), _sorted(expected.astype(rows.dtype))
    )


def _sorted(rows: NDArray[Any]) -> NDArray[Any]:
    return rows[np.lexsort(rows.T)]


def _outputs(file: Path, inputs: Tensors) -> Sequence[NDArray[Any]]:
    with OnnxRuntime(optimize=False).build(file) as engine:
        return [np.asarray(output) for output in engine.run(inputs).values()]
