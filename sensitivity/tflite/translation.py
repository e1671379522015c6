"""An ONNX graph under construction, with the ONNX value that holds each tensor of the .tflite file.

A tensor is held with channels last, as in the file, or with channels first, as ONNX's convolutions
take it. If the other layout is asked for, a Transpose is added, but only once. Quantized tensors
are held as the real numbers after their pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sensitivity.errors import TfliteFileError
from sensitivity.tasks.onnx_arrays import CODES
from sensitivity.tflite.model import QUANTIZED, Array, Graph, Grid, Operator, Tensor
from sensitivity.tflite.read import DTYPES

Layout = Literal["last", "first"]
"""Whether channels are on the last axis or on the first one after the batch."""

FLOATS = ("FLOAT32", "FLOAT16", "BFLOAT16")
OPSET, OPSET_OF_16_BITS = 17, 21
"""Opsets of the result: pairs of 16 bits need the newer one."""

IR_VERSION = {OPSET: 8, OPSET_OF_16_BITS: 10}
"""Opset -> version of the ONNX format."""

ACTIVATIONS: dict[str, tuple[str, tuple[float, ...]]] = {
    "RELU": ("Relu", ()),
    "RELU6": ("Clip", (0.0, 6.0)),
    "RELU_N1_TO_1": ("Clip", (-1.0, 1.0)),
    "RELU_0_TO_1": ("Clip", (0.0, 1.0)),
}
"""Activations that clamp -> their operator in ONNX and the limits of a Clip, which a Relu does not
have."""


class Translation:
    """Adds operators one after the other: `take` returns what they read, `emit` adds nodes, `give`
    stores their outputs."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        quantized_types = {tensor.type for tensor in graph.tensors if tensor.grid}
        self.opset = OPSET_OF_16_BITS if "INT16" in quantized_types else OPSET
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._names = {tensor.name for tensor in graph.tensors if tensor.values is None}
        self._held: dict[int, dict[Layout, str]] = {}
        self._node_names: set[str] = set()
        self._loose: dict[str, Any] = {}  # value that holds no tensor yet -> its node
        self._behind: dict[int, int] = {}  # tensor -> the constant that it equals
        self._inputs = [self._input(index) for index in graph.inputs]

    def tensor(self, index: int) -> Tensor:
        """Return a tensor of the file."""
        return self.graph.tensors[index]

    def layout(self, index: int) -> Layout:
        """Return the layout in which a tensor needs no other Transpose: "first" if it is held so,
        else "last"."""
        if "first" in self._held.get(index, {}):
            return "first"
        return "last"

    def take(self, index: int, layout: Layout = "last") -> str:
        """Return the ONNX value of a tensor in this layout.

        Raises TfliteFileError if nothing computes the tensor before it is read.
        """
        index = self._behind.get(index, index)
        tensor = self.tensor(index)
        if index not in self._held and tensor.values is None:
            raise TfliteFileError(
                f"Expected every tensor of {self.graph.file} to be an input, a constant or made by "
                f"an operator before it is read, got {tensor.name}; convert the model again."
            )
        values = self._held.setdefault(index, {})
        if layout in values:
            return values[layout]
        if tensor.values is not None:
            values[layout] = self._constant(tensor, layout)
        else:
            (other, value), *_ = values.items()
            perm = axes_to("first", len(tensor.shape), back=other == "first")
            name = f"{tensor.name}/channels_{layout}"
            self.hold(index, self.emit("Transpose", [value], name, perm=perm), layout)
        return values[layout]

    def weight(self, index: int, perm: Sequence[int]) -> str:
        """Return a weight with its axes, and the axis of its scales, in another order."""
        tensor = self.tensor(self._behind.get(index, index))
        if tensor.values is not None:
            return self._stored(tensor, tensor.values, perm, tensor.name)
        return self.emit("Transpose", [self.take(index)], f"{tensor.name}/moved", perm=list(perm))

    def integers(self, operator: Operator, position: int) -> Array:
        """Return the constant that an operator reads as axes, sides or paddings.

        position: index of the input.
        Raises TfliteFileError if the input is not a constant.
        """
        tensor = self.tensor(operator.inputs[position])
        if tensor.values is None:
            raise TfliteFileError(
                f"Expected input {position} of {self.where(operator)} to be a constant, got "
                f"{tensor.name}, which the model computes; convert it with inputs of fixed sides."
            )
        return tensor.values.reshape(-1).astype(np.int64)

    def number(self, values: Any, name: str) -> str:
        """Add a constant to the ONNX file and return its name."""
        name = unique(name, self._names)
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def emit(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        output = unique(f"{name}/output", self._names)
        name = unique(name, self._node_names)
        node = helper.make_node(kind, list(inputs), [output], name=name, **attributes)
        self.nodes.append(node)
        self._loose[output] = node
        return output

    def give(
        self, operator: Operator, value: str, layout: Layout = "last", *, position: int = 0
    ) -> None:
        """Let an ONNX value be the operator's output, after its activation and its pair.

        position: index of the output.
        """
        index = operator.outputs[position]
        value = self._activated(operator, value)
        value = self._paired(value, self.tensor(index), operator)
        self.hold(index, value, layout)

    def hold(self, index: int, value: str, layout: Layout) -> None:
        """Let an ONNX value hold a tensor in this layout.

        The value takes the tensor's name unless another value has it. For an output of the graph,
        the value with channels last has the name.
        """
        name, values = self.tensor(index).name, self._held.setdefault(index, {})
        is_output = index in self.graph.outputs
        has_own_name = layout == "last" if is_output else not values
        if not has_own_name:
            name = f"{name}/channels_{layout}"
        node = self._loose.pop(value, None)
        if node is not None:
            node.output[0] = value = name
        values[layout] = value

    def stand_for(self, index: int, constant: int) -> None:
        """Let a tensor equal a constant of the file from now on."""
        self._behind[index] = constant

    def keeps_grid(self, operator: Operator) -> bool:
        """Return whether the operator's output needs no pair, because it is float or has the grid
        of the input."""
        given, wanted = self.tensor(operator.inputs[0]), self.tensor(operator.outputs[0])
        if wanted.grid is None:
            return True
        return wanted.type == given.type and wanted.grid.same_as(given.grid)

    def where(self, operator: Operator) -> str:
        """Return the operator in words."""
        output = self.tensor(operator.outputs[0]).name
        return f"{operator.kind} number {operator.place} of {self.graph.file}, which makes {output}"

    def model(self) -> onnx.ModelProto:
        """Return the ONNX model of everything that was added."""
        outputs = [self._output(index) for index in self.graph.outputs]
        graph = helper.make_graph(self.nodes, "tflite", self._inputs, outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = IR_VERSION[self.opset]
        helper.set_model_props(model, self._codes())
        return onnx.shape_inference.infer_shapes(model)

    def _codes(self) -> dict[str, str]:
        """Return metadata about the integers that quantized inputs have in the .tflite file."""
        kept = {}
        for index in self.graph.inputs:
            tensor = self.tensor(index)
            if tensor.grid is not None:
                scale, zero_point = tensor.grid.scales[0], tensor.grid.zero_points[0]
                kept[CODES.format(tensor.name)] = f"{tensor.type.lower()} {scale} {zero_point}"
        return kept

    def _input(self, index: int) -> Any:
        """Return an input of the graph."""
        tensor = self.tensor(index)
        self._held[index] = {"last": self._paired(tensor.name, tensor, None)}
        return _value_info(tensor)

    def _output(self, index: int) -> Any:
        """Return an output of the graph under the tensor's own name."""
        tensor = self.tensor(index)
        value = self.take(index)
        if value != tensor.name:
            node = helper.make_node("Identity", [value], [tensor.name], name=f"{tensor.name}/out")
            self.nodes.append(node)
        return _value_info(tensor)

    def _constant(self, tensor: Tensor, layout: Layout) -> str:
        """Add a constant tensor in this layout and return its value."""
        assert tensor.values is not None
        perm = axes_to(layout, tensor.values.ndim)
        name = tensor.name if layout == "last" else f"{tensor.name}/channels_first"
        return self._stored(tensor, tensor.values, perm, name)

    def _stored(self, tensor: Tensor, values: Array, perm: Sequence[int], name: str) -> str:
        """Add a constant with its axes in this order, after a DQ if it is quantized, and return
        its value."""
        moved = np.ascontiguousarray(values.transpose(perm))
        grid = tensor.grid
        if tensor.type in FLOATS:
            return self.number(moved.astype(np.float32), name)
        if grid is None:
            return self.number(moved, name)
        if moved.dtype == np.int64:  # ONNX has no pair for the bias of a 16-bit layer
            return self.number((moved * grid.scales.astype(np.float64)).astype(np.float32), name)
        axis = list(perm).index(grid.axis) if grid.per_channel else 0
        return self._dequantized(self.number(moved, name), grid, moved.dtype, axis, name)

    def _dequantized(self, value: str, grid: Grid, dtype: Any, axis: int, name: str) -> str:
        """Return the output of a DQ that reads this value."""
        inputs = [value, *self._grid(grid, dtype, name)]
        attributes = {"axis": axis} if grid.per_channel else {}
        return self.emit("DequantizeLinear", inputs, f"{name}/DequantizeLinear", **attributes)

    def _grid(self, grid: Grid, dtype: Any, name: str) -> list[str]:
        """Add scale and zero point as constants and return their names. An INT32 bias has no zero
        point."""
        shape = grid.scales.shape if grid.per_channel else ()
        inputs = [self.number(grid.scales.reshape(shape), f"{name}/scale")]
        if dtype != np.int32:
            zero_points = grid.zero_points.reshape(shape).astype(dtype)
            inputs.append(self.number(zero_points, f"{name}/zero_point"))
        return inputs

    def _activated(self, operator: Operator, value: str) -> str:
        """Return the value after the activation that is fused into the operator.

        Raises TfliteFileError for an activation that does not clamp.
        """
        word = operator.options.get("fusedActivationFunction", "NONE")
        if word == "NONE":
            return value
        if word not in ACTIVATIONS:
            raise TfliteFileError(
                f"Expected fused activations that clamp ({', '.join(ACTIVATIONS)}), got {word} in "
                f"{self.where(operator)}; LiteRT leaves it out or refuses it: convert the model "
                "with the activation as an operator."
            )
        return self.clamped(value, word, f"{self.tensor(operator.outputs[0]).name}/{word}")

    def clamped(self, value: str, word: str, name: str) -> str:
        """Return the output of an activation in `ACTIVATIONS`."""
        kind, limits = ACTIVATIONS[word]
        given = [self.number(np.float32(limit), f"{name}/limit") for limit in limits]
        return self.emit(kind, [value, *given], name)

    def _paired(self, value: str, tensor: Tensor, operator: Operator | None) -> str:
        """Return the value after the pair of its tensor, if the tensor is quantized."""
        if tensor.grid is None:
            return value
        if tensor.type not in QUANTIZED or tensor.grid.per_channel:
            place = self.graph.file if operator is None else self.where(operator)
            raise TfliteFileError(
                f"Expected activations in {', '.join(QUANTIZED)} with one scale, got {tensor.type} "
                f"for {tensor.name} with {tensor.grid.scales.size} at {place}; quantize it so."
            )
        name, dtype = tensor.name, DTYPES[tensor.type]
        inputs = self._grid(tensor.grid, np.dtype(dtype), name)
        stored = self.emit("QuantizeLinear", [value, *inputs], f"{name}/QuantizeLinear")
        return self.emit("DequantizeLinear", [stored, *inputs], f"{name}/DequantizeLinear")


def _value_info(tensor: Tensor) -> Any:
    """Return an input or output of the ONNX file, in float if the tensor is quantized."""
    is_real = tensor.grid is not None or tensor.type in FLOATS
    dtype = np.float32 if is_real else DTYPES[tensor.type]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(tensor.name, kind, tensor.shape)


def unique(name: str, taken: set[str]) -> str:
    """Return the name, with a number if it is taken, and add it to `taken`."""
    free, number = name, 1
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    taken.add(free)
    return free


def axes_to(layout: Layout, rank: int, *, back: bool = False) -> list[int]:
    """Return, for each axis of a tensor in this layout, the axis of the file, whose channels are
    last.

    back: whether to return, for each axis of the file, the axis in this layout.

    >>> axes_to("first", 4), axes_to("first", 4, back=True)
    ([0, 3, 1, 2], [0, 2, 3, 1])
    """
    if layout == "last" or rank < 3:
        return list(range(rank))
    if back:
        return [0, *range(2, rank), 1]
    return [0, rank - 1, *range(1, rank - 1)]


def axis_in(layout: Layout, axis: int, rank: int) -> int:
    """Return the position in this layout of an axis of the file.

    axis: may be negative to count from the end.

    >>> axis_in("first", -1, 4)
    1
    """
    return axes_to(layout, rank).index(axis % rank)
