"""The smallest graphs that break and keep a rule, written as ONNX text so that the docs can show
them.

x, x2, x3, y are activations float[1,16,8,8]; the names below are constants.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[Any]

X = "float[1,16,8,8] x"
Y = "float[1,16,8,8] y"


def weights(*shape: int) -> Array:
    """Return float32 weights that are the same at every call, with different channels and no
    zeros."""
    return np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)


CONSTANTS: dict[str, Array] = {
    "s": np.array(0.05, np.float32),
    "z": np.array(0, np.int8),
    "u": np.array(0, np.uint8),
    "u128": np.array(128, np.uint8),
    "w": weights(16, 16, 3, 3),
    "ws": np.full(16, 0.01, np.float32),
    "wz": np.zeros(16, np.int8),
    "v": weights(16, 16, 1, 1),
    "b": weights(16),
}
"""Constants that examples may use without declaring them: a scale, zero points, and weights with a
scale per channel."""


@dataclass(frozen=True)
class Example:
    """A graph from `inputs` to `outputs`.

    body: nodes in ONNX's text syntax.
    constants: constants that are not in CONSTANTS, or that replace one of them.
    metadata: metadata of the file.
    skip: unit names of the plan that it is linted with; None for no plan.
    """

    body: str
    inputs: str = X
    outputs: str = Y
    opset: int = 17
    constants: Mapping[str, Array] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    skip: tuple[str, ...] | None = None

    @property
    def used(self) -> dict[str, Array]:
        """The constants that the body uses."""
        named = set(re.findall(r"\w+", self.body))
        return {
            name: value for name, value in {**CONSTANTS, **self.constants}.items() if name in named
        }

    def proto(self) -> onnx.ModelProto:
        """Return the example as it is stored in a file. Raises onnx.parser.ParseError for an
        invalid body."""
        imports = f'"" : {self.opset}' + (
            ', "com.microsoft" : 1' if "com.microsoft." in self.body else ""
        )
        newest = 8 if self.opset < 19 else 10  # 4-bit types came with IR version 10
        proto = onnx.parser.parse_model(
            f"<ir_version: {newest}, opset_import: [{imports}]> example ({self.inputs}) => "
            f"({self.outputs}) {{{self.body}}}"
        )
        proto.graph.initializer.extend(
            onnx.numpy_helper.from_array(v, name) for name, v in self.used.items()
        )
        onnx.helper.set_model_props(proto, dict(self.metadata))
        return proto

    def model(self) -> ir.Model:
        """Return the example in the form that rules take."""
        model: ir.Model = ir.from_proto(self.proto())
        return model


def qdq(
    value: str, scale: str = "s", zero: str = "z", *, axis: int | None = None, to: str = ""
) -> str:
    """Return two lines of ONNX text: a Q/DQ pair of `value`, whose result is `<value>d` or `to`.

    >>> print(qdq("x"))
    xq = QuantizeLinear (x, s, z)
    xd = DequantizeLinear (xq, s, z)
    <BLANKLINE>
    """
    end = to or f"{value}d"
    attribute = "" if axis is None else f" <axis = {axis}>"
    quantized = end.removesuffix("d") + "q"
    return (
        f"{quantized} = QuantizeLinear{attribute} ({value}, {scale}, {zero})\n"
        f"{end} = DequantizeLinear{attribute} ({quantized}, {scale}, {zero})\n"
    )


def conv(
    data: str = "xd", weight: str = "wd", *, to: str = "y", name: str = "conv", rest: str = ""
) -> str:
    """Return one line of ONNX text: a convolution that keeps the size of the image, 3x3 unless
    `rest` says otherwise."""
    attributes = rest or "pads = [1, 1, 1, 1]"
    return f"[{name}] {to} = Conv <{attributes}> ({data}, {weight})\n"


POINTWISE = "pads = [0, 0, 0, 0]"
WEIGHT = qdq("w", "ws", "wz", axis=0)
CANONICAL = Example(qdq("x") + WEIGHT + conv())
"""The form of a convolution that TensorRT needs: activation per tensor, weight per channel, both
int8 with zero point 0."""
IN_FP8 = {"f": np.array(0, ml_dtypes.float8_e4m3fn), "fz": np.zeros(16, ml_dtypes.float8_e4m3fn)}
"""Zero points in FP8, per tensor and per channel."""
FP8_CONV = Example(
    qdq("x", zero="f") + qdq("w", "ws", "fz", axis=0) + conv(), opset=19, constants=IN_FP8
)
"""The same convolution in FP8."""
