"""Finds units that the metric cannot see: what they compute reaches only outputs that the score
does not read.

Examples are auxiliary heads, and the mask and key-point branches of a detector that is scored by
its boxes. Their effect on the metric is 0 whatever INT8 does to them, so it says nothing about
them.
"""

from __future__ import annotations

import copy
import dataclasses
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from sensitivity.errors import SensitivityError
from sensitivity.measure.checked import checked_scores
from sensitivity.measure.measurer import Measurer
from sensitivity.measure.reader import Reader
from sensitivity.measure.scan import Scan
from sensitivity.measure.study import Study
from sensitivity.measure.variants import BASE_OF
from sensitivity.records import Effect, Estimate, Mode, Scores, Unit, Variant
from sensitivity.seeds import generator
from sensitivity.tasks.base import Task
from sensitivity.tasks.batches import as_numpy, batch_digest, batch_size, sequence_of

SPLIT = "rank: read by the score"
"""Name under which the journal keeps 1 for a unit that the score sees, and 0 for one that it does
not."""

Block = tuple[np.ndarray, ...] | None
"""Indices that a unit touches along each axis of one output, for all samples; None if it touches
nothing."""

Array = np.ndarray[Any, np.dtype[Any]]

MOST_CHANNELS, STRETCHES = 128, 16
"""Length of an axis up to which each index is tested alone, and number of stretches that a longer
axis is tested in."""


def mark_unjudged(study: Study, scanned: Scan) -> Scan:
    """Return the scan with the units that the score cannot see marked and ranked last."""
    names = not_judged(study, scanned.mode)
    if not names:
        return scanned
    effects = behind(scanned.effects, names)
    signal = scanned.signal
    if signal:
        signal = {effect.unit: signal[effect.unit] for effect in effects}
    return replace(scanned, effects=effects, signal=signal)


def not_judged(study: Study, mode: Mode) -> frozenset[str]:
    """Return the names of units that the score cannot see.

    A unit that changed the score of a sample is seen. For every other unit, the first batch of
    `rank` shows which part of the outputs it touches when it alone is quantized, and whether the
    score notices other values in that part.
    """
    doubtful = dict[str, Variant]()
    for unit in study.units:
        if not _changed_a_score(study, unit, mode):
            doubtful[unit.name] = study.unit_variant(unit, "enable")
    unknown = [variant for variant in doubtful.values() if _answer(study, variant) is None]
    if unknown:
        _look(study.measurer, unknown, study.float_variant)
    unseen = set[str]()
    for name, variant in doubtful.items():
        if _answer(study, variant) is False:
            unseen.add(name)
    return frozenset(unseen)


def _answer(study: Study, variant: Variant) -> bool | None:
    """Return whether the score sees what this variant changes, according to the journal; None if it
    has no answer."""
    answer = study.measurer.journal.scores(study.measurer.of(variant), SPLIT, 0)
    return None if answer is None else bool(answer.all())


def behind(effects: Sequence[Effect], names: frozenset[str]) -> tuple[Effect, ...]:
    """Return the effects with those of `names` last, marked and without a value; ranks and ties are
    those of the new order."""
    seen = [effect for effect in effects if effect.unit not in names]
    unseen = [effect for effect in effects if effect.unit in names]
    old_ranks = [effect.rank for effect in seen]
    reordered = []
    for rank, effect in enumerate(seen, 1):
        tie = 1 + bisect_left(old_ranks, effect.tie)
        reordered.append(replace(effect, rank=rank, tie=tie))
    nothing = Estimate(0.0, None, None, 0)
    for rank, effect in enumerate(unseen, len(seen) + 1):
        reordered.append(replace(effect, rank=rank, tie=rank, effect=nothing, judged=False))
    return tuple(reordered)


def _changed_a_score(study: Study, unit: Unit, mode: Mode) -> bool:
    """Return whether a measured score of the unit's variant differs from that of its baseline."""
    measurer = study.measurer
    reference = measurer.of(study.baselines[BASE_OF[mode]])
    variant = measurer.of(study.unit_variant(unit, mode))
    for batch in range(len(measurer.task.data["rank"])):
        scores = measurer.journal.scores(variant, "rank", batch)
        other = measurer.journal.scores(reference, "rank", batch)
        if scores is None or other is None:
            continue
        if not np.array_equal(scores, other):
            return True
    return False


