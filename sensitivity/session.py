"""An opened task: its model seen through an adapter, its units, and the journal of its run
directory."""

from __future__ import annotations

import math
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
from sensitivity.measure.opening import Measures, worker_pool
from sensitivity.measure.parallel import ParallelMeasurer
from sensitivity.measure.progress import Progress, silent
from sensitivity.measure.raced import (
    EXACT_UP_TO,
    EXACT_VALUES,
    SIGNAL_SAMPLES,
    measured_signal,
)
from sensitivity.measure.scan import Scan
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
from sensitivity.signals.soft import has_soft_drop
from sensitivity.tasks.base import EvaluateTask, Task
from sensitivity.tasks.batches import arrays, batch_size
from sensitivity.tasks.detection import DetectionScore, with_rows_of
from sensitivity.tasks.load import TaskLike, same_task

if TYPE_CHECKING:
    from sensitivity.units.relations import Placed

IN_ONE = WorkerChoices()
"""Only this process measures."""
FISHER_BATCHES = 2
"""Batches of `rank` on which the "fisher" signal is measured."""
LARGE_CALIBRATION = 32
"""Number of large samples that ranges are calibrated on, at most: each gives every histogram
hundreds of thousands of values."""
JUDGED_ON = ("confirm", "rank", "holdout")
"""The splits in the order in which `SomeBatches` takes batches from them."""
NO_INTERVALS = (
    "The task has only evaluate(model): no per-sample scores, so no intervals and no ties; "
    "each variant costs a whole evaluation. Return a Task with score() to get them."
)
NOT_HELD_OUT = (
    "The task has no holdout evaluation: the reported accuracy is on data that chose "
    "the plan, and is too optimistic."
)


