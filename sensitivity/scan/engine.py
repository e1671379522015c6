"""The measuring loop: batch by batch, every variant that is still missing, written down as it is made."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sensitivity.errors import SensitivityError, TaskError
from sensitivity.journal.journal import Journal
from sensitivity.records import Scores, Variant
from sensitivity.scan.progress import Progress, silent
from sensitivity.simulators.base import Simulator
from sensitivity.tasks.base import Task
from sensitivity.tasks.batches import batch_digest, batch_size


class Measurer:
    """Scores of variants on splits, from the journal where it has them and from the simulator where not.

    simulator: called once, when the first sample has to be forwarded.
    samples: how many samples have been forwarded (one variant on one sample counts one).
    """

    def __init__(
        self, task: Task, simulator: Callable[[], Simulator], journal: Journal, progress: Progress = silent
    ) -> None:
        self.task = task
        self.journal = journal
        self.progress = progress
        self.samples = 0
        self._make_simulator = simulator
        self._simulator: Simulator | None = None

    def scores(self, variants: Sequence[Variant], split: str, what: str) -> list[Scores]:
        """Per-sample scores float64[n] or [n, k] of each variant on all of `split`, in the order of `variants`."""
        data = self.task.data[split]
        count = len(data)
        missing = [
            [v for v in _distinct(variants) if self.journal.scores(v, split, batch) is None] for batch in range(count)
        ]
        if any(missing):
            self._measure(missing, split, what)
        return [np.concatenate([self._known(v, split, batch) for batch in range(count)]) for v in variants]

    def metric(self, variant: Variant, split: str, what: str) -> float:
        return self.aggregate(self.scores([variant], split, what)[0])

    def aggregate(self, scores: Scores) -> float:
        """The task's metric of these scores. Raises TaskError if it raises or is not finite."""
        try:
            value = float(self.task.aggregate(scores))
        except Exception as error:
            raise user_error("task.aggregate", "", error) from error
        if not np.isfinite(value):
            raise TaskError(
                f"Expected task.aggregate to return a finite number, got {value}; check it on scores of shape {scores.shape}."
            )
        return value

    def _measure(self, missing: list[list[Variant]], split: str, what: str) -> None:
        total = sum(len(variants) for variants in missing)
        with self.progress(what, total) as advance:
            for batch, (inputs, targets) in enumerate(self.task.data[split]):
                if batch >= len(missing):
                    raise TaskError(
                        f"Expected split {split!r} to hold {len(missing)} batches as its len() says, got more; make len() and iteration agree."
                    )
                if missing[batch]:
                    before = self.samples
                    self._measure_batch(missing[batch], split, batch, inputs, targets)
                    advance(len(missing[batch]), self.samples - before)

    def _measure_batch(self, variants: list[Variant], split: str, batch: int, inputs: Any, targets: Any) -> None:
        self.journal.add_batch(split, batch, batch_digest(inputs, targets))
        size = batch_size(inputs)
        where = f" on batch {batch} of split {split!r}"
        outputs = self.simulator.outputs(inputs, [variant.disabled for variant in variants])
        measured: list[tuple[Variant, Scores]] = []
        for index, output in outputs:
            measured.append((variants[index], checked_scores(self.task, output, targets, size, where)))
            self.samples += size
        for variant, scores in measured:
            self.journal.add_scores(variant, split, batch, scores)

    def _known(self, variant: Variant, split: str, batch: int) -> Scores:
        scores = self.journal.scores(variant, split, batch)
        if scores is None:
            raise TaskError(
                f"Expected split {split!r} to hold as many batches as its len() says, got only {batch}; make len() and iteration agree."
            )
        return scores

    @property
    def simulator(self) -> Simulator:
        if self._simulator is None:
            self._simulator = self._make_simulator()
        return self._simulator


def checked_scores(task: Task, output: Any, targets: Any, size: int, where: str) -> Scores:
    """The task's scores of one batch, float64. Raises TaskError if the user's function fails or returns anything else."""
    try:
        scores = np.asarray(task.score(output, targets), dtype=np.float64)
    except Exception as error:
        raise user_error("task.score", where, error) from error
    if scores.ndim == 0 or len(scores) != size:
        got = "a single number" if scores.ndim == 0 else f"{len(scores)} scores"
        raise TaskError(
            f"Expected task.score to return one score for each of the {size} samples{where}, got {got}; return an array whose first axis is the sample."
        )
    if not np.isfinite(scores).all():
        bad = int(np.argwhere(~np.isfinite(scores))[0][0])
        raise TaskError(
            f"Expected task.score to return finite scores{where}, got {scores[bad]} for sample {bad}; check the metric on this sample."
        )
    return scores


def user_error(what: str, where: str, error: Exception) -> SensitivityError:
    """One sentence for an exception out of the user's own code, with the place where it was raised."""
    if isinstance(error, SensitivityError):
        return error
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return TaskError(
        f"Expected {what} to return{where}, got {type(error).__name__}: {error} ({frame.filename}:{frame.lineno})."
    )


def _distinct(variants: Sequence[Variant]) -> list[Variant]:
    return list({variant.key: variant for variant in variants}.values())
