"""Scores and soft drops of variants, both from one forward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sensitivity.measure.checked import checked_scores
from sensitivity.measure.reader import Reader
from sensitivity.measure.study import Study
from sensitivity.records import SPLITS, Scores, Variant
from sensitivity.signals.soft import (
    Labelled,
    condensed,
    has_soft_drop,
    soft_drop,
    soft_name,
    ties_of,
)
from sensitivity.tasks.base import Condenses, Fittable, Soft, StandsForMetric, TellsTies, mean
from sensitivity.tasks.batches import batch_size

FITTED = 1000
"""Number of labelled samples that a soft drop is fitted to, at most."""

Pair = tuple[Scores, Scores]
"""Scores float64[n, ...] and soft drops float64[n] of the same samples; without labels the scores
are empty. The soft drops of single batches may be records, see `SoftMeasurer.joined`."""


@dataclass(frozen=True)
class Compared:
    """A variant's scores, and the values of the same samples by which it is compared with other
    variants.

    values: if the task has a soft drop, what float expects to lose, with its sign turned; otherwise
        the scores.
    """

    scores: Scores
    values: Scores


class Comparer:
    """Compares variants by the values that vary least by chance.

    If the task has a soft drop, labels take no part in the choice, and can measure it afterwards.

    aggregate: the values of any number of samples -> what is compared.
    """

    def __init__(self, study: Study) -> None:
        task = study.measurer.task
        self._measurer = study.measurer
        self._soft = SoftMeasurer(study) if has_soft_drop(task) else None
        self.aggregate = task.aggregate if self._soft is None else mean

    def __call__(self, variants: Sequence[Variant], split: str, what: str) -> list[Compared]:
        """Return the values of each variant on all of `split`."""
        if self._soft is None:
            scored = self._measurer.scores(variants, split, what)
            return [Compared(scores, scores) for scores in scored]
        pairs = [self._soft.values(variant, split, what) for variant in variants]
        return [Compared(scores, -soft) for scores, soft in pairs]


class SoftMeasurer:
    """Measures one variant after the other and journals both values."""

    def __init__(self, study: Study) -> None:
        self._study = study

    def stream(self, variant: Variant, split: str, what: str) -> Iterator[Pair]:
        """Yield the pair of each batch, which is measured when it is asked for.

        split: one of the task's splits; without labels the scores are empty.

        Raises TaskError as scoring does.
        """
        measurer = self._study.measurer
        variant = measurer.of(variant)
        reader, count = Reader(measurer.task, split), measurer.count(split)
        key = f"{split}: {self._name}"
        missing = sum(
            measurer.journal.scores(variant, key, number) is None for number in range(count)
        )
        with measurer.progress(what, missing) as advance:
            for batch in range(count):
                if measurer.journal.scores(variant, key, batch) is None:
                    inputs, targets = reader.at(batch)
                    self._measure(variant, split, batch, inputs, targets)
                    advance(1, batch_size(inputs))
                yield self._known(variant, split, batch), self._known(variant, key, batch)

    @cached_property
    def _soft(self) -> Soft:
        """The task's soft drop, fitted to labels if it can be."""
        soft = self._study.measurer.task.soft
        assert soft is not None, "asked for only where `has_soft_drop`"
        return soft.fitted(self._parameters(soft)) if isinstance(soft, Fittable) else soft

    @cached_property
    def _name(self) -> str:
        return soft_name(self._soft)

    def _parameters(self, soft: Fittable) -> tuple[float, ...]:
        """Return the fitted parameters, from the journal if an earlier step has fitted them."""
        measurer = self._study.measurer
        variant, key = measurer.of(self._study.float_variant), f"confirm: fit of {soft_name(soft)}"
        known = measurer.journal.scores(variant, key, 0)
        if known is None:
            labelled = self._labelled(key)
            known = np.array(soft.fit(labelled.outputs, labelled.targets))
            measurer.journal.add_scores(variant, key, 0, known)
        return tuple(known.tolist())

    def ties(self) -> Pair:
        """Return what close answers lose, counted and believed, of the samples that the soft drop
        is fitted to, `confirm` first; empty if the task does not tell.

        They are in the journal if an earlier step has asked for them.
        """
        soft: object = self._soft
        if not isinstance(soft, TellsTies):
            return np.empty(0), np.empty(0)
        measurer = self._study.measurer
        variant, key = measurer.of(self._study.float_variant), f"confirm: ties of {self._name}"
        known = measurer.journal.scores(variant, key, 0)
        if known is None:
            losses = ties_of(soft, self._labelled(key), measurer.task.full_scale)
            known = np.stack(losses, axis=1)
            measurer.journal.add_scores(variant, key, 0, known)
        counted, believed = known.T
        return counted, believed

    def _labelled(self, key: str) -> Labelled:
        """Return float's outputs and the targets of about `FITTED` samples, `confirm` first.

        key: name under which the journal keeps the fit.
        """
        measurer, outputs, labels, samples = self._study.measurer, list[Any](), list[Any](), 0
        for split in ("confirm", "rank"):
            reader = Reader(measurer.task, split)
            for batch in range(measurer.count(split)):
                if samples >= FITTED:
                    break
                inputs, targets = reader.at(batch)
                measurer.check_data(split, batch, inputs, targets, also=[] if outputs else [key])
                output = self._float_outputs(split, batch, inputs)
                self._condense(split, batch, output)
                outputs.append(output)
                labels.append(targets)
                samples += batch_size(inputs)
        return Labelled(outputs, labels, samples)

    def values(self, variant: Variant, split: str, what: str) -> Pair:
        """Return the pair of the whole split."""
        return self.joined(self.stream(variant, split, what))

    def joined(self, pairs: Iterable[Pair]) -> Pair:
        """Return the pair of all samples of some batches, at least one."""
        scores, soft = map(np.concatenate, zip(*pairs, strict=True))
        return scores, self._drops(soft)

    def _drops(self, soft: Scores) -> Scores:
        """Return soft drops, of their records if the task's soft drop has some."""
        of_records: object = self._soft
        return of_records.drops(soft) if isinstance(of_records, StandsForMetric) else soft

    def known(self, variant: Variant, split: str) -> Pair:
        """Return the pair of the first batches that were measured before; nothing is measured
        now."""
        measurer = self._study.measurer
        variant, key, count = measurer.of(variant), f"{split}: {self._name}", 0
        most = measurer.count(split)
        while count < most and measurer.journal.scores(variant, key, count) is not None:
            count += 1
        if count == 0:
            return np.empty(0), np.empty(0)
        return self.joined(
            (self._known(variant, split, batch), self._known(variant, key, batch))
            for batch in range(count)
        )

    def _known(self, variant: Variant, split: str, batch: int) -> Scores:
        scores = self._study.measurer.journal.scores(variant, split, batch)
        return np.empty(0) if scores is None else scores

    def _measure(self, variant: Variant, split: str, batch: int, inputs: Any, targets: Any) -> None:
        measurer, size = self._study.measurer, batch_size(inputs)
        key = f"{split}: {self._name}"
        measurer.check_data(split, batch, inputs, targets, also=[key])
        wanted = self._wanted(split, batch, inputs)
        output = self._kept(variant, split, batch)
        if output is None:
            ((_, output),) = measurer.outputs([variant], inputs)
            measurer.samples += size
        if split in SPLITS and measurer.journal.scores(variant, split, batch) is None:
            where = f" on batch {batch} of split {split!r}"
            scores = checked_scores(measurer.task, output, targets, size, where)
            measurer.journal.add_scores(variant, split, batch, scores)
        soft = soft_drop(self._soft, wanted, output, size)
        measurer.journal.add_scores(variant, key, batch, soft)
        measurer.journal.sync()

    def _kept(self, variant: Variant, split: str, batch: int) -> Any:
        """Return the outputs that were kept when the variant was scored; None if there are none."""
        measurer = self._study.measurer
        kept_as = measurer.keeps.get(variant.key)
        if kept_as is None:
            return None
        return measurer.references.get((split + kept_as, batch))

    def _wanted(self, split: str, batch: int, inputs: Any) -> Any:
        """Return the float model's outputs of a batch, or what the soft drop needs of them."""
        known = self._study.measurer.condensed
        if (split, batch) in known:
            return known[split, batch]
        return self._condense(split, batch, self._float_outputs(split, batch, inputs))

    def _condense(self, split: str, batch: int, outputs: Any) -> Any:
        """Keep what the soft drop needs of the float model's outputs of a batch, and return it: all
        of them if it does not say."""
        soft: object = self._study.measurer.task.soft
        if not isinstance(soft, Condenses):
            return outputs
        kept = condensed(soft, outputs)
        self._study.measurer.condensed[split, batch] = kept
        return kept

    def _float_outputs(self, split: str, batch: int, inputs: Any) -> Any:
        measurer = self._study.measurer
        known = measurer.references.get((split, batch))
        if known is None:
            ((_, output),) = measurer.outputs([self._study.float_variant], inputs)
            measurer.samples += batch_size(inputs)
            known = measurer.keep_reference((split, batch), output)
        return known
