"""The metric of an ONNX file, in ONNX Runtime with every graph optimization off: the reference numerics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike

from sensitivity.records import Scores
from sensitivity.runtimes.base import Engine, Runtime
from sensitivity.runtimes.onnxruntime import OnnxRuntime

STRUCTURE = "sensitivity.outputs"


def evaluate_file(
    file: Path,
    batches: Iterable[tuple[Any, Any]],
    score: Callable[[Any, Any], ArrayLike],
    aggregate: Callable[[Scores], float],
    *,
    runtime: Runtime | None = None,
) -> tuple[float, Scores]:
    """The aggregate metric of a file, and its per-sample scores.

    batches, score, aggregate: as in a task. runtime: None for ONNX Runtime without optimizations.
    Outputs reach `score` in the nest that the model gave them in, where the file is one of our exports.
    """
    structure = output_structure(file)
    scores = []
    with (runtime or OnnxRuntime(optimize=False)).build(file) as engine:  # type: ignore[attr-defined]
        for inputs, targets in batches:
            outputs = nested(list(run(engine, inputs).values()), structure)
            scores.append(np.asarray(score(outputs, targets), dtype=np.float64))
    every = np.concatenate(scores)
    return float(aggregate(every)), every


def output_structure(file: Path) -> str | None:
    """The nest of the model's outputs as our export keeps it in the file; None for files of others."""
    proto = onnx.load(file, load_external_data=False)
    return next((item.value for item in proto.metadata_props if item.key == STRUCTURE), None)


def run(engine: Engine, inputs: Any) -> dict[str, np.ndarray]:
    """Outputs of an engine for one batch of torch tensors."""
    from sensitivity.export.trace import flat_inputs

    names, tensors = flat_inputs(inputs)
    feed = {name: tensor.detach().cpu().numpy() for name, tensor in zip(names, tensors, strict=True)}
    return engine.run(feed)


def nested(outputs: list[np.ndarray], structure: str | None) -> Any:
    """Outputs as torch tensors in the model's own nest; without one, a tensor or a tuple of them."""
    import torch
    from torch.utils import _pytree as pytree

    tensors = [torch.from_numpy(np.ascontiguousarray(output)) for output in outputs]
    if structure is not None:
        return pytree.tree_unflatten(tensors, pytree.treespec_loads(structure))
    return tensors[0] if len(tensors) == 1 else tuple(tensors)
