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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sensitivity import optional
from sensitivity.errors import ModelError
from sensitivity.quantizers.base import amax_of
from sensitivity.quantizers.torch.calls import call, device_of, to_device
from sensitivity.quantizers.torch.tensor_quantizer import SMALLEST_AMAX
from sensitivity.records import Range, names_of
from sensitivity.repairs import bias
from sensitivity.repairs.checkpoint import Checkpoint
from sensitivity.repairs.gradients import gradients_for
from sensitivity.repairs.rounding import Roundable
from sensitivity.repairs.samples import Parts, parts_of
from sensitivity.seeds import generator
from sensitivity.tasks.batches import batch_size, each_array

if TYPE_CHECKING:
    from torch import Tensor

METHOD = "fine-tuning"

STEPS = 150
"""Steps of the optimizer, with a learning rate that falls to 0 along half a cosine."""

BATCH = 32
"""Samples of a step."""

BIAS_RATE = 1e-3
"""First learning rate of Adam for biases, as a fraction of the spread of their channel."""

RANGE_RATE = 3e-3
"""First learning rate of Adam for the logarithms of ranges."""

LAYER_WEIGHT = 1.0
"""Weight of the layers' outputs against the model's, each as noise over signal."""

BUDGET_S = 60.0
"""Longest time that fine-tuning may take unless it is asked for."""

SMALLEST_VARIANCE = 1e-12
"""Smallest variance of a channel, for channels that are constant."""

TIMED_FORWARDS = 2
"""Forwards that are timed. The first one may be slower."""

FORWARDS_PER_STEP = 6
"""How many times as long a step takes as a forward of its samples with the quantizers disabled."""

Loss = Callable[[Any, Any], Any]
"""(Outputs of the float model, outputs of the quantized one) -> a tensor of one value."""

Advance = Callable[[int, int], None]
"""Function that is told how many steps were done, and how many samples were spent on them."""

LossOf = Callable[[Sequence[Any]], Loss]
"""Outputs of the float model for each batch of the calibration inputs -> the loss of a batch."""


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


def _unseen(steps: int) -> AbstractContextManager[Advance]:
    """Show nothing."""
    return nullcontext(lambda done, samples: None)


@dataclass(frozen=True)
class Tracking:
    """How a training is tracked: its progress is shown, and its state is kept.

    show: opens a display of this number of steps.
    checkpoint: keeps the state between steps.
    """

    show: Callable[[int], AbstractContextManager[Advance]] = _unseen
    checkpoint: Checkpoint = field(default_factory=Checkpoint)


