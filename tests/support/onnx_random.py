"""Random float networks, and their quantized files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

CHANNELS, SIDE = 4, 6

OPERATIONS = (
    "Conv", "Conv+Relu", "Conv+Clip", "MatMul", "Add", "Concat", "MaxPool", "AveragePool", "Relu",
    "Clip", "Sigmoid",
    "Transpose", "If",
)  # fmt: skip
QUANTIZERS = ("default", "symmetric", "per_channel", "16_bit")


@dataclass(frozen=True)
class Recipe:
    """A random network.

    operations: one after the other; each reads the value before it.
    earlier: for operations that join, the earlier value that is joined.
    head: whether a Gemm over the means ends the network.
    seed: of weights and data.
    """

    operations: tuple[str, ...]
    earlier: tuple[int, ...]
    head: bool
    seed: int


def recipes(longest: int = 6) -> st.SearchStrategy[Recipe]:
    operations = st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=longest).map(tuple)
    return operations.flatmap(
        lambda chosen: st.builds(
            Recipe,
            st.just(chosen),
            st.tuples(*[st.integers(0, index) for index in range(len(chosen))]),
            st.booleans(),
            st.integers(0, 2**16),
        )
    )


@dataclass
class _Builder:
    rng: np.random.Generator
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(h.make_node(kind, inputs, [name], name=f"node_{name}", **attributes))
        return name

    def constant(self, array: Any) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(nh.from_array(np.asarray(array), name))
        return name

    def normal(self, *shape: int, factor: float) -> str:
        return self.constant((self.rng.normal(size=shape) * factor).astype("f4"))

    def conv(self, x: str, channels: int = CHANNELS) -> str:
        weight, bias = (
            self.normal(CHANNELS, channels, 3, 3, factor=0.3),
            self.normal(CHANNELS, factor=0.1),
        )
        return self.op("Conv", x, weight, bias, pads=[1] * 4)


def _branches(build: _Builder, x: str) -> str:
    """An If that takes its first branch always: quantizers do not look inside."""
    bodies = []
    for kind in ("Tanh", "Neg"):
        name = f"{kind.lower()}_in_{len(build.nodes)}"
        node = h.make_node(kind, [x], [name], name=f"node_{name}")
        bodies.append(
            h.make_graph([node], kind, [], [h.make_tensor_value_info(name, T.FLOAT, None)])
        )
    return build.op(
        "If", build.constant(np.array(True)), then_branch=bodies[0], else_branch=bodies[1]
    )


_MAKE: dict[str, Callable[[_Builder, str, str], str]] = {
    "Conv": lambda build, x, _: build.conv(x),
    "Conv+Relu": lambda build, x, _: build.op("Relu", build.conv(x)),
    "Conv+Clip": lambda build, x, _: _clip(build, build.conv(x)),
    "MatMul": lambda build, x, _: build.op("MatMul", x, build.normal(SIDE, SIDE, factor=0.4)),
    "Add": lambda build, x, other: build.op("Add", x, other),
    "Concat": lambda build, x, other: build.conv(
        build.op("Concat", x, other, axis=1), 2 * CHANNELS
    ),
    "MaxPool": lambda build, x, _: build.op("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4),
    "AveragePool": lambda build, x, _: build.op(
        "AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4
    ),
    "Relu": lambda build, x, _: build.op("Relu", x),
    "Clip": lambda build, x, _: _clip(build, x),
    "Sigmoid": lambda build, x, _: build.op("Sigmoid", x),
    "Transpose": lambda build, x, _: build.op("Transpose", x, perm=[0, 1, 3, 2]),
    "If": lambda build, x, _: _branches(build, x),
}


def _clip(build: _Builder, x: str) -> str:
    return build.op("Clip", x, build.constant(np.float32(0)), build.constant(np.float32(1)))


def network(recipe: Recipe) -> onnx.ModelProto:
    """The float network: x float[n, 4, 6, 6] -> y."""
    build = _Builder(np.random.default_rng(recipe.seed))
    values = ["x"]
    for kind, other in zip(recipe.operations, recipe.earlier, strict=True):
        values.append(_MAKE[kind](build, values[-1], values[other]))
    y = values[-1]
    if recipe.head:
        means = build.op("Flatten", build.op("GlobalAveragePool", y))
        y = build.op(
            "Gemm", means, build.normal(CHANNELS, 5, factor=1), build.normal(5, factor=0.1)
        )
    shape: list[Any] = ["n", 5] if recipe.head else ["n", CHANNELS, SIDE, SIDE]
    graph = h.make_graph(
        build.nodes,
        "random",
        [h.make_tensor_value_info("x", T.FLOAT, ["n", CHANNELS, SIDE, SIDE])],
        [h.make_tensor_value_info(y, T.FLOAT, shape)],
        build.constants,
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def samples(recipe: Recipe, count: int = 8) -> np.ndarray:
    return (
        np.random.default_rng(recipe.seed + 1)
        .normal(size=(count, CHANNELS, SIDE, SIDE))
        .astype("f4")
    )


def quantized_by_onnxruntime(source: Path, path: Path, recipe: Recipe, how: str) -> Path:
    """The file that quantize_static makes of a file, calibrated on `samples`.

    how: one of QUANTIZERS.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Calibration(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[Any] = iter([{"x": samples(recipe)}])

        def get_next(self) -> Any:
            return next(self.batches, None)

    options: dict[str, dict[str, Any]] = {
        "default": {},
        "symmetric": {
            "activation_type": QuantType.QInt8,
            "extra_options": {"ActivationSymmetric": True},
        },
        "per_channel": {"per_channel": True, "activation_type": QuantType.QUInt8},
        "16_bit": {"activation_type": QuantType.QUInt16, "weight_type": QuantType.QInt8},
    }
    quantize_static(
        str(source), str(path), Calibration(), quant_format=QuantFormat.QDQ, **options[how]
    )
    return path
