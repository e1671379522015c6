"""Add an initializer to a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def add(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """A new initializer; where the name is taken, a number is put behind it."""
    free, number = name, 1
    while free in graph.initializers:
        free, number = f"{name}_{number}", number + 1
    tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=free)
    value = ir.Value(
        name=free,
        type=ir.TensorType(tensor.dtype),
        shape=tensor.shape,  # type: ignore[arg-type]
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value
