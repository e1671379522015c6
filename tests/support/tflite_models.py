"""Small .tflite files, built with the schema that LiteRT ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

OPTIONS = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "SUM": "ReducerOptions",
    "REDUCE_MAX": "ReducerOptions",
    "REDUCE_MIN": "ReducerOptions",
    "PADV2": "PadV2Options",
    "MAXIMUM": "MaximumMinimumOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "BATCH_MATMUL": "BatchMatMulOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
}
"""Names in the schema that are not the operator's with Options after it."""

WITHOUT = {
    "LOGISTIC",
    "TANH",
    "PRELU",
    "RELU",
    "RELU6",
    "RELU_N1_TO_1",
    "RELU_0_TO_1",
    "ELU",
    "RSQRT",
}
"""Operators that have no options."""

VERSION = 2
VERSIONS = {
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"), 3),
    **dict.fromkeys(("FULLY_CONNECTED", "STRIDED_SLICE"), 4),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "BATCH_MATMUL"), 3),
    **dict.fromkeys(("PRELU", "PACK", "SQUARED_DIFFERENCE", "DEPTH_TO_SPACE"), 1),
    **dict.fromkeys(("EXPAND_DIMS", "RESHAPE", "HARD_SWISH", "ELU", "SPACE_TO_DEPTH"), 1),
    **dict.fromkeys(("SQUEEZE", "RELU_N1_TO_1"), 1),
}


