"""A task opened for measuring: its model seen through an adapter, its units, and the journal of its
run directory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensitivity.config import IN_PYTHON, UnitChoices, WorkerChoices
from sensitivity.errors import TaskError
from sensitivity.journal.journal import open_journal, refuse_used
from sensitivity.measure.changed_task import CHANGED, check_same_task
from sensitivity.measure.measurer import Measurer
from sensitivity.measure.opening import Measures, crew_for
from sensitivity.measure.progress import Progress, silent
from sensitivity.measure.raced import SIGNAL_SAMPLES, measured_signal
from sensitivity.measure.scan import Scan
from sensitivity.measure.spread import SpreadMeasurer
from sensitivity.measure.study import Study
from sensitivity.measure.variants import BASELINES
from sensitivity.opened import calibration_of, opened_model
from sensitivity.quantizers.base import QuantizedModel, Runnable, ends
from sensitivity.quantizers.torch.calls import call, device_of, to_device
from sensitivity.records import Quantizer, Range, Unit
from sensitivity.run_dir import RunDir
from sensitivity.seeds import current_seed
from sensitivity.signals.base import Signal
from sensitivity.signals.choose import distortion_signal
from sensitivity.signals.fisher import fisher
from sensitivity.tasks.base import EvaluateTask, Task
from sensitivity.tasks.batches import batch_size
from sensitivity.tasks.detection import DetectionScore
from sensitivity.tasks.load import Given, same_task

if TYPE_CHECKING:
    from sensitivity.units.relations import Placed

IN_ONE = WorkerChoices()
"""This process alone measures."""
FISHER_BATCHES = 2
JUDGED_ON = ("confirm", "rank", "holdout")
"""The splits, in the order in which `SomeBatches` takes from them."""
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
        return distortion_signal(name, self.task)

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
        return calibration_of(loaded) if has_inputs else None

    def forward_calibration(self) -> None:
        """Run the model on the calibration data: split "calib" where the task has it, else `rank`;
        where there are no samples, one evaluation."""
        if not self.has_samples:
            evaluate, _ = next(iter(self.task.data["rank"]))
            evaluate(self.source.model)
            return
        for inputs in calibration_of(self.task):
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
    workers: WorkerChoices = IN_ONE,
    memory: int | None = None,
    progress: Progress = silent,
) -> Iterator[Session]:
    """Load the task where it is in a file, unify the ranges that an engine wants to be one, and
    open the journal of `out`.

    choices: what the units are; None takes the units and shared ranges in run.json, from the scan.
    workers: which processes measure.
    memory: bytes that the simulator may hold besides the weights; None takes a quarter of what is
    free. Raises TaskError, ModelError (not calibrated), RunDirError (out holds another run),
    JournalMismatch.
    """
    # Both import ONNX, which takes half a second: `plan` for another target opens no session and
    # need not wait.
    from sensitivity.units import placement, relations

    run_dir = RunDir(out)
    refuse_used(run_dir.journal, resume)  # before the task's own long work

    residuals = choices.quantize_residuals if choices else run_dir.info().residuals
    with ExitStack() as stack:
        added = placement.residual_quantizers if residuals else None
        model = stack.enter_context(opened_model(given, added))
        loaded, source = model.loaded, model.source
        if choices:
            found = relations.placed(source, model.example, choices)
        else:
            info = run_dir.info()
            found = relations.Placed(info.units, info.scales)
        own_ranges: tuple[Range, ...] = ()
        if found.scales:
            own_ranges = stack.enter_context(placement.unified_scales(source, found.scales))
        head = model.head() | ({"scales": found.scales} if found.scales else {})
        if current_seed():
            head |= {"seed": current_seed()}
        with open_journal(run_dir.journal, head, resume=resume) as journal:
            simulators = model.simulators(memory)
            measurer = Measurer(model.task, simulators, journal, progress)
            if workers.spread:
                measures = Measures(journal.head, residuals, memory, model.gpus, model.threads)
                crew = crew_for(workers, given, measures)
                stack.enter_context(crew)
                measurer = SpreadMeasurer(model.task, simulators, journal, crew, progress)
            measurer.offer(own_ranges)  # for what sharing them costs
            study = Study(measurer, found.units, source.quantizers)
            changed = _changed(study, run_dir, head["task"], loaded)
            yield Session(
                given=given,
                task=model.task,
                source=source,
                units=found.units,
                run_dir=run_dir,
                measurer=measurer,
                example=model.example,
                warnings=(*source.warnings, *_warnings(loaded), *found.warnings, *changed),
                scales=found.scales,
                own_ranges=own_ranges,
                residuals=residuals,
                unexecuted=model.unexecuted,
                loaded=loaded,
                graph=found if choices else None,
            )


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


def _warnings(loaded: Task | EvaluateTask) -> tuple[str, ...]:
    if not isinstance(loaded, EvaluateTask):
        return ()
    return (NO_INTERVALS,) if loaded.holdout else (NO_INTERVALS, NOT_HELD_OUT)
