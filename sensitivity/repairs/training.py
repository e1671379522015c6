"""Trains biases and ranges of a quantized model against the outputs of the same model in float.

`repairs/tuning.py` says what is trained and why.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sensitivity import optional
from sensitivity.errors import ModelError
from sensitivity.quantizers.base import QuantizedModel, amax_of
from sensitivity.quantizers.torch.calls import call, device_of, to_device
from sensitivity.quantizers.torch.tensor_quantizer import SMALLEST_AMAX
from sensitivity.records import Range, names_of
from sensitivity.repairs import bias
from sensitivity.repairs.checkpoint import Checkpoint
from sensitivity.repairs.rounding import Roundable
from sensitivity.repairs.samples import Parts, Show, unseen
from sensitivity.seeds import generator
from sensitivity.tasks.batches import batch_size, map_arrays

if TYPE_CHECKING:
    from torch import Tensor


BATCH = 32
"""Samples of a step."""

BIAS_RATE = 1e-3
"""First learning rate of Adam for biases, as a fraction of the spread of their channel."""

RANGE_RATE = 3e-3
"""First learning rate of Adam for the logarithms of ranges."""

LAYER_WEIGHT = 1.0
"""Weight of the layers' outputs against the model's, each as noise over signal."""

SMALLEST_VARIANCE = 1e-12
"""Smallest variance of a channel, for channels that are constant."""

FORWARDS_PER_STEP = 6
"""How many times as long a step takes as a forward of its samples with the quantizers disabled."""

Loss = Callable[[Any, Any], Any]
"""(Outputs of the float model, outputs of the quantized one) -> a tensor of one value."""

LossOf = Callable[[Sequence[Any]], Loss]
"""Outputs of the float model for each batch of the calibration inputs -> the loss of a batch."""


@runtime_checkable
class Tunable(Roundable, Protocol):
    """A calibrated torch model whose biases and ranges can be trained."""

    def amax(self, name: str) -> Any:
        """Return the largest absolute value that a quantizer can give, as `amax_of` does."""
        ...


def is_tunable(source: QuantizedModel) -> TypeGuard[Tunable]:
    """Return whether biases and ranges of this model can be trained. Those of a PT2E graph cannot,
    since its quantizers have no amax, but a scale and a zero point."""
    return isinstance(source, Tunable)


@dataclass(frozen=True)
class Tracking:
    """How a training is tracked: its progress is shown, and its state is kept.

    show: opens a display of this number of steps.
    checkpoint: keeps the state between steps.
    """

    show: Show = unseen
    checkpoint: Checkpoint = field(default_factory=Checkpoint)


UNTRACKED = Tracking()
"""Shows nothing and keeps no state."""


@dataclass(frozen=True, eq=False)
class TrainedLayer:
    """A layer whose bias is trained.

    module: holds the bias.
    float_bias: the bias in the float model; None if there is none.
    start: the bias that training starts from.
    unit: what a move of 1 means for each channel.
    moves: how far training has moved each channel; a leaf of the graph of gradients.
    """

    module: Any
    float_bias: Tensor | None
    start: Tensor
    unit: Tensor
    moves: Tensor

    def use_trained_bias(self) -> None:
        """Give the module its present bias."""
        self.module._parameters["bias"] = self._bias

    def use_float_bias(self) -> None:
        """Give the module its bias of the float model."""
        self.module._parameters["bias"] = self.float_bias

    @property
    def _bias(self) -> Tensor:
        return self.start + self.unit * self.moves

    def range(self, source: Tunable, name: str) -> Range:
        """Return the range of the weight, with the bias that was learned.

        name: the weight quantizer.
        """
        added = self._bias.detach()
        if self.float_bias is not None:
            added = added - self.float_bias.detach()
        return replace(source.range(name), bias=tuple(added.tolist()))


@dataclass(frozen=True, eq=False)
class TrainedRange:
    """The range of an activation in training.

    start: where training starts.
    log: logarithm of its amax, in a shape that broadcasts against the activation; a leaf.
    """

    start: Range
    log: Tensor

    @property
    def range(self) -> Range:
        """The present range."""
        return replace(self.start, amax=tuple(self.log.detach().exp().reshape(-1).tolist()))


def trained_ranges(source: Tunable, kept: Collection[str]) -> dict[str, TrainedRange]:
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
            trained_ranges[name] = TrainedRange(source.range(name), log)
    return trained_ranges


@dataclass(frozen=True, eq=False)
class Student:
    """What is trained, by quantizer: layers with their biases, and ranges.

    left_out: quantizers that stay disabled.
    """

    layers: Mapping[str, TrainedLayer]
    trained_ranges: Mapping[str, TrainedRange]
    left_out: Collection[str]


@contextmanager
def restored_biases(layers: Iterable[TrainedLayer]) -> Iterator[None]:
    """Restore the biases of these layers after the `with`."""
    with ExitStack() as stack:
        for layer in layers:
            parameters = layer.module._parameters
            stack.callback(parameters.update, bias=parameters["bias"])
        yield


class Teacher:
    """The float model, with the calibration inputs.

    inputs: all samples as one batch, on the device of the model.
    modules: weight quantizer -> its layer, for layers whose bias can change.
    channel_variances: weight quantizer -> float32[channels], the variance of each channel of the
        output of its layer.
    loss: what the outputs of the quantized model lose.
    """

    def __init__(self, source: Tunable, parts: Parts, loss_of: LossOf) -> None:
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

    def loss_of_batch(self, inputs: Any, student: Student) -> Tensor:
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


def trained_layer(teacher: Teacher, name: str) -> TrainedLayer:
    """Return a layer that is about to be trained, from the bias that it has now.

    name: its weight quantizer.
    """
    source, module = teacher.source, teacher.modules[name]
    now = module._parameters["bias"]
    with source.disabled(teacher.every):
        float_bias = module._parameters["bias"]
    spread = teacher.channel_variances[name].sqrt()
    zeros = optional.torch.zeros_like(spread)
    start = zeros if now is None else now.detach()
    return TrainedLayer(module, float_bias, start, spread, zeros.clone())


class Training:
    """The optimizer with what it trains.

    total: number of steps of the whole training.
    done: number of steps done.
    """

    def __init__(self, student: Student, total: int) -> None:
        torch = optional.torch
        self.student, self.total, self.done = student, total, 0
        moves = [layer.moves for layer in student.layers.values()]
        logs = [trained.log for trained in student.trained_ranges.values()]
        self.leaves = [leaf.requires_grad_() for leaf in (*moves, *logs)]
        rates = [{"params": moves, "lr": BIAS_RATE}, {"params": logs, "lr": RANGE_RATE}]
        self.optimizer = torch.optim.Adam(rates)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, total)

    def run(self, teacher: Teacher, tracking: Tracking) -> None:
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

    return map_arrays(of_array, inputs)


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