class Lite:
    """A file in the making: `tensor` and `add` return and take numbers of tensors."""

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated

        self.schema = schema_py_generated
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.codes: list[Any] = []
        self.buffers = [self.schema.BufferT()]

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...] = (),
        kind: str = "INT8",
        grid: Any = (0.05, 3),
        values: Any = None,
        axis: int = 0,
    ) -> int:
        """grid: scale and zero point, or scales and zero points, or None. values: of a constant,
        which tells the shape."""
        made = self.schema.TensorT()
        made.name, made.type = name, getattr(self.schema.TensorType, kind)
        made.shape = list(shape if values is None else np.shape(values))
        made.buffer = 0
        if grid is not None:
            scales, zero_points = (np.atleast_1d(each) for each in grid)
            made.quantization = self.schema.QuantizationParametersT()
            made.quantization.scale = [float(each) for each in scales]
            made.quantization.zeroPoint = [int(each) for each in zero_points]
            made.quantization.quantizedDimension = axis
        if values is not None:
            buffer = self.schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
            made.buffer = len(self.buffers)
            self.buffers.append(buffer)
        self.tensors.append(made)
        return len(self.tensors) - 1

    def axes(self, *values: Any) -> int:
        """A constant of int32."""
        return self.tensor(f"axes{len(self.tensors)}", (), "INT32", None, np.array(values, "i4"))

    def add(self, kind: str, inputs: list[int], outputs: list[int], **options: Any) -> int:
        """Its first output. options: by their names in the schema; paddings and activations as
        numbers."""
        code = self.schema.OperatorCodeT()
        code.builtinCode = getattr(self.schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = VERSIONS.get(kind, VERSION)
        self.codes.append(code)
        made = self.schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = len(self.codes) - 1, inputs, outputs
        if kind not in WITHOUT:
            usual = "".join(word.capitalize() for word in kind.split("_")) + "Options"
            name = OPTIONS.get(kind, usual)
            made.builtinOptionsType = getattr(self.schema.BuiltinOptions, name)
            made.builtinOptions = getattr(self.schema, f"{name}T")()
            for key, value in options.items():
                assert hasattr(made.builtinOptions, key), key
                setattr(made.builtinOptions, key, value)
        self.operators.append(made)
        return outputs[0]

    def pooled(self, image: int) -> int:
        """The same image after a pool of one pixel, which turns it to channels first and changes
        no number."""
        given = self.tensors[image]
        made = self.tensor("pooled", tuple(given.shape), "INT8", None)
        self.tensors[made].quantization = given.quantization
        sides = {"strideH": 1, "strideW": 1, "filterHeight": 1, "filterWidth": 1}
        return self.add("MAX_POOL_2D", [image], [made], padding=1, **sides)

    def write(self, path: Path, inputs: list[int], outputs: list[int]) -> Path:
        import flatbuffers

        graph = self.schema.SubGraphT()
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs, graph.outputs = inputs, outputs
        model = self.schema.ModelT()
        model.version, model.subgraphs, model.operatorCodes = 3, [graph], self.codes
        model.buffers = self.buffers
        model.signatureDefs = [self._signature(inputs, outputs)]
        builder = flatbuffers.Builder(0)
        builder.Finish(model.Pack(builder), b"TFL3")
        path.write_bytes(bytes(builder.Output()))
        return path

    def _signature(self, inputs: list[int], outputs: list[int]) -> Any:
        """Quantizers find inputs by one."""
        made = self.schema.SignatureDefT()
        made.signatureKey, made.subgraphIndex = "serving_default", 0
        made.inputs, made.outputs = ([self._port(at) for at in each] for each in (inputs, outputs))
        return made

    def _port(self, index: int) -> Any:
        made = self.schema.TensorMapT()
        made.name, made.tensorIndex = self.tensors[index].name, index
        return made


def small_net(path: Path, kind: str = "INT8") -> Path:
    """Two convolutions, a mean, a dense layer and a softmax on images of 8 by 8.

    kind: of the activations; "FLOAT32" has the weights that the integers of the others stand for,
    "HYBRID" float activations and integer weights.
    """
    lite, rng = Lite(), np.random.default_rng(5)
    has_floats = kind in ("FLOAT32", "HYBRID")

    def constant(name: str, shape: tuple[int, ...], axis: int, step: float = 0.0) -> int:
        """A weight, or the bias after inputs of this step."""
        codes = rng.integers(-100, 101, shape)
        scales = np.linspace(0.004, 0.012, shape[axis]) * (step or 1)
        if kind == "FLOAT32" or (step and has_floats):
            along = [-1 if at == axis else 1 for at in range(len(shape))]
            real = codes * scales.astype("f4").reshape(along)
            return lite.tensor(name, (), "FLOAT32", None, real.astype("f4"))
        if kind == "UINT8":  # one scale, as such files have
            grid = (0.008 * (step or 1), 0 if step else 128)
            values = codes.astype("i4") if step else (codes + 128).astype("u1")
            return lite.tensor(name, (), "INT32" if step else "UINT8", grid, values)
        stored = ("INT64" if kind == "INT16" else "INT32") if step else "INT8"
        values = codes.astype(stored.lower())
        return lite.tensor(name, (), stored, (scales, 0 * scales), values, axis)

    def made(name: str, shape: tuple[int, ...], step: float, zero_point: int) -> int:
        if has_floats:
            return lite.tensor(name, shape, "FLOAT32", None)
        zero_point = {"INT8": zero_point, "UINT8": zero_point + 128, "INT16": 0}[kind]
        step = step / 256 * 2 if kind == "INT16" else step
        return lite.tensor(name, shape, kind, (step, zero_point))

    fine = 1 / 128 if kind == "INT16" else 1
    options = {"padding": 0, "strideH": 2, "strideW": 2, "fusedActivationFunction": 1}
    options |= {"dilationHFactor": 1, "dilationWFactor": 1}
    image = made("image", (1, 8, 8, 3), 0.02, -3)
    weights = [constant("w1", (8, 3, 3, 3), 0), constant("b1", (8,), 0, 0.02 * fine)]
    first = made("first", (1, 4, 4, 8), 0.02, -128)
    lite.add("CONV_2D", [image, *weights], [first], **options)
    weights = [constant("w2", (1, 3, 3, 8), 3), constant("b2", (8,), 0, 0.02 * fine)]
    second = made("second", (1, 2, 2, 8), 0.02, -128)
    lite.add("DEPTHWISE_CONV_2D", [first, *weights], [second], **options)
    mean = made("mean", (1, 8), 0.01, -128)
    lite.add("MEAN", [second, lite.axes(1, 2)], [mean])
    weights = [constant("w3", (4, 8), 0), constant("b3", (4,), 0, 0.01 * fine)]
    logits = made("logits", (1, 4), 0.05, 0)
    lite.add("FULLY_CONNECTED", [mean, *weights], [logits])
    answer = made("answer", (1, 4), 1 / 256, -128)
    lite.add("SOFTMAX", [logits], [answer], beta=1.0)
    return lite.write(path, [image], [answer])
