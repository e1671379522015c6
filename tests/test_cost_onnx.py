"""The work of Q/DQ files, beside counts made from the float files by ONNX's own shape inference."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.commands import verb
from support.onnx_models import float_file, labelled, static_file
from support.onnx_quantizers import by_onnxruntime
from support.random_graphs import RandomGraph

from sensitivity.cost.model import work_cost
from sensitivity.cost.shapes import work_of, work_of_model
from sensitivity.errors import OnnxFileError
from sensitivity.onnx_graph.work import OUTSIDE, Work
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.quantizers.onnx.qdq import OnnxQdqModel
from sensitivity.records import Unit

ATTENTION = """<ir_version: 8, opset_import: ["" : 17]>
attention (float[batch, 6, 8] x) => (float[batch, 6, 5] y)
{
  q = MatMul (x, wq)
  k = MatMul (x, wk)
  kt = Transpose <perm = [0, 2, 1]> (k)
  scores = MatMul (q, kt)
  part = Softmax <axis = -1> (scores)
  mixed = MatMul (part, x)
  y = MatMul (mixed, wy)
}"""


@pytest.fixture(scope="module")
def attention(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    folder, draw = tmp_path_factory.mktemp("attention"), np.random.default_rng(0)
    model = onnx.parser.parse_model(ATTENTION)
    for name, shape in {"wq": (8, 4), "wk": (8, 4), "wy": (8, 5)}.items():
        values = draw.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    for node in model.graph.node:
        node.name = node.output[0]
    onnx.save(model, folder / "float.onnx")
    data = [draw.normal(size=(2, 6, 8)).astype(np.float32)]
    return OnnxModel(static_qdq(folder, data))


def static_qdq(folder: Path, data: list[np.ndarray]) -> Path:
    """The pairs that ONNX Runtime's quantizer places, with ranges of these batches."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        rest = iter([{"x": batch} for batch in data])

        def get_next(self):
            return next(self.rest, None)

    quantize_static(
        folder / "float.onnx", folder / "int8.onnx", Reader(), quant_format=QuantFormat.QDQ
    )
    return folder / "int8.onnx"


def macs_of(work: Work) -> dict[str, int]:
    return {layer.node: layer.shape.macs for layer in work.layers}


