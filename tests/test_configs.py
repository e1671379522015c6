"""A plan as the settings of other tools: each tool leaves out the same layers."""

from __future__ import annotations

import copy
import json
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from support import models
from support.blocks import Residual
from support.commands import TASK, verb
from support.configs import (
    APPLY,
    Exported,
    aimet_rounds,
    apply_as_printed,
    apply_config,
    exported,
    in_int8,
    problem_of,
    widths,
)
from support.onnx_models import float_file, images, run_file, static_file
from support.tflite_models import small_net
from torch import nn

import sensitivity
from sensitivity.errors import ExportError
from sensitivity.exporters.configs.aimet import AimetConfig
from sensitivity.exporters.configs.base import NamedPlan, Operation
from sensitivity.exporters.configs.litert import LitertConfig
from sensitivity.exporters.configs.modelopt import ModelOptConfig
from sensitivity.exporters.configs.modelopt_onnx import ModelOptOnnxConfig
from sensitivity.exporters.configs.nncf import NncfConfig
from sensitivity.exporters.configs.operations import operations_of, quantized_inputs
from sensitivity.exporters.configs.ort import OrtConfig
from sensitivity.exporters.configs.polygraphy import PolygraphyConfig
from sensitivity.exporters.configs.quark import QuarkConfig
from sensitivity.exporters.configs.rknn import RknnConfig
from sensitivity.exporters.configs.trtexec import TrtexecConfig
from sensitivity.exporters.onnx_file import export_onnx
from sensitivity.quantizers.base import layers
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.quantizers.onnx.qdq import OnnxQdqModel
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.records import Quantizer
from sensitivity.registry import FAMILIES, load
from sensitivity.run_dir import RunDir
from sensitivity.search.wide import wide_ranges
from sensitivity.tflite.model import Graph, Operator
from sensitivity.tflite.read import read_tflite

CONTRACT = Path(__file__).parent / "contract"
RESULTS = Path(__file__).parents[1] / "benchmarks/results"
CHAIN = ["conv1", "conv2", "conv3", "conv4", "fc"]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported(
        tmp_path_factory.mktemp("chain"), lambda: models.Chain(4), models.batch(), ["conv2"]
    )


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported(tmp_path_factory.mktemp("residual"), Residual, models.batch())


def need(tool: str) -> None:
    """Skip where the tool cannot be applied."""
    problem = problem_of(tool)
    if problem is not None:
        pytest.skip(f"{tool} cannot be applied here: {problem}")


def operation(name: str, *, kept: bool = True, op_type: str = "Conv", **others) -> Operation:
    quantized = frozenset({0, 1})
    inputs = (f"{name}.input", f"{name}.weight")
    found = Operation(
        name=name,
        op_type=op_type,
        inputs=inputs,
        outputs=(f"{name}.output",),
        weight=inputs[1],
        int8=quantized,
        plan=quantized if kept else frozenset(),
    )
    return replace(found, **others)


def plan_of(*operations: Operation, number_format: str = "INT8") -> NamedPlan:
    quantizers = [
        Quantizer(f"{each.name}.{role}", each.name, role, 8, None, format=number_format)
        for each in operations
        for role in ("input", "weight")
    ]
    out = {each.name for each in operations if not each.kept}
    left_out = frozenset(each.name for each in quantizers if each.layer in out)
    return NamedPlan(operations, tuple(quantizers), left_out)


def test_operations_say_what_the_files_quantize(chain: Exported) -> None:
    states = {each.name: (each.int8, each.plan) for each in chain.plan.operations if each.int8}
    both = frozenset({0, 1})
    assert states == {name: (both, frozenset() if name == "conv2" else both) for name in CHAIN}
    weights = {each.name: each.weight for each in chain.plan.operations if each.int8}
    assert weights == {name: f"{name}.weight" for name in CHAIN}
    assert chain.plan.layers == {name: name == "conv2" for name in CHAIN}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("tool", list(APPLY))
def test_the_tool_finds_the_same_layers_out(
    tool: str, seed: int, residual: Exported, tmp_path: Path
) -> None:
    need(tool)
    names = [each.name for each in residual.plan.operations if each.int8]
    plan = residual.without(random.Random(seed).sample(names, seed + 1))
    config = load("configs", tool)().write(plan)
    written = apply_config(residual, tool, config, tmp_path / "model.onnx")
    assert in_int8(written, plan) == {each.name for each in plan.kept}


