"""A task opened for measuring: its model seen through an adapter, its units, and the journal of its
run directory."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensitivity.config import IN_PYTHON, UnitChoices
from sensitivity.errors import ModelError, TaskError
from sensitivity.journal.journal import open_journal, refuse_used
from sensitivity.measure.changed_task import CHANGED, check_same_task
from sensitivity.measure.measurer import Measurer
from sensitivity.measure.progress import Progress, silent
from sensitivity.measure.raced import SIGNAL_SAMPLES, measured_signal
from sensitivity.measure.scan import Scan
from sensitivity.measure.study import Study
from sensitivity.measure.variants import BASELINES
from sensitivity.quantizers.alternatives import with_alternatives
from sensitivity.quantizers.base import QuantizedModel, Runnable, check_calibrated, ends
from sensitivity.quantizers.torch.calls import call, device_of, to_device
from sensitivity.quantizers.torch.wrappers import unwrapped
from sensitivity.records import SPLITS, Quantizer, Range, Unit, names_of
from sensitivity.registry import load, names, version_of_guest
from sensitivity.run_dir import RunDir
from sensitivity.seeds import current_seed
from sensitivity.signals.base import Signal
from sensitivity.signals.boxes import boxes_signal
from sensitivity.signals.fisher import fisher
from sensitivity.simulators.base import Simulator
from sensitivity.simulators.choose import simulator_for
from sensitivity.simulators.evaluate import EvaluateSimulator
from sensitivity.tasks.base import EvaluateTask, Task
from sensitivity.tasks.batches import batch_digest, batch_size, check_pair
from sensitivity.tasks.detection import DetectionScore
from sensitivity.tasks.load import Given, load_task, same_task, task_digest

if TYPE_CHECKING:
    from sensitivity.simulators.torch.replay import Cuts
    from sensitivity.units.relations import Placed

FISHER_BATCHES = 2
EXECUTED_BATCHES = 16
"""Of `rank`, at most, for finding quantizers that are never executed."""
CALIBRATION_SAMPLES = 512
"""At most, for other ranges."""
JUDGED_ON = ("confirm", "rank", "holdout")
"""The splits, in the order in which `SomeBatches` takes from them."""
FRAMEWORKS = ("torch", "nvidia-modelopt", "onnxruntime")
NO_INTERVALS = (
    "The task has only evaluate(model): no per-sample scores, so no intervals and no ties; "
    "each variant costs a whole evaluation. Return a Task with score() to get them."
)
NOT_HELD_OUT = (
    "The task has no holdout evaluation: the reported accuracy is on data that chose "
    "the plan, and too kind to it."
)


@dataclass(frozen=True)
class Session:
    """given: the task as the user gave it. task: always with batches; an EvaluateTask has been
    turned into one.
    example: one batch of inputs, for export; None where the task has none. warnings: what the
    reader must know.
    scales: quantizers that share one range for as long as the session is open. own_ranges: those
    that they had before, where the shared one differs. residuals: whether skip connections have got
    quantizers for as long.
    unexecuted: quantizers of the user's model that no forward executes; they are in no unit and
    disabled for as long.
    loaded: the task as the user's function returned it. graph: what `export.relations.placed` read
    of the model; None where the units came from an earlier scan."""

    given: Given
    task: Task
    source: QuantizedModel
    units: tuple[Unit, ...]
    run_dir: RunDir
    measurer: Measurer
    example: Any
    warnings: tuple[str, ...]
    scales: tuple[tuple[str, ...], ...] = ()
    own_ranges: tuple[Range, ...] = ()
    residuals: bool = False
    unexecuted: tuple[Quantizer, ...] = ()
    loaded: Task | EvaluateTask | None = None
    graph: Placed | None = None

    @cached_property
    def study(self) -> Study:
        """What scans and searches of this session work on."""
        return Study(self.measurer, self.units, self.source.quantizers)

    @property
    def has_samples(self) -> bool:
        """False for a task that has only evaluate(model)."""
        return not callable(next(iter(self.task.data["rank"]))[0])

    def exact_samples(self) -> int:
        """What measuring every unit and the baselines on all of `rank` takes, from the size of its
        first batch."""
        size = batch_size(self.example) if self.has_samples else 1
        return len(self.task.data["rank"]) * size * (len(self.units) + len(BASELINES))

    @property
    def usual_signal(self) -> str:
        """The signal of a task for which the user names none: its own where it has one."""
        return "boxes" if isinstance(self.task.score, DetectionScore) else "sqnr"

    def signal(self, name: str, samples: int = SIGNAL_SAMPLES) -> dict[str, float]:
        """Unit -> cheap signal of its sensitivity: "sqnr", "kl", "boxes" or "fisher".

        samples: how many to compare outputs on. Raises TaskError where the signal cannot be had,
        ModelError where outputs cannot be compared.
        """
        if not self.has_samples:
            raise TaskError(
                f"Expected a task with samples for --signal {name}, got one with evaluate(model) "
                "only; use --exact."
            )
        if name == "fisher":
            return fisher(self.source, self.units, islice(self.task.data["rank"], FISHER_BATCHES))
        return measured_signal(self.study, self.distortion(name), samples)

    def distortion(self, name: str) -> Signal:
        """The signal of this name that compares outputs. Raises TaskError for "boxes" where the
        task is no detector's."""
        if name == "boxes":
            return boxes_signal(self.task)
        found: Signal = load("signals", name)
        return found

    def ends(self) -> tuple[tuple[str, ...], ...]:
        """For each end of the graph its units, the nearest first: of the inputs, then of each
        output."""
        return ends(self.source, self.units)

    def inputs(self) -> Iterator[Any] | None:
        """Inputs of `rank`, batch by batch; None for a task that has no samples."""
        return (inputs for inputs, _ in self.task.data["rank"]) if self.has_samples else None

    def calibration(self) -> Iterator[Any] | None:
        """Batches of inputs that repairs are fitted on: as `forward_calibration`; None for a task
        that gives no inputs."""
        loaded = self.loaded or self.task
        has_inputs = isinstance(loaded, Task) or loaded.example_inputs is not None
        return _calibration(loaded) if has_inputs else None

    def forward_calibration(self) -> None:
        """Run the model on the calibration data: split "calib" where the task has it, else `rank`;
        where there are no samples, one evaluation."""
        if not self.has_samples:
            evaluate, _ = next(iter(self.task.data["rank"]))
            evaluate(self.source.model)
            return
        for inputs in _calibration(self.task):
            self.forward(inputs)

    def forward(self, inputs: Any) -> None:
        """Run the model once, for what watches it. inputs: one batch, as the task gives it."""
        source = self.source
        if isinstance(source, Runnable):
            source.forward(inputs)
        else:
            call(source.model, to_device(inputs, device_of(source.model)))

    def some_batches(self, most: int, samples: int) -> SomeBatches | None:
        """Up to `most` batches of each split, until there are as many samples, of the size of the
        first batch; None for a task that has no samples."""
        if not self.has_samples:
            return None
        return SomeBatches(self.task, most, -(-samples // batch_size(self.example)))


@dataclass(frozen=True)
class SomeBatches:
    """Batches from the start of each split, read anew each time they are iterated over: those of
    `confirm` first, where most is measured of a plan.

    most: of each split. total: of all.
    """

    task: Task
    most: int
    total: int

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        taken = Counter(split for split, _ in self.places)
        return chain.from_iterable(islice(self.task.data[split], taken[split]) for split in taken)

    @property
    def places(self) -> list[tuple[str, int]]:
        """Split and number there of each batch."""
        data = self.task.data
        every = [
            (split, at) for split in JUDGED_ON for at in range(min(self.most, len(data[split])))
        ]
        return every[: self.total]


@contextmanager
def open_session(
    given: Given,
    out: Path,
    *,
    resume: bool,
    choices: UnitChoices | None = None,
    memory: int | None = None,
    progress: Progress = silent,
) -> Iterator[Session]:
    """Load the task where it is in a file, unify the ranges that an engine wants to be one, and
    open the journal of `out`.

    choices: what the units are; None takes the units and shared ranges in run.json, from the scan.
    memory: bytes that the simulator may hold besides the weights; None takes a quarter of what is
    free. Raises TaskError, ModelError (not calibrated), RunDirError (out holds another run),
    JournalMismatch.
    """
    # Both import ONNX, which takes half a second: `plan` for another target opens no session and
    # need not wait.
    from sensitivity.units import placement, relations

    refuse_used(RunDir(out).journal, resume)  # before the task's own long work
    loaded = load_task(given)
    task = with_batches(loaded) if isinstance(loaded, EvaluateTask) else loaded
    run_dir, example = RunDir(out), _example(loaded)
    residuals = choices.quantize_residuals if choices else run_dir.info().residuals
    with ExitStack() as stack:
        source, unexecuted = stack.enter_context(
            executed_only(quantized_model(loaded.model), loaded)
        )
        if residuals:
            stack.enter_context(placement.residual_quantizers(source, list(_calibration(loaded))))
            source = quantized_model(loaded.model)
        if choices:
            found = relations.placed(source, example, choices)
        else:
            info = run_dir.info()
            found = relations.Placed(info.units, info.scales)
        own_ranges: tuple[Range, ...] = ()
        if found.scales:
            own_ranges = stack.enter_context(placement.unified_scales(source, found.scales))
        head = head_of(task, source, given) | ({"scales": found.scales} if found.scales else {})
        if current_seed():
            head |= {"seed": current_seed()}
        with open_journal(run_dir.journal, head, resume=resume) as journal:
            cuts: Cuts = {}

            def simulator(offered: tuple[Range, ...]) -> Simulator:
                return _simulator(loaded, with_alternatives(source, offered), memory, cuts)

            measurer = _measurer(Measurer(task, simulator, journal, progress), own_ranges)
            study = Study(measurer, found.units, source.quantizers)
            changed = _changed(study, run_dir, head["task"], loaded)
            yield Session(
                given=given,
                task=task,
                source=source,
                units=found.units,
                run_dir=run_dir,
                measurer=measurer,
                example=example,
                warnings=(*source.warnings, *_warnings(loaded), *found.warnings, *changed),
                scales=found.scales,
                own_ranges=own_ranges,
                residuals=residuals,
                unexecuted=unexecuted,
                loaded=loaded,
                graph=found if choices else None,
            )


@contextmanager
def executed_only(
    source: QuantizedModel, loaded: Task | EvaluateTask
) -> Iterator[tuple[QuantizedModel, tuple[Quantizer, ...]]]:
    """The model without the quantizers that no forward executes, and these.

    They are disabled inside the `with`. Nothing is left out where the task gives no inputs to run
    the model on. Raises ModelError where no quantizer is executed, and for one that is executed but
    not calibrated.
    """
    unexecuted = _unexecuted(source, loaded)
    executed = tuple(quantizer for quantizer in source.quantizers if quantizer not in unexecuted)
    if not executed:
        raise ModelError(
            f"Expected the model to execute its quantizers, got none of {len(unexecuted)} executed "
            "by a batch of the task's data; check that the modules which were quantized are those "
            "that its forward calls."
        )
    check_calibrated(executed)
    if not unexecuted:
        yield source, ()
        return
    with source.disabled(names_of(unexecuted)):
        yield quantized_model(loaded.model), unexecuted


def _unexecuted(source: QuantizedModel, loaded: Task | EvaluateTask) -> tuple[Quantizer, ...]:
    missing = set(names_of(source.quantizers))
    if _example(loaded) is None:
        return ()  # nothing is known of them
    for inputs in _first_inputs(loaded):
        missing -= source.executed(inputs)
        if not missing:
            break
    return tuple(quantizer for quantizer in source.quantizers if quantizer.name in missing)


def _first_inputs(loaded: Task | EvaluateTask) -> Iterator[Any]:
    """Batches of inputs that show which quantizers are executed: a model may route some samples
    past a part of it."""
    if isinstance(loaded, EvaluateTask):
        return iter(() if loaded.example_inputs is None else (loaded.example_inputs,))
    return (check_pair(batch, "rank")[0] for batch in islice(loaded.data["rank"], EXECUTED_BATCHES))


def _calibration(task: Task | EvaluateTask) -> Iterator[Any]:
    """Batches of inputs that ranges are taken from: split "calib" where the task has it, else
    `rank`."""
    if isinstance(task, EvaluateTask):
        if task.example_inputs is None:
            raise TaskError(
                "Expected the task to have example_inputs to calibrate on, got None; add one batch "
                "of inputs."
            )
        yield task.example_inputs
        return
    seen = 0
    for inputs, _ in task.data.get("calib", task.data["rank"]):
        yield inputs
        seen += batch_size(inputs)
        if seen >= CALIBRATION_SAMPLES:
            return


def _measurer(measurer: Measurer, own_ranges: tuple[Range, ...]) -> Measurer:
    measurer.offer(own_ranges)  # for what sharing them costs
    return measurer


def _changed(
    study: Study, run_dir: RunDir, task: Mapping[str, str], loaded: Task | EvaluateTask
) -> tuple[str, ...]:
    """What to tell of a task that has changed since the journal began; nothing where it does the
    same.

    One made in Python is measured again also where its functions read the same: what they call may
    be another. Raises JournalMismatch where it measures something else.
    """
    journal = study.measurer.journal
    same = journal.task is None or same_task(journal.task, task)
    in_python = task["function"] == IN_PYTHON
    if same and not (in_python and isinstance(loaded, Task)):
        return ()
    scanned = run_dir.read_if_there("scan.json", Scan)
    what = "task" if in_python else "task file"
    check_same_task(study, scanned.baselines if scanned else {}, what)
    if same:
        return ()
    journal.add_task(task)
    return (CHANGED.format(what),)


def quantized_model(model: Any) -> QuantizedModel:
    """The adapter whose toolkit made this model, without what is around it, such as DataParallel.

    Raises ModelError where none recognises it.
    """
    model = unwrapped(model)
    # Guests come last: one that cannot be used is in nobody's way whose model is of a source of
    # ours.
    for name in names("quantizers"):
        adapter = load("quantizers", name)
        if adapter.recognises(model):
            found: QuantizedModel = adapter(model)
            if found.quantizers:
                return found
            raise ModelError(
                f"Expected a calibrated model with enabled quantizers, got a {name} model with "
                "none enabled; quantize and calibrate it first."
            )
    known = ", ".join(names("quantizers"))
    raise ModelError(
        f"Expected a model with quantizers of {known}, got {type(model).__name__} without any; "
        "quantize and calibrate it first."
    )


def with_batches(task: EvaluateTask) -> Task:
    """The same as a Task: each split is one batch whose input is the evaluation, and whose output
    is its score."""
    data = {
        split: [(getattr(task, "evaluate" if split == "rank" else split) or task.evaluate, None)]
        for split in SPLITS
    }
    return Task(
        task.model, data, lambda output, _: [output], metric=task.metric, full_scale=task.full_scale
    )


def head_of(task: Task, source: QuantizedModel, given: Given) -> dict[str, Any]:
    """What the measurements of a journal are of: anything that would change them. "task" may
    change, where `_changed` agrees."""
    return {
        "task": task_digest(given),
        "metric": task.metric,
        "source": source.source,
        "model": source.fingerprint(),
        "quantizers": len(source.quantizers),
        "data": {split: _split_head(task, split) for split in SPLITS},
        "versions": {name: version for name in FRAMEWORKS if (version := _version(name))}
        | version_of_guest("quantizers", source.source),
    }


def _split_head(task: Task, split: str) -> dict[str, Any]:
    batches = task.data[split]
    inputs, targets = next(iter(batches))
    return {"batches": len(batches), "first": batch_digest(inputs, targets)}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _simulator(
    loaded: Task | EvaluateTask, source: QuantizedModel, memory: int | None, cuts: Cuts
) -> Simulator:
    if isinstance(loaded, EvaluateTask):
        return EvaluateSimulator(source)
    return simulator_for(source, _example(loaded), memory=memory, cuts=cuts)


def _example(loaded: Task | EvaluateTask) -> Any:
    return loaded.example_inputs if isinstance(loaded, EvaluateTask) else _first(loaded)


def _first(task: Task) -> Any:
    inputs, _ = check_pair(next(iter(task.data["rank"])), "rank")
    return inputs


def _warnings(loaded: Task | EvaluateTask) -> tuple[str, ...]:
    if not isinstance(loaded, EvaluateTask):
        return ()
    return (NO_INTERVALS,) if loaded.holdout else (NO_INTERVALS, NOT_HELD_OUT)
