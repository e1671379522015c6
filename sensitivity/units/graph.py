"""The graph of a model in layers, and where its values are requantized: what a picture of it is
drawn from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sensitivity.errors import ModelError
from sensitivity.onnx_graph.connections import connections, marked_owners
from sensitivity.onnx_graph.groups import meetings
from sensitivity.quantizers.base import Connected, QuantizedModel
from sensitivity.records import ModelGraph


def model_graph(source: QuantizedModel, traced: Any) -> ModelGraph | None:
    """Return which layers hand each other tensors, with the ranges that the model has now; None
    where nobody knows.

    traced: the graph of a torch model with its marks, as in `relations.Placed`; None for others.
    """
    if isinstance(source, Connected):
        found = source.connections()
    elif traced is not None:
        together = tuple(meeting.quantizers for meeting in meetings(traced))
        owners = marked_owners(traced, source.quantizers)
        found = connections(traced.graph, owners, together)
    else:
        return None
    return replace(found, meetings=tuple(each for each in found.meetings if _differ(source, each)))


def _differ(source: QuantizedModel, names: tuple[str, ...]) -> bool:
    """Return whether quantizers that read the same values round them to different steps; False
    where a grid is not known."""
    try:
        grids = [source.grid(name) for name in names]
    except ModelError:
        return False
    return len({(grid.scale.tobytes(), grid.zero_point) for grid in grids}) > 1