@pytest.mark.parametrize("seed", range(20))
def test_onnx_runtime_gives_the_same_layers_16_bits(
    seed: int, residual: Exported, tmp_path: Path
) -> None:
    need("ort")
    draw = random.Random(seed)
    names = [each.name for each in residual.plan.operations if each.int8]
    wanted = {name: draw.choice(["float", "8 bits", "16 bits"]) for name in names}
    skip, wide = ([name for name in names if wanted[name] == kind] for kind in ("float", "16 bits"))
    config = OrtConfig().write(residual.without(skip, wide))
    found = widths(apply_as_printed(residual.file, residual.inputs, config, tmp_path))
    kinds = {None: "float", 8: "8 bits", 16: "16 bits"}
    weights = {name: found.get(name, {}).get(1) for name in names}
    assert weights == {name: None if wanted[name] == "float" else 8 for name in names}
    kept = {name: kinds[found[name].get(0)] for name in names if weights[name]}
    assert kept == {name: wanted[name] for name in names if wanted[name] != "float"}


class Siblings(nn.Module):
    """Three layers that read the same tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.a, self.b, self.c = (nn.Conv2d(8, 8, 1) for _ in "abc")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        return self.a(x) + self.b(x) + self.c(x)


@pytest.mark.parametrize("wide", ["a", "ab"])
def test_one_tensor_is_read_in_16_bits_in_8_and_in_float(wide: str, tmp_path: Path) -> None:
    need("ort")
    model = exported(tmp_path, Siblings, models.batch())
    config = OrtConfig().write(model.without(["c"], [*wide]))
    assert config.notes == ()
    made = apply_as_printed(model.file, model.inputs, config, tmp_path / "made")
    bits = {name: 16 if name in wide else 8 for name in ("stem", "a", "b")}
    assert widths(made) == {name: {0: bits[name], 1: 8} for name in bits}
    graph = onnx.load(made).graph
    made_by = {node.output[0]: node for node in graph.node}
    by_name = {node.name: node for node in graph.node}
    quantize = made_by[made_by[by_name["a"].input[0]].input[0]]
    assert quantize.input[0] == by_name["c"].input[0], "16 bits of what 8 bits left help nobody"
    unquantized = run_file(model.file, model.inputs)
    error = np.abs(run_file(made, model.inputs) - unquantized).max()
    assert 0 < error < 0.1 * np.abs(unquantized).max()


class Returned(Siblings):
    """The tensor that they read is an output too."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.stem(x).relu()
        return x, self.a(x) + self.b(x) + self.c(x)


@pytest.mark.parametrize(
    ("skip", "wide", "rounded"),
    [("", "", False), ("", "a", True), ("c", "a", True), ("c", "ab", False), ("bc", "", True)],
)
def test_an_output_that_onnx_runtime_rounds_for_its_readers_is_reported(
    skip: str, wide: str, rounded: bool, tmp_path: Path
) -> None:
    need("ort")
    model = exported(tmp_path, Returned, models.batch())
    config = OrtConfig().write(model.without([*skip], [*wide]))
    made = apply_as_printed(model.file, model.inputs, config, tmp_path / "made")
    graph = onnx.load(made).graph
    (maker,) = (node for node in graph.node if graph.output[0].name in node.output)
    assert (maker.op_type == "DequantizeLinear") == rounded
    told = any(
        note.startswith(f"ONNX Runtime rounds {graph.output[0].name},") for note in config.notes
    )
    assert told == rounded
    assert (widths(made).keys() >= {*skip}) == (rounded or not skip)
    assert any(note.startswith(f"{', '.join(skip)} stay") for note in config.notes) == (
        rounded and bool(skip)
    )


@pytest.mark.parametrize("opset", [13, 21])
def test_a_file_s_operations_get_the_same_16_bits_from_onnx_runtime(
    opset: int, tmp_path: Path
) -> None:
    """c1 is read by Sigmoid and Mul, and m1 by Conv and Add."""
    need("ort")
    unquantized = float_file(tmp_path / "net.onnx", opset)
    source = OnnxQdqModel(OnnxModel(static_file(unquantized, tmp_path / "net.qdq.onnx")))
    units = layers(source.quantizers)
    wide, skip = wide_ranges(source, units), ["MaxPool_p1", "Gemm_y", "y"]
    formats = [*wide["Sigmoid_s1"], *wide["Add_a1"], *wide["Concat_k1"]]
    files = export_onnx(source, units, skip, tmp_path, fingerprint="test", formats=formats)
    plan = NamedPlan(operations_of(files), source.quantizers, frozenset())
    config = OrtConfig().write(plan)
    assert config.notes == ()
    made = apply_as_printed(files["float"], images(4, seed=0), config, tmp_path / "made")
    assert widths(made) == widths(files["partial"])
    assert set(widths(made)["Sigmoid_s1"].values()) == {16}
    assert set(widths(made)["Mul_m1"].values()) == {8}


