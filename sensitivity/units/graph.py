"""The graph of a model's layers and the places where values are requantized, for drawing it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sensitivity.errors import ModelError
from sensitivity.onnx_graph.connections import connections, marked_owners
from sensitivity.onnx_graph.groups import meetings
from sensitivity.quantizers.base import Connected, QuantizedModel
from sensitivity.records import ModelGraph


def model_graph(source: QuantizedModel, traced: Any) -> ModelGraph | None:
    """Return which layers pass tensors to each other, with the ranges that the model has now.

    traced: the graph of a torch model with its marks, as in `relations.Placed`; None for others.
    Returns None if the graph is unknown.
    """
    if isinstance(source, Connected):
        graph = source.connections()
    elif traced is not None:
        together = tuple(meeting.quantizers for meeting in meetings(traced))
        owners = marked_owners(traced, source.quantizers)
        graph = connections(traced.graph, owners, together)
    else:
        return None
    return replace(graph, meetings=tuple(each for each in graph.meetings if _differ(source, each)))


def _differ(source: QuantizedModel, names: tuple[str, ...]) -> bool:
    """Return whether quantizers that read the same values have different steps.

    Returns False if a grid is unknown.
    """
    try:
        grids = [source.grid(name) for name in names]
    except ModelError:
        return False
    return len({(grid.scale.tobytes(), grid.zero_point) for grid in grids}) > 1
