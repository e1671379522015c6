"""Repairs a model before layers are left out: finds the ranges under which a plan is searched for.

The result is stored in recalibration.json, so that a plan for another target needs no new
calibration.
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

from sensitivity.allocator import collect_and_trim
from sensitivity.config import FineTune
from sensitivity.errors import ExportError, ModelError, TaskError
from sensitivity.measure.ranking import estimate
from sensitivity.measure.scan import Scan
from sensitivity.measure.scan import scan as measure_scan
from sensitivity.measure.study import Study
from sensitivity.quantizers.base import (
    QuantizedModel,
    Recalibratable,
    Sharing,
    form_of,
    name_in_words,
)
from sensitivity.quantizers.torch.half import in_float32
from sensitivity.records import Estimate, Plan, Range, Recalibrated, Target, Tuning
from sensitivity.repairs.bias import Correctable, bias_corrections, is_correctable
from sensitivity.repairs.equalization import equalized_ranges
from sensitivity.repairs.rounding import learned_roundings, takes_rounding
from sensitivity.repairs.samples import calibration_parts
from sensitivity.run_dir import RunDir
from sensitivity.search.judge import float_scores_of, judge_of
from sensitivity.search.ranges import (
    COSTLY_UNITS,
    WORST_UNITS,
    Place,
    places_of,
    recalibrate,
    recalibrate_together,
)
from sensitivity.search.repairs import repaired
from sensitivity.session import Session
from sensitivity.signals.distortion import SQNR
from sensitivity.steps import lazy
from sensitivity.tasks.batches import first_samples

FILE = "recalibration.json"
CANNOT = (
    "Recalibration was left out: other ranges are tried in models of ModelOpt, "
    "pytorch-quantization and PT2E and in Q/DQ files; {kind} keeps those that it came with. "
    "Calibrate it again where it was made (percentile, MSE or entropy ranges, weights per channel)."
)
TRACED_SAMPLES = 2
LOOKS = 2
"""How often everything in INT8 is judged on `confirm` with repairs: with other ranges, and with all
repairs."""
EDITION = 17
"""Number that changes whenever a new release would find other ranges."""


@dataclass(frozen=True)
class Recalibration:
    """The recalibrated units of a run.

    basis: digest of what they were fitted for.
    units: in the order taken; empty if no other range is better.
    scan: the ranking to plan from. If only the metric can rank units, all units have been measured
        again with these ranges.
    note: what the reader must know.
    tuning: what fine-tuning gave; None if it was not tried.
    early: whether further repairs were not tried, because everything in INT8 met the target.
    fitted_wide: units that had 16-bit activations when their weights were repaired.
    """

    basis: str
    units: tuple[Recalibrated, ...]
    scan: Scan
    note: str | None = None
    tuning: Tuning | None = None
    early: bool = False
    fitted_wide: tuple[str, ...] = ()

    @property
    def ranges(self) -> tuple[Range, ...]:
        """Ranges of all recalibrated units."""
        return tuple(new_range for unit in self.units for new_range in unit.ranges)


def recalibration(
    session: Session,
    scanned: Scan,
    target: Target,
    skip: Sequence[str],
    fine_tune: FineTune = "never",
) -> Recalibration:
    """Find better ranges for the worst units, unless INT8 meets the target as it is.

    skip: units that every plan leaves out.
    fine_tune: whether fine-tuned ranges and biases may be taken from an earlier plan; "always"
        finds ranges even if INT8 meets the target. `steps.fine_tune` follows.
    """
    if not isinstance(session.source, Recalibratable):
        note = CANNOT.format(kind=name_in_words(session.source))
        return Recalibration("", (), scanned, note)
    if fine_tune != "always" and meets(session.study, scanned, target, skip):
        return Recalibration("", (), scanned)
    basis = _basis(session, scanned, skip)
    enough = partial(_are_enough, session, scanned, target, skip)
    known = _known(session.run_dir, basis, may_be_tuned=fine_tune != "never")
    if known is not None and (not known.early or enough(known.units)):
        return known
    units = _with_other_ranges(session, scanned, skip)
    early = enough(units)
    if not early:
        rounded = _rounded(session, units, skip)
        # Learned rounding brings bias corrections of its own.
        units = _corrected(session, units, skip) if rounded == units else rounded
    missing = session.source.missing() if isinstance(session.source, Sharing) else None
    result = Recalibration(basis, units, scanned, missing, early=early)
    # If outputs can be compared, the planner ranks the units again by their signal; otherwise the
    # metric has to rank them.
    if units and not session.has_samples:
        with session.measurer.with_ranges(result.ranges):
            result = replace(result, scan=measure_scan(session.study, scanned.mode))
    session.run_dir.write(FILE, result)
    return result


def is_costly(session: Session, scanned: Scan) -> bool:
    """Return whether the scan was a race because samples are large. After a collapse other rules
    apply, which take few samples."""
    return session.has_large_samples and bool(scanned.signal) and not scanned.collapsed


def _with_other_ranges(
    session: Session, scanned: Scan, skip: Sequence[str]
) -> tuple[Recalibrated, ...]:
    """Return the units with other ranges, if these help.

    If samples are so large that the scan was a race, fewer units are tried, since a choice for each
    quantizer of all the others would be most of a run.
    """
    order = [effect.unit for effect in scanned.effects if effect.unit not in skip]
    most = COSTLY_UNITS if is_costly(session, scanned) else WORST_UNITS
    return _equalized(session, _recalibrated(session, scanned, order, skip, most), skip)


def _are_enough(
    session: Session,
    scanned: Scan,
    target: Target,
    skip: Sequence[str],
    units: Sequence[Recalibrated],
) -> bool:
    """Return whether everything in INT8 clearly meets the target with these repairs.

    Repairs are looked at up to `LOOKS` times on the same samples, so each look has to be surer.
    """
    doubt = (1 - target.confidence) / LOOKS
    surer = replace(target, confidence=1 - doubt)
    return bool(units) and _meets_with(session, units, scanned, surer, skip)


def _known(run_dir: RunDir, basis: str, *, may_be_tuned: bool) -> Recalibration | None:
    """Return the stored result with this basis of any plan of the run, and store it for this plan
    too."""
    for place in run_dir.plans():
        stored = place.read_if_there(FILE, Recalibration)
        if stored is None or stored.basis != basis:
            continue
        is_tuned = stored.tuning is not None and stored.tuning.kept
        if may_be_tuned or not is_tuned:
            run_dir.write(FILE, stored)
            return stored
    return None


def own_quantized(session: Session) -> Estimate:
    """Return the metric of everything in INT8 on `confirm`, with the ranges that the model came
    with."""
    measurer = session.measurer
    with measurer.with_ranges(()):
        own = measurer.known(session.study.baselines["quantized"], "confirm")
    return estimate(own, measurer.task.aggregate)


def kept(units: Sequence[Recalibrated], left_out: Sequence[str]) -> tuple[Recalibrated, ...]:
    """Return the recalibrated units that are at least partly in INT8.

    left_out: quantizers that the plan disables.
    """
    return tuple(
        unit
        for unit in units
        if not {new_range.quantizer for new_range in unit.ranges} <= set(left_out)
    )


def without_ranges(
    units: Sequence[Recalibrated], replaced: Collection[str]
) -> tuple[Recalibrated, ...]:
    """Return the units without the ranges of these quantizers. Units left without any range are
    dropped."""
    remaining = []
    for unit in units:
        pairs = [pair for pair in unit.pairs if pair[0].quantizer not in replaced]
        if pairs:
            before, ranges = zip(*pairs, strict=True)
            remaining.append(replace(unit, before=before, ranges=ranges))
    return tuple(remaining)


def in_force(run_dir: RunDir, plan: Plan) -> Recalibration | None:
    """Return what was recalibrated in the search that found the plan, including units that it
    leaves out.

    Returns None if that search kept all ranges.
    """
    if plan.metric.recalibrated is None:
        return None
    return run_dir.read(FILE, Recalibration)


def plan_ranges(plan: Plan, source: QuantizedModel) -> AbstractContextManager[None]:
    """Apply the ranges of the plan, inside the `with`, in the formats that the model came with."""
    return _with_ranges(plan.ranges, source)


def format_plan_ranges(plan: Plan, source: QuantizedModel) -> AbstractContextManager[None]:
    """Give the plan's units with 16-bit activations and those in FP8 their formats, inside the
    `with`."""
    return _with_ranges(plan.format_ranges, source)


def _with_ranges(ranges: tuple[Range, ...], source: QuantizedModel) -> AbstractContextManager[None]:
    if not ranges:
        return nullcontext()
    if not isinstance(source, Recalibratable):
        raise ModelError(
            "Expected a model whose ranges can be changed, as the plan does, got one of "
            f"{source.source}."
        )
    return source.with_ranges(ranges)


def meets(study: Study, scanned: Scan, target: Target, names: Sequence[str]) -> bool:
    """Return whether the model with nothing outside INT8 but these units meets the target on
    `confirm`.

    names: in the notation of planners.
    """
    return judge_of(study, target, float_scores_of(study), scanned)(tuple(names)).met


def _meets_with(
    session: Session,
    units: Sequence[Recalibrated],
    scanned: Scan,
    target: Target,
    skip: Sequence[str],
) -> bool:
    """Return the same as `meets` with the ranges of these units."""
    ranges = tuple(chain.from_iterable(unit.ranges for unit in units))
    with session.measurer.with_ranges(ranges):
        return meets(session.study, scanned, target, skip)


def _basis(session: Session, scanned: Scan, skip: Sequence[str]) -> str:
    """Return a digest of what ranges are fitted for."""
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
    """Correct the biases of all layers if that is better, and return the units with the
    corrections."""
    if not is_correctable(session.source):
        return tuple(known)
    return _repaired_by(bias_corrections, "correct biases", session, known, skip)


def _rounded(
    session: Session, known: Sequence[Recalibrated], skip: Sequence[str]
) -> tuple[Recalibrated, ...]:
    """Learn the rounding of weights if that is better, and return the units with it."""
    if not takes_rounding(session.source) or not session.has_samples:
        return tuple(known)
    return _repaired_by(learned_roundings, "learn rounding", session, known, skip)


def _repaired_by(
    fit: Callable[..., tuple[Range, ...]],
    what: str,
    session: Session,
    known: Sequence[Recalibrated],
    skip: Sequence[str],
) -> tuple[Recalibrated, ...]:
    """Fit a repair on top of the ranges of these units, and return the units with it if it helps.

    fit: called with the model, calibration inputs, and `ranges` and `left_out` by name.
    what: what the progress display calls it.
    """
    ranges = tuple(new_range for unit in known for new_range in unit.ranges)
    left_out = session.study.skip_variant(skip).disabled
    repair = partial(fit, session.source, ranges=ranges, left_out=left_out)
    return with_repairs(session, known, fitted(session, what, repair), skip)


def _equalized(
    session: Session, known: Sequence[Recalibrated], skip: Sequence[str]
) -> tuple[Recalibrated, ...]:
    """Equalize the activations before depthwise convolutions if that is better, and return the
    units with their ranges per channel."""
    source = session.source
    shared = {name for group in _shared_ranges(session) for name in group}
    names = [name for name in _even_links(session) if name not in shared]
    if not names:
        return tuple(known)
    ranges = fitted(session, "equalize", partial(equalized_ranges, source, names))
    return with_repairs(session, known, ranges, skip)


def _even_links(session: Session) -> tuple[str, ...]:
    """Return the quantizers whose ranges may be per channel, because a file can fold them into the
    weights around."""
    source = session.source
    if form_of(source) == "onnx":
        return lazy.onnx_equalization.even_links(source)
    if not isinstance(source, Correctable) or session.example is None:
        return ()
    example = first_samples(session.example, TRACED_SAMPLES)
    try:
        with in_float32(source.model):
            traced = session.graph.traced if session.graph else None
            return lazy.torch_model.even_links(source, example, traced)
    except (ExportError, ModelError):  # such ranges could not be written to a file either
        return ()


def _shared_ranges(session: Session) -> tuple[tuple[str, ...], ...]:
    """Return the groups of quantizers that share a range, because an operation needs it or because
    they do so in the user's file."""
    source = session.source
    in_file = source.sharing() if isinstance(source, Sharing) else ()
    return (*session.scales, *in_file)


