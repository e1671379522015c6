"""Checks that the splits hold different samples, and enough of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from sensitivity.errors import TaskError
from sensitivity.records import SPLITS, Finding, Target
from sensitivity.tasks.base import Task, mean
from sensitivity.tasks.batches import arrays, as_numpy, batch_size

READ = 256
"""Number of samples of a split that are read if its batches are made on demand; a list is read
whole."""
SAME, SOME = 0.5, 0.01
"""Fractions of the smaller split that another one shares. From SAME on the two hold the same data;
below SOME it may be chance."""
FEWEST = 4
"""Smallest number of samples in a useful split."""


@dataclass(frozen=True)
class Split:
    """Samples of one split.

    samples: how many the split holds.
    digests: of the inputs of the samples that were read.
    """

    samples: int
    digests: frozenset[str]


def data_findings(task: Task, target: Target | None = None) -> Iterator[Finding]:
    """Yield what speaks against the splits of a task that has samples.

    target: what a plan must meet; None if it is not known yet.
    Raises TaskError for a batch without a sample axis.
    """
    splits = {name: read(task.data[name]) for name in SPLITS}
    for first, second in combinations(SPLITS, 2):
        yield from _overlap(first, splits[first], second, splits[second])
    for name, split in splits.items():
        yield from _size(name, split.samples)
    drop = None if target is None else target.drop
    if drop is not None and _counts(task):
        yield from _one_sample(drop / task.full_scale, splits["confirm"].samples)


def _counts(task: Task) -> bool:
    """Return whether the metric may be the share of right answers.

    It is not if the task has a soft score, or an aggregate other than the mean, such as mean
    average precision.
    """
    return task.soft is None and task.aggregate is mean


def read(batches: Any) -> Split:
    """Return the digests of the samples of one split, and how many samples it holds."""
    whole = isinstance(batches, (list, tuple))
    digests: set[str] = set()
    seen = done = 0
    for inputs, _ in batches:
        digests.update(sample_digests(inputs))
        seen, done = seen + batch_size(inputs), done + 1
        if seen >= READ and not whole:
            break
    return Split(round(seen * len(batches) / max(done, 1)), frozenset(digests))


def sample_digests(inputs: Any) -> Iterator[str]:
    """Yield a digest for each sample of a batch, over all of its input arrays.

    Raises TaskError for an input without a sample axis.
    """
    contiguous = [np.ascontiguousarray(as_numpy(value)) for value in arrays(inputs)]
    for array in contiguous:
        if array.ndim == 0 or array.dtype.hasobject:
            raise TaskError(
                "Expected every input of a batch to have the sample as its first axis, got a "
                "single number."
            )
    for index in range(batch_size(inputs)):
        digest = hashlib.blake2b(digest_size=8)
        for array in contiguous:
            digest.update(array[index : index + 1].reshape(-1).view(np.uint8).data)
        yield digest.hexdigest()


def _overlap(one: str, first: Split, other: str, second: Split) -> Iterator[Finding]:
    shared = len(first.digests & second.digests)
    part = shared / max(min(len(first.digests), len(second.digests)), 1)
    if part < SOME:
        return
    yield Finding(
        "splits-overlap",
        "error" if part >= SAME else "warning",
        f"{one}, {other}",
        f"Expected the splits {one} and {other} to hold different samples, got {shared} that are "
        "in both: what is chosen on samples cannot be judged on them.",
        "Draw each split from other samples of the same population.",
    )


def _size(name: str, samples: int) -> Iterator[Finding]:
    if samples < FEWEST:
        yield Finding(
            "split-too-small",
            "error",
            name,
            f"Expected split {name} to hold at least {FEWEST} samples, got {samples}: nothing can "
            "be concluded from it.",
            "Give more samples; some hundreds are a start.",
        )


def _one_sample(drop: float, samples: int) -> Iterator[Finding]:
    """Yield a warning if the allowed drop is less than one sample.

    drop: fraction of the metric's full scale that may be lost.
    """
    if 0 < drop * samples < 1:
        yield Finding(
            "drop-below-one-sample",
            "warning",
            "confirm",
            f"Expected the drop allowed to be worth one sample of confirm at least, got {drop:.2%} "
            f"of {samples} samples: where answers are right or wrong, none may be lost.",
            "Give more samples, or a larger --max-drop.",
        )
