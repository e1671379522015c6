"""Uses of pairs left out of a file, or on new grids, on graphs of a few operations."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from support.onnx_text import network_of

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.passes.skip_uses import NewGrid, SkipUses
from sensitivity.onnx_graph.uses import paths, uses
from sensitivity.records import Range

HEAD = '<ir_version: 6, opset_import: ["" : {opset}]> example (float[2,3] x) => (float[2,3] y) {{'
PRODUCT = """
    q = QuantizeLinear (x, s, z)
    d = DequantizeLinear (q, s, z)
    wq = QuantizeLinear (w, s, z)
    wd = DequantizeLinear (wq, s, z)
    y = MatMul (d, wd)
}}"""
LAST = """
    r = Relu (x)
    q = QuantizeLinear (r, s, z)
    y = DequantizeLinear (q, s, z)
}}"""
ONLY = """
    q = QuantizeLinear (x, s, z)
    y = DequantizeLinear (q, s, z)
}}"""
TWICE = """
    q = QuantizeLinear (x, s, z)
    d = DequantizeLinear (q, s, z)
    t = Transpose <perm = [1, 0]> (d)
    q2 = QuantizeLinear (t, s, low)
    d2 = DequantizeLinear (q2, s, low)
    [product] a = MatMul (d2, one)
    [square] b = Mul (d2, d2)
    c = ReduceSum <keepdims = 0> (b)
    e = Mul (a, c)
    y = Transpose <perm = [1, 0]> (e)
}}"""
"""The second pair stands for a Relu before two operations."""
X = np.array([[-0.42, 0.31, 1.27], [0.04, -0.9, 0.66]], np.float32)
W = np.array([[0.3, -0.2, 5.0], [0.11, 0.4, -2.0], [-0.25, 0.07, 1.0]], np.float32)


def network(body: str, opset: int = 17) -> ir.Model:
    constants = {"s": np.array(0.1, np.float32), "z": np.array(0, np.int8)}
    if "w" in body:
        constants["w"] = W
    return network_of((HEAD + body).format(opset=opset), **constants)


def names(model: ir.Model) -> dict[str, str]:
    """Use by its role."""
    return {use.role: use.name for use in uses(paths(model.graph))}


def run(model: ir.Model) -> np.ndarray:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    return session.run(["y"], {"x": X})[0]


@pytest.mark.parametrize(("body", "expected"), [(LAST, np.maximum(X, 0)), (ONLY, X)])
def test_an_output_keeps_its_name_where_its_pair_is_left_out(
    body: str, expected: np.ndarray
) -> None:
    """Also where the graph then gives what it was given."""
    model = network(body)
    found = [use.name for use in uses(paths(model.graph))]
    assert SkipUses(found)(model).modified
    assert [output.name for output in model.graph.outputs] == ["y"]
    assert model.graph.outputs[0].type == ir.TensorType(ir.DataType.FLOAT)
    assert not list(qdq.pairs(model.graph))
    assert (run(model) == expected).all()


def test_an_activation_that_is_restored_twice_gets_two_names() -> None:
    """Before a value with its first pair, and before the same value without it."""
    model = network_of(
        (HEAD + TWICE).format(opset=17),
        s=np.array(0.1, np.float32),
        z=np.array(0, np.int8),
        low=np.array(-128, np.int8),
        one=np.eye(2, dtype=np.float32),
    )
    skip = ["d>product", "d2>product", "d2>square", "d2>square#2"]
    SkipUses(skip, clamps={"t": (0.0, np.inf)})(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    restored = {node.name for node in model.graph if node.op_type == "Relu"}
    assert restored == {"t_Relu_restored", "t_Relu_copy2_restored"}
    rounded = np.rint(X / np.float32(0.1)) * np.float32(0.1)
    expected = np.maximum(X, 0) * np.square(np.maximum(rounded, 0)).sum()
    assert run(model) == pytest.approx(expected, abs=1e-5)


def test_a_weight_per_channel_makes_an_old_file_of_the_opset_that_first_has_it() -> None:
    model = network(PRODUCT, opset=11)
    amax = np.abs(W).max(axis=0)
    scales = (amax / 127).astype(np.float32)
    grid = NewGrid(Range("w", "max", tuple(amax), 1), scales, np.zeros(3, np.int8), 1)
    SkipUses([], grids={names(model)["weight"]: grid})(model)
    assert model.opset_imports[""] == 13
    assert model.ir_version == 7
    levels = np.rint(W / scales)
    activation = np.rint(X / np.float32(0.1)).clip(-128, 127) * np.float32(0.1)
    assert run(model) == pytest.approx(activation @ (levels * scales), abs=1e-5)


def test_a_newer_file_stays_of_its_opset_with_a_weight_per_channel() -> None:
    model = network(PRODUCT)
    grid = NewGrid(
        Range("w", "max", (1.0, 1.0, 1.0), 1), np.ones(3, np.float32), np.zeros(3, np.int8), 1
    )
    SkipUses([], grids={names(model)["weight"]: grid})(model)
    assert (model.opset_imports[""], model.ir_version) == (17, 6)