def test_onnx_runtime_would_round_a_shared_tensor_beside_one_in_two_types() -> None:
    wide = operation("wide", inputs=("x", "w"), weight="w", wide=frozenset({0}))
    narrow = operation("narrow", inputs=("x", "v"), weight="v")
    several = [operation(name, inputs=("y", name), weight=name) for name in "ab"]
    out = operation("out", inputs=("y", "u"), weight="u", kept=False)
    with pytest.raises(ExportError, match=r"^Expected float operations .* \(x\) .* got out; plan"):
        OrtConfig().write(plan_of(wide, narrow, *several, out))
    reads_both = replace(out, inputs=("x", "u"))
    for fine in ([wide, *several, out], [wide, narrow, *several], [wide, narrow, reads_both]):
        assert OrtConfig().write(plan_of(*fine)).notes == ()


@pytest.mark.parametrize(
    "operations",
    [
        [
            operation("a", inputs=("x", "c"), wide=frozenset({1}), constants=frozenset({1})),
            operation("b", inputs=("y", "c"), constants=frozenset({1})),
        ],
        [operation("a", inputs=("c", "c"), wide=frozenset({1}))],
    ],
    ids=["constant", "one reader"],
)
def test_a_tensor_that_onnx_runtime_cannot_convert_is_refused(operations: list[Operation]) -> None:
    with pytest.raises(ExportError, match=r"^Expected each tensor that is .* got c; leave one of"):
        OrtConfig().write(plan_of(*operations))


def test_weights_in_16_bits_are_refused_for_onnx_runtime() -> None:
    with pytest.raises(ExportError, match=r"^Expected weights in INT8, .* got a.weight in INT16;"):
        OrtConfig().write(plan_of(operation("a"), number_format="INT16"))


@pytest.mark.parametrize("seed", range(2))
def test_modelopt_finds_the_same_quantizers_out(seed: int) -> None:
    need("modelopt")
    import modelopt.torch.quantization as mtq

    inputs = models.batch()
    source = ModelOptModel(models.quantized(models.seeded(Residual), inputs))
    skip = random.Random(seed).sample([each.name for each in layers(source.quantizers)], seed + 1)
    out = frozenset(each.name for each in source.quantizers if each.layer in skip)
    entries = json.loads(ModelOptConfig().write(NamedPlan((), source.quantizers, out)).text)
    config = copy.deepcopy(mtq.INT8_DEFAULT_CFG)
    config["quant_cfg"] += entries
    applied = mtq.quantize(models.seeded(Residual), config, lambda model: model(inputs))
    enabled = {each.name for each in ModelOptModel(applied).quantizers}
    assert enabled == {each.name for each in source.quantizers} - out


def test_modelopt_gives_16_bits_to_the_same_quantizers() -> None:
    need("modelopt")
    import modelopt.torch.quantization as mtq

    inputs = models.batch()
    source = ModelOptModel(models.quantized(models.seeded(Residual), inputs))
    first, *others = (each.name for each in source.quantizers if each.role == "input")
    wide = replace(source.range(first), bits=16)
    plan = NamedPlan((), source.quantizers, frozenset(others[:1]), {first: wide})
    config = copy.deepcopy(mtq.INT8_DEFAULT_CFG)
    config["quant_cfg"] += json.loads(ModelOptConfig().write(plan).text)
    applied = mtq.quantize(models.seeded(Residual), config, lambda model: model(inputs))
    bits = {each.name: each.bits for each in ModelOptModel(applied).quantizers}
    wanted = {each.name: each.bits for each in source.quantizers} | {first: 16}
    assert bits == {name: wanted[name] for name in wanted if name != others[0]}


def test_modelopt_reads_a_name_as_a_pattern_and_specials_are_escaped() -> None:
    plan = plan_of(operation("blocks[0]", kept=False), operation("blocks0"))
    assert '"blocks[[]0].input"' in ModelOptConfig().write(plan).text