def with_repairs(
    session: Session,
    known: Sequence[Recalibrated],
    ranges: Sequence[Range],
    skip: Sequence[str],
    study: Study | None = None,
) -> tuple[Recalibrated, ...]:
    """Return the units with these ranges if they help, see `search.repairs.repaired`.

    known: the units as they are without the ranges.
    study: whose units may have other formats; None for the session's own, without these.
    """
    source, study = session.source, study or session.study
    assert isinstance(source, Recalibratable)
    repairs = [(source.range(repair.quantizer), repair) for repair in ranges]
    signal = session.distortion(session.usual_signal) if session.has_samples else None
    try:
        return repaired(study, known, repairs, skip=skip, signal=signal)
    except ModelError:  # outputs that cannot be compared, such as boxes after suppression
        return repaired(study, known, repairs, skip=skip)


def fitted(
    session: Session, what: str, fit: Callable[[Any], tuple[Range, ...]]
) -> tuple[Range, ...]:
    """Return what `fit` finds on the calibration inputs; nothing if there are none.

    what: what the progress display calls it.
    """
    batches = session.calibration()
    if batches is None:
        return ()
    session.measurer.drop_simulator()  # A repair takes memory, and its ranges need another one.
    collect_and_trim()
    first = next(batches)
    try:
        parts = calibration_parts(chain([first], batches))
        return fit(replace(parts, show=partial(session.measurer.progress, what)))
    except TaskError:  # the model takes only one batch size, or memory is short
        return fit(first)


