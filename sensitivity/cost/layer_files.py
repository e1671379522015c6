"""ONNX files of a single layer, to time it alone: in INT8, in float, and the conversions between
them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sensitivity.onnx_graph.work import LayerShape
from sensitivity.seeds import generator

OPSET = 17
FUSED = {"Relu", "Clip"}
"""Activation functions that integer kernels compute within the layer. The layer's own output is
quantized before any other one."""


def write_int8(shape: LayerShape, signed: bool, file: Path) -> Path:
    """Write the layer with integer inputs and outputs, as it is between INT8 layers, and return the
    path.

    signed: whether activations are int8, otherwise uint8.
    """
    build = _Build(shape, signed)
    value = build.dequantized("x", "x")
    value = build.layer(value, build.quantized_weight())
    for number, (op, attributes) in enumerate(shape.then):
        if op not in FUSED:
            value = build.through_integers(value, f"before{number}")
        value = build.activation(value, op, attributes, number)
    build.quantized(value, "y")
    return build.save(file, build.integer, build.integer)


def write_float(shape: LayerShape, file: Path) -> Path:
    """Write the layer in float, without Q and DQ, and return the path."""
    build = _Build(shape, signed=True)
    value = build.layer("x", build.constant("w", _noise(shape.weight)))
    for number, (op, attributes) in enumerate(shape.then):
        value = build.activation(value, op, attributes, number)
    build.node("Identity", [value], "y") if value != "y" else None
    return build.save(file, TensorProto.FLOAT, TensorProto.FLOAT)


def write_conversion(size: tuple[int, ...], signed: bool, to_int8: bool, file: Path) -> Path:
    """Write one QuantizeLinear or one DequantizeLinear of a tensor of this size, and return the
    path.

    signed: whether the integers are int8, otherwise uint8.
    """
    shape = LayerShape("", "{}", size, (), size, False, ())
    build = _Build(shape, signed)
    if to_int8:
        build.quantized("x", "y")
        return build.save(file, TensorProto.FLOAT, build.integer)
    build.dequantized("x", "y_")
    build.node("Identity", ["y_"], "y")
    return build.save(file, build.integer, TensorProto.FLOAT)


def sample(shape: tuple[int, ...], integer: np.dtype[Any] | None) -> dict[str, np.ndarray]:
    """Return seeded values for the input "x" of these files.

    integer: type of the input; None for float32.
    """
    values = generator().standard_normal(shape)
    return {
        "x": values.astype(np.float32)
        if integer is None
        else (values * 20 + 100).clip(0, 127).astype(integer)
    }


class _Build:
    """Nodes and constants of one small graph from "x" to "y"."""

    def __init__(self, shape: LayerShape, signed: bool) -> None:
        self.shape = shape
        self.integer = TensorProto.INT8 if signed else TensorProto.UINT8
        self._zero = np.array(0, np.int8) if signed else np.array(100, np.uint8)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, values: np.ndarray) -> str:
        self._constants.append(numpy_helper.from_array(values, name))
        return name

    def _grid(self, name: str) -> list[str]:
        return [
            self.constant(f"{name}.scale", np.array(0.05, np.float32)),
            self.constant(f"{name}.zero", self._zero),
        ]

    def quantized(self, value: str, output: str) -> str:
        return self.node("QuantizeLinear", [value, *self._grid(output)], output)

    def dequantized(self, value: str, output: str) -> str:
        return self.node(
            "DequantizeLinear",
            [value, *self._grid(output)],
            output if output != value else f"{value}.float",
        )

    def through_integers(self, value: str, name: str) -> str:
        scale, zero = self._grid(name)
        quantized = self.node("QuantizeLinear", [value, scale, zero], f"{name}.q")
        return self.node("DequantizeLinear", [quantized, scale, zero], f"{name}.dq")

    def quantized_weight(self) -> str:
        """Return the DequantizeLinear of an INT8 weight with a scale per output channel."""
        axis = 0 if self.shape.op == "Conv" else 1
        if self.shape.op == "Gemm" and json.loads(self.shape.attributes).get("transB"):
            axis = 0
        levels = np.clip(_noise(self.shape.weight) * 40, -127, 127).astype(np.int8)
        channels = self.shape.weight[axis] if len(self.shape.weight) > 1 else 1
        inputs = [
            self.constant("w.levels", levels),
            self.constant("w.scale", np.full(channels, 0.01, np.float32)),
            self.constant("w.zero", np.zeros(channels, np.int8)),
        ]
        return self.node("DequantizeLinear", inputs, "w", axis=axis)

    def layer(self, value: str, weight: str) -> str:
        attributes = json.loads(self.shape.attributes)
        inputs = [value, weight]
        if self.shape.bias:
            inputs.append(self.constant("b", _noise((self._channels(attributes),))))
        return self.node(self.shape.op, inputs, "layer", **attributes)

    def _channels(self, attributes: dict[str, Any]) -> int:
        if self.shape.op == "ConvTranspose":
            return self.shape.weight[1] * int(attributes.get("group", 1))
        along_rows = self.shape.op == "Conv" or attributes.get("transB")
        return self.shape.weight[0] if along_rows else self.shape.weight[-1]

    def activation(self, value: str, op: str, attributes: str, number: int) -> str:
        if op == "SiLU":
            return self.node(
                "Mul", [value, self.node("Sigmoid", [value], f"sigmoid{number}")], f"silu{number}"
            )
        if op == "Clip":
            bounds = [
                self.constant("low", np.array(0, np.float32)),
                self.constant("high", np.array(6, np.float32)),
            ]
            return self.node("Clip", [value, *bounds], f"act{number}")
        if op == "PRelu":
            return self.node("LeakyRelu", [value], f"act{number}", alpha=0.1)
        return self.node(op, [value], f"act{number}", **json.loads(attributes))

    def save(self, file: Path, given: int, gives: int) -> Path:
        graph = helper.make_graph(
            self._nodes,
            "layer",
            [helper.make_tensor_value_info("x", given, self.shape.input)],
            [helper.make_tensor_value_info("y", gives, None)],
            self._constants,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8
        )
        file.write_bytes(model.SerializeToString())
        return file


def _noise(shape: tuple[int, ...]) -> np.ndarray:
    return generator(offset=1).standard_normal(shape).astype(np.float32)
