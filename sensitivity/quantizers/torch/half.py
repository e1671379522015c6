"""Support for models in BF16 or FP16, which are measured in their own type and exported in FP32
with the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

from sensitivity import optional
from sensitivity.quantizers.torch.calls import with_types_known

HALF = (
    "The model is in {type}, and is measured in it. Exported files are in FP32 with exactly the "
    "same weights and grids, and are verified against the model in FP32; let the runtime choose "
    "its own type for what is not quantized."
)


def half_type(model: Any) -> str | None:
    """Return "BF16" or "FP16", the type of the model's first parameter or buffer in one of these
    types, or None if it has none."""
    names = {optional.torch.bfloat16: "BF16", optional.torch.float16: "FP16"}
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.dtype in names:
            return names[tensor.dtype]
    return None


def as_float32(value: Any) -> Any:
    """Return the same nest with every BF16 and FP16 tensor converted to FP32."""

    def cast(tensor: Any) -> Any:
        is_half = tensor.dtype in (optional.torch.bfloat16, optional.torch.float16)
        return tensor.float() if is_half else tensor

    return optional.pytree.tree_map_only(optional.torch.Tensor, cast, with_types_known(value))


@contextmanager
def in_float32(model: Any) -> Iterator[None]:
    """Make a BF16 or FP16 model compute in FP32 inside the `with`, also for inputs of its own type.

    After it, also after an exception, weights and buffers are the very same tensors as before.
    """
    if half_type(model) is None:
        yield
        return
    with ExitStack() as stack:
        for parameter in model.parameters():
            stack.callback(setattr, parameter, "data", parameter.data)
            parameter.data = as_float32(parameter.data)
        for module in model.modules():
            stack.callback(module._buffers.update, dict(module._buffers))
            module._buffers.update(as_float32(dict(module._buffers)))
        stack.callback(model.register_forward_pre_hook(_cast_inputs, with_kwargs=True).remove)
        yield


def _cast_inputs(module: Any, args: Any, kwargs: Any) -> Any:
    return as_float32(args), as_float32(kwargs)