def _recalibrated(
    session: Session, scanned: Scan, order: Sequence[str], skip: Sequence[str], most: int
) -> tuple[Recalibrated, ...]:
    """Recalibrate the worst units one by one, or all units at once by the task's own signal if
    everything in INT8 has collapsed.

    order: names of the units, worst first.
    most: number of units that are tried one by one.
    """
    study = session.study
    if scanned.collapsed and session.has_samples:
        signal = session.distortion(session.usual_signal)
        return recalibrate_together(study, _places(session, order), skip=skip, signal=signal)
    order = order[:most]
    places = _places(session, order)
    try:
        by_outputs = SQNR if session.has_samples else None
        return recalibrate(study, order, places, skip=skip, signal=by_outputs)
    except ModelError:  # outputs that cannot be compared, such as boxes after suppression
        return recalibrate(study, order, places, skip=skip)


def _places(session: Session, tried: Sequence[str]) -> tuple[Place, ...]:
    """Return the places where ranges of these units could change.

    Quantizers that share a range change together, including those of units that are not tried.
    """
    source = session.source
    assert isinstance(source, Recalibratable)
    scales = _shared_ranges(session)
    names = [name for unit in session.units if unit.name in tried for name in unit.quantizers]
    other = source.other_ranges(_with_sharers(names, scales), session.forward_calibration)
    changeable = dict.fromkeys(candidate.quantizer for candidate in other)
    own = {name: source.range(name) for name in _with_sharers(changeable, scales)}
    return places_of(own, own, other, scales)


def _with_sharers(names: Iterable[str], scales: Iterable[Sequence[str]]) -> list[str]:
    """Return these quantizers and all that share a range with one of them, each once."""
    group_of = {name: group for group in scales for name in group}
    sharers: dict[str, None] = {}
    for name in names:
        sharers.update(dict.fromkeys(group_of.get(name, (name,))))
    return list(sharers)
