"""The forward and backward pass of the float model behind `fisher`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sensitivity.errors import ModelError, TaskError
from sensitivity.quantizers.base import QuantizedModel
from sensitivity.quantizers.torch.calls import call, device_of, to_device
from sensitivity.records import Unit, names_of
from sensitivity.signals.distortion import are_logits
from sensitivity.signals.fisher_probes import Probes
from sensitivity.tasks.batches import batch_size


def squared_slopes(
    source: QuantizedModel, units: Sequence[Unit], batches: Iterable[tuple[Any, Any]], *, seed: int
) -> Iterator[tuple[list[float], int]]:
    """Yield, for each batch, the sum over samples of (v' J d)^2 for each unit, and the number of
    samples."""
    generator = torch.Generator().manual_seed(seed)
    probes = Probes(source, units)
    unseen = set(range(len(units)))
    for inputs, _ in batches:
        size = batch_size(inputs)
        # The model is changed only while computing, because the caller's code runs between batches.
        with (
            _trainable(source.model),
            source.disabled(names_of(source.quantizers)),
            probes,
        ):
            slopes = _slopes(source, probes, inputs, size, generator)
        unseen -= {index for index, slope in enumerate(slopes) if slope is not None}
        yield (
            [
                0.0 if slope is None else _square_sum(slope, units[i])
                for i, slope in enumerate(slopes)
            ],
            size,
        )
    _check_reached(
        [unit.name for i, unit in enumerate(units) if i in unseen & probes.ran], len(units)
    )


def _slopes(
    source: QuantizedModel, probes: Probes, inputs: Any, size: int, generator: torch.Generator
) -> tuple[Tensor | None, ...]:
    """Return the derivative v' J d of each sample for each unit, float[size]; None for a unit that
    no gradient reaches."""
    inputs = _normal(to_device(inputs, device_of(source.model)))
    steps = probes.restart(size, device_of(source.model))
    try:
        outputs = _differentiable(call(source.model, inputs))
        probe_vectors = [
            v.to(out) for v, out in zip(random_vectors(outputs, generator), outputs, strict=True)
        ]
        # backward() would add to the gradients of the user's parameters.
        return torch.autograd.grad(outputs, steps, probe_vectors, allow_unused=True)
    except (RuntimeError, TaskError) as error:
        with torch.no_grad(), probes.paused():
            call(source.model, inputs)  # raises the right error if the model refuses the batch
        cause = error.__cause__ or error
        raise ModelError(
            "Expected gradients to pass through the model for --signal fisher, got "
            f"{type(cause).__name__}: {cause}; use --signal sqnr."
        ) from error


def random_vectors(outputs: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Return one vector v per output, with random signs, such that (v' e)^2 has as its mean the
    distance of outputs moved by e.

    For logits [n, classes], v = (sqrt(p) s - p (sqrt(p)' s)) / sqrt(2) has E[v v'] = (diag(p) - p
    p') / 2, the second-order term of KL. It is bounded, and so has less variance than the gradient
    at a label drawn from p, whose mean square is equal. For other outputs, v = s / norm of the
    sample's output / sqrt(number of outputs), for the mean of sqnr; it is 0 if the norm is 0.
    """
    signs = [_signs(out, generator) for out in outputs]
    if are_logits(outputs):
        p = torch.softmax(outputs[0].detach().double(), dim=1)
        root = p.sqrt() * signs[0]
        return [(root - p * root.sum(1, keepdim=True)) / math.sqrt(2)]
    vectors = []
    for sign, out in zip(signs, outputs, strict=True):
        vectors.append(sign * _inverse_norm(out) / math.sqrt(len(outputs)))
    return vectors


def _signs(out: Tensor, generator: torch.Generator) -> Tensor:
    # The signs are drawn on the host, so that every device gets the same ones.
    drawn = torch.randint(0, 2, out.shape, generator=generator, dtype=torch.int8)
    return (2 * drawn - 1).to(out.device).double()


def _inverse_norm(out: Tensor) -> Tensor:
    """Return 1 / ||out|| of each sample, or 0 if the norm is 0, in a shape that multiplies
    `out`."""
    norm = out.detach().double().reshape(len(out), -1).norm(dim=1)
    inverse = torch.where(norm > 0, 1 / norm, 0.0)
    return inverse.reshape(-1, *[1] * (out.ndim - 1))


def _differentiable(outputs: Any) -> list[Tensor]:
    tensors = list(filter(_has_gradient, pytree.tree_leaves(outputs)))
    if not tensors:
        raise ModelError(
            "Expected gradients to pass through the model for --signal fisher, got outputs that "
            "have none; use --signal sqnr."
        )
    return tensors


def _has_gradient(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.requires_grad


def _square_sum(slope: Tensor, unit: Unit) -> float:
    value = float(slope.double().square().sum())
    if not math.isfinite(value):
        raise ModelError(
            f"Expected finite gradients for --signal fisher, got {value} for {unit.name}; use "
            "--signal sqnr."
        )
    return value


def _check_reached(unreached: Sequence[str], count: int) -> None:
    """Raise ModelError for units that ran without a gradient, because they would silently rank
    last."""
    if unreached:
        more = ", ..." if len(unreached) > 3 else ""
        raise ModelError(
            "Expected gradients to reach every unit that runs for --signal fisher, got none for "
            f"{len(unreached)} of {count} ({', '.join(unreached[:3])}{more}); use --signal sqnr."
        )


@contextmanager
def _trainable(model: nn.Module) -> Iterator[None]:
    """Turn gradients on inside the `with`, without keeping any for parameters.

    Tensors made under inference_mode are replaced by copies, because autograd refuses them.
    """
    trainable = filter(_has_gradient, model.parameters())
    required = [parameter for parameter in trainable if not parameter.is_inference()]
    swapped = list[tuple[dict[str, Any], str, Tensor]]()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            for tensors, name in _made_under_inference(model):
                swapped.append((tensors, name, tensors[name]))
                tensors[name] = _normal(tensors[name])
            for parameter in required:
                parameter.requires_grad_(False)
            yield
    finally:
        for tensors, name, value in swapped:
            tensors[name] = value
        for parameter in required:
            parameter.requires_grad_(True)


def _made_under_inference(model: nn.Module) -> list[tuple[dict[str, Any], str]]:
    """Return the tensors of the model's modules that were made under inference_mode, each as a dict
    and its name in it."""
    places = []
    for module in model.modules():
        holders: tuple[dict[str, Any], ...] = (module._parameters, module._buffers, vars(module))
        for tensors in holders:
            places += [(tensors, name) for name, value in tensors.items() if _is_inference(value)]
    return places


def _is_inference(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_inference()


def _normal(value: Any) -> Any:
    """Return the same nest, with a copy of each tensor that was made under inference_mode."""

    def copied(leaf: Any) -> Any:
        if _is_inference(leaf):
            return leaf.detach().clone()
        return leaf

    return pytree.tree_map(copied, value)
