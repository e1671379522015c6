"""Fine-tunes a model as the last and most expensive repair, see `repairs.tuning`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sensitivity import optional
from sensitivity.config import FineTune
from sensitivity.errors import ModelError
from sensitivity.measure.ranking import estimate
from sensitivity.records import Estimate, Range, Target, Tuning, Variant
from sensitivity.repairs.checkpoint import Checkpoint
from sensitivity.repairs.training import BATCH, Loss, Tracking, is_tunable
from sensitivity.repairs.tuning import BUDGET_S, Limits, TooLong, check_time, fine_tuned
from sensitivity.session import Session
from sensitivity.signals.distillation import distillation_loss
from sensitivity.steps.recalibrate import FILE, Recalibration, fitted, meets, with_repairs

STATE = "fine_tuning.pt"
"""File with the state of a training that is not finished."""

TOO_LONG = (
    "Fine-tuning was left out, because it would take about {minutes} minutes; --fine-tune "
    "always runs it."
)
NO_MEMORY = (
    "Fine-tuning was left out, because the device has too little memory for the gradients of "
    f"{BATCH} samples."
)
CANNOT = (
    "Fine-tuning was left out: it is for models of ModelOpt and pytorch-quantization with weights "
    "in FP32, and it needs a task with samples."
)


def with_tuning(
    session: Session,
    found: Recalibration,
    target: Target,
    skip: Sequence[str],
    fine_tune: FineTune,
) -> Recalibration:
    """Return the other repairs with fine-tuning on top of them, if it is wanted and helps.

    found: the other repairs; they may be fine-tuned already.
    skip: units that every plan leaves out.
    fine_tune: "auto" tries it if the other repairs do not meet the target.
    """
    if fine_tune == "never" or not found.basis or found.tuning is not None:
        return found
    if not is_tunable(session.source) or not session.has_samples:
        return _noted(found, CANNOT) if fine_tune == "always" else found
    if fine_tune == "auto" and is_enough(session, found, target, skip):
        return found
    limits = Limits(seconds=BUDGET_S if fine_tune == "auto" else math.inf)
    checkpoint = Checkpoint(session.run_dir.file(STATE), _key(found, skip, limits))
    tracking = Tracking(partial(session.measurer.progress, "fine-tune"), checkpoint)
    try:
        if checkpoint.load() is None:  # before the simulator makes room for a training
            check_time(session.source, session.example, limits)
        ranges = _tuned(session, found, skip, limits, tracking)
    except TooLong as too_long:
        return _noted(found, TOO_LONG.format(minutes=math.ceil(too_long.seconds / 60)))
    except optional.torch.OutOfMemoryError:
        return _noted(found, NO_MEMORY)
    except ModelError as error:
        return _noted(found, f"Fine-tuning was left out: {error}")
    tuned = _judged(session, found, ranges, skip)
    session.run_dir.write(FILE, tuned)
    checkpoint.remove()
    return tuned


def is_enough(session: Session, found: Recalibration, target: Target, skip: Sequence[str]) -> bool:
    """Return whether the target is met without fine-tuning."""
    session.measurer.use_candidates(found.ranges)
    with session.measurer.with_ranges(found.ranges):
        return meets(session.study, found.scan, target, skip)


def _key(found: Recalibration, skip: Sequence[str], limits: Limits) -> str:
    """Return what tells this training from all others: where it starts, and how long it is."""
    start = [found.basis, repr(found.ranges), sorted(skip), limits.steps]
    return hashlib.sha256(repr(start).encode()).hexdigest()


def _tuned(
    session: Session, found: Recalibration, skip: Sequence[str], limits: Limits, tracking: Tracking
) -> tuple[Range, ...]:
    source = session.source
    assert is_tunable(source)
    left_out = session.study.skip_variant(skip).disabled
    # These ranges must stay equal, or the file could not be written.
    shared = frozenset(name for group in session.scales for name in group)
    tune = partial(
        fine_tuned,
        source,
        ranges=found.ranges,
        left_out=left_out,
        kept=shared,
        loss_of=partial(_loss_of, session.task.loss),
        limits=limits,
        tracking=tracking,
    )
    return fitted(session, "fine-tune", tune)


def _loss_of(own: Loss | None, outputs: Sequence[Any]) -> Loss:
    """Return the task's own loss, or the usual one."""
    return own or distillation_loss(outputs)


def _judged(
    session: Session, found: Recalibration, ranges: Sequence[Range], skip: Sequence[str]
) -> Recalibration:
    """Return the repairs with these ranges if they help on `rank`, and what they gave there."""
    units = with_repairs(session, found.units, ranges, skip)
    trained = {new.quantizer: new for new in ranges}
    after = {new.quantizer: new for new in found.ranges} | trained
    tuning = Tuning(
        _on_rank(session, found.ranges, skip),
        _on_rank(session, tuple(after.values()), skip),
        units != found.units,
    )
    return replace(found, units=units, tuning=tuning)


def _on_rank(session: Session, ranges: Sequence[Range], skip: Sequence[str]) -> Estimate:
    """Return the metric on `rank` of everything in INT8 with these ranges, which was measured to
    judge them."""
    measurer, left_out = session.measurer, session.study.skip_variant(skip).disabled
    variant = Variant("repaired", left_out, frozenset(ranges))
    (scores,) = measurer.scores([variant], "rank", "repair: all units")
    return estimate(scores, measurer.task.aggregate)


def _noted(found: Recalibration, note: str) -> Recalibration:
    return replace(found, note=" ".join(filter(None, (found.note, note))))
