"""Quantizers through which gradients pass, for training.

Gradients pass through rounding unchanged and stop where a value is clipped (Bengio et al. 2013,
"Estimating or propagating gradients through stochastic neurons"). The gradient of a range is that
of Esser et al. 2020, "Learned step size quantization". An integer grid takes one operation of torch
where the toolkits take a dozen, each of which reads the whole activation again, and some hold a
copy for the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from sensitivity.quantizers.base import amax_of
from sensitivity.quantizers.torch.calls import with_forward
from sensitivity.records import Grid
from sensitivity.repairs.bias import RecalibratableModel, has_range


class _StraightThrough(torch.autograd.Function):
    """A quantized value with the gradients of its float value and of its range."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, amax: Tensor, output: Tensor, lowest: float) -> Tensor:
        """Return the quantized value.

        given: the float value.
        amax: the range, in a shape that broadcasts.
        output: the quantized value.
        lowest: smallest value that is not clipped, as a multiple of amax.
        """
        ctx.save_for_backward(given, amax, output)
        ctx.lowest = lowest
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        """Return the gradients of the float value and of the range."""
        given, amax, output = ctx.saved_tensors
        is_inside = (given <= amax) & (given >= ctx.lowest * amax)
        passed = slopes[0] * is_inside
        of_range = None
        if ctx.needs_input_grad[1]:
            # Per part of amax, a rounded value changes by its error, a clipped one by itself.
            moved = (slopes[0] * output).addcmul_(passed, given, value=-1)
            of_range = moved.sum_to_size(amax.shape) / amax
        return passed, of_range, None, None


@contextmanager
def differentiable(
    source: RecalibratableModel, logs: Mapping[str, Tensor], left_out: Collection[str]
) -> Iterator[None]:
    """Let gradients pass through the quantizers of activations inside the `with`, and reach these
    ranges.

    Without gradients enabled, quantizers do what they always do.

    logs: quantizer -> logarithm of its amax, in a shape that broadcasts against the activation.
    left_out: quantizers that are disabled and stay so.
    """
    with ExitStack() as stack:
        for quantizer in source.quantizers:
            name = quantizer.name
            if name in left_out:
                continue
            module = source.model.get_submodule(name)
            if quantizer.role == "weight":
                forward = torch.no_grad()(module.forward)  # weights are not trained
            else:
                forward = _straight_through(source, name, logs.get(name))
            stack.enter_context(with_forward(module, forward))
        yield


def _straight_through(
    source: RecalibratableModel, name: str, log: Tensor | None
) -> Callable[[Tensor], Tensor]:
    """Return the forward of an activation's quantizer through which gradients pass.

    log: as in `differentiable`; None keeps the range.
    """
    own: Callable[[Tensor], Tensor] = source.model.get_submodule(name).forward
    fixed = amax_of(source, name)
    grid = source.grid(name) if has_range(source, name) else None
    lowest = -1.0 if grid is None else grid.low / grid.high

    def quantized(given: Tensor, amax: Tensor) -> Tensor:
        if grid is None or given.dtype != torch.float32:
            return own(given)
        return _on_grid(given, amax, grid)

    def forward(given: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return own(given)
        amax = fixed if log is None else log.exp()
        with torch.no_grad():
            output = quantized(given, amax)
        if amax is None:
            return given + (output - given.detach())
        passed: Tensor = _StraightThrough.apply(  # type: ignore[no-untyped-call]
            given, amax, output, lowest
        )
        return passed

    return forward


def _on_grid(given: Tensor, amax: Tensor, grid: Grid) -> Tensor:
    """Return values on the levels of an integer grid with this range instead of its own."""
    scale = (amax / grid.high).float()
    zero = torch.zeros(scale.numel(), dtype=torch.int32, device=scale.device)
    if scale.numel() == 1:
        return torch.fake_quantize_per_tensor_affine(
            given, scale.reshape(1), zero, grid.low, grid.high
        )
    axis = grid.axis or 0
    return torch.fake_quantize_per_channel_affine(
        given, scale.flatten(), zero, axis, grid.low, grid.high
    )
