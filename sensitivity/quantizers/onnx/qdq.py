"""Q/DQ ONNX files as quantized models: files of ONNX Runtime's quantize_static, ModelOpt ONNX,
tf2onnx and of this project.

A quantizer is one Q/DQ pair as one operation uses it, so that each operation can be left
unquantized alone. Layers are the operations, with and without weights, and the graph's outputs.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import ModelError
from sensitivity.onnx_graph.clamps import UNLIMITED
from sensitivity.onnx_graph.connections import connections
from sensitivity.onnx_graph.digest import content
from sensitivity.onnx_graph.levels import E4M3, FIRST_OPSET
from sensitivity.onnx_graph.qdq_groups import belonging, meeting_uses
from sensitivity.onnx_graph.reach import (
    nearest_outputs,
    quantized_nodes,
    reaching_outputs,
    rounded_outputs,
)
from sensitivity.onnx_graph.uses import (
    Use,
    bits_of,
    format_of,
    grid_limits,
    integer_limits,
    is_integer_bias,
    path_owners,
    problem,
    uses,
)
from sensitivity.onnx_graph.walk import value_name
from sensitivity.quantizers.base import first_fault, known_names, weights_and_activations
from sensitivity.quantizers.onnx.batches import feed
from sensitivity.quantizers.onnx.doubts import float_doubts
from sensitivity.quantizers.onnx.float_model import compare_with_float
from sensitivity.quantizers.onnx.ranges import (
    float_weight,
    knows_float_weights,
    lacks_float_weights,
    new_grids,
    other_ranges,
    output_axis,
    own_range,
    roots,
    sharing,
)
from sensitivity.quantizers.proofs import left_quantized
from sensitivity.records import Finding, Grid, ModelGraph, Quantizer, Range, UnitKind, names_of

if TYPE_CHECKING:
    from sensitivity.onnx_graph.passes.skip_uses import NewGrid
    from sensitivity.quantizers.base import Seer
    from sensitivity.quantizers.onnx.model import OnnxModel

NO_FLOAT_WEIGHTS = (
    "Weights with one scale per tensor keep it: of one scale per channel nothing is gained where "
    "only their integers are known. Give the float file with --float-model."
)


class OnnxQdqModel:
    """An `OnnxModel` as a `QuantizedModel`."""

    source = "onnx_qdq"
    form = "onnx"
    in_words = "a Q/DQ file"
    float_model_from = "the file that OnnxModel(float_path=...) names"
    warnings: tuple[str, ...] = ()

    def __init__(self, model: OnnxModel) -> None:
        self.model = model
        self._left_out = model.skipped
        self._uses = {use.name: use for use in model.uses if use.name not in model.skipped}
        self.quantizers = tuple(
            Quantizer(
                use.name,
                use.unit,
                use.role,
                bits_of(use.pair),
                use.pair.axis,
                problem(use.pair),
                format=format_of(use.pair),
            )
            for use in self._uses.values()
        )

    @staticmethod
    def recognises(model: Any) -> bool:
        return (
            type(model).__name__ == "OnnxModel"
            and type(model).__module__ == "sensitivity.quantizers.onnx.model"
        )

    @contextmanager
    def disabled(self, names: Iterable[str]) -> Iterator[None]:
        wanted = known_names(names, self._uses)
        with self.model.skipping(wanted | self._left_out):
            yield

    def grid(self, name: str) -> Grid:
        known_names([name], self._uses)
        pair = self._uses[name].pair
        faults = {
            "its type is not an integer type": grid_limits(pair) is None,
            "its scale is computed in the graph": pair.scale is None,
            "its channels have different zero points": len(pair.zero_points) > 1,
        }
        fault = first_fault(faults) or problem(pair)
        if fault:
            raise ModelError(
                f"Expected {name} to quantize to one integer grid, got a quantizer that does not: "
                f"{fault}."
            )
        limits = integer_limits(pair)
        new = self.model.grids.get(name)
        if new is not None and new.range.fp8:
            raise ModelError(
                f"Expected {name} to quantize to one integer grid, got one whose levels are FP8."
            )
        if new is None:
            scale = np.asarray(pair.scale, np.float32).reshape(-1)
            return Grid(scale, int(pair.zero_points[0]), *limits, axis=pair.axis)
        if new.has_own_type:
            whole = np.iinfo(new.zero_point.dtype)
            limits = int(whole.min), int(whole.max)
        scale = np.asarray(new.scale, np.float32).reshape(-1)
        return Grid(scale, int(new.zero_point.reshape(-1)[0]), *limits, axis=new.axis)

    def range(self, name: str) -> Range:
        """Return the current range of a quantizer. Raises ModelError if it has none that could be
        changed."""
        self.grid(name)
        new = self.model.grids.get(name)
        if new is not None:
            return replace(new.range, quantizer=name)
        return own_range(name, self._uses[name])

    @contextmanager
    def with_ranges(self, ranges: Iterable[Range]) -> Iterator[None]:
        with self.model.on_grids(self.new_grids(ranges)):
            yield

    def new_grids(self, ranges: Iterable[Range]) -> dict[str, NewGrid]:
        """Return use -> its new grid for these ranges. Raises as `with_ranges`."""
        ranges = tuple(ranges)
        for wanted in ranges:
            self.range(wanted.quantizer)
        return new_grids(self.model, self._uses, ranges)

    def other_ranges(self, names: Iterable[str], forward: Callable[[], None]) -> tuple[Range, ...]:
        return other_ranges(self.model, self._uses, names, forward)

    def no_fp8(self) -> str | None:
        opset = self.model.graph.opset_imports.get("", 0)
        if opset >= FIRST_OPSET[E4M3]:
            return None
        return (
            f"opset {opset} in {self.model.path.name}, and QuantizeLinear has FP8 from opset "
            f"{FIRST_OPSET[E4M3]} on; convert the float model with "
            "onnx.version_converter.convert_version and quantize it again, or leave fp8 out"
        )

    def weights(self) -> Iterator[tuple[str, NDArray[np.floating], int | None]]:
        weights, _ = weights_and_activations(self._uses.values())
        for use in weights:
            weight = float_weight(self.model, use)
            if weight is not None and not is_integer_bias(use.pair):
                yield use.name, weight, output_axis(self.model, use)

    @contextmanager
    def watching(self, see: Seer) -> Iterator[None]:
        tensors = roots(self.model)
        _, activations = weights_and_activations(self._uses.values())
        readers: defaultdict[str, list[Use]] = defaultdict(list)
        for use in activations:
            if use.name in tensors:
                readers[tensors[use.name]].append(use)

        def seen(tensor: str, values: NDArray[Any]) -> None:
            for use in readers[tensor]:
                limits = self.model.clamps.get(value_name(use.pair.source), UNLIMITED)
                see(use.name, np.clip(values, *limits))

        with self.model.watching(tuple(readers), seen):
            yield

    def sharing(self) -> tuple[tuple[str, ...], ...]:
        return sharing(self.model, self._uses)

    def takes_rounding(self) -> bool:
        """Return whether a weight can be rounded differently: of some its float values are
        known."""
        return knows_float_weights(self.model, self._uses)

    def missing(self) -> str | None:
        return NO_FLOAT_WEIGHTS if lacks_float_weights(self.model, self._uses) else None

    def fingerprint(self) -> str:
        digest = hashlib.sha256(content(self.model.graph))
        for name, values in sorted(self.model.weights.items()):
            digest.update(name.encode() + np.ascontiguousarray(values).tobytes())
        digest.update(repr(sorted(self.model.clamps.items())).encode())
        keys = sorted((name, grid.key) for name, grid in self.model.grids.items())
        if keys:
            digest.update(repr(keys).encode())
        return digest.hexdigest()

    def forward(self, inputs: Any) -> None:
        names = names_of(self.model.get_inputs())
        self.model.run(None, feed(inputs, names))

    def related(self) -> tuple[tuple[UnitKind, tuple[str, ...]], ...]:
        """Return units that an engine wants in one precision. Units that share a range do so in the
        file already."""
        groups = belonging(self.model.graph.graph, self.model.paths)
        return tuple((together.kind, together.units) for together in groups)

    def connections(self) -> ModelGraph:
        graph, paths = self.model.graph.graph, self.model.paths
        together = meeting_uses(graph, paths)
        return connections(graph, path_owners(paths), together)

    def nearest_outputs(self) -> tuple[tuple[str, ...], ...]:
        names = nearest_outputs(self.model.graph.graph, self.model.paths)
        is_own = self._uses.__contains__
        return tuple(tuple(filter(is_own, near)) for near in names)

    def remaining(self) -> tuple[Finding, ...]:
        plain = self.model.without(self._left_out | frozenset(self._uses))
        left = [left_quantized(name, f"a {node.op_type}") for name, node in quantized_nodes(plain)]
        return (*left, *(_integer_output(name) for name, _ in rounded_outputs(plain)))

    def executed(self, inputs: Any) -> frozenset[str]:
        """Return the quantizers whose values reach an output, without those in a branch that an If
        did not take on these inputs."""
        live = reaching_outputs(self.model.graph.graph)
        idle = self.model.branches_not_taken(inputs)
        executed: set[str] = set()
        for path in self.model.paths:
            if path.graph not in idle:
                executed.update(use.name for use in uses([path]) if use.pair.dequantize in live)
        return frozenset(executed & self._uses.keys())

    def float_findings(self, inputs: Any) -> tuple[Finding, ...]:
        """Return findings on whether the file with everything unquantized is its float model.

        The two are compared on this batch if the float model was given; otherwise doubts are
        returned.
        """
        if self.model.float is None:
            return float_doubts(self.model, inputs)
        return compare_with_float(self.model, inputs)


def _integer_output(name: str) -> Finding:
    """Return the warning that an output holds integers."""
    return Finding(
        "integer-output",
        "warning",
        name,
        "Expected the model to give float values, got an output of integers: the rounding of "
        f"{name} belongs to the file's interface and stays in every variant, in float too.",
        "Quantize the model without its outputs to have them judged.",
    )