@dataclass(frozen=True)
class Session:
    """A task that is open for measuring.

    user_task: the task as the user gave it.
    task: the same with batches; an EvaluateTask is converted into a Task.
    source: the model, seen through the adapter of its toolkit.
    units: what scans and plans toggle.
    measurer: measures variants and records them in the journal.
    example: one batch of inputs, for export; None if the task has none.
    warnings: what the reader must know.
    scales: groups of quantizers that share one range while the session is open.
    own_ranges: ranges that these quantizers had before, where they differ from the shared one.
    residuals: whether quantizers on skip connections are added while the session is open.
    unexecuted: quantizers of the user's model that no forward executes. They are in no unit and are
        disabled while the session is open.
    loaded: the task as the user's function returned it.
    graph: what `units.relations.placed` read from the model; None if the units come from an earlier
        scan.
    """

    user_task: TaskLike
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
        """Whether the task has samples; False for one that has only evaluate(model)."""
        return not callable(next(iter(self.task.data["rank"]))[0])

    def exact_samples(self) -> int:
        """Return how many samples it takes to measure the baselines and every unit on all of
        `rank`.

        The number is an estimate that takes all batches to have the size of the first one.
        """
        size = batch_size(self.example) if self.has_samples else 1
        return len(self.task.data["rank"]) * size * (len(self.units) + len(BASELINES))

    @cached_property
    def affordable(self) -> int:
        """Number of samples up to which it is affordable to measure every unit on the whole
        split: fewer if they are large."""
        if not self.has_samples:
            return EXACT_UP_TO
        values = sum(int(math.prod(array.shape[1:])) for array in arrays(self.example))
        return min(EXACT_UP_TO, EXACT_VALUES // max(values, 1))

    @property
    def has_large_samples(self) -> bool:
        """Whether fewer samples are affordable because each holds many values."""
        return self.affordable < EXACT_UP_TO

    @property
    def usual_signal(self) -> str:
        """The signal to use if the user names none."""
        return "boxes" if isinstance(self.task.score, DetectionScore) else "sqnr"

    def signal(self, name: str, samples: int = SIGNAL_SAMPLES) -> dict[str, float]:
        """Return a cheap signal of the sensitivity of each unit, unit -> value.

        name: "sqnr", "kl", "boxes" or "fisher".
        samples: number of samples to compare outputs on.
        Raises TaskError if the signal is not available for this task, and ModelError if outputs
        cannot be compared.
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
        """Return the signal of this name that compares outputs.

        Raises TaskError for "boxes" if the task is not a detector's.
        """
        return distortion_signal(name, self.task)

    def ends(self) -> tuple[tuple[str, ...], ...]:
        """Return the units near each end of the graph, nearest first: those of the inputs, then
        those of each output."""
        return ends(self.source, self.units)

    def inputs(self) -> Iterator[Any] | None:
        """Return an iterator over the input batches of `rank`; None for a task without samples."""
        return (inputs for inputs, _ in self.task.data["rank"]) if self.has_samples else None

    def calibration(self) -> Iterator[Any] | None:
        """Return the input batches that repairs are fitted on; None for a task that gives no
        inputs.

        These are the batches of `forward_calibration`.
        """
        loaded = self.loaded or self.task
        has_inputs = isinstance(loaded, Task) or loaded.example_inputs is not None
        return calibration_of(loaded) if has_inputs else None

    def forward_calibration(self) -> None:
        """Run the model on the calibration data.

        That is the split "calib" if the task has it, else `rank`; of large samples the first
        `LARGE_CALIBRATION`. A task without samples is evaluated once.
        """
        if not self.has_samples:
            evaluate, _ = next(iter(self.task.data["rank"]))
            evaluate(self.source.model)
            return
        samples = 0
        for inputs in calibration_of(self.task):
            self.forward(inputs)
            samples += batch_size(inputs)
            if self.has_large_samples and samples >= LARGE_CALIBRATION:
                break

    def forward(self, inputs: Any) -> None:
        """Run the model once, for observers attached to it.

        inputs: one batch, as the task gives it.
        """
        source = self.source
        if isinstance(source, Runnable):
            source.forward(inputs)
        else:
            call(source.model, to_device(inputs, device_of(source.model)))

    def some_batches(self, most: int, samples: int) -> SomeBatches | None:
        """Return batches from the start of each split, or None for a task without samples.

        most: largest number of batches of each split.
        samples: number of samples in total, counted with the size of the first batch.
        """
        if not self.has_samples:
            return None
        return SomeBatches(self.task, most, -(-samples // batch_size(self.example)))


@dataclass(frozen=True)
class SomeBatches:
    """Batches from the start of each split, read anew on each iteration.

    Batches of `confirm` come first, since most measurements of a plan are made there.

    most: largest number of batches of each split.
    total: largest number of batches of all splits.
    """

    task: Task
    most: int
    total: int

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        taken = Counter(split for split, _ in self.places)
        return chain.from_iterable(islice(self.task.data[split], taken[split]) for split in taken)

    @property
    def places(self) -> list[tuple[str, int]]:
        """Split and position in the split of each batch."""
        data = self.task.data
        every = [
            (split, at) for split in JUDGED_ON for at in range(min(self.most, len(data[split])))
        ]
        return every[: self.total]


@contextmanager
def open_session(
    user_task: TaskLike,
    out: Path,
    *,
    resume: bool,
    choices: UnitChoices | None = None,
    workers: WorkerChoices = IN_ONE,
    memory: int | None = None,
    progress: Progress = silent,
) -> Iterator[Session]:
    """Open a task: load it, unify the ranges that an engine needs to be equal, and open the journal
    of `out`.

    user_task: a task, or the reference of its file.
    out: the run directory.
    resume: whether a journal with measurements may be continued.
    choices: what the units are; None takes units and shared ranges from run.json, as the scan left
        them.
    workers: which processes measure.
    memory: bytes that the simulator may hold besides the weights; None takes a quarter of the free
        memory.
    Raises TaskError, ModelError (not calibrated), RunDirError (`out` holds another run) and
    JournalMismatch.
    """
    # Both import ONNX, which takes half a second. `plan` for another target opens no session and
    # does not have to wait for it.
    from sensitivity.units import placement, relations

    run_dir = RunDir(out)
    refuse_used(run_dir.journal, resume)  # before the long work of loading the task

    residuals = choices.quantize_residuals if choices else run_dir.info().residuals
    with ExitStack() as stack:
        added = placement.residual_quantizers if residuals else None
        model = stack.enter_context(opened_model(user_task, added))
        loaded, source = model.loaded, model.source
        if choices:
            placed = relations.placed(source, model.example, choices)
        else:
            info = run_dir.info()
            placed = relations.Placed(info.units, info.scales)
        own_ranges: tuple[Range, ...] = ()
        if placed.scales:
            own_ranges = stack.enter_context(placement.unified_scales(source, placed.scales))
        head = model.head() | ({"scales": placed.scales} if placed.scales else {})
        if current_seed():
            head |= {"seed": current_seed()}
        with open_journal(run_dir.journal, head, resume=resume) as journal:
            simulators = model.simulators(memory)
            task = with_rows_of(model.task, journal.row_shape)
            measurer = Measurer(task, simulators, journal, progress)
            if workers.in_parallel:
                measures = Measures(
                    journal.head, residuals, memory, model.gpus, model.threads, journal.row_shape
                )
                pool = worker_pool(workers, user_task, measures)
                stack.enter_context(pool)
                measurer = ParallelMeasurer(task, simulators, journal, pool, progress)
            measurer.use_candidates(own_ranges)  # so that the cost of sharing them can be measured
            study = Study(measurer, placed.units, source.quantizers)
            if has_soft_drop(task):
                quantized = study.baselines["quantized"]
                measurer.keeps = {study.float_variant.key: "", quantized.key: " in INT8"}
            changed = _changed(study, run_dir, head["task"], loaded)
            yield Session(
                user_task=user_task,
                task=task,
                source=source,
                units=placed.units,
                run_dir=run_dir,
                measurer=measurer,
                example=model.example,
                warnings=(*source.warnings, *_warnings(loaded), *placed.warnings, *changed),
                scales=placed.scales,
                own_ranges=own_ranges,
                residuals=residuals,
                unexecuted=model.unexecuted,
                loaded=loaded,
                graph=placed if choices else None,
            )


def _changed(
    study: Study, run_dir: RunDir, task: Mapping[str, str], loaded: Task | EvaluateTask
) -> tuple[str, ...]:
    """Return the warnings about a task that has changed since the journal began.

    A task made in Python is measured again even if its functions read the same, since the code that
    they call may differ. Raises JournalMismatch if the task measures something else.
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
