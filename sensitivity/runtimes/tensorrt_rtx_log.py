"""Reads the layers that the builder of TensorRT for RTX lists in its detailed log, as 1.7.1 writes
it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from sensitivity.errors import RuntimeUnavailable
from sensitivity.runtimes.engine_json import ONNX_LAYER, PRECISIONS

LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: "
    r"\[(?P<constants>.*?)\], "
    r"Outputs: \[(?P<outputs>.*?)\], TacticName: (?P<rest>.*)"
)
TENSOR = re.compile(r"\{ Name: (.*?), Dimensions: \[([\d,]*)\], .*?Datatype: (\w+)")
BITS = {
    "int4": 4,
    "fp4": 4,
    "int8": 8,
    "uint8": 8,
    "bool": 8,
    "fp8": 8,
    "fp16": 16,
    "bf16": 16,
    "int64": 64,
}
UNNAMED = "node_of_"
"""Prefix that the parser puts before the first output of an unnamed node to name the node."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of the engine.

    dtype: "int8", "fp16", "fp32", ...
    shape: as the engine holds it, with channels that it added.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the values, rounded up; four for each value of an unknown type."""
        return (math.prod(self.shape) * BITS.get(self.dtype, 32) + 7) // 8


@dataclass(frozen=True)
class Layer:
    """A layer of the engine.

    kind: the builder's own word, such as "correlation", "gemm", "runtime_fusion" or "kgen".
    onnx: names of the ONNX nodes that it is made of; an unnamed node has the name of its first
        output.
    inputs, outputs: activations.
    constants: weights, scales, biases.
    """

    name: str
    kind: str
    onnx: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def engine_layers(text: str, version: str) -> tuple[Layer, ...]:
    """Return the layers in the engine's order.

    text: the log's message that begins with "Layers:".
    version: of tensorrt_rtx, for the message.
    Raises RuntimeUnavailable if this version lists them in another form.
    """
    listed = text.partition("\n\n")[0].splitlines()[1:]
    if not listed:
        raise _unreadable("no layers", version)
    return tuple(_layer(line, version) for line in listed)


def _layer(line: str, version: str) -> Layer:
    match = LINE.fullmatch(line)
    if match is None:
        raise _unreadable(line[:100], version)
    names = (name.removeprefix(UNNAMED) for name in ONNX_LAYER.findall(match["rest"]))
    inputs, constants, outputs = (
        _tensors(match[key]) for key in ("inputs", "constants", "outputs")
    )
    return Layer(
        match["name"], match["kind"], tuple(dict.fromkeys(names)), inputs, constants, outputs
    )


def _tensors(text: str) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(name, PRECISIONS.get(dtype.lower(), dtype.lower()), tuple(_sizes(sizes)))
        for name, sizes, dtype in TENSOR.findall(text)
    )


def _sizes(text: str) -> Iterable[int]:
    return (int(size) for size in text.split(",") if size)


def _unreadable(got: str, version: str) -> RuntimeUnavailable:
    return RuntimeUnavailable(
        f"Expected the log of TensorRT-RTX {version} to list the engine's layers as 1.7.1 does, "
        f"got {got!r}; install tensorrt-rtx 1.7.1."
    )
