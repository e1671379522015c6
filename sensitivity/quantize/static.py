"""Runs ONNX Runtime's quantizer with ranges of our own."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData

from sensitivity.errors import OnnxFileError
from sensitivity.onnx_graph.qdq import PAIR
from sensitivity.quantize.rules import KNOWN, Rules, kept_float
from sensitivity.quantizers.histogram import Ends


def quantized(
    model: onnx.ModelProto, tensor_ranges: Mapping[str, Ends], rules: Rules, name: str
) -> onnx.ModelProto:
    """Return the model with Q/DQ pairs by these rules.

    model: as `prepare.prepared` returns it; it is changed.
    tensor_ranges: float tensor -> its range.
    name: name of the file.
    Raises OnnxFileError if nothing of it is quantized, or the result is not valid.
    """
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if rules.signed else QuantType.QUInt8,
        tensors_range=TensorsData(
            CalibrationMethod.MinMax,
            {
                tensor: (np.array(low, np.float32), np.array(high, np.float32))
                for tensor, (low, high) in tensor_ranges.items()
            },
        ),
        nodes_to_quantize=[],
        nodes_to_exclude=kept_float(model.graph, rules),
        op_types_to_quantize=list(rules.operations) or sorted(KNOWN),
        extra_options=dict(rules.options),
    )
    with _without_advice():
        try:
            quantizer.quantize_model()
            quantizer.model.topological_sort()
        except Exception as error:  # any type, for a graph that the quantizer does not expect
            said = " ".join(str(error).split())[:200]
            raise OnnxFileError(
                f"Expected ONNX Runtime's quantizer to take {name}, got {type(error).__name__}: "
                f"{said}; quantize it with another tool, and give the file with its pairs."
            ) from error
    result: onnx.ModelProto = quantizer.model.model
    _check(result, name)
    return result


@contextmanager
def _without_advice() -> Iterator[None]:
    """Silence the quantizer's log messages, which are meant for those who call it themselves."""
    logger = logging.getLogger()
    logger.addFilter(_is_no_advice)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_advice)


def _is_no_advice(record: logging.LogRecord) -> bool:
    """Return whether the message is more severe than a warning."""
    return record.levelno > logging.WARNING


def _check(model: onnx.ModelProto, name: str) -> None:
    """Raise OnnxFileError if nothing is quantized, or ONNX's checker refuses the result."""
    if not any(node.op_type in PAIR for node in model.graph.node):
        kinds = sorted({node.op_type for node in model.graph.node})
        raise OnnxFileError(
            f"Expected {name} to hold operations that can be quantized, got none "
            f"({', '.join(kinds[:8])}{', ...' if len(kinds) > 8 else ''}); a plan needs some to "
            "choose among."
        )
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # raised in C++, without a public base class
        said = " ".join(str(error).split())[:200]
        raise OnnxFileError(
            f"Expected ONNX Runtime's quantizer to write a valid file from {name}, got: {said}; "
            "export the float model with another opset, or quantize it with another tool."
        ) from error
