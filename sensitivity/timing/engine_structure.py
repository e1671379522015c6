"""What each weighted layer of a file became in the engine that TensorRT-RTX builds. Nothing is
timed."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from functools import partial
from heapq import nlargest
from itertools import chain
from operator import attrgetter
from pathlib import Path

from sensitivity.errors import OnnxFileError, RuntimeUnavailable, SensitivityError
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.qdq import weighted_nodes
from sensitivity.onnx_graph.walk import name_of
from sensitivity.records import BuiltLayer, EngineStructure
from sensitivity.rules.base import PlanNames
from sensitivity.rules.lint import run_lint
from sensitivity.rules.targets import RTX
from sensitivity.runtimes.onnx_names import WEIGHTED, OnnxNames, onnx_names
from sensitivity.runtimes.tensorrt_rtx_build import SM, Build, build
from sensitivity.runtimes.tensorrt_rtx_log import Layer
from sensitivity.timing.profile import is_in_fp8, quantized_nodes

GENERATED = "kgen"
"""The builder's word for a kernel that it composes of elementwise operations and moves; its name
lists them."""
ONLY_REQUANTIZES = re.compile(
    r"__myl_((Mul)?MinMaxRounCast|CastMul|Cast|Conc|Tran|Move|Slic|Resh)+_myl\d+_\d+$"
)
"""Names of kernels that only quantize, dequantize, cast and move, in the builder's
abbreviations."""
QDQ = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast"})
WIDTH = ("int4", "int8", "fp8", "fp16", "bf16", "fp32")


def build_structure(file: Path, *, sm: int = SM, plan: PlanNames | None = None) -> EngineStructure:
    """Build the file and return what its layers became.

    The file must be one that lint does not refuse for tensorrt-rtx.

    sm: compute capability, such as 89.
    plan: what a plan leaves in float; None takes the file's own Q/DQ as the plan.
    Raises OnnxFileError if the parser refuses the file, RuntimeUnavailable if nothing can be built
    here or the builder gives up. Both quote the builder.
    """
    built = build(file, sm=sm)
    if not built.parsed and built.errors:
        raise OnnxFileError(
            f"Expected {file.name} to be a model that TensorRT-RTX can parse, got: "
            f"{str(built.problem).rstrip('.')}."
        )
    if not built.ok:
        raise RuntimeUnavailable(
            f"Expected TensorRT-RTX to build {file.name}, got: {str(built.problem).rstrip('.')}."
        )
    return structure_of(built, file, None if plan is None else planned_float(plan))


def build_or_say_why(file: Path, plan: PlanNames) -> EngineStructure | str:
    """Return the engine, or why there is none.

    This is a step of a longer job, which must not fail because of it.
    """
    refusals = {finding.code for finding in run_lint(file, RTX) if finding.severity == "error"}
    if refusals:
        return f"lint refuses it for {RTX}: {', '.join(sorted(refusals))}"
    try:
        return build_structure(file, plan=plan)
    except SensitivityError as error:
        return str(error)


def planned_float(plan: PlanNames) -> frozenset[str]:
    """Return the layers that a plan leaves in float, whole or in part: its units, and the layers of
    its quantizers."""
    return frozenset(plan.skip) | {quantizer.rpartition(".")[0] for quantizer in plan.quantizers}


def structure_of(
    built: Build, file: Path, in_float: Collection[str] | None = None
) -> EngineStructure:
    """Compare the engine with what was planned.

    built: the build of this very file, with an engine.
    in_float: layers that a plan leaves in float; None without a plan. All others are planned as the
        file's own Q/DQ says.
    """
    kernels = [layer for layer in built.layers if layer.outputs]
    kept = set(quantized_nodes(file)) - set(in_float or ())
    layers = []
    for node in weighted_nodes(load_model(file).graph):
        name = name_of(node)
        planned = "float"
        if name in kept:
            planned = "fp8" if is_in_fp8(node) else "int8"
        layers.append(BuiltLayer(name, planned, _built(name, kernels)))
    requantizes = partial(only_requantizes, names=onnx_names(file))
    activations = chain.from_iterable(map(attrgetter("outputs"), kernels))
    return EngineStructure(
        version=built.version,
        sm=built.sm,
        layers=tuple(layers),
        kernels=len(kernels),
        requantize_kernels=sum(map(requantizes, kernels)),
        activation_bytes=sum(map(attrgetter("nbytes"), activations)),
    )


def _built(name: str, kernels: Sequence[Layer]) -> str | None:
    """Return the precision that the node computes in; None if no kernel names it."""
    naming = [layer for layer in kernels if name in layer.onnx]

    def likeness(layer: Layer) -> tuple[bool, bool]:
        """Return a key that is largest for the node's own kernel.

        The kernels around it name the node too. Its own is not a generated one, or is named after
        it.
        """
        return layer.kind != GENERATED, layer.name.startswith(f"{name}_myl")

    own = max(naming, key=likeness, default=None)
    return None if own is None else _precision(own)


def _precision(layer: Layer) -> str:
    """Return INT8 if both operands are in it: an activation and the weights, or two activations.

    Otherwise the widest type among them is returned.
    """
    weights = nlargest(1, layer.constants, key=lambda tensor: math.prod(tensor.shape))
    types = map(attrgetter("dtype"), (*layer.inputs, *weights))
    operands = list(filter(WIDTH.__contains__, types))
    if operands.count("int8") > 1:
        return "int8"
    return max(operands, key=WIDTH.index, default="?")


def only_requantizes(layer: Layer, names: OnnxNames) -> bool:
    """Return whether the kernel only quantizes, dequantizes, casts or reorders the output of
    another one.

    A kernel with an operation of the file, such as a Concat, does more. A kernel before a
    weighted layer also names that layer's operations, so it is judged by its own name.

    names: nodes of the ONNX file.
    """
    if layer.kind != GENERATED or not ONLY_REQUANTIZES.match(layer.name):
        return False
    nodes = filter(None, map(names.find, layer.onnx))
    operations = set(map(attrgetter("op"), nodes))
    before_weighted = not WEIGHTED.isdisjoint(operations)
    return before_weighted or operations <= QDQ
