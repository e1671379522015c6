"""Tasks on samples without labels, for which the float model's outputs stand."""

from __future__ import annotations

from collections.abc import Mapping, Sized

import numpy as np

from sensitivity.onnx_task.inputs import File
from sensitivity.quantizers.onnx.float_model import float_runner
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.records import SPLITS
from sensitivity.tasks.agreement import METRIC, FloatBatches, FloatModel, agreement
from sensitivity.tasks.base import Batches, Task
from sensitivity.tasks.classification import Labels


def agreement_task(model: File, splits: Mapping[str, Batches]) -> Task:
    """Return the task of a model on samples without labels; the float model's outputs take their
    place."""
    batches = dict(splits)
    if isinstance(model, OnnxModel):  # a float file itself is asked for its calibration samples
        float_model = FloatModel(float_runner(model), splits["rank"])
        batches |= {name: FloatBatches(splits[name], float_model) for name in SPLITS}
    return Task(model, batches, agreement, metric=METRIC)


def no_labels(samples: Sized) -> Labels:
    """Return a label for each sample that means nothing, int64[n]."""
    return np.zeros(len(samples), np.int64)
