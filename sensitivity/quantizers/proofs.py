"""Facts about a torch model that are found before it is measured: what stays quantized, and which
quantizers a batch reaches."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

from sensitivity import optional
from sensitivity.quantizers.torch.calls import call, device_of, to_device
from sensitivity.quantizers.torch.modules import class_names
from sensitivity.records import Finding

QUANTIZED_PACKAGES = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "bitsandbytes")
"""Packages whose modules compute in integers or hold integer weights, and cannot be switched
off."""
FAKE_QUANTIZERS = {"TensorQuantizer", "FakeQuantize", "FusedMovingAvgObsFakeQuantize"}
"""Classes of modules that quantize to a grid and back."""


def still_quantized(model: Any, switched: Collection[Any]) -> tuple[Finding, ...]:
    """Return one finding for each module that quantizes and is not among those that the source can
    switch.

    switched: the quantizer modules that the source knows, enabled or disabled by the user.
    """
    known = set(map(id, switched))
    findings = []
    for name, module in model.named_modules():
        is_off = id(module) in known or getattr(module, "_disabled", False)
        if _quantizes(module) and not is_off:
            findings.append(left_quantized(name or "the model", f"a {type(module).__name__}"))
    return tuple(findings)


def left_quantized(where: str, what: str) -> Finding:
    """Return the finding for one thing that stays quantized when every quantizer is disabled."""
    return Finding(
        "quantization-remains",
        "error",
        where,
        f"Expected nothing to be quantized with every quantizer disabled, got {what} at {where} "
        "that stays quantized.",
        "Quantize the model with one toolkit only, or give it without this part.",
    )


def reached(model: Any, quantizers: Mapping[str, Any], inputs: Any) -> frozenset[str]:
    """Return the names of those modules that a forward of the model on one batch calls.

    quantizers: name -> module.

    Raises TaskError if the model refuses the batch.
    """
    names: set[str] = set()

    def note(name: str, module: Any, args: Any, output: Any) -> None:
        names.add(name)

    with ExitStack() as stack:
        for name, module in quantizers.items():
            stack.callback(module.register_forward_hook(partial(note, name)).remove)
        with optional.torch.no_grad():
            call(model, to_device(inputs, device_of(model)))
    return frozenset(names)


def _quantizes(module: Any) -> bool:
    """Return whether a module fake-quantizes, or is of a package that computes in integers."""
    if FAKE_QUANTIZERS.intersection(class_names(module)):
        return True
    return any(kind.__module__.startswith(QUANTIZED_PACKAGES) for kind in type(module).__mro__)
