"""Writes the files of a plan, verifies them, and lowers them for runtimes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sensitivity.allocator import collect_and_trim
from sensitivity.errors import RunDirError, SensitivityError, TaskError
from sensitivity.exporters.evaluate import arrays_of, named_arrays
from sensitivity.exporters.example import Example
from sensitivity.exporters.for_onnxruntime import faithful_copies
from sensitivity.exporters.for_openvino import exact_copies
from sensitivity.exporters.half_baseline import NAME as HALF
from sensitivity.exporters.half_baseline import half_baseline
from sensitivity.exporters.lower import TARGETS, check_formats
from sensitivity.exporters.lower_qdq import lacks_output_pairs, lower_qdq
from sensitivity.exporters.lowered import lower_files
from sensitivity.exporters.onnx_file import export_onnx, verify_onnx
from sensitivity.exporters.torch_model import disabled_by_variant, export_files
from sensitivity.exporters.verification import LoweringCheck, Verification
from sensitivity.exporters.verify import verify
from sensitivity.quantizers.alternatives import with_alternatives
from sensitivity.quantizers.base import form_of
from sensitivity.quantizers.onnx.float_model import sample_sizes
from sensitivity.quantizers.torch.half import in_float32
from sensitivity.records import EngineStructure, Plan, Quantizer, Scores
from sensitivity.reporting.number_formats import planned_quantizers
from sensitivity.rules.base import PlanNames
from sensitivity.rules.formats import check_takes
from sensitivity.runtimes.tensorrt_rtx_build import unavailable
from sensitivity.session import Session
from sensitivity.simulators.choose import simulator_for
from sensitivity.steps.recalibrate import plan_ranges
from sensitivity.tasks.batches import first_samples
from sensitivity.tasks.scoring import Scoring
from sensitivity.timing.engine_structure import build_or_say_why

if TYPE_CHECKING:
    from sensitivity.exporters.lower import LowerTarget

METRIC_BATCHES = 6
"""Largest number of batches of each split used for the metric of the exported files."""

EXAMPLE_SAMPLES = 24
"""Largest number of samples of the example batch on which files are compared with the model, layer
by layer and value by value. All values of a layer are held at once."""

METRIC_SAMPLES = 250
"""Number of samples after which no batch is added. A fault that changes the score of one sample in
50 goes unseen in that many samples once in 150 times; outputs and single layers are compared in
addition."""

SAMPLES_BEFORE_A_BENCH = 100
"""The same number if a bench follows, which judges the files that it times on all of `holdout`, by
the same test. Such a fault then goes unseen once in a thousand times, and the metric of all files
takes half as long."""

LARGE_BEFORE_A_BENCH = 16
"""The same if samples are large, too. Without the optimizations of ONNX Runtime, one of YOLOv8n at
640 pixels takes half a second of a core."""


def metric_samples(*, judged_later: bool, large: bool) -> int:
    """Return the number of samples after which no batch is added to judge the metric of files.

    judged_later: whether a bench will measure it too.
    large: whether samples are so large that few are affordable.
    """
    if not judged_later:
        return METRIC_SAMPLES
    return LARGE_BEFORE_A_BENCH if large else SAMPLES_BEFORE_A_BENCH


def targets_of(wanted: str | None) -> tuple[LowerTarget, ...]:
    """Return the runtimes that files are lowered for.

    wanted: the argument of `export --for`, or the runtime of a bench, for which there may be none.
    """
    names = [name for name in TARGETS if wanted == name or (wanted == "all" and name != "qnn")]
    return tuple(cast("LowerTarget", name) for name in names)


def refusals(
    targets: Sequence[LowerTarget], chosen: Plan, quantizers: Sequence[Quantizer]
) -> dict[LowerTarget, SensitivityError]:
    """Return each target that files of the plan cannot be lowered for -> the error that says why.

    quantizers: of the model, in their own formats.
    """
    planned = (*quantizers, *planned_quantizers(quantizers, chosen))
    refused: dict[LowerTarget, SensitivityError] = {}
    for target in targets:
        try:
            check_takes(target, chosen)
            check_formats((each.format for each in planned), target, "the plan")
        except SensitivityError as error:
            refused[target] = error
    return refused


def export_plan(
    session: Session,
    chosen: Plan,
    targets: Sequence[LowerTarget],
    *,
    refused: Mapping[LowerTarget, SensitivityError] | None = None,
    forgiving: bool = False,
    judged_later: bool = False,
) -> Verification:
    """Write and verify the files of a plan, and write export.json.

    refused: targets that the user asked for too -> why they have no file, see `refusals`;
        None if there are none.
    forgiving: whether a lowered file that does not compute what it should is left out instead of
        raising, since nobody asked for it by name.
    judged_later: whether a bench will measure the metric of the files too.
    """
    if session.example is None:
        raise TaskError(
            "Expected the task to have example_inputs for export, got None; add one batch of "
            "inputs to the EvaluateTask."
        )
    source, run_dir = session.source, session.run_dir
    # Measured with the original ranges in force, as everything in the journal is.
    scoring = _scoring(session, chosen, judged_later=judged_later)
    collect_and_trim()
    with plan_ranges(chosen, source):
        if form_of(source) == "onnx":
            verification = _exported_onnx(
                session, chosen, targets, scoring, {} if forgiving else None
            )
        else:
            verification = _exported_torch(
                session, chosen, targets, scoring, {} if forgiving else None
            )
        ranges = tuple(new_range.key for new_range in chosen.every_range)
        left_out = {
            f"model.partial.{target}.onnx": str(why) for target, why in (refused or {}).items()
        }
        verification = replace(
            verification,
            skip=chosen.skip,
            ranges=ranges,
            left_out=verification.left_out | left_out,
        )
        if form_of(source) != "onnx":
            kept = _lowered_before(session, chosen, targets)
            verification = replace(verification, lowered=kept | verification.lowered)
        verification = _built(session, chosen, verification)
        run_dir.write("export.json", verification)
    return verification


def _lowered_before(
    session: Session, chosen: Plan, targets: Sequence[LowerTarget]
) -> dict[str, LoweringCheck]:
    """Return the checks of files that an earlier export of this plan lowered for other runtimes."""
    run_dir = session.run_dir
    try:
        earlier = run_dir.read_if_there("export.json", Verification)
    except RunDirError:
        return {}  # a damaged record is what a new export replaces
    if earlier is None or not earlier.is_of(chosen):
        return {}
    others = TARGETS.keys() - set(targets)
    return {
        name: check
        for name, check in earlier.lowered.items()
        if check.target in others and (run_dir.folder / name).exists()
    }


def _scoring(session: Session, chosen: Plan, *, judged_later: bool) -> Scoring | None:
    """Return what the files are judged by, with the simulated scores of their variants; None for a
    task without samples.

    Scores that the journal lacks are measured now.

    judged_later: as for `export_plan`. The metric of the INT8 files is then left to the bench,
        which they are made for.
    """
    samples = metric_samples(judged_later=judged_later, large=session.has_large_samples)
    batches = session.some_batches(METRIC_BATCHES, samples)
    task, measurer = session.task, session.measurer
    if batches is None:
        return None
    study, places = session.study, batches.places
    with measurer.with_ranges(chosen.ranges):
        variants = {"partial": measurer.of(study.plan_variant(chosen))}
        if not judged_later:
            variants["int8"] = measurer.of(study.baselines["quantized"])
    for split, numbers in groupby(places, key=itemgetter(0)):
        count = len(list(numbers))
        list(islice(measurer.stream([*variants.values()], split, "export: simulated"), count))

    def simulated(variant: str, batch: int) -> Scores | None:
        known = variants.get(variant)
        return None if known is None else measurer.journal.scores(known, *places[batch])

    return Scoring(
        batches, task.score, task.aggregate, task.full_scale, simulated, of_int8=not judged_later
    )


def _built(session: Session, chosen: Plan, verification: Verification) -> Verification:
    """Add what TensorRT-RTX builds from the plan's files: those lowered for TensorRT, or else the
    canonical one.

    If TensorRT-RTX is not installed, this is noted only for files lowered for TensorRT.
    """
    lowered = [name for name, check in verification.lowered.items() if check.target == "tensorrt"]
    quantized = [name for name in lowered if ".partial." in name]
    problem = unavailable()
    if problem:
        return replace(verification, not_built=dict.fromkeys(quantized, problem))
    plan = PlanNames(tuple(chosen.skip), tuple(chosen.quantizers))
    names = quantized or ["model.partial.onnx"]
    engines: dict[str, EngineStructure] = {}
    not_built: dict[str, str] = {}
    for name in names:
        built = build_or_say_why(session.run_dir.folder / name, plan)
        if isinstance(built, str):
            not_built[name] = built
        else:
            engines[name] = built
    return replace(verification, engines=engines, not_built=not_built)


def _exported_torch(
    session: Session,
    chosen: Plan,
    targets: Sequence[LowerTarget],
    scoring: Scoring | None,
    refused: dict[str, str] | None,
) -> Verification:
    source, units = session.source, session.units
    example = first_samples(session.example, EXAMPLE_SAMPLES)
    outputs = Example(named_arrays(example))
    with in_float32(source.model), session.measurer.progress("export, verify, lower", 3) as advance:
        files = export_files(
            source,
            example,
            units,
            chosen.skip,
            session.run_dir.folder,
            fingerprint=str(session.measurer.journal.head["model"]),
            calibration=session.inputs(),
            formats=chosen.format_ranges,
        )
        advance(1, 0)
        verification = verify(
            source,
            files,
            example,
            units,
            chosen.skip,
            scoring=scoring,
            formats=chosen.format_ranges,
            example=outputs,
        )
        advance(1, 0)
        lowered = lower_files(files, targets, outputs, scoring=scoring, left_out=refused)
        half = half_baseline(files["float"], outputs)
        advance(1, 0)
    lowered |= {} if isinstance(half, str) else {HALF: half}
    left_out = (refused or {}) | ({HALF: half} if isinstance(half, str) else {})
    made = [*files.values(), *(session.run_dir.folder / name for name in lowered)]
    return replace(
        verification, lowered=lowered, left_out=left_out, finished=_finished(session, made)
    )


def _example_or_inputs(session: Session) -> Iterable[Any]:
    """Return the batches of `rank`, or the example batch for a task without samples."""
    inputs = session.inputs()
    return [session.example] if inputs is None else inputs


def _finished(session: Session, files: Sequence[Path]) -> dict[str, str]:
    """Return what the task's `finish` makes of the verified files."""
    finish = session.task.finish
    return (
        {name: fact for file in files for name, fact in finish(file, session.example).items()}
        if finish
        else {}
    )


