"""The loss by which the float model teaches the quantized one, with its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sensitivity import optional
from sensitivity.errors import ModelError
from sensitivity.signals.channels import Group, groups_of
from sensitivity.signals.distortion import are_logits, flat_outputs

if TYPE_CHECKING:
    from torch import Tensor

NO_TENSORS = (
    "Expected the model to return a tensor, so that gradients can pass through it, got outputs "
    "without one."
)
NOT_FINITE = (
    "Expected the float model to give finite outputs, got infinite values or NaN; give the task a "
    "`loss` that leaves them out."
)


def distillation_loss(batches: Sequence[Any]) -> Callable[[Any, Any], Tensor]:
    """Return the loss fitted to outputs of the float model: (its outputs, those of the quantized
    model) -> a tensor of one value.

    For logits [n, classes] it is KL of the probabilities, as `distortion.kl`. Classes may be masked
    with logits of minus infinity. Otherwise it is the mean over the groups of channels that share a
    unit of the squared error over float's spread squared, as `distortion.by_spread`. Groups that
    float always gives as 0 are left out.

    batches: outputs of the float model as it returns them, one for each batch.
    Raises ModelError for outputs without floating-point numbers, or without tensors, since
        gradients do not pass through numpy arrays, and for other outputs than logits that are not
        finite.
    """
    if not all(map(_floats, batches)):
        raise ModelError(NO_TENSORS)
    if all(are_logits(_floats(outputs)) for outputs in batches):
        return lambda wanted, got: _divergence(_floats(wanted)[0], _floats(got)[0])
    if not all(array.isfinite().all() for outputs in batches for array in _floats(outputs)):
        raise ModelError(NOT_FINITE)
    groups = [group for group in groups_of(map(flat_outputs, batches)) if group.power > 0]

    def loss(wanted: Any, got: Any) -> Tensor:
        float_outputs, outputs = _floats(wanted), _floats(got)
        noises = []
        for group in groups:
            noise = _of(group, outputs) - _of(group, float_outputs)
            noises.append(noise.square().mean() / group.power)
        mean: Tensor = optional.torch.stack(noises).mean()
        return mean

    return loss


def _divergence(wanted: Tensor, got: Tensor) -> Tensor:
    """Return the mean Kullback-Leibler divergence of the classes' probabilities.

    A class that the float model makes impossible adds nothing. `torch.nn.functional.kl_div` gives
    NaN for it.
    """
    wanted, got = wanted.log_softmax(1), got.log_softmax(1)
    is_impossible = wanted == -math.inf
    change = (wanted - got).masked_fill(is_impossible, 0)
    return (wanted.exp() * change).sum(1).mean()


def _floats(outputs: Any) -> list[Tensor]:
    """Return the tensors of floating-point numbers in the outputs of a model, in the order of
    `flat_outputs`."""
    return list(filter(_is_float, optional.pytree.tree_leaves(outputs)))


def _is_float(value: Any) -> bool:
    is_tensor = isinstance(value, optional.torch.Tensor)
    return is_tensor and value.is_floating_point() and value.ndim > 0


def _of(group: Group, outputs: Sequence[Tensor]) -> Tensor:
    """Return the values of a group."""
    output = outputs[group.output]
    if group.channels is None:
        return output
    channels = optional.torch.from_numpy(group.channels).to(output.device)
    return output.index_select(group.axis, channels)
