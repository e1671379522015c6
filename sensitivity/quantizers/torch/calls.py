"""How a batch reaches a user's torch model."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

from sensitivity import optional
from sensitivity.errors import TaskError


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return how a batch is passed: a tuple or list by position, a mapping by name, anything else
    as the one input.

    A list is what torch's DataLoader makes of a tuple of inputs.
    """
    if isinstance(inputs, (tuple, list)):
        return tuple(inputs), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (inputs,), {}


def call(model: Any, inputs: Any) -> Any:
    """Return what the model gives for a batch, passed as `arguments` says, with every module
    called.

    Types of dataclasses and named tuples in it are made known to torch (`with_types_known`).

    Raises TaskError, with the model's own exception as its cause, where the model refuses the
    batch.
    """
    args, kwargs = arguments(inputs)
    try:
        with every_module_called():
            return with_types_known(model(*args, **kwargs))
    except Exception as error:
        raise TaskError(
            f"Expected the model to accept a batch of the task's data, got {type(error).__name__}: "
            f"{error}; run model(inputs) on one batch by hand to see where."
        ) from error


@contextmanager
def every_module_called() -> Iterator[None]:
    """Inside the `with`, torch's own encoder and attention layers call their parts.

    In eval mode they may hand all weights to one fused kernel instead, and quantizers on the way
    are never executed.
    """
    torch = sys.modules.get("torch")
    if torch is None:  # then no model of torch is there either
        yield
        return
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def device_of(model: Any) -> Any:
    """Return the device of the model's first parameter or buffer; None for a model without any."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return None if first is None else first.device


def to_device(value: Any, device: Any) -> Any:
    """Return the same nest of tuples, lists, mappings and dataclasses with every tensor on
    `device`; other values stay.

    A mapping that torch does not know, such as the batch of a tokenizer, becomes a dict.
    """
    if device is None:
        return value
    if isinstance(value, Mapping) and not isinstance(value, dict):
        value = dict(value)
    with_types_known(value)

    def moved(tensor: Any) -> Any:
        return tensor.to(device, non_blocking=True)

    return optional.pytree.tree_map_only(optional.torch.Tensor, moved, value)


def with_types_known(value: Any) -> Any:
    """Tell torch of the dataclasses and named tuples in a value, and give the value itself: only
    then can torch take a nest of them apart, follow it in a trace, and write it down."""
    kind, pytree = type(value), optional.pytree
    is_named_tuple = isinstance(value, tuple) and hasattr(value, "_fields")
    if is_named_tuple and kind not in pytree.SUPPORTED_SERIALIZED_TYPES:
        pytree._register_namedtuple(kind, serialized_type_name=_full_name(kind))
    elif _is_dataclass(value) and kind not in pytree.SUPPORTED_NODES:
        _register_dataclass(kind)
    for item in _items(value):
        with_types_known(item)
    return value


def _is_dataclass(value: Any) -> bool:
    """Return whether this is an instance of a dataclass, and not the class itself."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _register_dataclass(kind: type) -> None:
    def made(values: Iterable[Any], names: Iterable[str]) -> Any:
        return kind(**dict(zip(names, values, strict=True)))

    optional.pytree.register_pytree_node(
        kind,
        _fields_that_are_set,
        made,
        serialized_type_name=_full_name(kind),
        flatten_with_keys_fn=_fields_with_keys,
    )


def _items(value: Any) -> Iterable[Any]:
    """Return what a nest holds directly; nothing for what is no nest."""
    if isinstance(value, dict):
        return list(value.values())
    if _is_dataclass(value):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    if isinstance(value, (tuple, list)):
        return value
    return ()


def _fields_that_are_set(value: Any) -> tuple[list[Any], list[str]]:
    """Return the values and names; None is what models give for an output that was not asked
    for."""
    are_set: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        item = getattr(value, field.name) if field.init else None
        if item is not None:
            are_set[field.name] = item
    return list(are_set.values()), list(are_set)


def _fields_with_keys(value: Any) -> tuple[list[tuple[Any, Any]], list[str]]:
    values, names = _fields_that_are_set(value)
    keys = map(optional.pytree.GetAttrKey, names)
    return list(zip(keys, values, strict=True)), names


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
