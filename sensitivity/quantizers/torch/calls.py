"""Calls of a user's torch model with a batch."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

from sensitivity import optional
from sensitivity.errors import TaskError


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and the named arguments that pass a batch to a model.

    A tuple or list is passed by position, a mapping by name, and anything else as the only input.
    torch's DataLoader turns a tuple of inputs into a list.
    """
    if isinstance(inputs, (tuple, list)):
        return tuple(inputs), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (inputs,), {}


def call(model: Any, inputs: Any) -> Any:
    """Return the outputs of the model for a batch, which is passed as `arguments` says.

    Every module is called (`every_module_called`), and torch learns the types of dataclasses and
    named tuples in the outputs (`with_types_known`).

    Raises TaskError, with the model's own exception as its cause, if the model refuses the batch.
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
    """Make torch's own encoder and attention layers call their submodules inside the `with`.

    Otherwise, in eval mode, they may pass all weights to one fused kernel, which skips the
    quantizers of the submodules.
    """
    torch = sys.modules.get("torch")
    if torch is None:  # Without torch there is no torch model to change.
        yield
        return
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def with_forward(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """Let a module use this forward inside the `with`. One of its own, set on the object and not by
    its class, is there again afterwards."""
    attributes = vars(module)
    own = attributes.get("forward")
    attributes["forward"] = forward
    try:
        yield
    finally:
        attributes.pop("forward", None)
        if own is not None:
            attributes["forward"] = own


def device_of(model: Any) -> Any:
    """Return the device of the model's first parameter or buffer, or None if it has neither."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return None if first is None else first.device


def to_device(value: Any, device: Any) -> Any:
    """Return the same nest of tuples, lists, mappings and dataclasses with every tensor on a
    device.

    value: the nest. Values other than tensors stay as they are. A mapping of a type unknown to
        torch, such as the batch of a tokenizer, becomes a dict.
    device: None returns `value` itself.
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
    """Register the types of dataclasses and named tuples in a value with torch, and return the
    value.

    torch can take a nest apart, follow it in a trace and serialize it only if it knows its types.
    """
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
    """Return whether a value is an instance of a dataclass; False for the class itself."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _register_dataclass(kind: type) -> None:
    def rebuilt(values: Iterable[Any], names: Iterable[str]) -> Any:
        return kind(**dict(zip(names, values, strict=True)))

    optional.pytree.register_pytree_node(
        kind,
        _fields_that_are_set,
        rebuilt,
        serialized_type_name=_full_name(kind),
        flatten_with_keys_fn=_fields_with_keys,
    )


def _items(value: Any) -> Iterable[Any]:
    """Return the values that a nest holds directly, or none for any other value."""
    if isinstance(value, dict):
        return list(value.values())
    if _is_dataclass(value):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    if isinstance(value, (tuple, list)):
        return value
    return ()


def _fields_that_are_set(value: Any) -> tuple[list[Any], list[str]]:
    """Return the values and the names of the fields that are not None and that the constructor
    takes.

    Models give None for an output that was not asked for.
    """
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