def test_modelopt_would_disable_all_experts_with_one_and_that_is_refused() -> None:
    names = ("experts.weight_quantizer", "experts.weight_quantizers.0")
    quantizers = tuple(Quantizer(name, name, "weight", 8, None) for name in names)
    with pytest.raises(ExportError, match=r"^Expected experts.weight_quantizer to name one quant"):
        ModelOptConfig().write(NamedPlan((), quantizers, frozenset(names[:1])))


def test_modelopt_onnx_matches_beginnings_and_gets_whole_names() -> None:
    plan = plan_of(operation("conv1", kept=False), operation("conv10"), operation("conv.1"))
    settings = json.loads(ModelOptOnnxConfig().write(plan).text)
    assert settings["nodes_to_exclude"] == ["^conv1$"]
    assert settings["nodes_to_quantize"] == ["^conv10$", "^conv\\.1$"]


def test_modelopt_onnx_tells_which_convolutions_it_leaves_out_by_itself() -> None:
    first = operation("first", weight_shape=(8, 3, 3, 3))
    narrow = operation("narrow", weight_shape=(8, 8, 3, 3), inputs=("first.output", "w"))
    depthwise = operation(
        "depthwise", weight_shape=(8, 1, 3, 3), groups=8, inputs=("narrow.output", "w")
    )
    wide = operation("wide", weight_shape=(16, 8, 3, 3), inputs=("depthwise.output", "w"))
    notes = ModelOptOnnxConfig().write(plan_of(first, narrow, depthwise, wide)).notes
    assert [note.partition(" in float")[0] for note in notes] == ["ModelOpt leaves narrow"]


def test_nncf_gets_each_type_that_is_never_quantized() -> None:
    relu = operation("relu", op_type="Relu", kept=False, int8=frozenset())
    plan = plan_of(operation("a"), operation("b", kept=False), relu)
    assert json.loads(NncfConfig().write(plan).text) == {
        "names": ["b"],
        "types": ["Relu"],
        "validate": True,
    }


def test_aimet_rounds_what_the_kept_layers_read_and_nothing_else(residual: Exported) -> None:
    need("aimet")
    plan = residual.without(["first.0", "fc"])
    settings = json.loads(AimetConfig().write(plan).text)
    rounded = aimet_rounds(residual.file, settings)
    reads = {each.name: {each.inputs[0], each.weight} for each in plan.operations if each.int8}
    assert {name for name, tensors in reads.items() if tensors <= rounded} == {
        each.name for each in plan.kept
    }


def test_aimet_gets_a_transposed_weight_by_the_name_of_its_initializer() -> None:
    linear = operation("linear", op_type="MatMul", inputs=("x", "transposed"), weight="w")
    assert json.loads(AimetConfig().write(plan_of(linear)).text) == ["x", "w"]


def test_aimet_rounds_what_was_only_moved_where_it_came_from() -> None:
    moves = [
        operation(
            name, op_type=kind, inputs=(source,), outputs=(name,), kept=False, int8=frozenset()
        )
        for name, kind, source in (("turned", "Transpose", "x"), ("flat", "Reshape", "turned"))
    ]
    linear = operation("linear", op_type="MatMul", inputs=("flat", "w"), weight="w")
    assert json.loads(AimetConfig().write(plan_of(*moves, linear)).text) == ["x", "w"]


def test_aimet_rounds_a_tensor_for_all_its_readers_and_that_is_reported() -> None:
    kept, out = operation("kept", inputs=("x", "w")), operation("out", inputs=("x", "v"))
    notes = AimetConfig().write(plan_of(kept, replace(out, plan=frozenset()))).notes
    assert [note.partition(" stay")[0] for note in notes] == ["out"]


def test_quark_gets_every_node_in_float() -> None:
    relu = operation("relu", op_type="Relu", kept=False, int8=frozenset())
    plan = plan_of(operation("a"), operation("b", kept=False), relu)
    assert json.loads(QuarkConfig().write(plan).text) == ["b", "relu"]


def test_litert_gets_an_entry_for_the_whole_name_of_each_node_in_float() -> None:
    plan = plan_of(operation("a"), operation("net/b.1", kept=False))
    (entry,) = json.loads(LitertConfig().write(plan).text)
    assert entry["algorithm_key"] == "no_quantize"
    found = [bool(re.search(entry["regex"], scope)) for scope in ("net/b.1;", "x;net/b.1;")]
    assert found == [True, True]
    for scope in ("net/b.12;", "my_net/b.1;", "net/b1;", "a;"):
        assert not re.search(entry["regex"], scope)


