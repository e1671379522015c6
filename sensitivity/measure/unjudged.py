"""Units that the metric cannot see: what they compute reaches only outputs that the score does not
read.

Mask and key-point branches of a detector that is scored by its boxes, auxiliary heads: their effect
on the metric is 0 whatever INT8 does to them, and says nothing about them.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sensitivity.errors import SensitivityError
from sensitivity.measure.checked import checked_scores
from sensitivity.measure.measurer import Measurer
from sensitivity.measure.reader import Reader
from sensitivity.measure.scan import Scan
from sensitivity.measure.study import Study
from sensitivity.records import Effect, Estimate, Mode, Scores, Unit, Variant
from sensitivity.seeds import generator
from sensitivity.tasks.base import Task
from sensitivity.tasks.batches import as_numpy, batch_digest, batch_size, sequence_of

SPLIT = "rank: read by the score"
"""Under this name the journal keeps 1 for a unit that the score sees, and 0 for one that it does
not."""

Block = tuple[np.ndarray, ...] | None
"""Indices that a unit touches along each axis of one output, all samples; None where it touches
nothing."""

Array = np.ndarray[Any, np.dtype[Any]]

MOST_CHANNELS, STRETCHES = 128, 16
"""An axis up to this long is looked at index by index, a longer one in so many stretches."""


def mark_unjudged(study: Study, scanned: Scan) -> Scan:
    """The scan with the units that the score cannot see marked, behind all others in the
    ranking."""
    names = not_judged(study, scanned.mode)
    if not names:
        return scanned
    effects = behind(scanned.effects, names)
    signal = (
        {effect.unit: scanned.signal[effect.unit] for effect in effects} if scanned.signal else {}
    )
    return replace(scanned, effects=effects, signal=signal)


def not_judged(study: Study, mode: Mode) -> frozenset[str]:
    """Names of units that the score cannot see.

    A unit that changed the score of a sample is seen. Of all others it is found out, on the first
    batch of `rank`, what they touch of the outputs when they alone are quantized; and whether the
    score notices any other values there.
    """
    doubtful = {
        unit.name: study.unit_variant(unit, "enable")
        for unit in study.units
        if not _changed_a_score(study, unit, mode)
    }
    unknown = [variant for variant in doubtful.values() if _answer(study, variant) is None]
    if unknown:
        _look(study.measurer, unknown, study.float_variant)
    return frozenset(name for name, variant in doubtful.items() if _answer(study, variant) is False)


def _answer(study: Study, variant: Variant) -> bool | None:
    """Whether the score sees what this variant changes, as the journal has it; None where it does
    not know yet."""
    answer = study.measurer.journal.scores(study.measurer.of(variant), SPLIT, 0)
    return None if answer is None else bool(answer.all())


def behind(effects: Sequence[Effect], names: frozenset[str]) -> tuple[Effect, ...]:
    """The effects with those of `names` last, marked and without a value; ranks and ties are of the
    new order."""
    seen = [effect for effect in effects if effect.unit not in names]
    unseen = [effect for effect in effects if effect.unit in names]
    new_rank = {effect.rank: rank for rank, effect in enumerate(seen, 1)}
    made = []
    for rank, effect in enumerate(seen, 1):
        tied = [new_rank[old] for old in range(effect.tie, effect.rank) if old in new_rank]
        made.append(replace(effect, rank=rank, tie=min(tied, default=rank)))
    nothing = Estimate(0.0, None, None, 0)
    for rank, effect in enumerate(unseen, len(seen) + 1):
        made.append(replace(effect, rank=rank, tie=rank, effect=nothing, judged=False))
    return tuple(made)


def _changed_a_score(study: Study, unit: Unit, mode: Mode) -> bool:
    measurer = study.measurer
    reference = measurer.of(study.baselines["quantized" if mode == "disable" else "float"])
    variant = measurer.of(study.unit_variant(unit, mode))
    for batch in range(len(measurer.task.data["rank"])):
        found, other = (measurer.journal.scores(one, "rank", batch) for one in (variant, reference))
        if found is not None and other is not None and not np.array_equal(found, other):
            return True
    return False


def _look(measurer: Measurer, variants: Sequence[Variant], float_: Variant) -> None:
    """Write down which of the variants the score sees."""
    inputs, targets = Reader(measurer.task, "rank").at(0)
    ((_, outputs),) = measurer.outputs([float_], inputs)
    outputs = mapped(outputs, _copied)
    arrays = [as_numpy(leaf) for leaf in leaves(outputs)]
    reads = _Reads(measurer.task, outputs, arrays, targets, batch_size(inputs))
    # A score that notices nothing at all on this batch, such as one that is 0 for all its samples,
    # cannot tell.
    tells = reads([everything(array) for array in arrays])
    if not tells or all(map(reads, every_part(arrays))):
        # nothing that a unit could reach is known to go unread
        answers = dict.fromkeys(range(len(variants)), True)
    else:
        answers = _looked_at(measurer, variants, inputs, arrays, reads)
    measurer.journal.add_batch(SPLIT, 0, batch_digest(inputs, targets))
    for index, answer in answers.items():
        measurer.journal.add_scores(
            measurer.of(variants[index]), SPLIT, 0, np.array([float(answer)])
        )
    measurer.journal.sync()


def _looked_at(
    measurer: Measurer,
    variants: Sequence[Variant],
    inputs: Any,
    arrays: Sequence[Array],
    reads: _Reads,
) -> dict[int, bool]:
    """Whether the score reads what each variant touches of float's outputs."""
    answers: dict[int, bool] = {}
    with measurer.progress("scan: what the score reads", len(variants)) as advance:
        for index, changed in measurer.outputs(variants, inputs):
            answers[index] = reads(list(map(block, arrays, map(as_numpy, leaves(changed)))))
            advance(1, batch_size(inputs))
    return answers


