"""What stands for labels where there are none: what the float model gives for the same samples."""

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
"""Samples on which it is found how much the outputs differ from one sample to the next."""

METRIC = "agreement with float"


@dataclass(frozen=True, eq=False)
class FloatModel:
    """run: inputs of a batch -> the outputs of the float model, all of them in the file's order.
    samples: batches of inputs that tell how much the outputs differ between samples."""

    run: Callable[[Any], Sequence[Array]]
    samples: Batches

    @cached_property
    def spreads(self) -> tuple[float, ...]:
        """Of each output: the squared distance of a sample from the mean over the samples, summed
        over the output and averaged over the samples; 0 where all samples have the same, or one has
        a value that is not finite."""
        seen: list[Sequence[Array]] = []
        count = 0
        for inputs, _ in self.samples:
            seen.append(self.run(inputs))
            count += batch_size(inputs)
            if count >= SPREAD_SAMPLES:
                break
        return tuple(_spread(list(same)) for same in zip(*seen, strict=True))


def _spread(parts: Sequence[Array]) -> float:
    """parts: one output, batch by batch."""
    is_comparable = len({part.shape[1:] for part in parts}) == 1 and parts[0].ndim > 0
    if not is_comparable:
        return 0.0
    values = np.concatenate(parts).astype(np.float64)
    apart = (values - values.mean(0)) ** 2
    found = float(apart.sum() / len(values))
    return found if np.isfinite(found) else 0.0


class FloatOutputs:
    """The float model's outputs on one batch, computed when they are first asked for.

    No array, so that the digest of a batch does not hold it: the last bits of outputs are others on
    another machine.
    """

    def __init__(
        self, model: FloatModel, inputs: Any, known: Sequence[Array] | None = None
    ) -> None:
        """known: the outputs where they were computed before; None where not."""
        self.samples = batch_size(inputs)
        self._model = model
        self._inputs = inputs
        if known is not None:
            self.arrays = known

    @property
    def spreads(self) -> tuple[float, ...]:
        """Of each output, see `FloatModel`."""
        return self._model.spreads

    @cached_property
    def arrays(self) -> Sequence[Array]:
        """All outputs in the file's order."""
        return self._model.run(self._inputs)


@dataclass(eq=False)
class FloatBatches:
    """Batches (inputs, `FloatOutputs`) of these inputs; outputs are kept as far as `KeptOutputs`
    has room."""

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
            was_asked_for = "arrays" in vars(outputs)
            if was_asked_for:
                self._kept.keep(place, outputs.arrays)


def agreement(outputs: Any, targets: FloatOutputs) -> Scores:
    """Return how much of what float's outputs tell of each sample is left: float64[n] from 0 to 1.

    Of each output 1 less the squared distance from float's as a part of how far samples are from
    their mean: the coefficient of determination, R2, for each sample, and 0 where it is below. Of
    whole numbers the part that is equal. Several outputs count alike; one that is the same for all
    samples, or has no entry for each sample, does not count. Raises TaskError where none counts, or
    an output has another shape than float's.
    """
    given = outputs if isinstance(outputs, tuple) else (outputs,)
    found = []
    for own, theirs, spread in zip(given, targets.arrays, targets.spreads, strict=True):
        own = as_numpy(own)
        _check_shape(own, theirs)
        is_by_sample = theirs.shape[:1] == (targets.samples,)
        if is_by_sample and spread > 0:
            found.append(_determined(own, theirs, spread))
    if not found:
        shapes = " and ".join(str(list(array.shape)) for array in targets.arrays)
        raise TaskError(
            "Expected an output of the float model that has an entry for each sample on its first "
            f"axis and differs between samples, got {shapes} for {targets.samples} samples; give "
            "samples that differ, or labels, or a metric of your own with --evaluator."
        )
    return np.asarray(np.mean(found, axis=0))


def _check_shape(own: Array, theirs: Array) -> None:
    if own.shape != theirs.shape:
        raise TaskError(
            "Expected outputs as long as those of the float model, to see how far they agree, got "
            f"{list(own.shape)} and {list(theirs.shape)}: the model chooses how many it gives; "
            "give labels, or a metric of your own with --evaluator."
        )


def _determined(own: Array, theirs: Array, spread: float) -> Scores:
    """Return one output. spread: above 0."""
    others = tuple(range(1, theirs.ndim))
    if theirs.dtype.kind not in "fc":
        return np.asarray((own == theirs).mean(others), np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.where(own == theirs, 0.0, np.subtract(own, theirs, dtype=np.float64))
        left = 1 - (apart**2).sum(others) / spread
    return np.asarray(np.clip(np.nan_to_num(left, nan=0.0), 0.0, 1.0))
