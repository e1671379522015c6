"""Removal of the wrappers around a model, since the quantizers belong to the module inside and have
their names from it."""

from __future__ import annotations

from typing import Any

from sensitivity.errors import ModelError
from sensitivity.quantizers.torch.modules import class_names, named_modules

INSIDE = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "OptimizedModule": "_orig_mod",
}
"""Class of a wrapper -> its attribute for the module inside. torch.compile makes the last of these
wrappers."""


def unwrapped(model: Any) -> Any:
    """Return the module inside DataParallel, DistributedDataParallel and torch.compile, or the
    model itself if it has no such wrapper.

    Raises ModelError for a model that is TorchScript, or that holds a part that is TorchScript or
    compiled by itself.
    """
    while type(model).__name__ in INSIDE:
        model = getattr(model, INSIDE[type(model).__name__])
    if _is_script(model):
        raise ModelError(
            "Expected a torch module that runs as Python, got TorchScript, in which quantizers "
            "cannot be switched; give the model as it was before torch.jit.script or "
            "torch.jit.trace."
        )
    for name, module in named_modules(model).items():
        is_compiled = type(module).__name__ == "OptimizedModule" or _compiled_in_place(module)
        if is_compiled or _is_script(module):
            what = "torch.compile" if is_compiled else "TorchScript"
            raise ModelError(
                f"Expected a model whose modules run as Python, got {name or 'the model'} under "
                f"{what}; give it as it was before: quantizers are switched hundreds of times, and "
                "each time it would be compiled again."
            )
    return model


def _compiled_in_place(module: Any) -> bool:
    return getattr(module, "_compiled_call_impl", None) is not None


def _is_script(module: Any) -> bool:
    return "ScriptModule" in class_names(module)
