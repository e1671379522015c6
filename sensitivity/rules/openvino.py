"""SQ6: what OpenVINO gets wrong."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.rules.base import Hit, Subject, rule
from sensitivity.rules.examples import WEIGHT, Example, conv
from sensitivity.rules.examples import qdq as pair
from sensitivity.rules.paths import QDQ, attribute, grid_type, name_of, pair_before

HALVES = "float[1,8,8,8] x, float[1,8,8,8] x2"
CONCAT = "[concat] c = Concat <axis = 1> (x, x2)\n"
PASSED = QDQ | {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Relu", "Mul", "Add"}
"""Tried one by one behind the Concat: values are still wrong. Right with Transpose, Split, a pooling or another
activation there, with a grouped convolution, a ConvTranspose, MatMul or Gemm behind, and with a float weight."""


@rule(
    "SQ601",
    "concat-int8",
    "error",
    ("openvino",),
    why="OpenVINO returns wrong values, without a word, where a convolution reads a Concat in INT8, quantized "
    "behind the Concat or in front of it: errors of 5 to 150 % of the largest output in graphs of a few nodes. With "
    "uint8 and zero point 128, which is the same grid, it is exact.",
    fix="Shift activations to uint8 with zero point 128 ('sensitivity export --for openvino').",
    source="measured against ONNX Runtime on a CPU with VNNI: OpenVINO 2024.6, 2025.4.1 and 2026.4.1 (all the graphs "
    "above on 2026.4.1)",
    bad=Example(CONCAT + pair("c") + WEIGHT + conv("cd"), inputs=HALVES),
    good=Example(CONCAT + pair("c", zero="u128") + WEIGHT + conv("cd"), inputs=HALVES),
)
def concat_int8(subject: Subject) -> Iterator[Hit]:
    for node in subject.nodes:
        if node.op_type != "Conv" or attribute(node, "group", 1) > 1 or pair_before(qdq.weight(node)) is None:
            continue
        path = list(_back_to_concat(qdq.activation(node)))
        concat = path[-1] if path and path[-1].op_type == "Concat" else None
        if concat is None:
            continue
        found = [step for step in path if step.op_type == "QuantizeLinear"]
        if not found:
            pairs = [qdq.pair_of(value) for value in concat.inputs]
            found = [pair.quantize for pair in pairs if pair is not None and pair.quantize is not None]
            found = found if len(found) == len(concat.inputs) else []
        if any(grid_type(step) == "int8" for step in found):
            yield name_of(node), f"expected uint8 between {name_of(concat)} and this Conv, got int8"


def _back_to_concat(value: ir.Value | None) -> Iterator[ir.Node]:
    """The nodes in front of a convolution, up to the first Concat or the first node that mends it."""
    while value is not None and (node := value.producer()) is not None:
        yield node
        if node.op_type not in PASSED:
            return
        value = next((given for given in node.inputs if given is not None and qdq.constant(given) is None), None)
