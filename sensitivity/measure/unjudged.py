"""Finds units that the metric cannot see: what they compute reaches only outputs that the score
does not read.

Examples are auxiliary heads, and the mask and key-point branches of a detector that is scored by
its boxes. Their effect on the metric is 0 whatever INT8 does to them, so it says nothing about
them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from sensitivity.measure.checked import checked_scores
from sensitivity.measure.measurer import Measurer
from sensitivity.measure.reader import Reader
from sensitivity.measure.reads import ScoreReads, block, every_part, everything
from sensitivity.measure.scan import Scan
from sensitivity.measure.study import Study
from sensitivity.measure.variants import BASE_OF
from sensitivity.records import Effect, Estimate, Mode, Scores, Unit, Variant
from sensitivity.tasks.base import Task
from sensitivity.tasks.batches import as_numpy, batch_digest, batch_size, map_arrays
from sensitivity.tasks.outputs import copied, leaves

SPLIT = "rank: read by the score"
"""Name under which the journal keeps 1 for a unit that the score sees, and 0 for one that it does
not."""


def mark_unjudged(study: Study, scanned: Scan) -> Scan:
    """Return the scan with the units that the score cannot see marked and ranked last."""
    names = not_judged(study, scanned.mode)
    if not names:
        return scanned
    effects = ranked_last(scanned.effects, names)
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
        _record_answers(study.measurer, unknown, study.float_variant)
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


def ranked_last(effects: Sequence[Effect], names: frozenset[str]) -> tuple[Effect, ...]:
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


def _record_answers(measurer: Measurer, variants: Sequence[Variant], float_: Variant) -> None:
    """Record in the journal which of the variants the score sees."""
    inputs, targets = Reader(measurer.task, "rank").at(0)
    ((_, outputs),) = measurer.outputs([float_], inputs)
    outputs = map_arrays(copied, outputs)
    scores = partial(_scores, measurer.task, targets=targets, size=batch_size(inputs))
    reads = ScoreReads(scores, outputs)
    # A score that notices no change at all on this batch, such as one that is 0 for all samples,
    # cannot answer the question.
    tells = reads(list(map(everything, reads.arrays)))
    if not tells or all(map(reads, every_part(reads.arrays))):
        # The score reads every part of the outputs, or cannot tell, so every unit counts as seen.
        answers = dict.fromkeys(range(len(variants)), True)
    else:
        answers = _answers(measurer, variants, inputs, reads)
    measurer.journal.add_batch(SPLIT, 0, batch_digest(inputs, targets))
    for index, answer in answers.items():
        variant = measurer.of(variants[index])
        measurer.journal.add_scores(variant, SPLIT, 0, np.array([float(answer)]))
    measurer.journal.sync()


def _scores(task: Task, outputs: Any, *, targets: Any, size: int) -> Scores:
    return checked_scores(task, outputs, targets, size, " while it was found out what it reads")


def _answers(
    measurer: Measurer, variants: Sequence[Variant], inputs: Any, reads: ScoreReads
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
