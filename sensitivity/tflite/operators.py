"""Maps each operator of TFLite to the function that translates it."""

from __future__ import annotations

from collections.abc import Callable

from sensitivity.errors import TfliteFileError
from sensitivity.tflite import layers, pointwise, shapes, windows
from sensitivity.tflite.model import Graph, Operator
from sensitivity.tflite.translation import ACTIVATIONS, Translation

OPERATORS: dict[str, Callable[[Translation, Operator], None]] = {
    "CONV_2D": layers.conv_2d,
    "DEPTHWISE_CONV_2D": layers.depthwise_conv_2d,
    "TRANSPOSE_CONV": layers.transpose_conv,
    "FULLY_CONNECTED": layers.fully_connected,
    "BATCH_MATMUL": layers.batch_matmul,
    "ADD": pointwise.binary("Add"),
    "SUB": pointwise.binary("Sub"),
    "MUL": pointwise.binary("Mul"),
    "DIV": pointwise.binary("Div"),
    "MAXIMUM": pointwise.binary("Max"),
    "MINIMUM": pointwise.binary("Min"),
    "SQUARED_DIFFERENCE": pointwise.squared_difference,
    "LOGISTIC": pointwise.unary("Sigmoid"),
    "TANH": pointwise.unary("Tanh"),
    "HARD_SWISH": pointwise.unary("HardSwish"),
    "ELU": pointwise.unary("Elu"),
    "ABS": pointwise.unary("Abs"),
    "NEG": pointwise.unary("Neg"),
    "EXP": pointwise.unary("Exp"),
    "SQRT": pointwise.unary("Sqrt"),
    "RSQRT": pointwise.rsqrt,
    "SQUARE": pointwise.squared,
    "LEAKY_RELU": pointwise.leaky_relu,
    "PRELU": pointwise.prelu,
    "GELU": pointwise.gelu,
    "SOFTMAX": pointwise.softmax,
    "LOG_SOFTMAX": pointwise.log_softmax,
    "QUANTIZE": pointwise.requantized,
    "DEQUANTIZE": pointwise.requantized,
    "AVERAGE_POOL_2D": windows.pool("AveragePool"),
    "MAX_POOL_2D": windows.pool("MaxPool"),
    "MEAN": windows.reduce("ReduceMean"),
    "SUM": windows.reduce("ReduceSum", since=13),
    "REDUCE_MAX": windows.reduce("ReduceMax"),
    "REDUCE_MIN": windows.reduce("ReduceMin"),
    "RESIZE_BILINEAR": windows.resize_bilinear,
    "RESIZE_NEAREST_NEIGHBOR": windows.resize_nearest_neighbor,
    "DEPTH_TO_SPACE": windows.depth_to_space,
    "SPACE_TO_DEPTH": windows.space_to_depth,
    "RESHAPE": shapes.reshape,
    "SQUEEZE": shapes.reshape,
    "EXPAND_DIMS": shapes.reshape,
    "TRANSPOSE": shapes.transpose,
    "CONCATENATION": shapes.concatenation,
    "PACK": shapes.pack,
    "UNPACK": shapes.unpack,
    "PAD": shapes.pad,
    "PADV2": shapes.pad,
    "SLICE": shapes.slice_,
    "STRIDED_SLICE": shapes.strided_slice,
    "SPLIT": shapes.split,
    "SPLIT_V": shapes.split_v,
    "GATHER": shapes.gather,
} | {word: pointwise.clamp(word) for word in ACTIVATIONS}
"""Operator of TFLite -> function that adds its translation to a graph."""


def translated(graph: Graph) -> Translation:
    """Return the translation of the whole graph.

    Raises TfliteFileError that names each kind of operator without a translation, with one example.
    """
    translation = Translation(graph)
    unknown = {
        operator.kind: operator for operator in graph.operators if operator.kind not in OPERATORS
    }
    if unknown:
        examples = "; ".join(translation.where(operator) for operator in unknown.values())
        raise TfliteFileError(
            f"Expected operators that can be written in ONNX with pairs, got {examples}; give the "
            "model as ONNX, or cut it before them: docs/tflite.md lists those that can."
        )
    for operator in graph.operators:
        OPERATORS[operator.kind](translation, operator)
    return translation
