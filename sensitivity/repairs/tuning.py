"""Fine-tunes a quantized model by self-distillation from the same model in float.

This is quantization-aware training without labels and without the user's training code. Biases and
the ranges of activations are trained together in all layers, so that the outputs on the calibration
inputs come nearer to those of the model with all quantizers disabled. The outputs of every layer
count too, which keeps a few hundred samples from being overfitted (Romero et al. 2015, "FitNets").
Gradients pass through quantizers as in `straight_through`, and BatchNorm keeps its statistics.
Weights keep their levels: with so few samples, those that change theirs follow noise.

The result is what the other repairs give: ranges and changes of biases. It costs an engine nothing.
Each step takes a forward of the float model, and a forward and a backward pass of the quantized
one, on `BATCH` samples.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

from sensitivity import optional
from sensitivity.quantizers.torch.calls import call, device_of, to_device
from sensitivity.records import Range, names_of
from sensitivity.repairs import bias
from sensitivity.repairs.gradients import gradients_for
from sensitivity.repairs.samples import parts_of
from sensitivity.repairs.training import (
    BATCH,
    FORWARDS_PER_STEP,
    UNTRACKED,
    LossOf,
    Student,
    Teacher,
    Tracking,
    Training,
    Tunable,
    restored_biases,
    trained_layer,
    trained_ranges,
)
from sensitivity.tasks.batches import batch_size

METHOD = "fine-tuning"

STEPS = 150
"""Steps of the optimizer, with a learning rate that falls to 0 along half a cosine."""

BUDGET_S = 60.0
"""Longest time that fine-tuning may take unless it is asked for."""

TIMED_FORWARDS = 2
"""Forwards that are timed. The first one may be slower."""


class TooLong(Exception):
    """Raised if fine-tuning would take longer than allowed.

    seconds: forecast of the whole time.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"about {seconds:.0f} s")
        self.seconds = seconds


@dataclass(frozen=True)
class Limits:
    """How long fine-tuning may take.

    steps: number of steps.
    seconds: longest time of all steps, as forecast from a forward of the float model.
    """

    steps: int = STEPS
    seconds: float = math.inf


def fine_tuned(
    source: Tunable,
    inputs: Any,
    *,
    ranges: Iterable[Range] = (),
    left_out: Collection[str] = (),
    kept: Collection[str] = (),
    loss_of: LossOf,
    limits: Limits = Limits(),
    tracking: Tracking = UNTRACKED,
) -> tuple[Range, ...]:
    """Train the biases of all weighted layers and the ranges of activations together, and return
    them as ranges.

    Training starts from the ranges, biases and roundings that are given. The same inputs give the
    same result, because samples are drawn with the seed of the command.

    source: a model for which `is_tunable` holds.
    inputs: one batch as the model takes it, or `Parts`, which are seen as one.
    ranges: ranges that replace those of quantizers.
    left_out: quantizers that stay disabled; their layers are left unchanged.
    kept: activation quantizers that keep their ranges.
    loss_of: gives what the outputs of the quantized model lose, such as
        `signals.distillation.distillation_loss`.
    limits: how long it may take. An interrupted training that resumes has fewer steps left.
    tracking: how it is shown and resumed.
    Raises ModelError if gradients do not pass through the model, and TooLong.
    """
    ranges = tuple(ranges)
    parts = parts_of(inputs)
    state = tracking.checkpoint.load()
    left = limits.steps - (0 if state is None else state["steps"])
    check_time(source, parts.batches[0], replace(limits, steps=left))
    teacher = Teacher(source, parts, loss_of)
    with source.with_ranges(ranges), source.disabled(left_out):
        names = sorted(teacher.channel_variances.keys() - set(left_out))
        layers = {name: trained_layer(teacher, name) for name in names}
        activations = trained_ranges(source, {*kept, *left_out})
    if not layers:
        return ()
    unbiased = [replace(changed, bias=None) for changed in ranges]
    with source.with_ranges(unbiased), source.disabled(left_out), restored_biases(layers.values()):
        training = Training(Student(layers, activations, left_out), limits.steps)
        if state is not None:
            training.restore(state)
        with gradients_for("fine-tuning"):
            training.run(teacher, tracking)
        found = [layer.range(source, name) for name, layer in layers.items()]
    methods = {changed.quantizer: changed.method for changed in ranges}
    found += [trained.range for trained in activations.values()]
    return tuple(replace(new, method=_method(methods.get(new.quantizer))) for new in found)


def check_time(source: Tunable, batch: Any, limits: Limits) -> None:
    """Raise TooLong if the steps would take longer than allowed.

    batch: inputs as the model takes them, of which two forwards are timed.
    """
    seconds = FORWARDS_PER_STEP * BATCH * limits.steps * _seconds_per_sample(source, batch)
    if seconds > limits.seconds:
        raise TooLong(seconds)


def _method(before: str | None) -> str:
    """Return how a range with a fine-tuned bias was found.

    before: how it was found before; None for the range that the model came with.
    """
    parts = [] if before is None else before.split(", ")
    replaced = (bias.METHOD, METHOD)
    return ", ".join([*(part for part in parts if part not in replaced), METHOD])


def _seconds_per_sample(source: Tunable, batch: Any) -> float:
    """Return the seconds that a sample of this batch takes with the quantizers disabled."""
    device = device_of(source.model)
    inputs = to_device(batch, device)
    seconds = math.inf
    with optional.torch.no_grad(), source.disabled(names_of(source.quantizers)):
        for _ in range(TIMED_FORWARDS):
            started = time.monotonic()
            call(source.model, inputs)
            if device is not None and device.type == "cuda":
                optional.torch.cuda.synchronize(device)
            seconds = min(seconds, time.monotonic() - started)
    return seconds / batch_size(batch)