def _exported_onnx(
    session: Session,
    chosen: Plan,
    targets: Sequence[LowerTarget],
    scoring: Scoring | None,
    refused: dict[str, str] | None,
) -> Verification:
    """Export and verify a Q/DQ ONNX model.

    The files keep the form that their toolkit gave them, except those for QNN. ONNX Runtime gets a
    copy of each file that it would otherwise compute differently, or in float for its types alone.
    """
    source, units = session.source, session.units
    with session.measurer.progress("export, verify", 2) as advance:
        fingerprint = str(session.measurer.journal.head["model"])
        formats = chosen.format_ranges
        files = export_onnx(
            source,
            units,
            chosen.skip,
            session.run_dir.folder,
            fingerprint=fingerprint,
            formats=formats,
        )
        advance(1, 0)
        simulator = simulator_for(with_alternatives(source, formats), session.example)
        disabled = disabled_by_variant(source, units, chosen.skip)
        verification = verify_onnx(
            source, files, disabled, session.example, simulator, scoring=scoring, formats=formats
        )
        example = Example(arrays_of(files["float"], session.example))
        copies = exact_copies(files, example, left_out=refused)
        batches = partial(_example_or_inputs, session)
        reasons = {} if refused is None else refused
        is_asked_for = "onnxruntime" in targets and refused is None
        if is_asked_for or lacks_output_pairs(files["int8"]):
            copies |= lower_qdq(
                files,
                "onnxruntime",
                example,
                batches,
                scoring=scoring,
                left_out=None if is_asked_for else reasons,
            )
        if "qnn" in targets:
            copies |= lower_qdq(files, "qnn", example, batches, scoring=scoring, left_out=refused)
        as_they_are = {
            variant: file
            for variant, file in files.items()
            if f"{file.stem}.onnxruntime.onnx" not in copies
        }
        copies |= faithful_copies(as_they_are, example, scoring=scoring, left_out=refused)
        advance(1, 0)
    sizes = sample_sizes(source.model, session.example)
    return replace(verification, lowered=copies, left_out=reasons, sizes=sizes)
