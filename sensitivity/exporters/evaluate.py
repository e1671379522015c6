"""Metric of an ONNX file in ONNX Runtime with all graph optimizations off, which are the reference
numerics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike

from sensitivity import optional
from sensitivity.exporters.agreement import agreed
from sensitivity.exporters.simulate import flat_inputs
from sensitivity.exporters.verification import MetricCheck
from sensitivity.onnx_graph.digest import digest
from sensitivity.quantizers.onnx.batches import feed, joined, length, of_samples, pieces
from sensitivity.records import Scores
from sensitivity.runtimes.base import Engine, Runtime, Tensors
from sensitivity.runtimes.onnxruntime import OnnxRuntime, OnnxRuntimeEngine
from sensitivity.tasks.batches import arrays, as_numpy, scores_of
from sensitivity.tasks.scoring import Scoring

STRUCTURE = "sensitivity.outputs"

PIECE = 8
"""Samples that ONNX Runtime runs at a time, at most. Other runtimes build for a batch size."""

PIECE_VALUES = 2_500_000
"""The same in values of the inputs: two images of 640x640, whose activations take gigabytes with
the optimizations off."""

FEWEST = 2
"""Samples that it runs at a time, at least: outputs of one sample do not tell whether they have an
entry for each."""


def evaluate_file(
    file: Path,
    batches: Iterable[tuple[Any, Any]],
    score: Callable[[Any, Any], ArrayLike],
    aggregate: Callable[[Scores], float],
    *,
    runtime: Runtime | None = None,
) -> tuple[float, Scores]:
    """Return the aggregate metric of a file, and its per-sample scores.

    batches, score, aggregate: as in a task. If the file is one of our exports, `score` receives the
        outputs in the model's own nest.
    runtime: None for ONNX Runtime without optimizations.
    """
    structure, ports = output_structure(file), input_ports(file)
    scores = []
    with (runtime or OnnxRuntime(optimize=False)).build(file) as engine:  # type: ignore[attr-defined]
        for inputs, targets in batches:
            outputs = outputs_of(engine, inputs, ports, structure)
            scores.append(scores_of(score(outputs, targets)))
    every = np.concatenate(scores)
    return float(aggregate(every)), every


def file_scores(file: Path, scoring: Scoring, *, optimize: bool = False) -> Scores:
    """Return the per-sample scores of a file in ONNX Runtime on all batches of `scoring`.

    The result is cached by the contents of the file, since several checks ask for it.
    """
    key = (digest(file), optimize)
    if key not in scoring.of_files:
        _, scores = evaluate_file(
            file,
            scoring.batches,
            scoring.score,
            scoring.aggregate,
            runtime=OnnxRuntime(optimize=optimize),
        )
        scoring.of_files[key] = scores
    return scoring.of_files[key]


def check_metric(
    file: Path, variant: str, simulate: Callable[[Any], Any], scoring: Scoring
) -> MetricCheck:
    """Compare the metric of a variant's file with that of its simulated model on the batches of
    `scoring`.

    simulate: returns the model's outputs for inputs.
    Raises ExportError if the two differ by more than 0.3 points and by more than chance. Rounding
    flips turn single samples right and wrong, which on few samples is more than 0.3 points.
    """
    expected = simulated_scores(variant, scoring, simulate)
    scores = file_scores(file, scoring)
    return agreed(file.name, "the simulated model", expected, scores, scoring)


def simulated_scores(variant: str, scoring: Scoring, simulate: Callable[[Any], Any]) -> Scores:
    """Return the per-sample scores of a variant's simulated model on all batches of `scoring`.

    Scores that were measured before are reused. Others are computed from the outputs of `simulate`.
    """
    scores = []
    for number, (inputs, targets) in enumerate(scoring.batches):
        known = scoring.simulated(variant, number)
        if known is None:
            known = scores_of(scoring.score(simulate(inputs), targets))
        scores.append(known)
    return np.concatenate(scores)


def outputs_of(
    engine: Engine, inputs: Any, ports: Mapping[str, int | None], structure: str | None
) -> Any:
    """Return the outputs of the file for a batch.

    A file of a torch model gives tensors in the model's own nest. A Q/DQ file of the user gives
    arrays, even if the task's data are tensors, since that is what its own task receives. A file of
    a torch model that was itself scanned as a Q/DQ file takes and gives arrays.
    """
    is_of_numpy = isinstance(next(arrays(inputs), None), np.ndarray)
    if structure is not None and not is_of_numpy:
        return nested(run_in_pieces(engine, inputs), structure)
    fed = feed(inputs, list(ports))
    fixed = next((size for size in ports.values() if size is not None), None)
    return joined([list(engine.run(part).values()) for part in pieces(fed, fixed)], length(fed))


def arrays_of(file: Path, inputs: Any) -> dict[str, np.ndarray]:
    """Return a batch of arrays by the names of the file's inputs.

    If the file has a fixed batch size, only that many samples are taken. Raises TaskError if the
    number or the names of the arrays differ from the file's.
    """
    ports = input_ports(file)
    fixed = next((size for size in ports.values() if size is not None), None)
    return {name: array[:fixed] for name, array in feed(inputs, list(ports)).items()}


def input_ports(file: Path) -> dict[str, int | None]:
    """Return name -> fixed batch size of each input of the file; None for any size."""
    graph = onnx.load(file, load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer}
    sides = {
        value.name: value.type.tensor_type.shape.dim
        for value in graph.input
        if value.name not in stored
    }
    return {name: dims[0].dim_value or None if dims else None for name, dims in sides.items()}


def output_structure(file: Path) -> str | None:
    """Return the nest of the model's outputs that our export stored in the file; None for other
    files."""
    proto = onnx.load(file, load_external_data=False)
    return next((item.value for item in proto.metadata_props if item.key == STRUCTURE), None)


def run(engine: Engine, inputs: Any) -> dict[str, np.ndarray]:
    """Return the outputs of an engine for one batch of torch tensors."""
    return engine.run(named_arrays(inputs))


def named_arrays(inputs: Any) -> dict[str, np.ndarray]:
    """Return one batch of torch tensors as arrays, by the names of the inputs of its file."""
    names, tensors = flat_inputs(inputs)
    return {name: as_numpy(tensor) for name, tensor in zip(names, tensors, strict=True)}


def run_in_pieces(engine: Engine, inputs: Any) -> list[np.ndarray]:
    """Return the outputs of an engine for one batch of torch tensors, as `arrays_in_pieces`
    does."""
    return arrays_in_pieces(engine, named_arrays(inputs))


def arrays_in_pieces(engine: Engine, given: Tensors) -> list[np.ndarray]:
    """Return the outputs of an engine for one batch, by the names of its inputs.

    ONNX Runtime runs a few samples at a time, which takes less memory and no longer. The batch runs
    as a whole if some output of the first samples does not have one entry for each.
    """
    size = length(given)
    if size is None or not isinstance(engine, OnnxRuntimeEngine):
        return list(engine.run(given).values())
    outputs: list[list[np.ndarray]] = []
    together = _samples_together(given)
    for start in range(0, size, together):
        count = min(together, size - start)
        piece = of_samples(given, slice(start, start + count))
        outputs.append(list(engine.run(piece).values()))
        if any(output.shape[:1] != (count,) for output in outputs[-1]):
            return list(engine.run(given).values())
    return [np.concatenate(parts) for parts in zip(*outputs, strict=True)]


def _samples_together(given: Tensors) -> int:
    """Return the number of samples of this batch to run at a time."""
    values: int = sum(math.prod(array.shape[1:]) for array in given.values())
    return max(FEWEST, min(PIECE, PIECE_VALUES // max(values, 1)))


def nested(outputs: list[np.ndarray], structure: str | None) -> Any:
    """Return outputs as torch tensors in the model's own nest; without one, a tensor or a tuple of
    them."""
    tensors = [optional.torch.from_numpy(np.ascontiguousarray(output)) for output in outputs]
    if structure is not None:
        return optional.pytree.tree_unflatten(tensors, optional.pytree.treespec_loads(structure))
    return tensors[0] if len(tensors) == 1 else tuple(tensors)
