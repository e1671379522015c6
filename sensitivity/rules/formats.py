"""Targets that take 16-bit activations with 8-bit weights, and FP8, and the sources.

This module does not import ONNX, since plans need it before any file exists. `lint` finds such
pairs in files (SQ104, SQ308, SQ309, SQ603).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sensitivity.errors import SensitivityError

if TYPE_CHECKING:
    from sensitivity.records import Plan


@dataclass(frozen=True)
class Taken:
    """What one target does with a format.

    takes: whether files may have it for this target.
    why: what it has or does.
    source: where that is stated.
    in_float: whether it computes such layers in float, so that their latency says nothing about
        hardware that has the format.
    """

    takes: bool
    why: str
    source: str
    in_float: bool = False


WIDE = {
    "onnxruntime": Taken(
        True,
        "it takes int16 and uint16 pairs from opset 21 on, and its own ones before; its CPU "
        "kernels compute between them in float",
        "ONNX Runtime docs, Quantize ONNX Models; measured here on each exported file",
        in_float=True,
    ),
    "qnn": Taken(
        True,
        "it takes uint16 activations beside 8-bit weights; where formats meet, a pair of one "
        "format stands after a pair of the other",
        "ONNX Runtime docs, QNN Execution Provider > Mixed precision support",
    ),
    "tensorrt": Taken(
        False,
        "its formats are INT8, FP8, FP4, INT4 for weights, and float",
        "TensorRT docs, Working with Quantized Types > Supported Data Types",
    ),
    "openvino": Taken(
        False,
        "its CPU plug-in removes pairs of 16 bits and computes in float",
        "measured: OpenVINO CPU, rules SQ602 and SQ603",
        in_float=True,
    ),
}
"""Target -> what it does with 16-bit activations. Targets that are not listed are not known to
refuse any format."""

FP8 = {
    "onnxruntime": Taken(
        True,
        "it takes FP8 pairs from opset 19 on; its CPU kernels compute between them in float, and "
        "it has to be loaded with session.disable_quant_qdq=1, so that INT8 layers beside them "
        "compute in float too, and without the optimizers ReluQuantRewrite and ClipQuantRewrite",
        "measured: ONNX Runtime 1.31.1 CPU",
        in_float=True,
    ),
    "qnn": Taken(
        False,
        "its 8-bit formats are integers",
        "ONNX Runtime docs, QNN Execution Provider > Generating a quantized model",
    ),
    "tensorrt": Taken(
        True,
        "it takes FP8 from version 10 on, and GPUs from compute capability 8.9 on compute in it; "
        "transposed convolutions, and kernels of more than 32 values, run in float",
        "TensorRT docs, Working with Quantized Types > Supported Data Types; measured: "
        "TensorRT-RTX 1.7.1 for SM 7.5, 8.6, 8.9 and 12.0",
    ),
    "openvino": Taken(
        False,
        "its CPU plug-in rounds values to FP8 and back one by one and computes in float",
        "measured: OpenVINO 2026.4 CPU, precisions of the compiled model",
        in_float=True,
    ),
}
"""Target -> what it does with FP8."""


@dataclass(frozen=True)
class Borders:
    """What a target does where formats meet.

    one_type: whether each of its operations has to read and write one type, so that formats must
        not meet in one.
    why: what it does.
    source: where that is stated.
    """

    one_type: bool
    why: str
    source: str


BORDERS = {
    "onnxruntime": Borders(
        False,
        "an operation reads each input from a pair of its own, and may write any format",
        "measured here on each exported file",
    ),
    "qnn": Borders(
        True,
        "an operation whose output is wanted in 16 bits computes in 16, and a second pair converts "
        "what it reads in 8; layers in float read 16 bits",
        "ONNX Runtime, optimizer/qdq_transformer/selectors_actions/qdq_selectors.cc; measured: "
        "onnxruntime-qnn 2.7.0 with QNN 2.51's HTP backend for x86-64, rules SQ801 and SQ802",
    ),
    "tensorrt": Borders(
        False,
        "a layer has the format of its own pairs, INT8 or FP8, and values are converted between",
        "measured: TensorRT-RTX 1.7.1, layers of the built file",
    ),
    "openvino": Borders(
        False,
        "it computes all but INT8 in float, so that no two formats meet",
        "measured: OpenVINO CPU, rules SQ602 and SQ603",
    ),
}
"""Target -> what it does where formats meet. Plans pay for it, and `lint` finds operations in which
formats must not meet (SQ801)."""

MOST_TAPS = 32
"""Largest number of values of a kernel that TensorRT convolves with in FP8: 7x7 runs in float."""

OTHER_NAMES = {"tensorrt_rtx": "tensorrt", "trtexec": "tensorrt"}
"""Runtime -> the target whose formats it has."""


@dataclass(frozen=True)
class _Format:
    """What a refusal says about a format.

    name: as --formats has it.
    words: the format in words.
    within: what the names of such formats contain in `Plan.formats`.
    instead: targets to plan for instead.
    """

    name: str
    words: str
    within: str
    instead: str
    targets: dict[str, Taken]


FORMATS = {
    "int16": _Format("int16", "activations of 16 bits", "INT16", "onnxruntime or an NPU", WIDE),
    "fp8": _Format("fp8", "FP8", "FP8", "tensorrt", FP8),
}
"""Format that --formats may name -> its targets."""


def target_of_runtime(name: str | None) -> str:
    """Return the target whose formats a runtime has; the name itself if it is a target.

    >>> target_of_runtime("tensorrt_rtx"), target_of_runtime("openvino"), target_of_runtime(None)
    ('tensorrt', 'openvino', '')
    """
    return OTHER_NAMES.get(name or "", name or "")


def takes(runtime: str, formats: Iterable[str]) -> bool:
    """Return whether a runtime takes all formats of the units of a plan, as `Plan.formats` names
    them.

    >>> takes("tensorrt", ["FP8 E4M3"]), takes("openvino", ["FP8 E4M3"])
    (True, False)
    """
    return all(taken.takes for _, taken in _treated(runtime, formats))


def computed_in_float(runtime: str, formats: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the formats that a runtime computes in float, in words.

    formats: as for `takes`.

    >>> computed_in_float("onnxruntime", ["INT8", "FP8 E4M3", "INT8 with INT16 activations"])
    ('activations of 16 bits', 'FP8')
    >>> computed_in_float("tensorrt", ["FP8 E4M3"])
    ()
    """
    treated = _treated(runtime, formats)
    return tuple(asked.words for asked, taken in treated if taken.in_float)


