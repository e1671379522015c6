"""Hooks that add one direction per unit to a float model's forward: the error that quantizing the
unit makes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sensitivity.quantizers.base import QuantizedModel
from sensitivity.records import Quantizer, Unit


class Probes:
    """Context in which each layer returns output + step * error, with a step of 0 for each unit and
    sample.

    The error is the output of the layer with only this unit quantized minus its float output, for
    the same input. It is computed in the forward, so that in-place operations before and after it
    do no harm. The derivative with respect to the step is the one along the error, summed over all
    calls of all layers of the unit, whatever parameters are trainable. All quantizers have to be
    disabled on entry.

    ran: indices of the units of which a quantizer was called.
    """

    def __init__(self, source: QuantizedModel, units: Sequence[Unit]) -> None:
        every = {quantizer.name: quantizer for quantizer in source.quantizers}
        self.ran = set[int]()
        self._source = source
        self._others = [every.keys() - set(unit.quantizers) for unit in units]
        self._units_of = defaultdict[nn.Module, list[int]](list)
        self._quantizers = list[tuple[nn.Module, int]]()
        for index, unit in enumerate(units):
            holders = dict[nn.Module, None]()
            for quantizer in map(every.__getitem__, unit.quantizers):
                self._quantizers.append((source.model.get_submodule(quantizer.name), index))
                holders |= dict.fromkeys(_holders(source.model, quantizer))
            for module in holders:
                self._units_of[module].append(index)
        self._steps: list[Tensor] = []
        self._waiting: dict[nn.Module, list[list[Any]]] = {}
        self._paused = False
        self._hooks = ExitStack()

    def restart(self, samples: int, device: Any) -> list[Tensor]:
        """Return new steps for the next forward, one float32[samples] per unit."""
        self._steps = [
            torch.zeros(samples, device=device, requires_grad=True) for _ in self._others
        ]
        self._waiting = {module: [] for module in self._units_of}
        return self._steps

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let layers return what they compute inside the `with`, and note nothing."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def __enter__(self) -> Probes:
        with ExitStack() as hooks:
            for module in self._units_of:
                # These hooks run last before the forward and first after it, because changes by
                # the user's own hooks do not belong to the layer.
                before = module.register_forward_pre_hook(self._before, with_kwargs=True)
                after = module.register_forward_hook(self._after, prepend=True)
                hooks.callback(before.remove)
                hooks.callback(after.remove)
            for quantizer, index in self._quantizers:
                hooks.callback(quantizer.register_forward_pre_hook(self._mark(index)).remove)
            self._hooks = hooks.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.close()
        self._steps, self._waiting = [], {}

    def _mark(self, index: int) -> Any:
        def mark(module: nn.Module, args: Any) -> None:
            self.ran.add(index)

        return mark

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Compute the layer with each of its units quantized, before the layer can overwrite its
        input."""
        if self._paused:
            return
        results = []
        for index in self._units_of[module]:
            with torch.no_grad(), self.paused(), self._source.disabled(self._others[index]):
                own_args, own_kwargs = pytree.tree_map(_copy, (args, kwargs))
                results.append(module.forward(*own_args, **own_kwargs))
        self._waiting[module].append(results)

    def _after(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self._paused:
            return None
        leaves, spec = pytree.tree_flatten(output)
        moved = list(leaves)
        for index, quantized in zip(
            self._units_of[module], self._waiting[module].pop(), strict=True
        ):
            for place, (leaf, other) in enumerate(
                zip(leaves, pytree.tree_leaves(quantized), strict=True)
            ):
                if isinstance(leaf, Tensor) and leaf.is_floating_point():
                    moved[place] = moved[place] + _along(other - leaf.detach(), self._steps[index])
        return pytree.tree_unflatten(moved, spec)


def _along(error: Tensor, step: Tensor) -> Tensor:
    """Return the error times the step of its sample, in the error's shape.

    The first axis may be a multiple of the samples, such as windows of images. If it is not, all
    samples share one step: its squared derivative has the same mean, because theirs have random
    signs, but it is noisier.
    """
    samples = len(step)
    first = error.shape[0] if error.ndim else 0
    if first and first % samples == 0:
        rows = error.reshape(samples, -1)
        return (step.to(error.dtype)[:, None] * rows).reshape(error.shape)
    return step[0].to(error.dtype) * error


def _copy(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.detach().clone()
    return leaf


def _holders(model: nn.Module, quantizer: Quantizer) -> Iterator[nn.Module]:
    """Yield the modules that hold the quantizer as an attribute: its layer, and others that share
    it."""
    shared = model.get_submodule(quantizer.name)
    attribute = quantizer.name[len(quantizer.layer) :].removeprefix(".")
    for name, module in model.named_modules(remove_duplicate=False):
        if module is not shared:
            continue
        if name.endswith(attribute):
            holder = name.removesuffix(attribute).removesuffix(".")
        else:
            holder = name.rpartition(".")[0]
        yield model.get_submodule(holder)