def _look(measurer: Measurer, variants: Sequence[Variant], float_: Variant) -> None:
    """Write down which of the variants the score sees."""
    inputs, targets = Reader(measurer.task, "rank").at(0)
    ((_, outputs),) = measurer.outputs([float_], inputs)
    outputs = mapped(outputs, _copied)
    scores = partial(_scores, measurer.task, targets=targets, size=batch_size(inputs))
    reads = _Reads(scores, outputs)
    # A score that notices no change at all on this batch, such as one that is 0 for all samples,
    # cannot answer the question.
    tells = reads(list(map(everything, reads.arrays)))
    if not tells or all(map(reads, every_part(reads.arrays))):
        # The score reads every part of the outputs, or cannot tell, so every unit counts as seen.
        answers = dict.fromkeys(range(len(variants)), True)
    else:
        answers = _looked_at(measurer, variants, inputs, reads)
    measurer.journal.add_batch(SPLIT, 0, batch_digest(inputs, targets))
    for index, answer in answers.items():
        variant = measurer.of(variants[index])
        measurer.journal.add_scores(variant, SPLIT, 0, np.array([float(answer)]))
    measurer.journal.sync()


def _scores(task: Task, outputs: Any, *, targets: Any, size: int) -> Scores:
    return checked_scores(task, outputs, targets, size, " while it was found out what it reads")


def _looked_at(
    measurer: Measurer, variants: Sequence[Variant], inputs: Any, reads: _Reads
) -> dict[int, bool]:
    """Return whether the score reads the part of float's outputs that each variant touches, by
    index."""
    answers = dict[int, bool]()
    with measurer.progress("scan: what the score reads", len(variants)) as advance:
        for index, changed in measurer.outputs(variants, inputs):
            arrays = map(as_numpy, leaves(changed))
            answers[index] = reads(list(map(block, reads.arrays, arrays)))
            advance(1, batch_size(inputs))
    return answers


class _Reads:
    """Tells whether the score notices other values in some part of the outputs; each part is tested
    once."""

    def __init__(self, scores: Callable[[Any], Scores], outputs: Any) -> None:
        self.arrays: list[Array] = list(map(as_numpy, leaves(outputs)))
        self._scores, self._outputs = scores, outputs
        self._own = scores(outputs)
        self._known: dict[Any, bool] = {}

    def __call__(self, touched: Sequence[Block]) -> bool:
        """Return whether the score notices other values in the touched parts.

        Also returns True if nothing is touched, or if a touched part holds no floating-point
        numbers.
        """
        key = tuple(map(_key, touched))
        if not any(key):
            return True
        if key not in self._known:
            self._known[key] = any(self._notices(touched, other) for other in OTHER_VALUES)
        return self._known[key]

    def _notices(self, touched: Sequence[Block], other: Callable[[Array, float], Array]) -> bool:
        replaced = []
        for array, part in zip(self.arrays, touched, strict=True):
            if part is None:
                replaced.append(array)
                continue
            if not np.issubdtype(array.dtype, np.floating):
                return True
            changed = array.copy()
            samples = map(np.arange, array.shape[:1])  # an output may be one number without axes
            where = np.ix_(*samples, *part)
            changed[where] = other(array[where], float(np.abs(array).max(initial=0)))
            replaced.append(changed)
        try:
            scores = self._scores(with_arrays(self._outputs, replaced))
        except SensitivityError:  # a score that raises has read the values
            return True
        return not np.array_equal(scores, self._own)


def _key(touched: Block) -> Hashable:
    """Return a key that tells parts of one output apart; None if nothing is touched."""
    if touched is None:
        return None
    return "part", *map(np.ndarray.tobytes, touched)


def _random(values: Array, largest: float) -> Array:
    drawn = np.asarray(generator().normal(scale=10 * (largest + 1), size=values.shape))
    return drawn.astype(values.dtype)


