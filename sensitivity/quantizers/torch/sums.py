"""Changes of the operands of sums in a torch model's own code: `x + y`, `x += y`, `torch.add` and
FloatFunctional."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sensitivity.onnx_graph.marks import SumOperand

IN_PLACE = (Tensor.add_, Tensor.__iadd__)
SUMS = (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, *IN_PLACE)
OPERANDS = ("input", "other")

Change = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Function of the number of a sum in this call of the module, from 0, and its two operands, that
returns the operands to add."""


class _Running(threading.local):
    """The calls of modules with changed sums that run in this thread, the innermost last."""

    def __init__(self) -> None:
        self.calls: list[_Call] = []


class _Call(TorchFunctionMode):
    """One call of a module, in which its own sums are changed, but not the sums of modules that it
    calls."""

    def __init__(self, change: Change) -> None:
        super().__init__()
        self.inner_calls = 0
        self._change = change
        self._sums = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        operands = _operands(func, args, kwargs)
        if self.inner_calls or operands is None:
            return func(*args, **kwargs)
        first, second = self._change(self._sums, *operands)
        self._sums += 1
        if func in IN_PLACE and first is not operands[0]:
            # Other code may hold the tensor that this sum writes to.
            return operands[0].copy_(torch.add(first, second))
        return func(first, second)


def _operands(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return both operands of a sum of two tensors, or None for any other call."""
    if func not in SUMS or kwargs.keys() - OPERANDS:
        return None
    # By the order of their names, "input" comes before "other".
    operands = (*args, *map(kwargs.__getitem__, sorted(kwargs)))
    if len(operands) != 2:
        return None
    are_tensors = all(isinstance(each, Tensor) for each in operands)
    return operands if are_tensors else None


_running = _Running()


class ResidualAdd(nn.Module):
    """Module for the quantizer of the operand that an Add reads over its skip connection."""

    def __init__(self, quantizer: nn.Module) -> None:
        super().__init__()
        self.residual_quantizer = quantizer

    def forward(self, x: Tensor) -> Tensor:
        quantized: Tensor = self.residual_quantizer(x)
        return quantized


class QuantizedSums:
    """A `Change` that quantizes one operand of some sums."""

    def __init__(self) -> None:
        self._added: dict[int, tuple[int, ResidualAdd]] = {}

    def add(self, operand: SumOperand, quantizer: nn.Module) -> ResidualAdd:
        """Quantize an operand of a sum.

        Returns the module that holds the quantizer, which must become part of the model.
        """
        added = ResidualAdd(quantizer)
        self._added[operand.sum] = operand.index, added
        return added

    def __call__(self, position: int, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        if position not in self._added:
            return first, second
        index, added = self._added[position]
        if index == 0:
            return added(first), second
        return first, added(second)


class _Before:
    def __init__(self, change: Change | None) -> None:
        self._change = change

    def __call__(self, module: nn.Module, args: Any) -> None:
        if _running.calls:
            _running.calls[-1].inner_calls += 1
        if self._change is not None:
            call = _Call(self._change)
            call.__enter__()  # type: ignore[no-untyped-call]
            _running.calls.append(call)


class _After:
    def __init__(self, change: Change | None) -> None:
        self._has_call = change is not None

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._has_call:
            _running.calls.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]
        if _running.calls:
            _running.calls[-1].inner_calls -= 1


def change_sums(model: nn.Module, changes: Mapping[str, Change]) -> None:
    """Change the operands of sums in each call of some modules, until `restore_sums`.

    changes: name of a module -> the change of its sums.

    A deep copy of the model changes its sums, too.
    """
    for name, module in model.named_modules():
        change = changes.get(name)
        module.register_forward_pre_hook(_Before(change))
        module.register_forward_hook(_After(change), always_call=True)


def restore_sums(model: nn.Module) -> None:
    """Undo `change_sums`."""
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key, hook in list(hooks.items()):
                if isinstance(hook, (_Before, _After)):
                    del hooks[key]
                    # No two hooks have the same key.
                    module._forward_hooks_always_called.pop(key, None)


@contextmanager
def changed_sums(model: nn.Module, changes: Mapping[str, Change]) -> Iterator[None]:
    """Change the operands of sums inside the `with`, as `change_sums` does."""
    change_sums(model, changes)
    try:
        yield
    finally:
        restore_sums(model)
