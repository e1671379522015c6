"""A task's model opened for measuring, in the same way in the main process and in each worker."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sensitivity import optional
from sensitivity.allocator import spare_loaded
from sensitivity.errors import ModelError, TaskError
from sensitivity.quantizers.alternatives import with_alternatives
from sensitivity.quantizers.base import QuantizedModel, check_calibrated, form_of
from sensitivity.quantizers.torch.calls import device_of
from sensitivity.quantizers.torch.wrappers import unwrapped
from sensitivity.records import SPLITS, Quantizer, Range, names_of
from sensitivity.registry import load, names, version_of_guest
from sensitivity.simulators.base import Simulator
from sensitivity.simulators.choose import simulator_for
from sensitivity.simulators.evaluate import EvaluateSimulator
from sensitivity.simulators.torch.cache import TraceCache
from sensitivity.tasks.base import EvaluateTask, Task
from sensitivity.tasks.batches import batch_digest, batch_size, check_pair
from sensitivity.tasks.load import TaskLike, load_task, task_digest

EXECUTED_BATCHES = 16
"""Largest number of batches of `rank` used to find quantizers that are never executed."""
CALIBRATION_SAMPLES = 512
"""Largest number of samples used to find other ranges."""
FRAMEWORKS = ("torch", "nvidia-modelopt", "onnxruntime")
AddQuantizers = Callable[[QuantizedModel, Sequence[Any]], AbstractContextManager[Any]]
"""Function of the model and of calibration batches that adds quantizers inside a `with` block."""


@dataclass(frozen=True)
class OpenModel:
    """A loaded task and its model, ready to be measured.

    user_task: the task as the user gave it.
    loaded: the task as the user's function returned it.
    task: the same with batches.
    source: its model without the quantizers in `unexecuted`.
    unexecuted: quantizers that no forward executes.
    """

    user_task: TaskLike
    loaded: Task | EvaluateTask
    task: Task
    source: QuantizedModel
    unexecuted: tuple[Quantizer, ...]

    @property
    def example(self) -> Any:
        """One batch of inputs; None if the task has none."""
        return example_of(self.loaded)

    @property
    def gpus(self) -> int:
        """Number of GPUs that the model uses."""
        if not self.in_torch:
            return 0
        device = device_of(self.source.model)
        return int(device is not None and device.type == "cuda")

    @property
    def in_torch(self) -> bool:
        """Whether torch computes the model."""
        return form_of(self.source) == "torch"

    @property
    def threads(self) -> int | None:
        """Threads of torch in this process; None if torch does not compute the model."""
        return optional.torch.get_num_threads() if self.in_torch else None

    def simulators(self, memory: int | None) -> Callable[[tuple[Range, ...]], Simulator]:
        """Return a function that makes a simulator that has the given candidate ranges.

        memory: bytes that a simulator may hold besides the weights; None takes a quarter of the
            free memory.
        """
        cache = TraceCache()

        def simulator(candidates: tuple[Range, ...]) -> Simulator:
            source = with_alternatives(self.source, candidates)
            if isinstance(self.loaded, EvaluateTask):
                return EvaluateSimulator(source)
            return simulator_for(source, self.example, memory=memory, cache=cache)

        return simulator

    def head(self) -> dict[str, Any]:
        """Return the head of a journal: everything that would change its measurements.

        Only "task" may differ later, if the session finds that the task measures the same.
        """
        return {
            "task": task_digest(self.user_task),
            "metric": self.task.metric,
            "source": self.source.source,
            "model": self.source.fingerprint(),
            "quantizers": len(self.source.quantizers),
            "data": {split: _split_head(self.task, split) for split in SPLITS},
            "versions": {name: version for name in FRAMEWORKS if (version := _version(name))}
            | version_of_guest("quantizers", self.source.source),
        }


@contextmanager
def opened_model(
    user_task: TaskLike, residuals: AddQuantizers | None = None
) -> Iterator[OpenModel]:
    """Load a task and open its model without the quantizers that no forward executes.

    residuals: `units.placement.residual_quantizers` to add quantizers on skip connections inside
        the `with`; None adds none.
    Raises TaskError and ModelError (not calibrated).
    """
    loaded = load_task(user_task)
    task = with_batches(loaded) if isinstance(loaded, EvaluateTask) else loaded
    with ExitStack() as stack:
        source, unexecuted = stack.enter_context(
            executed_only(quantized_model(loaded.model), loaded)
        )
        if residuals:
            stack.enter_context(residuals(source, list(calibration_of(loaded))))
            source = quantized_model(loaded.model)
        spare_loaded()
        yield OpenModel(user_task, loaded, task, source, unexecuted)


@contextmanager
def executed_only(
    source: QuantizedModel, loaded: Task | EvaluateTask
) -> Iterator[tuple[QuantizedModel, tuple[Quantizer, ...]]]:
    """Disable, inside the `with`, the quantizers that no forward executes.

    Yields the model without them, and these quantizers. Nothing is left out if the task gives no
    inputs to run the model on.

    Raises ModelError if no quantizer is executed, or if an executed one is not calibrated.
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
    if example_of(loaded) is None:
        return ()  # without inputs it is unknown which are executed
    for inputs in _first_inputs(loaded):
        missing -= source.executed(inputs)
        if not missing:
            break
    return tuple(quantizer for quantizer in source.quantizers if quantizer.name in missing)


def _first_inputs(loaded: Task | EvaluateTask) -> Iterator[Any]:
    """Return batches of inputs that show which quantizers are executed.

    One batch is not enough: a model may send only some samples through a part of it.
    """
    if isinstance(loaded, EvaluateTask):
        return iter(() if loaded.example_inputs is None else (loaded.example_inputs,))
    return (check_pair(batch, "rank")[0] for batch in islice(loaded.data["rank"], EXECUTED_BATCHES))


def calibration_of(task: Task | EvaluateTask) -> Iterator[Any]:
    """Yield the batches of inputs that ranges are calibrated on: those of the split "calib" if the
    task has it, else of `rank`.

    Raises TaskError for an EvaluateTask without example_inputs.
    """
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


def quantized_model(model: Any) -> QuantizedModel:
    """Return the adapter of the toolkit that quantized this model.

    Wrappers such as DataParallel are removed first. Raises ModelError if no adapter recognises the
    model, or if it has no enabled quantizer.
    """
    model = unwrapped(model)
    # Adapters of other packages come last, so that a broken one does not affect users whose model
    # is from one of our own sources.
    for name in names("quantizers"):
        adapter = load("quantizers", name)
        if adapter.recognises(model):
            quantized: QuantizedModel = adapter(model)
            if quantized.quantizers:
                return quantized
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
    """Return the task as a Task in which each split is one batch, whose input is the evaluation
    function and whose output is its score."""
    data = {
        split: [(getattr(task, "evaluate" if split == "rank" else split) or task.evaluate, None)]
        for split in SPLITS
    }
    return Task(
        task.model, data, lambda output, _: [output], metric=task.metric, full_scale=task.full_scale
    )


def _split_head(task: Task, split: str) -> dict[str, Any]:
    batches = task.data[split]
    inputs, targets = next(iter(batches))
    return {"batches": len(batches), "first": batch_digest(inputs, targets)}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def example_of(loaded: Task | EvaluateTask) -> Any:
    """Return one batch of inputs, or None if the task has none."""
    return loaded.example_inputs if isinstance(loaded, EvaluateTask) else _first(loaded)


def _first(task: Task) -> Any:
    inputs, _ = check_pair(next(iter(task.data["rank"])), "rank")
    return inputs
