"""Checks whether a task that changed since its journal began still measures the same.

A changed comment does not get here (`tasks.load.same_task`). If the code differs, earlier
measurements decide: every batch of data that was read, the scores of the first batch, and the
metric of all scores.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sensitivity.errors import JournalMismatch
from sensitivity.measure.checked import checked_scores
from sensitivity.measure.measurer import Measurer
from sensitivity.measure.reader import Reader
from sensitivity.measure.study import Study
from sensitivity.records import SPLITS, Estimate, Scores, Variant
from sensitivity.tasks.batches import batch_digest, batch_size

CHANGED = (
    "The {} has changed since this run began. Its model, its data and the scores of its first "
    "batch are the same, so what was measured before still counts."
)
COMPARED = ("float", "quantized")
TOLERANCE = 1e-6
"""Relative difference of scores that counts as equal, because another order of additions may round
differently."""


class _MeasuresAnother(Exception):
    """Internal error whose text is the difference, as a clause."""


def check_same_task(study: Study, known: Mapping[str, Estimate], what: str = "task file") -> None:
    """Raise JournalMismatch, with the difference, if the task does not measure what it did.

    known: baselines of the scan by name, whose metric the earlier task computed; empty if there was
        no scan yet.
    what: what messages call the task.
    """
    measurer = study.measurer
    base = {name: measurer.of(study.baselines[name]) for name in COMPARED}
    try:
        for split in SPLITS:
            _check_data(measurer, split)
        _check_scores(measurer, base)
        for name in [name for name in COMPARED if name in known]:
            _check_metric(measurer, name, base[name], known[name])
    except _MeasuresAnother as error:
        raise JournalMismatch(
            f"Expected the changed {what} to measure what it did when this run began, got {error}; "
            "undo the change, or choose another --out."
        ) from None


def _check_data(measurer: Measurer, split: str) -> None:
    """Compare the digests of all batches that were read, including those of signals, which name a
    split of their own."""
    read = {
        batch: digest
        for (of, batch), digest in measurer.journal.digests.items()
        if of.partition(":")[0] == split
    }
    reader = Reader(measurer.task, split)
    for batch in sorted(read):
        if batch_digest(*reader.at(batch)) != read[batch]:
            raise _MeasuresAnother(f"other data in batch {batch} of split {split!r}")


def _check_scores(measurer: Measurer, base: Mapping[str, Variant]) -> None:
    before = {
        name: scores
        for name, variant in base.items()
        if (scores := measurer.journal.scores(variant, "rank", 0)) is not None
    }
    if not before:
        return
    inputs, targets = Reader(measurer.task, "rank").at(0)
    size, names = batch_size(inputs), list(before)
    for index, output in measurer.outputs([base[name] for name in names], inputs):
        scores = checked_scores(measurer.task, output, targets, size, " on the first batch of rank")
        _compare(names[index], before[names[index]], scores)


def _compare(name: str, before: Scores, scores: Scores) -> None:
    if before.shape != scores.shape:
        raise _MeasuresAnother(f"scores of shape {list(scores.shape)}, {list(before.shape)} before")
    if not np.allclose(before, scores, rtol=TOLERANCE, atol=TOLERANCE):
        raise _MeasuresAnother(
            f"other scores of the {name} model on the first batch of rank, "
            f"whose mean is {scores.mean():.6g} and was {before.mean():.6g}"
        )


def _check_metric(measurer: Measurer, name: str, variant: Variant, known: Estimate) -> None:
    scores = measurer.known(variant, "rank")
    if len(scores) != known.n:
        return
    value = measurer.aggregate(scores)
    if not np.isclose(value, known.value, rtol=TOLERANCE, atol=TOLERANCE):
        raise _MeasuresAnother(
            f"another metric from the same scores of the {name} model, {value:.6g} instead of "
            f"{known.value:.6g}"
        )
