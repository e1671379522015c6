"""What a user's Python file returns: a calibrated model, its data by split, and how outputs become
scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from sensitivity.records import Scores


class Batches(Protocol):
    """Batches of (inputs, targets), such as a list or a DataLoader without shuffling: iterable
    again and again in the same order. The first axis of every tensor is the sample."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Any, Any]]: ...


Finish = Callable[[Path, Any], Mapping[str, str]]
"""(exported file, example inputs) -> name of each file written beside it, and in words what was
checked of it."""


Soft = Callable[[Any, Any], ArrayLike]
"""(Outputs of the float model, outputs of a variant) -> soft drops float[n], see `Task.soft`."""


@runtime_checkable
class Fittable(Protocol):
    """A soft drop with parameters that labels can tell."""

    def fit(self, outputs: Sequence[Any], targets: Sequence[Any]) -> tuple[float, ...]:
        """The parameters, from the float model's outputs on batches of labelled samples."""
        ...

    def fitted(self, parameters: tuple[float, ...]) -> Soft:
        """The soft drop with these parameters."""
        ...


def mean(scores: Scores) -> float:
    """The default aggregate: the mean of per-sample scores float[n]."""
    return float(np.mean(scores))


@dataclass(frozen=True)
class Task:
    """A model to analyse and how to judge it.

    model: calibrated, in eval mode, on the device where it shall run.
    data: batches for the splits "rank", "confirm" and "holdout"; different samples in each, drawn
    at random from
        the same population, and none of them used for calibration. "calib", where it is there, is
        what other ranges are calibrated on, which else takes `rank`. "unlabeled", where it is
        there, are more samples of the same population: only `soft` looks at them.
    score: (outputs, targets) -> per-sample scores float[n] or float[n, k], higher is better, all
    finite.
    aggregate: scores of any number of samples -> the metric, higher is better; the mean by default.
    metric: its name in reports. full_scale: its largest value; "1pt" is a hundredth of it.
    inputs: model(*inputs) for a tuple, model(**inputs) for a dict, model(inputs) otherwise.
    float_model: the user's own unquantized model, another object than `model`; before a scan,
    `model` with everything
        disabled is shown to compute the same. None where it is not at hand.
    soft: (the float model's outputs, a variant's) -> per sample float[n] what float itself expects
        to lose by the other answer, in the unit of the score and without a label; for a metric that
        is the mean of one score for each sample. One that is `Fittable` is fitted to labelled
        samples of `confirm` and `rank` first. None where nothing of the kind is known.
    finish: what is made of each exported file once it is verified; for ends of a graph that cannot
    be compared value by
        value, such as the choice of the best boxes.
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


@dataclass(frozen=True)
class EvaluateTask:
    """For a user who only has `evaluate(model) -> float`, higher is better.

    Slower (each variant is a whole evaluation) and without intervals. `confirm` and `holdout` are
    evaluations on other samples; None means that `evaluate` serves for them too, and the reported
    accuracy is then not held out.
    example_inputs: one batch of inputs, needed for export and bench only. float_model: as in
    `Task`; compared on `example_inputs`.
    """

    model: Any
    evaluate: Callable[[Any], float]
    confirm: Callable[[Any], float] | None = None
    holdout: Callable[[Any], float] | None = None
    example_inputs: Any = None
    metric: str = "metric"
    full_scale: float = 1.0
    float_model: Any = None