def fine_tuned(
    source: Roundable,
    inputs: Any,
    *,
    ranges: Iterable[Range] = (),
    left_out: Collection[str] = (),
    kept: Collection[str] = (),
    loss_of: LossOf,
    limits: Limits = Limits(),
    tracking: Tracking = Tracking(),
) -> tuple[Range, ...]:
    """Train the biases of all weighted layers and the ranges of activations together, and return
    them as ranges.

    Training starts from the ranges, biases and roundings that are given. The same inputs give the
    same result, because samples are drawn with the seed of the command.

    source: a model for which `is_roundable` holds.
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
    forecast = FORWARDS_PER_STEP * BATCH * left * _seconds_per_sample(source, parts.batches[0])
    if forecast > limits.seconds:
        raise TooLong(forecast)
    teacher = _Teacher(source, parts, loss_of)
    with source.with_ranges(ranges), source.disabled(left_out):
        names = sorted(teacher.channel_variances.keys() - set(left_out))
        layers = {name: _trained_layer(teacher, name) for name in names}
        trained_ranges = _trained_ranges(source, {*kept, *left_out})
    if not layers:
        return ()
    unbiased = [replace(changed, bias=None) for changed in ranges]
    with source.with_ranges(unbiased), source.disabled(left_out), _restored(layers.values()):
        training = _Training(_Student(layers, trained_ranges, left_out), limits.steps)
        if state is not None:
            training.restore(state)
        with gradients_for("fine-tuning"):
            training.run(teacher, tracking)
        found = [layer.range(source, name) for name, layer in layers.items()]
    methods = {changed.quantizer: changed.method for changed in ranges}
    found += [trained.range for trained in trained_ranges.values()]
    return tuple(replace(new, method=_method(methods.get(new.quantizer))) for new in found)


def _method(before: str | None) -> str:
    """Return how a range with a fine-tuned bias was found.

    before: how it was found before; None for the range that the model came with.
    """
    parts = [] if before is None else before.split(", ")
    replaced = (bias.METHOD, METHOD)
    return ", ".join([*(part for part in parts if part not in replaced), METHOD])


@dataclass(frozen=True, eq=False)
class _TrainedLayer:
    """A layer whose bias is trained.

    module: holds the bias.
    own: the bias in the float model; None if there is none.
    start: the bias that training starts from.
    unit: what a move of 1 means for each channel.
    moves: how far training has moved each channel; a leaf of the graph of gradients.
    """

    module: Any
    own: Tensor | None
    start: Tensor
    unit: Tensor
    moves: Tensor

    def use_trained_bias(self) -> None:
        """Give the module its present bias."""
        self.module._parameters["bias"] = self._bias

    def use_float_bias(self) -> None:
        """Give the module its bias of the float model."""
        self.module._parameters["bias"] = self.own

    @property
    def _bias(self) -> Tensor:
        return self.start + self.unit * self.moves

    def range(self, source: Roundable, name: str) -> Range:
        """Return the range of the weight, with the bias that was learned.

        name: the weight quantizer.
        """
        added = self._bias.detach()
        if self.own is not None:
            added = added - self.own.detach()
        return replace(source.range(name), bias=tuple(added.tolist()))


@dataclass(frozen=True, eq=False)
class _TrainedRange:
    """The range of an activation in training.

    own: where training starts.
    log: logarithm of its amax, in a shape that broadcasts against the activation; a leaf.
    """

    own: Range
    log: Tensor

    @property
    def range(self) -> Range:
        """The present range."""
        return replace(self.own, amax=tuple(self.log.detach().exp().reshape(-1).tolist()))


def _trained_ranges(source: Roundable, kept: Collection[str]) -> dict[str, _TrainedRange]:
    """Return the ranges of all activations that can be trained, by quantizer.

    kept: quantizers whose ranges are not trained.
    """
    trained_ranges = {}
    for quantizer in source.quantizers:
        name = quantizer.name
        if quantizer.role == "weight" or name in kept or not bias.has_range(source, name):
            continue
        amax = amax_of(source, name)
        if bool((amax > SMALLEST_AMAX).all()):
            log = amax.detach().float().log()
            trained_ranges[name] = _TrainedRange(source.range(name), log)
    return trained_ranges


@dataclass(frozen=True, eq=False)
class _Student:
    """What is trained, by quantizer: layers with their biases, and ranges.

    left_out: quantizers that stay disabled.
    """

    layers: Mapping[str, _TrainedLayer]
    trained_ranges: Mapping[str, _TrainedRange]
    left_out: Collection[str]


@contextmanager
def _restored(layers: Iterable[_TrainedLayer]) -> Iterator[None]:
    """Restore the biases of these layers after the `with`."""
    with ExitStack() as stack:
        for layer in layers:
            parameters = layer.module._parameters
            stack.callback(parameters.update, bias=parameters["bias"])
        yield


def _seconds_per_sample(source: Roundable, batch: Any) -> float:
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


class _Teacher:
    """The float model, with the calibration inputs.

    inputs: all samples as one batch, on the device of the model.
    modules: weight quantizer -> its layer, for layers whose bias can change.
    channel_variances: weight quantizer -> float32[channels], the variance of each channel of the
        output of its layer.
    loss: what the outputs of the quantized model lose.
    """

    def __init__(self, source: Roundable, parts: Parts, loss_of: LossOf) -> None:
        self.source, self.every = source, names_of(source.quantizers)
        batches = [to_device(batch, device_of(source.model)) for batch in parts.batches]
        self.inputs = Parts(batches).joined()
        self.modules = {
            name: source.biases.layers[name]
            for name in source.roundings.layers
            if bias.has_range(source, name)
        }
        variances: dict[str, list[Tensor]] = {name: [] for name in self.modules}
        outputs = []
        with optional.torch.no_grad(), source.disabled(self.every):
            for batch in batches:
                given, seen = self.run(batch)
                outputs.append(given)
                for name, output in seen.items():
                    variances[name].append(_variance(self.modules[name], output))
        reached = {name: values for name, values in variances.items() if values}
        self.channel_variances = {
            name: optional.torch.stack(values).mean(0) for name, values in reached.items()
        }
        self.loss = loss_of(outputs)

    def run(self, inputs: Any) -> tuple[Any, dict[str, Tensor]]:
        """Return the outputs of the model, and those of its layers by weight quantizer."""
        seen: dict[str, Tensor] = {}

        def hook_of(name: str) -> Any:
            def hook(module: Any, args: Any, output: Any) -> None:
                seen[name] = output

            return hook

        with ExitStack() as stack:
            for name, module in self.modules.items():
                stack.callback(module.register_forward_hook(hook_of(name)).remove)
            return call(self.source.model, inputs), seen

    def loss_of_batch(self, inputs: Any, student: _Student) -> Tensor:
        """Return what the quantized model loses on a batch, with the graph of its gradients."""
        layers = student.layers
        with optional.torch.no_grad(), self.source.disabled(self.every):
            for layer in layers.values():
                layer.use_float_bias()
            wanted, of_layers = self.run(inputs)
        for layer in layers.values():
            layer.use_trained_bias()
        got, seen = self.run(inputs)
        loss: Tensor = self.loss(wanted, got)
        for name in layers.keys() & seen.keys():
            noise = optional.torch.nn.functional.mse_loss(seen[name], of_layers[name])
            loss = loss + LAYER_WEIGHT * noise / (self.channel_variances[name].mean() * len(layers))
        return loss


def _variance(layer: Any, output: Tensor) -> Tensor:
    """Return the variance of each channel of a layer's output, at least a little above 0."""
    channels = output.movedim(output.ndim - 1 - bias.image_axes(layer), 0).flatten(1).float()
    return channels.var(1, unbiased=False).clamp(min=SMALLEST_VARIANCE)


