"""Random float networks, for tests that hold for any."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

SIDE, CHANNELS = 8, 4


class RandomGraph:
    """A network of [batch, 4, 8, 8] tensors that ends in a pooled vector, linear layers, and
    perhaps a second output."""

    def __init__(self, seed: int, opset: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._opset = opset
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def save(self, path: Path, operations: int = 8) -> Path:
        tensors = ["x"]
        for _ in range(operations):
            tensors.append(self._operation(tensors))
        last = tensors[-1]
        for unread in [name for name in tensors[1:-1] if not self._is_read(name)]:
            last = self._node("Add", [last, unread])
        pooled = self._node("GlobalAveragePool", [last])
        vector = self._node("Flatten", [pooled])
        outputs = [self._activated(self._linear(vector))]
        if self._rng.random() < 0.3:
            outputs.append(self._node("Softmax", [self._linear(vector)], axis=-1))
        ports = [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs
        ]
        inputs = [
            helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", CHANNELS, SIDE, SIDE])
        ]
        graph = helper.make_graph(self._nodes, "random", inputs, ports, self._constants)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self._opset)], ir_version=9
        )
        onnx.save(onnx.shape_inference.infer_shapes(model), path)
        return path

    def _is_read(self, name: str) -> bool:
        return any(name in node.input for node in self._nodes)

    def _operation(self, tensors: list[str]) -> str:
        """One more tensor of the common shape, from one of the last ones."""
        source = tensors[-1] if self._rng.random() < 0.7 else str(self._rng.choice(tensors))
        other = str(self._rng.choice(tensors))
        makers = {
            "conv": lambda: self._activated(self._conv(source, CHANNELS)),
            "normed": lambda: self._activated(
                self._normed(self._conv(source, CHANNELS, bias=False))
            ),
            "add": lambda: self._activated(self._node("Add", [source, other])),
            "concat": lambda: self._conv(
                self._node("Concat", [source, other], axis=1), 2 * CHANNELS
            ),
            "silu": lambda: self._node("Mul", [source, self._node("Sigmoid", [source])]),
            "pool": lambda: self._node("MaxPool", [source], kernel_shape=[3, 3], pads=[1] * 4),
            "average": lambda: self._node(
                "AveragePool", [source], kernel_shape=[3, 3], pads=[1] * 4
            ),
            "activation": lambda: self._activated(source),
            "transposed": lambda: self._transposed(source),
        }
        weights = np.array([4, 2, 2, 1, 1, 1, 1, 1, 1]) / 14
        return makers[str(self._rng.choice(list(makers), p=weights))]()

    def _activated(self, source: str) -> str:
        draw = self._rng.random()
        if draw < 0.35:
            return self._node("Relu", [source])
        if draw < 0.6:
            low, high = ((0, 6), (-1, 1), (0, 0.7), (-0.3, 2))[self._rng.integers(4)]
            return self._node(
                "Clip", [source, self._constant(np.float32(low)), self._constant(np.float32(high))]
            )
        return source

    def _conv(self, source: str, channels: int, *, bias: bool = True) -> str:
        kernel = int(self._rng.choice([1, 3]))
        weight = self._weight(CHANNELS, channels, kernel, kernel)
        inputs = [source, weight] + (
            [self._weight(CHANNELS)] if bias and self._rng.random() < 0.8 else []
        )
        return self._node("Conv", inputs, pads=[kernel // 2] * 4)

    def _normed(self, source: str) -> str:
        values = [self._rng.uniform(0.3, 2, CHANNELS), *self._rng.normal(size=(2, CHANNELS))]
        values.append(self._rng.uniform(0.5, 3, CHANNELS))
        return self._node(
            "BatchNormalization",
            [source, *(self._constant(value.astype("f4")) for value in values)],
        )

    def _transposed(self, source: str) -> str:
        last = self._node("Transpose", [source], perm=[0, 2, 3, 1])
        mixed = self._node("MatMul", [last, self._weight(CHANNELS, CHANNELS)])
        if self._rng.random() < 0.5:
            mixed = self._node("Add", [mixed, self._weight(CHANNELS)])
        return self._node("Transpose", [self._activated(mixed)], perm=[0, 3, 1, 2])

    def _linear(self, source: str) -> str:
        return self._node("Gemm", [source, self._weight(5, CHANNELS), self._weight(5)], transB=1)

    def _weight(self, *shape: int) -> str:
        fan_in = max(int(np.prod(shape[1:])), 1)
        values = self._rng.normal(size=shape) * (1.5 / fan_in) ** 0.5
        if self._rng.random() < 0.2:
            values[0] = 0  # a pruned channel
        return self._constant(values.astype(np.float32))

    def _constant(self, values: np.ndarray | np.float32) -> str:
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def _node(self, kind: str, inputs: list[str], **attributes: object) -> str:
        output = f"t{len(self._nodes)}"
        name = f"{kind}_{output}" if self._rng.random() < 0.8 else ""
        self._nodes.append(helper.make_node(kind, inputs, [output], name=name, **attributes))
        return output
