"""A chain of convolutions as ONNX, float or Q/DQ, small enough for every runtime's tests."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def inputs(batch: int = 1, seed: int = 0) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(size=(batch, 3, 16, 16)).astype(np.float32)}


class Chain:
    """Collects nodes and initializers of `layers` convolutions with ReLU, then a global average
    pool."""

    def __init__(
        self, layers: int, quantized: frozenset[int], outputs_too: bool, dtype: type, dynamic: bool
    ) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        rng, x, channels = np.random.default_rng(1), "x", 3
        for i in range(layers):
            weight = self.constant(
                f"w{i}", rng.normal(size=(16, channels, 3, 3)).astype(np.float32) * 0.1
            )
            bias = self.constant(f"b{i}", np.zeros(16, np.float32))
            if i in quantized:
                x = self.qdq(x, np.float32(0.05), f"act{i}", dtype)
                weight = self.qdq(
                    weight, np.full(16, 0.003, np.float32), f"weight{i}", np.int8, axis=0
                )
            self.nodes.append(
                helper.make_node(
                    "Conv", [x, weight, bias], [f"c{i}"], name=f"layer{i}/Conv", pads=[1] * 4
                )
            )
            x = f"c{i}"
            if outputs_too and i in quantized:
                x = self.qdq(x, np.float32(0.05), f"out{i}", dtype)
            self.nodes.append(helper.make_node("Relu", [x], [f"r{i}"], name=f"layer{i}/Relu"))
            x, channels = f"r{i}", 16
        self.nodes.append(helper.make_node("GlobalAveragePool", [x], ["y"], name="pool"))
        self.batch = "batch" if dynamic else 1

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def qdq(self, x: str, scale: np.ndarray, tag: str, dtype: type, axis: int | None = None) -> str:
        grid = [
            self.constant(f"{tag}_scale", scale),
            self.constant(f"{tag}_zero", np.zeros_like(scale, dtype=dtype)),
        ]
        where = {} if axis is None else {"axis": axis}
        self.nodes.append(
            helper.make_node("QuantizeLinear", [x, *grid], [f"{tag}_q"], name=f"{tag}_Q", **where)
        )
        self.nodes.append(
            helper.make_node(
                "DequantizeLinear", [f"{tag}_q", *grid], [f"{tag}_dq"], name=f"{tag}_DQ", **where
            )
        )
        return f"{tag}_dq"

    def to_half(self) -> None:
        """FP16 inside, FP32 outside: a Cast at both ends, constants in FP16."""
        for constant in self.constants:
            constant.CopyFrom(
                numpy_helper.from_array(
                    numpy_helper.to_array(constant).astype(np.float16), constant.name
                )
            )
        self.nodes[0].input[0], self.nodes[-1].output[0] = "x_half", "y_half"
        self.nodes.insert(
            0, helper.make_node("Cast", ["x"], ["x_half"], name="half", to=TensorProto.FLOAT16)
        )
        self.nodes.append(
            helper.make_node("Cast", ["y_half"], ["y"], name="float", to=TensorProto.FLOAT)
        )

    def save(self, path: Path) -> Path:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [self.batch, 3, 16, 16])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [self.batch, 16, 1, 1])
        graph = helper.make_graph(self.nodes, "chain", [x], [y], self.constants)
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
            path,
        )
        return path


def chain(
    path: Path,
    quantized: set[int] | None = None,
    *,
    layers: int = 3,
    outputs_too: bool = False,
    dtype: type = np.int8,
    dynamic: bool = False,
    half: bool = False,
) -> Path:
    """Write a chain whose layers in `quantized` have Q/DQ on input and weight (and on outputs too,
    if asked).

    half: the float chain in FP16.
    """
    made = Chain(layers, frozenset(quantized or ()), outputs_too, dtype, dynamic)
    if half:
        made.to_half()
    return made.save(path)