def _trained_layer(teacher: _Teacher, name: str) -> _TrainedLayer:
    """Return a layer that is about to be trained, from the bias that it has now.

    name: its weight quantizer.
    """
    source, module = teacher.source, teacher.modules[name]
    now = module._parameters["bias"]
    with source.disabled(teacher.every):
        own = module._parameters["bias"]
    spread = teacher.channel_variances[name].sqrt()
    zeros = optional.torch.zeros_like(spread)
    return _TrainedLayer(module, own, zeros if now is None else now.detach(), spread, zeros.clone())


class _Training:
    """The optimizer with what it trains.

    total: number of steps of the whole training.
    done: number of steps done.
    """

    def __init__(self, student: _Student, total: int) -> None:
        torch = optional.torch
        self.student, self.total, self.done = student, total, 0
        moves = [layer.moves for layer in student.layers.values()]
        logs = [trained.log for trained in student.trained_ranges.values()]
        self.leaves = [leaf.requires_grad_() for leaf in (*moves, *logs)]
        rates = [{"params": moves, "lr": BIAS_RATE}, {"params": logs, "lr": RANGE_RATE}]
        self.optimizer = torch.optim.Adam(rates)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, total)

    def run(self, teacher: _Teacher, tracking: Tracking) -> None:
        """Train to the end."""
        from sensitivity.repairs.straight_through import differentiable

        inputs, checkpoint = teacher.inputs, tracking.checkpoint
        left = islice(_sample_order(batch_size(inputs), self.total), self.done, None)
        logs = {name: trained.log for name, trained in self.student.trained_ranges.items()}
        passing = differentiable(teacher.source, logs, self.student.left_out)
        with tracking.show(self.total) as advance, passing, optional.torch.enable_grad():
            advance(self.done, 0)
            for samples in left:
                loss = teacher.loss_of_batch(_rows_of(inputs, samples), self.student)
                _backward(loss, self.leaves)
                self.optimizer.step()
                self.schedule.step()
                self.done += 1
                advance(1, FORWARDS_PER_STEP * BATCH)
                if checkpoint.is_due:
                    checkpoint.save(self.state)

    @property
    def state(self) -> dict[str, Any]:
        """What `restore` continues from."""
        return {
            "steps": self.done,
            "leaves": [leaf.detach() for leaf in self.leaves],
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of a training of the same student."""
        self.done = state["steps"]
        with optional.torch.no_grad():
            for leaf, value in zip(self.leaves, state["leaves"], strict=True):
                leaf.copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])


def _sample_order(size: int, steps: int) -> Iterator[NDArray[np.intp]]:
    """Yield the samples of each step: all of them in random order, again and again."""
    draw, waiting = generator(), np.zeros(0, np.intp)
    for _ in range(steps):
        while len(waiting) < BATCH:
            waiting = np.concatenate([waiting, draw.permutation(size)])
        yield waiting[:BATCH]
        waiting = waiting[BATCH:]


def _rows_of(inputs: Any, samples: NDArray[np.intp]) -> Any:
    """Return these samples of a batch."""

    def of_array(array: Any) -> Any:
        return array[samples]

    return each_array(of_array, inputs)


def _backward(loss: Tensor, leaves: Sequence[Tensor]) -> None:
    """Fill in the gradients of these leaves. Gradients of the user's parameters stay as they
    are."""
    if not loss.requires_grad:
        raise ModelError(
            "Expected gradients to pass through the model for fine-tuning, got outputs without "
            "any; let its forward compute outside of torch.no_grad()."
        )
    slopes = optional.torch.autograd.grad(loss, leaves, allow_unused=True)
    for leaf, slope in zip(leaves, slopes, strict=True):
        leaf.grad = slope
