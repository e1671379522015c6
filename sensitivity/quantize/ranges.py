"""Ranges of a float model's tensors, from calibration samples."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from sensitivity.config import CalibrationMethod
from sensitivity.quantizers.histogram import Ends, Histogram
from sensitivity.quantizers.onnx.batches import feed, fixed_batch, length, pieces, without_filling
from sensitivity.quantizers.onnx.model import session

LEVELS = 255
"""Number of steps between the levels of 8 bits."""
METHODS: Mapping[CalibrationMethod, str] = {
    "max": "max",
    "percentile": "percentile 99.99",
    "entropy": "entropy",
    "mse": "mse",
}
"""Calibration method -> its name in `Histogram`."""


class Extremes:
    """The smallest and the largest finite value seen, and 0."""

    def __init__(self) -> None:
        self.low = self.high = 0.0

    def add(self, values: NDArray[Any]) -> None:
        """Take values into account.

        values: of any shape. Values that are not finite are ignored.
        """
        finite = values[np.isfinite(values)]
        if finite.size:
            self.low = min(self.low, float(finite.min()))
            self.high = max(self.high, float(finite.max()))

    def ranges(self, levels: int, *, symmetric: bool) -> dict[str, Ends]:
        """Return the only range that it knows, in the form of `Histogram.ranges`."""
        return {"max": (self.low, self.high)}


def ranges(
    model: onnx.ModelProto, batches: Iterable[Any], method: CalibrationMethod, *, symmetric: bool
) -> dict[str, Ends]:
    """Return float tensor of the main graph -> the range that calibration finds for it.

    model: a model with the types of its tensors.
    batches: inputs.
    method: "max" takes all values; the others are as for recalibration.
    symmetric: whether the grid has as many levels on both sides of 0.
    """
    kind = Extremes if method == "max" else Histogram
    seen: dict[str, Any] = {name: kind() for name in float_tensors(model.graph)}
    forward(model, batches, seen, lambda name, values: seen[name].add(values))
    key = METHODS[method]
    by_name = {}
    for name, values in seen.items():
        ends = values.ranges(LEVELS, symmetric=symmetric)
        by_name[name] = ends.get(key, (0.0, 0.0))
    return by_name


def float_tensors(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the float tensors that are inputs or computed, in their order."""
    floats = set[str]()
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            floats.add(value.name)
    names = dict.fromkeys(value.name for value in graph.input)
    for node in graph.node:
        names |= dict.fromkeys(node.output)
    return list(filter(floats.__contains__, names))


def forward(
    model: onnx.ModelProto,
    batches: Iterable[Any],
    names: Collection[str],
    see: Callable[[str, NDArray[Any]], None],
) -> None:
    """Run the model one sample at a time, or in its fixed batch size, and show these tensors.

    see: called with the name of a tensor and its values.
    """
    runner = session(_giving(model, names), "the float file")
    inputs = [value.name for value in runner.get_inputs()]
    asked = [name for name in names if name not in inputs]
    size = fixed_batch(runner) or 1
    for batch in batches:
        given = feed(batch, inputs)
        samples = length(given) or size
        for start, part in enumerate(pieces(given, size)):
            fresh = samples - start * size  # the last piece may be padded
            values = {**part, **dict(zip(asked, runner.run(asked, dict(part)), strict=True))}
            for name in names:
                see(name, without_filling(values[name], size, fresh))


def _giving(model: onnx.ModelProto, names: Collection[str]) -> bytes:
    """Return the model with these tensors as additional outputs."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    own = {value.name for value in (*watched.graph.output, *watched.graph.input)}
    for name in names:
        if name not in own:
            watched.graph.output.append(onnx.ValueInfoProto(name=name))
    content: bytes = watched.SerializeToString()
    return content
