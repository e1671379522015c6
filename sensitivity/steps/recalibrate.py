"""Recalibrate before skipping: the ranges with which a run's plan is searched for.

What was found lies in recalibration.json, so that another target is planned without calibrating
again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

from sensitivity.errors import ExportError, ModelError, TaskError
from sensitivity.measure.ranking import estimate
from sensitivity.measure.scan import Scan
from sensitivity.measure.scan import scan as measure_scan
from sensitivity.quantizers.base import QuantizedModel, Recalibratable, Sharing, name_in_words
from sensitivity.quantizers.torch.half import in_float32
from sensitivity.records import Estimate, Plan, Range, Recalibrated, Target
from sensitivity.repairs.bias import Correctable, bias_corrections, is_correctable
from sensitivity.repairs.equalization import equalized_ranges
from sensitivity.repairs.rounding import is_roundable, learned_roundings
from sensitivity.repairs.samples import one_batch
from sensitivity.run_dir import RunDir
from sensitivity.search.judge import judge_of
from sensitivity.search.ranges import WORST, Place, places_of, recalibrate, recalibrate_together
from sensitivity.search.repairs import repaired
from sensitivity.session import Session
from sensitivity.signals.distortion import SQNR
from sensitivity.steps import later
from sensitivity.tasks.batches import first_samples

FILE = "recalibration.json"
CANNOT = (
    "Recalibration was left out: other ranges are tried in models of ModelOpt and "
    "pytorch-quantization and in Q/DQ files; {kind} keeps those that it came with. Calibrate it "
    "again where it was made (percentile, MSE or entropy ranges, weights per channel)."
)
TRACED_SAMPLES = 2
EDITION = 6
"""What tells what was found from what an earlier release would have found."""


@dataclass(frozen=True)
class Recalibration:
    """units: recalibrated, in the order taken; none where no other range is worth it. basis: digest
    of what this is of.

    scan: the ranking to plan from: where only the metric ranks, all units measured again with these
    ranges.
    note: what the reader must know.
    """

    basis: str
    units: tuple[Recalibrated, ...]
    scan: Scan
    note: str | None = None

    @property
    def ranges(self) -> tuple[Range, ...]:
        return tuple(one for unit in self.units for one in unit.ranges)


def recalibration(
    session: Session, scanned: Scan, target: Target, skip: Sequence[str]
) -> Recalibration:
    """The worst units with the ranges that serve them best; nothing where INT8 meets the target as
    it is.

    skip: units that every plan leaves out.
    """
    if not isinstance(session.source, Recalibratable):
        note = CANNOT.format(kind=name_in_words(session.source))
        return Recalibration("", (), scanned, note)
    if _meets(session, scanned, target, tuple(skip)):
        return Recalibration("", (), scanned)
    basis = _basis(session, scanned, skip)
    known = _known(session.run_dir, basis)
    if known is not None:
        return known
    units = _equalized(session, _found(session, scanned, skip), skip)
    units = _corrected(session, units, skip)
    units = _rounded(session, units, skip)
    missing = session.source.missing() if isinstance(session.source, Sharing) else None
    found = Recalibration(basis, units, scanned, missing)
    # Where outputs can be compared the planner ranks the units anew by their signal; where not, the
    # metric has to.
    if units and not session.has_samples:
        with session.measurer.with_ranges(found.ranges):
            found = replace(found, scan=measure_scan(session.study, scanned.mode))
    session.run_dir.write(FILE, found)
    return found


def _known(run_dir: RunDir, basis: str) -> Recalibration | None:
    """What the search for any plan of the run found of the same; kept for this plan too."""
    for place in run_dir.plans():
        found = place.read_if_there(FILE, Recalibration)
        if found is not None and found.basis == basis:
            run_dir.write(FILE, found)
            return found
    return None


def own_quantized(session: Session) -> Estimate:
    """The metric of everything in INT8 on `confirm`, with the ranges that the model came with."""
    measurer = session.measurer
    with measurer.with_ranges(()):
        own = measurer.known(session.study.baselines["quantized"], "confirm")
    return estimate(own, measurer.task.aggregate)


def kept(units: Sequence[Recalibrated], left_out: Sequence[str]) -> tuple[Recalibrated, ...]:
    """The recalibrated units of which something stays in INT8. left_out: quantizers that the plan
    disables."""
    return tuple(
        one for one in units if not {each.quantizer for each in one.ranges} <= set(left_out)
    )


def without_ranges(
    units: Sequence[Recalibrated], replaced: Collection[str]
) -> tuple[Recalibrated, ...]:
    """The units with the ranges of these quantizers taken out of them, and none without any."""
    found = []
    for unit in units:
        pairs = [pair for pair in unit.pairs if pair[0].quantizer not in replaced]
        if pairs:
            before, ranges = zip(*pairs, strict=True)
            found.append(replace(unit, before=before, ranges=ranges))
    return tuple(found)


def in_force(run_dir: RunDir, plan: Plan) -> Recalibration | None:
    """What was recalibrated in the search that a plan is of, also units that it leaves out; None
    where that search kept all ranges."""
    if plan.metric.recalibrated is None:
        return None
    return run_dir.read(FILE, Recalibration)


def plan_ranges(plan: Plan, source: QuantizedModel) -> AbstractContextManager[None]:
    """Inside the `with`, the model has the ranges of the plan, all with the bits that the model
    came with."""
    return _with_ranges(plan.ranges, source)


def wide_plan_ranges(plan: Plan, source: QuantizedModel) -> AbstractContextManager[None]:
    """Inside the `with`, the activations that the plan gives 16 bits have them."""
    return _with_ranges(plan.wide_ranges, source)


def _with_ranges(ranges: tuple[Range, ...], source: QuantizedModel) -> AbstractContextManager[None]:
    if not ranges:
        return nullcontext()
    if not isinstance(source, Recalibratable):
        raise ModelError(
            "Expected a model whose ranges can be changed, as the plan does, got one of "
            f"{source.source}."
        )
    return source.with_ranges(ranges)


def _meets(session: Session, scanned: Scan, target: Target, skip: tuple[str, ...]) -> bool:
    study, measurer = session.study, session.measurer
    (float_scores,) = measurer.scores([study.float_variant], "confirm", "plan: float")
    return judge_of(study, target, float_scores, scanned)(skip).met


def _basis(session: Session, scanned: Scan, skip: Sequence[str]) -> str:
    parts = [
        EDITION,
        dict(session.measurer.journal.head),
        [effect.unit for effect in scanned.effects],
        sorted(skip),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _corrected(
    session: Session, known: Sequence[Recalibrated], skip: Sequence[str]
) -> tuple[Recalibrated, ...]:
    """The units with the biases of all layers corrected, where that is worth it."""
    source, study = session.source, session.study
    if not is_correctable(source):
        return tuple(known)
    ranges = tuple(one for unit in known for one in unit.ranges)
    left_out = study.skip_variant(skip).disabled
    correct = partial(bias_corrections, source, ranges=ranges, left_out=left_out)
    return _repaired(session, known, _fitted(session, correct), skip)


def _rounded(
    session: Session, known: Sequence[Recalibrated], skip: Sequence[str]
) -> tuple[Recalibrated, ...]:
    """The units with weights whose rounding is learned, where that is worth it."""
    source, study = session.source, session.study
    if not is_roundable(source) or not session.has_samples:
        return tuple(known)
    ranges = tuple(one for unit in known for one in unit.ranges)
    left_out = study.skip_variant(skip).disabled
    learn = partial(learned_roundings, source, ranges=ranges, left_out=left_out)
    return _repaired(session, known, _fitted(session, learn), skip)


def _equalized(
    session: Session, known: Sequence[Recalibrated], skip: Sequence[str]
) -> tuple[Recalibrated, ...]:
    """The units with ranges per channel in front of depthwise convolutions, where that is worth
    it."""
    source = session.source
    if not isinstance(source, Correctable) or session.example is None:
        return tuple(known)
    shared = {name for group in session.scales for name in group}
    try:
        with in_float32(source.model):
            links = later.torch_model.even_links(
                source, first_samples(session.example, TRACED_SAMPLES)
            )
    except (ExportError, ModelError):  # no file could have such ranges either
        return tuple(known)
    names = [name for name in links if name not in shared]
    if not names:
        return tuple(known)
    found = _fitted(session, partial(equalized_ranges, source, names))
    return _repaired(session, known, found, skip)


def _repaired(
    session: Session,
    known: Sequence[Recalibrated],
    found: Sequence[Range],
    skip: Sequence[str],
) -> tuple[Recalibrated, ...]:
    source, study = session.source, session.study
    assert isinstance(source, Recalibratable)
    repairs = [(source.range(one.quantizer), one) for one in found]
    signal = session.distortion(session.usual_signal) if session.has_samples else None
    try:
        return repaired(study, known, repairs, skip=skip, signal=signal)
    except ModelError:  # outputs that cannot be compared, such as boxes after suppression
        return repaired(study, known, repairs, skip=skip)


def _fitted(session: Session, fit: Callable[[Any], tuple[Range, ...]]) -> tuple[Range, ...]:
    """What `fit` makes of the calibration inputs as one batch; nothing where there are none."""
    batches = session.calibration()
    if batches is None:
        return ()
    first = next(batches)
    try:
        return fit(one_batch(chain([first], batches)))
    except TaskError:  # it takes batches of one length only, or the memory is short
        return fit(first)


def _found(session: Session, scanned: Scan, skip: Sequence[str]) -> tuple[Recalibrated, ...]:
    """Where everything in INT8 has collapsed, all units at once by the task's own signal; else the
    worst, one by one."""
    study = session.study
    order = [effect.unit for effect in scanned.effects if effect.unit not in skip]
    if scanned.collapsed and session.has_samples:
        signal = session.distortion(session.usual_signal)
        return recalibrate_together(study, _places(session, order), skip=skip, signal=signal)
    order = order[:WORST]
    places = _places(session, order)
    try:
        by_outputs = SQNR if session.has_samples else None
        return recalibrate(study, order, places, skip=skip, signal=by_outputs)
    except ModelError:  # outputs that cannot be compared, such as boxes after suppression
        return recalibrate(study, order, places, skip=skip)


def _places(session: Session, tried: Sequence[str]) -> tuple[Place, ...]:
    """Where ranges of these units could be others. Quantizers that share a range change together,
    also those of units that are not tried."""
    source = session.source
    assert isinstance(source, Recalibratable)
    shared_in_file = source.sharing() if isinstance(source, Sharing) else ()
    scales = (*session.scales, *shared_in_file)
    names = [name for unit in session.units if unit.name in tried for name in unit.quantizers]
    other = source.other_ranges(_with_sharers(names, scales), session.forward_calibration)
    changeable = dict.fromkeys(one.quantizer for one in other)
    own = {name: source.range(name) for name in _with_sharers(changeable, scales)}
    return places_of(own, own, other, scales)


def _with_sharers(names: Iterable[str], scales: Iterable[Sequence[str]]) -> list[str]:
    """These quantizers and all that share a range with one of them, each once."""
    group_of = {name: group for group in scales for name in group}
    found: dict[str, None] = {}
    for name in names:
        found.update(dict.fromkeys(group_of.get(name, (name,))))
    return list(found)
