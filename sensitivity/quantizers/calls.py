"""How a batch reaches a user's torch model."""

from __future__ import annotations

from typing import Any

from sensitivity.errors import TaskError


def call(model: Any, inputs: Any) -> Any:
    """model(*inputs) for a tuple, model(**inputs) for a dict, model(inputs) otherwise.

    Raises TaskError, with the model's own exception as its cause, where the model refuses the batch.
    """
    try:
        if isinstance(inputs, tuple):
            return model(*inputs)
        return model(**inputs) if isinstance(inputs, dict) else model(inputs)
    except Exception as error:
        raise TaskError(
            f"Expected the model to accept a batch of the task's data, got {type(error).__name__}: {error}; "
            "run model(inputs) on one batch by hand to see where."
        ) from error


def device_of(model: Any) -> Any:
    """The device of the model's first parameter or buffer; None for a model without any."""
    for tensors in (model.parameters(), model.buffers()):
        for tensor in tensors:
            return tensor.device
    return None


def to_device(value: Any, device: Any) -> Any:
    """The same nest of tuples, lists and dicts with every tensor on `device`; values that are no tensors stay."""
    import torch

    if device is None:
        return value
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(to_device(item, device) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(to_device(item, device) for item in value)
    return value
