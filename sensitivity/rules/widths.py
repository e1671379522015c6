"""Targets that take 16-bit activations with 8-bit weights, and the sources.

This module does not import ONNX, since plans need it before any file exists. `lint` finds such
pairs in files (SQ104, SQ603).
"""

from __future__ import annotations

from dataclasses import dataclass

from sensitivity.errors import SensitivityError


@dataclass(frozen=True)
class Width:
    """What one target does with 16-bit activations.

    takes: whether it computes with them.
    why: the formats that it has.
    source: where that is stated.
    """

    takes: bool
    why: str
    source: str


WIDTHS = {
    "onnxruntime": Width(
        True,
        "it takes int16 and uint16 pairs from opset 21 on, and its own ones before; its CPU "
        "kernels compute between them in float",
        "ONNX Runtime docs, Quantize ONNX Models; measured here on each exported file",
    ),
    "qnn": Width(
        True,
        "it takes uint16 activations beside 8-bit weights; where formats meet, a pair of one "
        "format stands after a pair of the other",
        "ONNX Runtime docs, QNN Execution Provider > Mixed precision support",
    ),
    "tensorrt": Width(
        False,
        "its formats are INT8, FP8, FP4, INT4 for weights, and float",
        "TensorRT docs, Working with Quantized Types > Supported Data Types",
    ),
    "openvino": Width(
        False,
        "its CPU plug-in removes pairs of 16 bits and computes in float",
        "measured: OpenVINO CPU, rules SQ602 and SQ603",
    ),
}
"""Target -> what it does. Targets that are not listed are not known to refuse any width."""

OTHER_NAMES = {"tensorrt_rtx": "tensorrt", "trtexec": "tensorrt"}
"""Runtime -> the target whose formats it has."""


def refuse_wide(target: str | None, what: str) -> None:
    """Raise SensitivityError if a target does not take 16-bit activations.

    target: a key of `WIDTHS` or the name of a runtime; None and unknown names refuse nothing.
    what: what asks for them, as the message names it.
    """
    name = OTHER_NAMES.get(target or "", target or "")
    width = WIDTHS.get(name)
    if width is None or width.takes:
        return
    raise SensitivityError(
        f"Expected a target that takes activations of 16 bits for {what}, got {target}: "
        f"{width.why}; leave int16 out of --formats, or plan for onnxruntime or an NPU."
    )
