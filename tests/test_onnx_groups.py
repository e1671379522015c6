"""Operations of a Q/DQ file that belong together become one unit with `--unit group`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import onnx_models

from sensitivity import api
from sensitivity.config import ScanSettings, UnitChoices
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.quantizers.onnx.qdq import OnnxQdqModel
from sensitivity.units.relations import placed, structure_of

PAIR = "q_{0} = QuantizeLinear ({0}, s, z) d_{0} = DequantizeLinear (q_{0}, s, z)"
CONSTANTS = {"s": np.float32(0.1), "z": np.int8(0), "w": np.ones((4, 4), np.float32)}


def source(path: Path) -> OnnxQdqModel:
    return OnnxQdqModel(OnnxModel(path))


def relations(folder: Path, body: str) -> set[tuple[str, tuple[str, ...]]]:
    """A file with this body, where each `[x]` stands for a pair on x whose result is d_x."""
    for name in "xabcef":
        body = body.replace(f"[{name}]", PAIR.format(name))
    file = onnx_models.qdq_file(folder / "model.onnx", body, CONSTANTS)
    return {(one.kind, one.layers) for one in structure_of(source(file), None).relations}


@pytest.fixture(scope="module")
def branches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("groups")
    return onnx_models.static_file(
        onnx_models.float_file(folder / "float.onnx"), folder / "model.onnx"
    )


def test_silu_residual_and_concat_of_a_quantized_file_are_groups(branches):
    units = placed(source(branches), None, UnitChoices(unit="group")).units
    assert {unit.name: (unit.kind, set(unit.layers)) for unit in units} == {
        "residual:Conv_c1": ("residual", {"Conv_c1", "Conv_c2", "Add_a1"}),
        "fan-out:Sigmoid_s1": ("fan-out", {"Sigmoid_s1", "Mul_m1"}),
        "concat:MaxPool_p1": ("concat", {"MaxPool_p1", "Concat_k1", "GlobalAveragePool_g1"}),
        "Gemm_y": ("layer", set()),
        "y": ("layer", set()),
    }
    assert sorted(q for unit in units for q in unit.quantizers) == sorted(
        q.name for q in source(branches).quantizers
    )


def test_layers_stay_apart_unless_groups_are_asked_for(branches):
    units = placed(source(branches), None, UnitChoices()).units
    assert {unit.name for unit in units} == onnx_models.UNITS | {"GlobalAveragePool_g1", "y"}
    assert {unit.kind for unit in units} == {"layer"}


def test_operations_that_read_one_tensor_belong_together_also_through_a_transpose(tmp_path):
    body = "[x] a = Relu (d_x) t = Transpose <perm = [0, 1]> (d_x) b = Tanh (t) y = Sub (a, b)"
    assert relations(tmp_path, body) == {("fan-out", ("Relu_a", "Tanh_b"))}


def test_a_weight_that_two_operations_read_joins_nothing(tmp_path):
    pair = "qw = QuantizeLinear (w, s, z) dw = DequantizeLinear (qw, s, z)"
    body = f"{pair} [x] a = MatMul (d_x, dw) [a] y = MatMul (d_a, dw)"
    assert relations(tmp_path, body) == set()


def test_a_concat_joins_the_readers_of_its_parts_and_of_its_result(tmp_path):
    body = (
        "[x] a = Relu (x) [a] c = Concat <axis = 1> (d_x, d_a) [c] e = Tanh (d_c) b = Sigmoid "
        "(d_a) y = Add (e, b)"
    )
    assert relations(tmp_path, body) == {("concat", ("Concat_c", "Tanh_e", "Sigmoid_b"))}


def test_an_add_belongs_to_the_weighted_operations_that_give_its_inputs(tmp_path):
    pair = "qw = QuantizeLinear (w, s, z) dw = DequantizeLinear (qw, s, z)"
    body = f"{pair} [x] a = MatMul (d_x, dw) b = Relu (a) [b] e = Tanh (x) [e] y = Add (d_b, d_e)"
    assert relations(tmp_path, body) == {("residual", ("MatMul_a", "Add_y"))}


def test_an_add_of_a_constant_is_no_residual(tmp_path):
    pair = "qw = QuantizeLinear (w, s, z) dw = DequantizeLinear (qw, s, z)"
    body = f"{pair} [x] a = MatMul (d_x, dw) [a] y = Add (d_a, dw)"
    assert relations(tmp_path, body) == set()


def test_a_scan_of_groups_ranks_them(branches, tmp_path):
    data = onnx_models.labelled(branches.parent / "float.onnx", tmp_path / "data.npz")
    scanned = api.scan(
        ScanSettings(task=str(branches), data=data, unit="group", out=tmp_path / "run")
    )
    assert {effect.unit for effect in scanned.effects} == {
        unit.name for unit in placed(source(branches), None, UnitChoices(unit="group")).units
    }