def test_litert_s_quantizer_leaves_exactly_these_operators_in_float(tmp_path: Path) -> None:
    need("litert")
    from ai_edge_quantizer import recipe
    from ai_edge_quantizer.quantizer import Quantizer

    file = small_net(tmp_path / "float.tflite", "FLOAT32")
    layers = [operation("first"), operation("second", kept=False), operation("logits", kept=False)]
    entries = json.loads(LitertConfig().write(plan_of(*layers)).text)
    quantizer = Quantizer(str(file), [*recipe.static_wi8_ai8(), *entries])
    x = np.random.default_rng(0).normal(size=(8, 1, 8, 8, 3)).astype("f4")
    seen = quantizer.calibrate({"serving_default": [{"image": image} for image in x]})
    made = tmp_path / "partial.tflite"
    made.write_bytes(bytes(quantizer.quantize(seen).quantized_model))
    graph = read_tflite(made)
    real = [graph.tensors[each.outputs[0]].name for each in graph.operators if is_real(graph, each)]
    assert real == ["second", "logits"]


def is_real(graph: Graph, operator: Operator) -> bool:
    """Whether the layer computes in float."""
    kinds = {graph.tensors[index].type for index in (*operator.inputs, *operator.outputs)}
    return kinds == {"FLOAT32"}


def test_trtexec_and_polygraphy_get_the_layers_that_are_left_out() -> None:
    relu = operation("relu", op_type="Relu", kept=False, int8=frozenset())
    plan = plan_of(operation("a"), operation("/b/Conv:0", kept=False), relu)
    assert TrtexecConfig().write(plan).text.splitlines() == [
        "--int8",
        "--precisionConstraints=obey",
        "--layerPrecisions=/b/Conv:0:fp32",
        "--layerOutputTypes=/b/Conv:0:fp32",
    ]
    assert PolygraphyConfig().write(plan).text.splitlines() == [
        "--int8",
        "--precision-constraints",
        "obey",
        "--layer-precisions",
        "/b/Conv:0:float32",
    ]


def test_the_flags_of_trtexec_are_there_before_version_11() -> None:
    flags = json.loads((CONTRACT / "trtexec_flags.json").read_text())
    written = TrtexecConfig().write(plan_of(operation("a", kept=False))).text
    for flag in (line.partition("=")[0] for line in written.splitlines()):
        for version in ("8.6", "10.0", "10.12", "10.16"):
            assert flag in flags[version]


def test_polygraphy_reads_the_names_that_were_written() -> None:
    need("polygraphy")
    from polygraphy.tools.args.util import parse_arglist_to_dict

    plan = plan_of(operation("a"), operation("/b/Conv:0", kept=False), operation("7", kept=False))
    arguments = PolygraphyConfig().write(plan).text.splitlines()
    pairs = arguments[arguments.index("--layer-precisions") + 1 :]
    assert parse_arglist_to_dict(pairs) == {"/b/Conv:0": "float32", "7": "float32"}


@pytest.mark.parametrize("tool", list(FAMILIES["configs"]))
def test_a_plan_that_leaves_nothing_out_is_written_too(tool: str) -> None:
    text = load("configs", tool)().write(plan_of(operation("a"))).text
    assert "precision" not in text
    assert "float16" not in text


@pytest.mark.parametrize(
    ("tool", "name", "why"),
    [
        ("trtexec", "a,b", "separates layers"),
        ("trtexec", "a*", "stands for any characters"),
        ("trtexec", "a b", "is interpreted or removed by xargs"),
        ("polygraphy", "a'b", "is interpreted or removed by xargs"),
        ("polygraphy", "-a", "begins an option"),
        ("quark", "^a", "begins a pattern"),
    ],
)
def test_a_name_that_the_tool_would_read_otherwise_is_refused(
    tool: str, name: str, why: str
) -> None:
    plan = plan_of(operation("kept"), operation(name, kept=False))
    with pytest.raises(ExportError, match=rf"{why}, got {re.escape(name)}; rename that layer"):
        load("configs", tool)().write(plan)


def test_rknn_gets_the_outputs_of_the_layers_that_are_left_out() -> None:
    plan = plan_of(operation("a"), operation("b", kept=False))
    assert RknnConfig().write(plan).text == 'custom_quantize_layers:\n  "b.output": float16\n'