def _turned(values: Array, largest: float) -> Array:
    """Return the same values with their signs turned and their places shuffled."""
    drawn = generator(offset=1).permutation(values.reshape(-1)).reshape(values.shape)
    return np.asarray(-drawn)


def _zero(values: Array, largest: float) -> Array:
    return np.zeros_like(values)


OTHER_VALUES = (_random, _turned, _zero)


def block(before: Array, after: Array) -> Block:
    """Return the part of an output that differs: along each axis but the first, the indices with
    any difference.

    >>> block(np.zeros((1, 3, 2)), np.array([[[0, 0], [0, 1.0], [0, 0]]]))
    (array([1]), array([1]))
    """
    if before.shape != after.shape:
        return everything(before)
    both_nan = (before != before) & (after != after)
    differs = ~((before == after) | both_nan)
    if not differs.any():
        return None
    touched = []
    for axis in range(1, differs.ndim):
        part = np.moveaxis(differs, axis, 0)
        touched.append(np.flatnonzero(part.reshape(len(part), -1).any(axis=1)))
    return tuple(touched)


def everything(array: Array) -> Block:
    """Return the block that covers a whole output."""
    return tuple(map(np.arange, array.shape[1:]))


def every_part(arrays: Sequence[Array]) -> Iterator[list[Block]]:
    """Yield each channel of each output, and each stretch of its positions, as the only part that
    is touched."""
    for number, array in enumerate(arrays):
        axes = list(map(np.arange, array.shape[1:]))
        for part in _parts(axes):
            touched: list[Block] = [None] * len(arrays)
            touched[number] = part
            yield touched


def _parts(axes: list[Array]) -> Iterator[tuple[Array, ...]]:
    """Yield each part of every axis of an output; for an output of one value per sample, that
    value."""
    if not axes:
        yield ()
    for axis, indices in enumerate(axes):
        parts = STRETCHES
        if len(indices) <= MOST_CHANNELS:
            parts = len(indices)
        for part in np.array_split(indices, parts):
            yield (*axes[:axis], part, *axes[axis + 1 :])


def leaves(outputs: Any) -> list[Any]:
    """Return the tensors or arrays in a nest of tuples, lists, dicts and dataclasses, in order."""
    collected = list[Any]()

    def seen(leaf: Any) -> Any:
        collected.append(leaf)
        return leaf

    mapped(outputs, seen)
    return collected


def with_arrays(outputs: Any, arrays: Sequence[Array]) -> Any:
    """Return the same nest with these values, as tensors or arrays like its leaves."""
    left: Iterator[Array] = iter(arrays)

    def filled(leaf: Any) -> Any:
        array = next(left)
        if hasattr(leaf, "new_tensor"):
            return leaf.new_tensor(array, dtype=leaf.dtype)
        return array

    return mapped(outputs, filled)


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return the nest with each tensor or array changed; anything else stays."""
    is_array = hasattr(value, "shape") and hasattr(value, "dtype")
    if is_array:
        return change(value)
    if isinstance(value, Mapping):
        return _mapped_mapping(value, change)
    if isinstance(value, (tuple, list)):
        return sequence_of(type(value), [mapped(item, change) for item in value])
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _mapped_dataclass(value, change)
    return value


def _mapped_mapping(value: Mapping[Any, Any], change: Callable[[Any], Any]) -> Mapping[Any, Any]:
    items = {key: mapped(item, change) for key, item in value.items()}
    if not isinstance(value, MutableMapping):
        return items
    copied = copy.copy(value)  # keeps the class, which the score may check
    for key, item in items.items():  # classes of transformers refuse update()
        copied[key] = item
    return copied


def _mapped_dataclass(value: Any, change: Callable[[Any], Any]) -> Any:
    values = {}
    for field in dataclasses.fields(value):
        if field.init:
            values[field.name] = mapped(getattr(value, field.name), change)
    return replace(value, **values)


def _copied(leaf: Any) -> Any:
    if hasattr(leaf, "clone"):
        return leaf.clone()
    return leaf.copy()