class _Reads:
    """Whether the score notices other values in some part of the outputs; each part is looked at
    once."""

    def __init__(
        self, task: Task, outputs: Any, arrays: Sequence[Array], targets: Any, size: int
    ) -> None:
        self._task, self._outputs, self._arrays, self._targets, self._size = (
            task,
            outputs,
            arrays,
            targets,
            size,
        )
        self._own = self._scores(outputs)
        self._known: dict[Any, bool] = {}

    def __call__(self, touched: Sequence[Block]) -> bool:
        """True also where nothing is touched, and where a touched part holds no floating-point
        numbers."""
        if all(one is None for one in touched):
            return True
        key = tuple(
            None if one is None else tuple(axis.tobytes() for axis in one) for one in touched
        )
        if key not in self._known:
            self._known[key] = any(self._notices(touched, other) for other in OTHER_VALUES)
        return self._known[key]

    def _notices(self, touched: Sequence[Block], other: Callable[[Array, float], Array]) -> bool:
        replaced = []
        for array, part in zip(self._arrays, touched, strict=True):
            if part is None:
                replaced.append(array)
                continue
            if not np.issubdtype(array.dtype, np.floating):
                return True
            changed = array.copy()
            where = np.ix_(np.arange(len(array)), *part)
            changed[where] = other(array[where], float(np.abs(array).max(initial=0)))
            replaced.append(changed)
        try:
            scores = self._scores(with_arrays(self._outputs, replaced))
        except SensitivityError:  # a score that complains has looked
            return True
        return not np.array_equal(scores, self._own)

    def _scores(self, outputs: Any) -> Scores:
        return checked_scores(
            self._task, outputs, self._targets, self._size, " while it was found out what it reads"
        )


def _random(values: Array, largest: float) -> Array:
    drawn = np.asarray(generator().normal(scale=10 * (largest + 1), size=values.shape))
    return drawn.astype(values.dtype)


def _turned(values: Array, largest: float) -> Array:
    """The same values with other signs, each in the place of another."""
    drawn = generator(offset=1).permutation(values.reshape(-1)).reshape(values.shape)
    return np.asarray(-drawn)


def _zero(values: Array, largest: float) -> Array:
    return np.zeros_like(values)


OTHER_VALUES = (_random, _turned, _zero)


def block(before: Array, after: Array) -> Block:
    """The part of an output that differs: along each axis but the first the indices where anything
    does.

    >>> block(np.zeros((1, 3, 2)), np.array([[[0, 0], [0, 1.0], [0, 0]]]))
    (array([1]), array([1]))
    """
    if before.shape != after.shape:
        return everything(before)
    differs = ~((before == after) | ((before != before) & (after != after)))
    if not differs.any():
        return None
    by_axis = (np.moveaxis(differs, axis, 0) for axis in range(1, differs.ndim))
    return tuple(np.flatnonzero(part.reshape(len(part), -1).any(axis=1)) for part in by_axis)


def everything(array: Array) -> Block:
    """All of an output."""
    return tuple(np.arange(side) for side in array.shape[1:])


def every_part(arrays: Sequence[Array]) -> Iterator[list[Block]]:
    """Each channel of each output, and each stretch of its positions, as something touched
    alone."""
    for number, array in enumerate(arrays):
        for part in _parts([np.arange(side) for side in array.shape[1:]]):
            touched: list[Block] = [None] * len(arrays)
            touched[number] = part
            yield touched


def _parts(axes: list[Array]) -> Iterator[tuple[Array, ...]]:
    """All of a value for each sample; each part of every axis of a larger output."""
    if not axes:
        yield ()
    for axis, indices in enumerate(axes):
        parts = len(indices) if len(indices) <= MOST_CHANNELS else STRETCHES
        for part in np.array_split(indices, parts):
            yield (*axes[:axis], part, *axes[axis + 1 :])


def leaves(outputs: Any) -> list[Any]:
    """The tensors or arrays in a nest of tuples, lists, dicts and dataclasses, in order."""
    found: list[Any] = []

    def seen(leaf: Any) -> Any:
        found.append(leaf)
        return leaf

    mapped(outputs, seen)
    return found


def with_arrays(outputs: Any, arrays: Sequence[Array]) -> Any:
    """The same nest with these values, of the kind that the leaves have."""
    left: Iterator[Array] = iter(arrays)

    def filled(leaf: Any) -> Any:
        array = next(left)
        return leaf.new_tensor(array, dtype=leaf.dtype) if hasattr(leaf, "new_tensor") else array

    return mapped(outputs, filled)


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """The nest with each tensor or array changed; anything else stays."""
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
    made = copy.copy(value)  # of the same class, which the score may ask for
    for key, item in items.items():  # classes of transformers refuse update()
        made[key] = item
    return made


def _mapped_dataclass(value: Any, change: Callable[[Any], Any]) -> Any:
    names = [field.name for field in dataclasses.fields(value) if field.init]
    return replace(value, **{name: mapped(getattr(value, name), change) for name in names})


def _copied(leaf: Any) -> Any:
    return leaf.clone() if hasattr(leaf, "clone") else leaf.copy()