def test_a_kept_layer_reads_what_a_layer_in_float_gave_unrounded(
    chain: Exported, tmp_path: Path
) -> None:
    """ONNX Runtime would quantize the output of conv1, and conv2 would read rounded values."""
    plan = chain.without(["conv2"])
    written = apply_config(chain, "ort", OrtConfig().write(plan), tmp_path / "model.onnx")
    assert "conv2" not in quantized_inputs(written)


def test_onnx_runtime_rounds_a_tensor_for_its_only_quantized_reader_and_that_is_reported() -> None:
    kept = operation("kept", inputs=("x", "w"), weight="w")
    out = operation("out", inputs=("x", "v"), weight="v", kept=False)
    written = OrtConfig().write(plan_of(kept, out))
    assert written.notes == (
        "out stay in float and read a tensor that ONNX Runtime rounds for a quantized "
        "operation that reads it too.",
    )
    other = operation("other", inputs=("x", "u"), weight="u")
    assert OrtConfig().write(plan_of(kept, out, other)).notes == ()


def test_an_operation_without_a_name_is_refused() -> None:
    nameless = operation("", inputs=("x", "w"), kept=False, int8=frozenset())
    with pytest.raises(ExportError, match=r"^Expected every .* a Conv of x, w without one; name"):
        OrtConfig().write(plan_of(operation("a"), nameless))


def test_a_name_on_both_sides_of_the_plan_is_refused() -> None:
    with pytest.raises(ExportError, match=r"on both sides of the plan that are called a; give"):
        OrtConfig().write(plan_of(operation("a"), operation("a", kept=False)))


def test_a_plan_in_another_format_is_refused() -> None:
    with pytest.raises(ExportError, match=r"^Expected .* INT8 or INT16, .* got one with FP8 E4M3;"):
        OrtConfig().write(plan_of(operation("a"), number_format="FP8 E4M3"))


def test_a_layer_that_is_left_out_in_part_is_refused() -> None:
    plan = plan_of(operation("a"), operation("b"))
    with pytest.raises(ExportError, match=r"got some quantizers of b left out and others kept"):
        _ = replace(plan, left_out=frozenset({"b.weight"})).layers


def test_the_committed_benchmark_found_the_same_layers_out_in_every_plan() -> None:
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in (RESULTS / "configs.md").read_text().splitlines()
        if line.startswith("|")
    ]
    assert {row[0] for row in rows[2:]} == {*APPLY, "aimet", "modelopt"}
    assert [row[5] for row in rows[2:]] == [f"{row[4]} of {row[4]}" for row in rows[2:]]


def test_each_writer_names_its_file_after_its_tool() -> None:
    for name in FAMILIES["configs"]:
        assert load("configs", name).file.startswith(f"config.{name}.")


@pytest.fixture
def planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A run directory whose plan leaves conv2 out, without files."""
    out = tmp_path / "run"
    assert verb("scan", f"{TASK}:task", "--out", out) == 0
    assert verb("plan", out, "--max-drop", "1pt", "--skip", "conv2") == 0
    capsys.readouterr()
    return out


def test_the_command_writes_the_settings_and_exports_only_where_files_are_missing(
    planned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb("export", planned, "--config", "ort") == 0
    said = capsys.readouterr().out
    assert f"{planned / 'config.ort.json'}: apply it with quantize_static(" in said
    settings = json.loads((planned / "config.ort.json").read_text())
    assert "conv2" in settings["nodes_to_exclude"]
    assert settings["nodes_to_exclude"] == list(RunDir(planned).plan().skip)
    made = (planned / "model.partial.onnx").stat().st_mtime_ns
    assert verb("export", planned, "--config", "ort") == 0
    assert (planned / "model.partial.onnx").stat().st_mtime_ns == made


def test_an_export_in_python_writes_the_settings_beside_the_files(planned: Path) -> None:
    sensitivity.export(planned, config="ort")
    settings = json.loads((planned / "config.ort.json").read_text())
    assert settings["nodes_to_exclude"] == list(RunDir(planned).plan().skip)
    made = (planned / "model.partial.onnx").stat().st_mtime_ns
    sensitivity.export(planned, config="modelopt")
    entries = json.loads((planned / "config.modelopt.json").read_text())
    names = [entry["quantizer_name"] for entry in entries]
    assert names == list(RunDir(planned).plan().quantizers)
    assert (planned / "model.partial.onnx").stat().st_mtime_ns == made
    assert not (planned / ".lock").exists()
