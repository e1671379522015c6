"""The float model's outputs on the same samples, which take the place of labels where there are
none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import TaskError
from sensitivity.records import Scores
from sensitivity.tasks.base import Batches
from sensitivity.tasks.batches import as_numpy, batch_size
from sensitivity.tasks.kept import KeptOutputs

Array = NDArray[Any]

SPREAD_SAMPLES = 64
"""The number of samples from which the spread of the outputs is estimated."""

METRIC = "agreement with float"


@dataclass(frozen=True, eq=False)
class FloatModel:
    """The float model of a file.

    run: inputs of a batch -> all outputs of the float model, in the file's order.
    samples: batches of inputs from which the spread of the outputs is estimated.
    """

    run: Callable[[Any], Sequence[Array]]
    samples: Batches

    @cached_property
    def spreads(self) -> tuple[float, ...]:
        """The spread of each output: the squared distance of a sample from the mean of the samples,
        summed over the output and averaged over the samples.

        It is 0 if all samples have the same output, or if one has a value that is not finite.
        """
        batches: list[Sequence[Array]] = []
        count = 0
        for inputs, _ in self.samples:
            batches.append(self.run(inputs))
            count += batch_size(inputs)
            if count >= SPREAD_SAMPLES:
                break
        return tuple(_spread(list(output)) for output in zip(*batches, strict=True))


def _spread(parts: Sequence[Array]) -> float:
    """Return the spread of one output.

    parts: its values, batch by batch.
    """
    is_comparable = len({part.shape[1:] for part in parts}) == 1 and parts[0].ndim > 0
    if not is_comparable:
        return 0.0
    values = np.concatenate(parts).astype(np.float64)
    squared_distances = (values - values.mean(0)) ** 2
    spread = float(squared_distances.sum() / len(values))
    return spread if np.isfinite(spread) else 0.0


class FloatOutputs:
    """The float model's outputs on one batch, computed when they are first read.

    The object is not an array, so that the digest of a batch leaves it out: the last bits of the
    outputs differ between machines.
    """

    def __init__(
        self, model: FloatModel, inputs: Any, known: Sequence[Array] | None = None
    ) -> None:
        """Set the model and the batch.

        inputs: one batch of inputs.
        known: the outputs, if they were computed before. None computes them.
        """
        self.samples = batch_size(inputs)
        self._model = model
        self._inputs = inputs
        if known is not None:
            self.arrays = known

    @property
    def spreads(self) -> tuple[float, ...]:
        """The spread of each output; see `FloatModel`."""
        return self._model.spreads

    @cached_property
    def arrays(self) -> Sequence[Array]:
        """All outputs in the file's order."""
        return self._model.run(self._inputs)


@dataclass(eq=False)
class FloatBatches:
    """Batches (inputs, `FloatOutputs`) of these inputs. Computed outputs are kept as long as
    `KeptOutputs` has room."""

    batches: Batches
    model: FloatModel
    _kept: KeptOutputs = field(default_factory=KeptOutputs)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Any, FloatOutputs]]:
        for number, (inputs, _) in enumerate(self.batches):
            place = ("float", number)
            outputs = FloatOutputs(self.model, inputs, self._kept.get(place))
            yield inputs, outputs
            is_computed = "arrays" in vars(outputs)
            if is_computed:
                self._kept.keep(place, outputs.arrays)


def agreement(outputs: Any, targets: FloatOutputs) -> Scores:
    """Return how far the outputs of each sample agree with those of the float model, float64[n]
    from 0 to 1.

    For real numbers it is the coefficient of determination (R2) of each sample: 1 minus the squared
    distance from the float model's output over the spread of that output, and at least 0. For whole
    numbers it is the fraction of equal values. Several outputs have the same weight. An output that
    is the same for all samples, or that has no entry for each sample, does not count.

    Raises TaskError if no output counts, or if an output has another shape than the float model's.
    """
    given = outputs if isinstance(outputs, tuple) else (outputs,)
    agreements = []
    for output, float_output, spread in zip(given, targets.arrays, targets.spreads, strict=True):
        own = as_numpy(output)
        _check_shape(own, float_output)
        is_by_sample = float_output.shape[:1] == (targets.samples,)
        if is_by_sample and spread > 0:
            agreements.append(_determination(own, float_output, spread))
    if not agreements:
        shapes = " and ".join(str(list(array.shape)) for array in targets.arrays)
        raise TaskError(
            "Expected an output of the float model that has an entry for each sample on its first "
            f"axis and differs between samples, got {shapes} for {targets.samples} samples; give "
            "samples that differ, or labels, or a metric of your own with --evaluator."
        )
    return np.asarray(np.mean(agreements, axis=0))


def _check_shape(own: Array, float_output: Array) -> None:
    if own.shape != float_output.shape:
        raise TaskError(
            "Expected outputs as long as those of the float model, to see how far they agree, got "
            f"{list(own.shape)} and {list(float_output.shape)}: the model chooses how many it "
            "gives; give labels, or a metric of your own with --evaluator."
        )


def _determination(own: Array, float_output: Array, spread: float) -> Scores:
    """Return the agreement of one output for each sample, float64[n].

    spread: the spread of the float model's output, above 0.
    """
    axes = tuple(range(1, float_output.ndim))
    is_equal = own == float_output
    if float_output.dtype.kind not in "fc":
        return np.asarray(is_equal.mean(axes), np.float64)
    with np.errstate(invalid="ignore"):
        # Equal infinities have a difference of 0.
        difference = np.subtract(own, float_output, dtype=np.float64)
        squared_distance = (np.where(is_equal, 0.0, difference) ** 2).sum(axes)
        determination = 1 - squared_distance / spread
    return np.asarray(np.clip(np.nan_to_num(determination, nan=0.0), 0.0, 1.0))