def _treated(runtime: str, formats: Iterable[str]) -> Iterator[tuple[_Format, Taken]]:
    """Yield each format of `FORMATS` that is among these, with what a runtime does with it as far
    as that is known."""
    names = set(formats)
    for asked in FORMATS.values():
        taken = asked.targets.get(target_of_runtime(runtime))
        if taken is not None and any(asked.within in name for name in names):
            yield asked, taken


def in_float_words(runtime: str, formats: Sequence[str]) -> str:
    """Return what the latency of a plan is worth in a runtime that computes these formats in float.

    >>> in_float_words("ONNX Runtime", ["FP8"])
    "ONNX Runtime computes FP8 in float: the plan's time says nothing about hardware with FP8."
    """
    names = " and ".join(formats)
    return (
        f"{runtime} computes {names} in float: the plan's time says nothing about hardware with "
        f"{names}."
    )


def refuse(format_name: str, target: str | None, what: str) -> None:
    """Raise SensitivityError if a target does not take a format.

    format_name: a key of `FORMATS`.
    target: a target or the name of a runtime; None and unknown names refuse nothing.
    what: what asks for the format, as the message names it.
    """
    asked = FORMATS[format_name]
    taken = asked.targets.get(target_of_runtime(target))
    if taken is None or taken.takes:
        return
    raise SensitivityError(
        f"Expected a target that takes {asked.words} for {what}, got {target}: {taken.why}; leave "
        f"{asked.name} out of --formats, or plan for {asked.instead}."
    )


def check_takes(target: str, plan: Plan) -> None:
    """Raise SensitivityError if a target does not take a format of the plan's units."""
    if plan.wide:
        refuse("int16", target, f"the plan with 16 bits in {plan.wide[0]}")
    if plan.fp8:
        refuse("fp8", target, f"the plan with FP8 in {plan.fp8[0]}")
