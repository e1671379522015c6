"""Tasks: what a user's Python file returns, a calibrated model with its data and its metric."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from sensitivity.records import Scores


class Batches(Protocol):
    """Batches of (inputs, targets), such as a list or a DataLoader without shuffling.

    They can be iterated any number of times, always in the same order. The first axis of every
    tensor is the sample.
    """

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Any, Any]]: ...


Finish = Callable[[Path, Any], Mapping[str, str]]
"""(exported file, example inputs) -> the name of each file that was written beside it, with a
sentence that says what was checked of it."""


Soft = Callable[[Any, Any], ArrayLike]
"""(Outputs of the float model, outputs of a variant) -> soft drops float[n], see `Task.soft`."""


@runtime_checkable
class Fittable(Protocol):
    """A soft drop whose parameters are fitted to labelled samples."""

    def fit(self, outputs: Sequence[Any], targets: Sequence[Any]) -> tuple[float, ...]:
        """Return the parameters that fit the float model's outputs on labelled batches."""
        ...

    def fitted(self, parameters: tuple[float, ...]) -> Soft:
        """Return the soft drop with these parameters."""
        ...


@runtime_checkable
class TellsTies(Protocol):
    """A soft drop that says what other answers would lose where float is nearly indifferent."""

    def ties(self, outputs: Sequence[Any], targets: Sequence[Any]) -> tuple[Scores, Scores]:
        """Return for each sample of labelled batches what is lost by float's second best answer,
        and what float believes it to be, both float64[n]; both 0 unless it is nearly
        indifferent."""
        ...


@runtime_checkable
class Condenses(Protocol):
    """A soft drop that needs little of the float model's outputs. This is kept for all samples, so
    that the float model computes none of them twice."""

    def condensed(self, float_outputs: Any) -> Any:
        """Return what it needs of the float model's outputs of a batch, whatever parameters it is
        fitted to. It is then called with this in their place."""
        ...


@runtime_checkable
class StandsForMetric(Protocol):
    """A soft drop for a metric that is not a mean over samples, such as mAP. It is called like any
    other, and returns one record for each sample, float[n, k]."""

    def stands_for(self, aggregate: Callable[[Scores], float]) -> bool:
        """Return whether the soft drops tell what this metric loses."""
        ...

    def drops(self, records: Scores) -> Scores:
        """Return the soft drop of each sample, float[n]: their mean is the drop of all of them
        together, and their spread is its sampling error.

        records: of the samples, float[n, k].
        """
        ...


def mean(scores: Scores) -> float:
    """Return the default aggregate: the mean of per-sample scores float[n]."""
    return float(np.mean(scores))


@dataclass(frozen=True)
class Task:
    """A calibrated model, its data by split, and how its outputs become scores.

    model: the calibrated model, in eval mode, on the device that it runs on.
    data: batches of each split. "rank", "confirm" and "holdout" are required; they hold different
        samples, drawn at random from the same population, and none that was used for calibration.
        "calib" is optional: other ranges are calibrated on it, or on "rank" if it is missing.
        "unlabeled" is optional: further samples of the same population, which only `soft` reads.
    score: (outputs, targets) -> per-sample scores float[n] or float[n, k]; higher is better, and
        all are finite.
    aggregate: the scores of any number of samples -> the metric; higher is better. The mean by
        default.
    metric: the name of the metric in reports.
    full_scale: the largest value of the metric; "1pt" is a hundredth of it.
    finish: called with each exported file once it is verified, to write further files beside it
        whose ends cannot be compared value by value, such as a choice of the best boxes. None
        writes no further files.
    float_model: the user's own unquantized model, another object than `model`. Before a scan,
        `model` with all quantizers disabled is shown to compute the same. None skips that proof.
    soft: (outputs of the float model, outputs of a variant) -> float[n], the loss that the float
        model itself expects from each sample's other answer, in the unit of the score and without
        labels. Only for a metric that is the mean of one score for each sample, or that the soft
        drop `StandsForMetric`. A `Fittable` one is first fitted to the labelled samples of "rank"
        and "confirm", and one that `TellsTies` shows on them how much more its close answers lose.
        None if no such estimate is known.
    loss: (outputs of the float model, outputs of the quantized one) -> a tensor of one value with
        its gradient, what fine-tuning makes small. None takes KL of the probabilities for logits
        [n, classes], and otherwise the squared error over the spread of each kind of output.

    Inputs of a batch are passed as `model(*inputs)` for a tuple, `model(**inputs)` for a dict, and
    `model(inputs)` otherwise.
    """

    model: Any
    data: Mapping[str, Batches]
    score: Callable[[Any, Any], ArrayLike]
    aggregate: Callable[[Scores], float] = mean
    metric: str = "accuracy"
    full_scale: float = 1.0
    finish: Finish | None = None
    float_model: Any = None
    soft: Soft | None = None
    loss: Callable[[Any, Any], Any] | None = None


@dataclass(frozen=True)
class EvaluateTask:
    """A calibrated model and a plain `evaluate(model) -> float`.

    A scan of it is slower than that of a `Task`, since each variant is a whole evaluation, and its
    effects have no intervals.

    model: the calibrated model, in eval mode.
    evaluate: model -> the metric; higher is better.
    confirm, holdout: the same on other samples. None uses `evaluate` for them too, and the reported
        accuracy is then not held out.
    example_inputs: one batch of inputs, which only export and bench need. None if there is none.
    metric: the name of the metric in reports.
    full_scale: the largest value of the metric; "1pt" is a hundredth of it.
    float_model: as in `Task`; compared on `example_inputs`.
    """

    model: Any
    evaluate: Callable[[Any], float]
    confirm: Callable[[Any], float] | None = None
    holdout: Callable[[Any], float] | None = None
    example_inputs: Any = None
    metric: str = "metric"
    full_scale: float = 1.0
    float_model: Any = None
