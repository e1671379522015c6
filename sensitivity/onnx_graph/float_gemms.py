"""Finds layers between 8-bit pairs that ONNX Runtime computes as a Gemm in float.

Such a Gemm dequantizes its weight at every run. It becomes an integer one (QGemm) only if it can
take everything around it. A MatMul and the Add of its bias are made a Gemm first, where the loader
knows the sides. Read from matmul_add_fusion.cc and the optimized graphs of ONNX Runtime 1.31.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.biases import BiasInput, bias_input
from sensitivity.onnx_graph.fused_layers import EIGHT_BITS, stays_in_float
from sensitivity.onnx_graph.integer_layers import PASSED_BY, quantizer_after
from sensitivity.onnx_graph.matching import matches, needed, require
from sensitivity.onnx_graph.walk import (
    all_outputs,
    first_input,
    made_by,
    not_none,
    of_kind,
    read_by,
    reader_kinds,
    source,
    upstream,
    value_name,
)

Shape = tuple[int | str | None, ...]

INT32_BIAS = "an int32 bias after a DequantizeLinear, or a pair after the layer"


@dataclass(frozen=True, eq=False)
class FloatGemm:
    """A layer that runs in float although its input and its weight have 8 bits.

    node: the Gemm or MatMul.
    bias: the input of its bias, of the node or of the Add after a MatMul.
    wanted, got: what an integer Gemm would need, and what the file has.
    """

    node: ir.Node
    bias: BiasInput
    wanted: str
    got: str

    @property
    def lacks_int32_bias(self) -> bool:
        """Whether the layer would run in integers if its bias were in int32."""
        return self.wanted == INT32_BIAS


def float_gemms(model: ir.Model) -> Iterator[FloatGemm]:
    """Yield every layer between 8-bit pairs that becomes a Gemm in float, in the order of the
    nodes."""
    found = list(matches(_float_gemm, of_kind(model.graph.all_nodes(), "Gemm", "MatMul")))
    needs_shapes = any(layer.node.op_type == "MatMul" for layer in found)
    shapes = _shapes(model) if needs_shapes else {}
    for layer in found:
        if layer.node.op_type == "Gemm" or _becomes_gemm(layer, shapes):
            yield layer


def _float_gemm(node: ir.Node) -> FloatGemm:
    """Return the layer of a Gemm, or of a MatMul that may become one.

    Raises NoMatch if it has no 8-bit pairs, or becomes an integer operator.
    """
    _require_8_bits(source(first_input(node), _moves))
    weight = needed(qdq.through_transpose(qdq.weight(node)))
    _require_8_bits(weight.output)
    require(weight.block is None)
    bias = bias_input(node)
    if node.op_type == "MatMul":
        needed(bias.value)
    wanted, got = _obstacle(node, weight, bias)
    return FloatGemm(node, bias, wanted, got)


def _moves(node: ir.Node) -> bool:
    """Return whether an operation only moves the values between a DQ and a layer."""
    return node.op_type in PASSED_BY or node.op_type == "Flatten"


def _require_8_bits(value: ir.Value) -> None:
    """Raise NoMatch unless a DQ from 8-bit integers to FP32 gives this value."""
    dequantize = needed(made_by(value, "DequantizeLinear"))
    zero = qdq.zero_point_value(dequantize)
    require(zero is None or needed(qdq.constant(zero)).dtype in EIGHT_BITS)
    require(qdq.scales_of(dequantize).dtype == np.float32)


def _obstacle(node: ir.Node, weight: qdq.Pair, bias: BiasInput) -> tuple[str, str]:
    """Return what an integer Gemm would need and what the file has instead.

    Raises NoMatch if nothing is missing.
    """
    alpha, beta = (node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
    end = bias.node.outputs[0]
    readers = reader_kinds(end)
    is_read_in_float = len(readers) > 1 or end.is_graph_output()
    chain = takewhile(_moves, upstream(first_input(node)))
    if any(mover.op_type == "Flatten" for mover in chain):
        # Otherwise it becomes a MatMulNBits.
        require(_has_rows_of_outputs(node) or quantizer_after(end) is not None)
        return "a pair after the Flatten in front of the layer", "one before it"
    if weight.zero_point is None:
        return "zero points for the weight", "none"
    if bias.value is not None and (alpha, beta) != (1.0, 1.0):
        return "alpha and beta of 1", f"{alpha:g} and {beta:g}"
    if stays_in_float(bias.node):
        (cut,) = readers
        return f"a pair after the {cut} with the smallest zero point", f"a {cut} in float"
    if "QuantizeLinear" in readers and is_read_in_float:
        return "a pair that all operations after it read, or none", "one that some read"
    mover = read_by(end, *PASSED_BY)
    if bias.value is None and mover is not None and quantizer_after(end) is not None:
        return "a pair right after the layer", f"one after a {mover.op_type}"
    require(bias.value is not None and made_by(bias.value, "DequantizeLinear") is None)
    if quantizer_after(end) is None:
        return INT32_BIAS, "a float bias"
    shape = needed(not_none(bias.value).shape)
    require(len(shape) > 1)
    return "a bias with one axis", f"one of {list(_sides(shape))}"


def _has_rows_of_outputs(node: ir.Node) -> bool:
    """Return whether the weight is stored with one row for each output."""
    is_turned = made_by(qdq.weight(node), "Transpose") is not None
    return is_turned or bool(node.attributes.get_int("transB", 0))


def _becomes_gemm(layer: FloatGemm, shapes: Mapping[str | None, Shape]) -> bool:
    """Return whether the loader makes a Gemm of a MatMul and its Add.

    Of an input with more axes than two it needs to know all sides, and a bias with one axis.
    """
    given, weight, bias = (
        shapes.get(value_name(value)) for value in (*layer.node.inputs[:2], layer.bias.value)
    )
    if given is None or weight is None or bias is None or len(weight) != 2:
        return False
    outputs = weight[1]
    if bias == (outputs,):
        return len(given) == 2 or all(isinstance(side, int) for side in given)
    return len(given) == 2 and bias in {(1, outputs), (given[0], 1), (given[0], outputs)}


def _shapes(model: ir.Model) -> dict[str | None, Shape]:
    """Return name of a value -> its sides, an int or a name, for all whose axes can be known."""
    known = model.clone()
    common.ShapeInferencePass()(known)
    values = [*known.graph.inputs, *known.graph.initializers.values()]
    values += all_outputs(known.graph.all_nodes())
    return {value.name: _sides(value.shape) for value in values if value.shape is not None}


def _sides(shape: ir.Shape) -> Shape:
    return tuple(side if isinstance(side, int) else side.value for side in shape)
