"""Weights each error of an activation by how much it changes what the model computes next.

An activation passes through its layer, BatchNorm and the next nonlinearity before it is quantized
again. Where a ReLU gives 0, no error before it counts, and after a LeakyReLU of 0.1 an error
of a negative value counts a hundredth. The squared slopes of the next quantizers' inputs say how
much. Summed over these inputs, they are the expected square of one gradient with random signs
(Hutchinson 1990, "A stochastic estimator of the trace of the influence matrix"), so that one
backward pass finds them for all activations of a batch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sensitivity import optional
from sensitivity.errors import ModelError
from sensitivity.quantizers.ranges import Hook, hooked_in_float
from sensitivity.quantizers.torch.calls import call, device_of, to_device
from sensitivity.records import names_of
from sensitivity.repairs.bias import forward
from sensitivity.repairs.gradients import gradients_for
from sensitivity.seeds import generator
from sensitivity.tasks.batches import arrays

if TYPE_CHECKING:
    from torch import Tensor

LEAST_WEIGHT = 0.01
"""Smallest weight of an error, as a fraction of the mean weight, so that values that never matter
on the calibration inputs are not clipped at will."""

MOST_ENDS = 10_000
"""More tensors than a model quantizes. Random signs of a sample begin with this seed times its
number."""


def values_and_weights(
    source: Any, names: Collection[str], inputs: Any, first: int = 0
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return what each of these quantizers gets in the float model, and the weights of its errors.

    Both have the same shape; weights have a mean of 1. They are all 1 where no gradient passes, and
    everywhere if the model refuses gradients, as one does that works in place. A quantizer that the
    inputs do not reach is left out, and of several calls the last one counts.

    source: a quantized PyTorch model with a module for each quantizer.
    names: quantizers of activations.
    inputs: one batch as the model takes it.
    first: number of its first sample. Samples have random signs of their own, the same in any
        batch.
    """
    try:
        with gradients_for("equalization"):
            return _values_and_slopes(source, names, inputs, first)
    except (ModelError, optional.torch.OutOfMemoryError):
        return _equally_weighted(source, names, inputs)


def _equally_weighted(
    source: Any, names: Collection[str], inputs: Any
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the same without gradients: weights of 1."""
    values: dict[str, Tensor] = {}

    def kept_by(name: str) -> Hook:
        def hook(module: Any, args: Any) -> None:
            values[name] = args[0].clone()  # layers after it may work in place

        return hook

    with hooked_in_float(source, {name: kept_by(name) for name in names}):
        forward(source, inputs)
    return {name: (value, optional.torch.ones_like(value)) for name, value in values.items()}


def _values_and_slopes(
    source: Any, names: Collection[str], inputs: Any, first: int
) -> dict[str, tuple[Tensor, Tensor]]:
    leaves: dict[str, Tensor] = {}
    ends: list[Tensor] = []

    def cut_at(name: str) -> Any:
        def hook(module: Any, args: Any) -> Any:
            ends.append(args[0])
            leaf = args[0].detach().requires_grad_(name in names)
            if name in names:
                leaves[name] = leaf
            return (leaf.clone(), *args[1:])  # layers after it may work in place

        return hook

    with ExitStack() as stack:
        for quantizer in source.quantizers:
            if quantizer.role != "weight":
                module = source.model.get_submodule(quantizer.name)
                stack.callback(module.register_forward_pre_hook(cut_at(quantizer.name)).remove)
        stack.enter_context(source.disabled(names_of(source.quantizers)))
        stack.enter_context(optional.torch.enable_grad())
        outputs = call(source.model, to_device(inputs, device_of(source.model)))
    ends += arrays(outputs)
    reached = [end for end in ends if end.requires_grad]
    slopes = _slopes(reached, list(leaves.values()), first)
    pairs = zip(leaves.items(), slopes, strict=True)
    return {name: (leaf.detach(), _weights(leaf, slope)) for (name, leaf), slope in pairs}


def _slopes(
    ends: Sequence[Tensor], leaves: Sequence[Tensor], first: int
) -> Sequence[Tensor | None]:
    """Return the gradient of the sum of all ends, with random signs, at each leaf."""
    if not ends or not leaves:
        return [None] * len(leaves)
    signs = [_signs(end, number, first) for number, end in enumerate(ends)]
    found: Sequence[Tensor | None] = optional.torch.autograd.grad(
        ends, leaves, signs, allow_unused=True
    )
    return found


def _signs(end: Tensor, number: int, first: int) -> Tensor:
    """Return random signs for a tensor, with a seed for each of its samples.

    number: distinguishes the tensors of a model.
    """
    seeds = (MOST_ENDS * sample + number for sample in range(first, first + len(end)))
    count = end[0].numel()
    drawn = [_bits(generator(offset=seed), count) for seed in seeds]
    signs = optional.torch.from_numpy(np.stack(drawn)).to(end.device, end.dtype)
    return signs.mul_(2).sub_(1).reshape(end.shape)


def _bits(drawing: np.random.Generator, count: int) -> NDArray[np.uint8]:
    """Return random zeros and ones."""
    drawn = np.frombuffer(drawing.bytes(-(-count // 8)), np.uint8)
    return np.unpackbits(drawn, count=count)


def _weights(leaf: Tensor, slope: Tensor | None) -> Tensor:
    if slope is None:
        return optional.torch.ones_like(leaf)
    squared = slope.detach().float().square()
    mean = squared.mean()
    if not mean > 0:
        return optional.torch.ones_like(leaf)
    return squared / mean + LEAST_WEIGHT