def inferred_macs(path: Path) -> dict[str, int]:
    """Output of a node -> multiply-accumulates of one sample, from a float file alone."""
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    sizes = {one.name: tuple(one.dims) for one in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        sizes[value.name] = tuple(side.dim_value for side in value.type.tensor_type.shape.dim)
    found = {}
    for node in graph.node:
        if node.op_type == "ConvTranspose":  # each input value meets a whole filter
            found[node.output[0]] = prod(sizes[node.input[0]]) * prod(sizes[node.input[1]][1:])
        if node.op_type == "Conv":
            found[node.output[0]] = prod(sizes[node.output[0]]) * prod(sizes[node.input[1]][1:])
        if node.op_type in ("Gemm", "MatMul"):
            found[node.output[0]] = prod(sizes[node.output[0]]) * sizes[node.input[0]][-1]
    return found


def test_products_of_activations_count_as_counted_by_hand(attention: OnnxModel) -> None:
    work = work_of_model(attention, np.zeros((2, 6, 8), np.float32))
    assert macs_of(work) == {
        "q": 6 * 8 * 4,
        "k": 6 * 8 * 4,
        "scores": 6 * 4 * 6,
        "mixed": 6 * 6 * 8,
        "y": 6 * 8 * 5,
    }
    links = {(link.before, link.after): link.size for link in work.links}
    assert links[("q", "scores")] == (1, 6, 4)
    assert links[("k", "scores")][1:] in ((6, 4), (4, 6)), "the transposed one or its source"
    assert links[("scores", "mixed")] == (1, 6, 6)
    assert links[(OUTSIDE, "mixed")] == (1, 6, 8)


def test_each_operation_costs_what_its_own_unit_is_charged(attention: OnnxModel) -> None:
    source = OnnxQdqModel(attention)
    units = {quantizer.layer: [] for quantizer in source.quantizers}
    for quantizer in source.quantizers:
        units[quantizer.layer].append(quantizer.name)
    work = work_of_model(attention, np.zeros((2, 6, 8), np.float32))
    cost = work_cost(work, [Unit(name, tuple(names)) for name, names in units.items()])
    added = {unit for unit, more in cost.units.items() if more > 0}
    assert added == {"q", "k", "scores", "mixed", "MatMul:y_QuantizeLinear_Input"}
    assert cost.units["mixed"] > cost.units["scores"] > cost.units["part"] == 0


@pytest.mark.parametrize("seed", range(4))
def test_random_networks_have_the_multiply_accumulates_that_shape_inference_gives(
    seed: int, tmp_path: Path
) -> None:
    file = RandomGraph(seed, 17).save(tmp_path / "float.onnx")
    by_onnxruntime()(file, tmp_path / "int8.onnx")
    sample = np.zeros((3, 4, 8, 8), np.float32)
    counted = macs_of(work_of_model(OnnxModel(tmp_path / "int8.onnx"), sample))
    expected = inferred_macs(file)
    assert len(expected) > 2
    assert sorted(counted.values()) == sorted(expected.values())


def test_a_file_of_this_project_has_the_same_work_read_as_a_model(tmp_path: Path) -> None:
    static_file(float_file(tmp_path / "float.onnx"), tmp_path / "int8.onnx")
    model = OnnxModel(tmp_path / "int8.onnx")
    as_model = work_of_model(model, np.zeros((2, 3, 12, 12), np.float32))
    as_file = work_of(tmp_path / "int8.onnx", products=True)
    assert macs_of(as_model) == macs_of(as_file)
    assert as_model.links == as_file.links
    assert macs_of(as_model) == {
        "Conv_c1": 12 * 12 * 6 * 27,
        "Conv_c2": 12 * 12 * 6 * 9,
        "Gemm_y": 12 * 5,
    }


BRANCH = """<ir_version: 10, opset_import: ["" : 21]>
branch (float[1, 4] x, bool is_on) => (float[1, 4] y)
<float s = {0.1}, int8 z = {0}, int8[4, 4] w = {1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}>
{
  [choice] y = If (is_on) <
    then_branch = a () => (float[1, 4] inner) {
      q = QuantizeLinear (x, s, z)
      d = DequantizeLinear (q, s, z)
      v = DequantizeLinear (w, s, z)
      [product] inner = MatMul (d, v)
    },
    else_branch = b () => (float[1, 4] same) { same = Identity (x) }
  >
}"""


def test_layers_in_a_branch_are_refused_in_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "branch.onnx"
    onnx.save(onnx.parser.parse_model(BRANCH), file)
    with pytest.raises(OnnxFileError, match="got product in the body of another operation; leave"):
        work_of_model(OnnxModel(file), {"x": np.zeros((1, 4), np.float32), "is_on": np.array(True)})


def test_a_plan_of_a_file_is_the_one_with_the_least_work(tmp_path: Path) -> None:
    static_file(float_file(tmp_path / "float.onnx"), tmp_path / "int8.onnx")
    labelled(tmp_path / "float.onnx", tmp_path / "data.npz")
    given = ("--data", tmp_path / "data.npz", "--float-model", tmp_path / "float.onnx")
    assert verb("scan", tmp_path / "int8.onnx", *given, "--out", tmp_path / "run") == 0
    target = ("--target", "0.95", "--no-recalibrate")
    assert verb("plan", tmp_path / "run", *target, "--planner", "cost") == 0
    plan = json.loads((tmp_path / "run/plan.json").read_text())
    cost = json.loads((tmp_path / "run/frontier.json").read_text())["cost"]
    assert (plan["met"], cost["unit"], cost["kind"]) == (True, "work", "macs")
    # Bytes decide: 48 for each value of input, weight and output, 16 for each byte that float has
    # more.
    values = {"Conv_c1": 432 + 162 + 864, "Conv_c2": 864 + 54 + 864, "Gemm_y": 12 + 60 + 5}
    assert {unit: cost["units"][unit] for unit in values} == {
        unit: 48 * number for unit, number in values.items()
    }
    assert cost["units"]["Add_a1"] == 0
    assert verb("plan", tmp_path / "run", *target, "--cost", "operations") == 0
    cost = json.loads((tmp_path / "run/frontier.json").read_text())["cost"]
    assert (cost["kind"], cost["base"], cost["borders"]) == ("operations", 0, [])
    assert {unit: cost["units"][unit] for unit in values} == {
        "Conv_c1": 864 * 27,
        "Conv_c2": 864 * 9,
        "Gemm_y": 60,
    }


def test_times_of_files_are_refused_with_what_can_be_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    static_file(float_file(tmp_path / "float.onnx"), tmp_path / "int8.onnx")
    labelled(tmp_path / "float.onnx", tmp_path / "data.npz")
    given = ("--data", tmp_path / "data.npz", "--target", "0.9", "--no-recalibrate")
    code = verb("run", tmp_path / "int8.onnx", *given, "--cost", "table", "--out", tmp_path / "run")
    assert code == 1
    assert (
        "Expected a PyTorch model for --cost table, which times files of single sets, got a Q/DQ "
        "ONNX file; use --cost macs or --cost operations." in capsys.readouterr().err
    )
