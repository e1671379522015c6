"""Adds initializers to a graph, and removes unread ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sensitivity.onnx_graph.walk import made_by, not_none, remove_unread, value_name


def add(
    graph: ir.Graph, name: str, array: NDArray[Any], kind: ir.DataType | None = None
) -> ir.Value:
    """Return a new initializer. A number is appended to its name if the name is taken.

    kind: None for the array's own type.
    """
    free, number = name, 1
    while free in graph.initializers:
        free, number = f"{name}_{number}", number + 1
    tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), kind, name=free)
    value = ir.Value(
        name=free,
        type=ir.TensorType(tensor.dtype),
        shape=tensor.shape,  # type: ignore[arg-type]
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def remove_constants(values: Iterable[ir.Value | None]) -> None:
    """Remove those of these constants that nothing reads any more."""
    for value in filter(None, values):
        remove_constant(value)


def remove_constant(value: ir.Value) -> None:
    """Remove an initializer, or the Constant that gives the value, if nothing reads it any more."""
    if value.uses() or value.is_graph_output() or value.is_graph_input():
        return
    constant = made_by(value, "Constant")
    if constant is not None:
        remove_unread([constant])
    elif value.is_initializer():
        not_none(value.graph).initializers.pop(value_name(value), None)
