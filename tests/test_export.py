"""Export of ModelOpt models to canonical Q/DQ files, and the checks that a file must pass."""

import copy
import dataclasses
import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from support import models
from torch import nn

from sensitivity.errors import ExportError, NamesError, WriteError
from sensitivity.exporters import evaluate
from sensitivity.exporters import verify as checks
from sensitivity.exporters.evaluate import (
    evaluate_file,
    file_scores,
    named_arrays,
    run_in_pieces,
    simulated_scores,
)
from sensitivity.exporters.example import Example
from sensitivity.exporters.facts import facts
from sensitivity.exporters.simulate import outputs_of
from sensitivity.exporters.torch_model import export_files
from sensitivity.exporters.verify import Simulated, rounding_floor, verify
from sensitivity.exporters.writing import save
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.passes.insert_qdq import InsertQdq, snapped
from sensitivity.quantizers.base import layers
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.records import Grid, Unit
from sensitivity.runtimes.onnxruntime import OnnxRuntime, OnnxRuntimeEngine
from sensitivity.tasks.base import mean
from sensitivity.tasks.scoring import Scoring


class Tokens(nn.Module):
    """A Linear layer on three axes exports as Transpose and MatMul; inputs come as a dict."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 3, bias=False)

    def forward(self, tokens, mask):
        return self.second(torch.relu(self.first(tokens)) * mask), (tokens.mean(1),)


@dataclasses.dataclass
class Exported:
    source: ModelOptModel
    units: tuple[Unit, ...]
    skip: list[str]
    files: dict
    inputs: object

    def verify(self, **settings):
        return verify(self.source, self.files, self.inputs, self.units, self.skip, **settings)

    def model(self, variant="int8"):
        return load_model(self.files[variant])


def exported(folder, build, inputs, skip=(), change=lambda model: None):
    model = models.seeded(build)
    change(model)
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    if isinstance(inputs, dict):
        given = tuple(inputs.values())
    source = ModelOptModel(models.quantized(model, *given))
    units = layers(source.quantizers)
    files = export_files(source, inputs, units, list(skip), folder, fingerprint="f00d")
    return Exported(source, units, list(skip), files, inputs)


@pytest.fixture(scope="module")
def branches(tmp_path_factory):
    return exported(
        tmp_path_factory.mktemp("branches"),
        models.Branches,
        models.batch(6, 16),
        ["shared", "left"],
    )


def test_an_export_agrees_with_the_simulated_model(branches):
    found = branches.verify()
    by_variant = {check.variant: check for check in found.files}
    assert {name: check.quantizers for name, check in by_variant.items()} == {
        "float": 0,
        "int8": 14,
        "partial": 10,
    }
    assert by_variant["float"].rms < 1e-5
    for check in (by_variant["int8"], by_variant["partial"]):
        assert check.rms <= 0.05 * check.quantization_rms
    assert found.unreached == ()
    assert found.samples == 6


def test_each_quantized_layer_is_checked_alone(branches):
    checks = {check.variant: check.layers for check in branches.verify().files}
    layers_of = {variant: {layer.layer for layer in found} for variant, found in checks.items()}
    assert layers_of["int8"] == {"stem.0", "shared", "left", "right", "up", "box", "classes"}
    assert layers_of["partial"] == layers_of["int8"] - {"shared", "left"}
    assert all(layer.difference <= 1e-5 for layer in checks["int8"])


def test_files_are_canonical(branches):
    for variant in ("float", "int8", "partial"):
        proto = onnx.load(branches.files[variant])
        onnx.checker.check_model(proto, full_check=True)
        assert [(item.domain, item.version) for item in proto.opset_import] == [("", 17)]
        assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}
    for pair in qdq.pairs(branches.model().graph):
        assert pair.quantize is not None
        assert pair.zero_point.dtype == np.int8
        assert not pair.zero_point.any()
        assert pair.zero_point.shape == pair.scale.shape
        assert pair.scale.dtype == np.float32
        assert (pair.axis is None) != pair.of_weight
        assert pair.of_weight == ("axis" in pair.dequantize.attributes)


def test_nodes_are_named_after_layers(branches):
    graph = branches.model("partial").graph
    names = {node.name: node.op_type for node in graph.all_nodes()}
    assert names["stem.0"] == names["shared"] == names["shared_1"] == "Conv"
    assert (names["up"], names["classes"]) == ("ConvTranspose", "Gemm")


def test_a_skipped_layer_holds_no_pair_and_a_kept_one_does(branches):
    nodes = {node.name: node for node in branches.model("partial").graph.all_nodes()}
    for name in ("shared", "shared_1", "left"):
        assert [qdq.pair_of(value) for value in nodes[name].inputs] == [None] * 3
    assert [qdq.pair_of(value) is not None for value in nodes["right"].inputs] == [
        True,
        True,
        False,
    ]


def test_metadata_say_what_made_the_file(branches):
    props = branches.model("partial").metadata_props
    assert props["sensitivity.fingerprint"] == "f00d"
    assert json.loads(props["sensitivity.skipped"]) == ["shared", "left"]
    assert json.loads(props["sensitivity.kept"]) == ["stem.0", "right", "up", "box", "classes"]


def test_the_batch_axis_stays_free(branches):
    batch = models.batch(3, 16, seed=4)
    target = outputs_of(branches.source, batch, ())

    def score(outputs, targets):
        assert outputs["box"].shape == target["box"].shape
        return -(outputs["classes"] - target["classes"]).abs().amax(1)

    metric, scores = evaluate_file(branches.files["int8"], [(batch, None)], score, mean)
    assert scores.shape == (3,)
    assert metric == pytest.approx(0, abs=1e-2)


def test_batchnorms_with_equal_parameters_are_folded_each(tmp_path):
    """torch writes parameters of equal values once, and reads them through Identity elsewhere."""

    def fresh():
        stages = [(nn.Conv2d(3, 3, 3, bias=False), nn.BatchNorm2d(3)) for _ in range(3)]
        return nn.Sequential(*(module for stage in stages for module in stage))

    def equal(model):
        for module in model:
            if isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()

    done = exported(tmp_path, fresh, models.batch(4, 16), change=equal)
    done.verify()
    assert {node.op_type for node in done.model("float").graph.all_nodes()} == {"Conv"}


def test_folding_batchnorm_keeps_the_weights_levels(tmp_path):
    def awkward(model):
        with torch.no_grad():  # a channel that is off, one turned round
            model.stem[1].weight[0] = 0
            model.stem[1].weight[1] *= -1

    done = exported(tmp_path, models.Branches, models.batch(4, 16), change=awkward)
    done.verify()
    model = done.model()
    (node,) = [node for node in model.graph.all_nodes() if node.name == "stem.0"]
    pair = qdq.pair_of(qdq.weight(node))
    levels = np.rint(qdq.constant(pair.source) / pair.scale.reshape(-1, 1, 1, 1))
    original = done.source.model.stem[0].weight.detach().numpy()
    grid = done.source.grid("stem.0.weight_quantizer")
    wanted = np.rint(original / grid.scale.reshape(-1, 1, 1, 1))
    assert (levels[0] == 0).all()
    np.testing.assert_array_equal(levels[1], -wanted[1])
    np.testing.assert_array_equal(levels[2:], wanted[2:])


def test_a_linear_layer_on_tokens_and_inputs_in_a_dict(tmp_path):
    inputs = {"tokens": torch.randn(4, 5, 6), "mask": torch.ones(4, 5, 1)}
    done = exported(tmp_path, Tokens, inputs, ["second"])
    found = done.verify()
    assert [value.name for value in done.model().graph.inputs] == ["tokens", "mask"]
    assert [value.name for value in done.model().graph.outputs] == ["output_0", "output_1_0"]
    assert {layer.layer: layer.difference is not None for layer in found.files[1].layers} == {
        "first": True, "second": True,
    }  # fmt: skip


class Shortcut(nn.Module):
    """A residual block that quantizes its own shortcut, as those of pytorch-quantization do."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.residual_quantizer = nn.Identity()

    def forward(self, x):
        return self.conv2(torch.relu(self.conv1(x))) + self.residual_quantizer(x)


def test_a_block_with_a_quantizer_of_its_own_is_not_compared_alone(tmp_path):
    inputs = torch.randn(4, 8, 8, 8)
    model = models.quantized(nn.Sequential(Shortcut(), Shortcut()).eval(), inputs)
    for block in model:
        block.residual_quantizer = copy.deepcopy(block.conv1.input_quantizer)
    source = ModelOptModel(model)
    units = layers(source.quantizers)
    # With the layers inside the second block in float, nothing in it is rounded differently.
    skip = ["1.conv1", "1.conv2"]
    files = export_files(source, inputs, units, skip, tmp_path, fingerprint="f00d")
    checks = {
        check.variant: {layer.layer: layer.difference is not None for layer in check.layers}
        for check in verify(source, files, inputs, units, skip).files
    }
    assert not checks["int8"]["0"]
    assert checks["int8"]["0.conv1"]
    assert not checks["int8"]["1"]
    assert checks["partial"]["1"]


def test_the_users_model_is_left_as_it_was(branches):
    before = branches.source.fingerprint()
    hooks = [
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for module in branches.source.model.modules()
    ]
    branches.verify()
    after = [
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for module in branches.source.model.modules()
    ]
    assert (branches.source.fingerprint(), after) == (before, hooks)


def changed(branches, change, variant="int8"):
    """The same export with one file changed behind its back."""
    model = branches.model(variant)
    change(model)
    file = save(model, branches.files[variant].parent / f"changed.{variant}.onnx")
    return dataclasses.replace(branches, files={variant: file})


def node_named(model, name):
    return next(node for node in model.graph.all_nodes() if node.name == name)


def test_a_file_that_lost_a_pair_is_refused(branches):
    def lose(model):
        dequantize = node_named(model, "right.input_quantizer/DequantizeLinear")
        dequantize.outputs[0].replace_all_uses_with(qdq.pair_of(dequantize.outputs[0]).source)
        ir.passes.common.RemoveUnusedNodesPass()(model)

    with pytest.raises(
        ExportError, match=r"right.input_quantizer is missing; layer right lacks Q/DQ on its input"
    ):
        changed(branches, lose).verify()


def test_a_file_that_quantizes_a_skipped_layer_is_refused(branches):
    done = dataclasses.replace(branches, files={"partial": branches.files["int8"]})
    with pytest.raises(ExportError, match=r"left.input_quantizer should not be there.*"):
        done.verify()


def test_a_layer_with_another_scale_is_refused_by_name(branches):
    def scale(model):
        value = model.graph.initializers["right.input_quantizer.scale"]
        value.const_value = ir.tensor(np.float32(value.const_value.numpy() * 1.02), name=value.name)

    message = (
        r"layer right of changed.int8.onnx to agree with the simulated model to 1e-05 on the "
        r"same input.*got 0\.0"
    )
    with pytest.raises(ExportError, match=message):
        changed(branches, scale).verify()


def test_outputs_that_differ_more_than_rounding_are_refused(branches):
    def shift(model):
        node = next(node for node in model.graph.all_nodes() if node.op_type == "Sigmoid")
        node.op_type = "HardSigmoid"

    message = (
        r"outputs of changed.float.onnx to differ from the simulated model's by at most "
        r"0.0001.*got 0\."
    )
    with pytest.raises(ExportError, match=message):
        changed(branches, shift, "float").verify()


@pytest.mark.parametrize(
    ("lucky", "ran"), [(0, 1), (3, 4), (5, 6)], ids=["first", "fourth", "last"]
)
def test_the_models_own_rounding_is_drawn_until_it_explains_the_difference(
    branches, monkeypatch, lucky, ran
):
    reference = [np.ones((4, 3), np.float32)]
    seeds = []

    def jittered(source, inputs, disabled, seed, noise):
        assert noise == 3e-7
        seeds.append(seed)
        return torch.from_numpy(reference[0] + (0.01 if seed == lucky else 0.001 * seed))

    monkeypatch.setattr(checks, "jittered_outputs", jittered)
    simulated = Simulated(branches.source, None, (), reference, reference, Example({}))
    floor = rounding_floor(simulated, noise=3e-7, enough=0.009)
    assert floor == pytest.approx(0.01, rel=1e-4)
    assert seeds == list(range(ran))


def test_a_metric_that_differs_by_more_than_chance_is_refused(branches):
    batches = [(models.batch(8, 16, seed), torch.zeros(8)) for seed in range(4)]
    calls = iter(range(100))

    # the second pass over the four batches, of the file, is told to be worse
    def score(outputs, targets):
        return torch.ones(8) if next(calls) < len(batches) else torch.zeros(8)

    done = dataclasses.replace(branches, files={"int8": branches.files["int8"]})
    with pytest.raises(
        ExportError,
        match=r"metric of model.int8.onnx .* within 0.003 of 1, that of the simulated model, got 0 "
        r"on",
    ):
        done.verify(scoring=Scoring(batches, score))


@pytest.mark.parametrize("same", [False, True], ids=["another-file", "same-file"])
def test_the_metric_of_int8_is_left_to_a_bench_unless_it_is_the_plan(branches, same):
    batches = [(models.batch(8, 16, seed), torch.zeros(8)) for seed in range(2)]
    files = dict(branches.files)
    done = branches
    if same:
        files["partial"] = files["int8"]
        done = dataclasses.replace(branches, files=files, skip=[])
    scoring = Scoring(
        batches, lambda outputs, targets: outputs["classes"].argmax(1) == 0, of_int8=False
    )
    metrics = {check.variant: check.metric for check in done.verify(scoring=scoring).files}
    assert metrics["partial"] is not None
    assert (metrics["int8"] is not None) is same


def test_outputs_of_a_canonical_file_are_computed_once_and_as_those_of_a_whole_batch(
    branches, monkeypatch
):
    example = Example(named_arrays(branches.inputs))
    with OnnxRuntime(optimize=False).build(branches.files["int8"]) as engine:
        whole = list(engine.run(example.inputs).values())
    built = []
    build = OnnxRuntime.build
    monkeypatch.setattr(
        OnnxRuntime, "build", lambda self, file, **more: built.append(file) or build(self, file)
    )
    first, again = (example.outputs(branches.files["int8"]) for _ in range(2))
    assert built == [branches.files["int8"]]
    for output, same, other in zip(first, again, whole, strict=True):
        assert output is same
        np.testing.assert_allclose(output, other, rtol=1e-5, atol=1e-5)


def test_the_metric_of_a_good_file_is_reported(branches):
    batches = [(models.batch(8, 16, seed), torch.zeros(8)) for seed in range(2)]
    done = dataclasses.replace(branches, files={"int8": branches.files["int8"]})
    scoring = Scoring(batches, lambda outputs, targets: outputs["classes"].argmax(1) == 0)
    found = done.verify(scoring=scoring)
    check = found.files[0].metric
    assert check.n == 16
    assert check.file == pytest.approx(check.simulated, abs=0.1)
    assert "metric in ONNX Runtime" in facts(found)["model.int8.onnx"]


def test_each_file_is_scored_once_also_under_two_names(branches, tmp_path):
    twin = tmp_path / "twin.onnx"
    model = onnx.load(branches.files["int8"])
    model.graph.name = "another"
    onnx.save(model, twin)
    scored = []

    def score(outputs, targets):
        scored.append(1)
        return outputs["classes"].argmax(1) == 0

    scoring = Scoring([(models.batch(8, 16, 0), torch.zeros(8))], score)
    first = file_scores(branches.files["int8"], scoring)
    assert file_scores(twin, scoring) is first
    assert len(scored) == 1
    assert file_scores(branches.files["float"], scoring) is not first
    file_scores(twin, scoring, optimize=True)
    assert len(scored) == 3


def test_a_file_runs_a_few_samples_at_a_time_where_each_output_has_an_entry_for_each(
    branches, tmp_path, monkeypatch
):
    ran = []
    run = OnnxRuntimeEngine.run
    monkeypatch.setattr(
        OnnxRuntimeEngine, "run", lambda self, fed: ran.append(len(fed["input"])) or run(self, fed)
    )
    with OnnxRuntime(optimize=False).build(branches.files["int8"]) as engine:
        whole = list(engine.run({"input": branches.inputs.numpy()}).values())
        monkeypatch.setattr(evaluate, "PIECE", 4)
        found = run_in_pieces(engine, branches.inputs)
        monkeypatch.setattr(evaluate, "PIECE_VALUES", 3 * 3 * 16 * 16)
        run_in_pieces(engine, branches.inputs)
        monkeypatch.setattr(evaluate, "PIECE_VALUES", 1)
        run_in_pieces(engine, branches.inputs)
        monkeypatch.setattr(evaluate, "PIECE_VALUES", 10**6)
    assert ran == [6, 4, 2, 3, 3, 2, 2, 2]
    for one, other in zip(found, whole, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    body = """<ir_version: 8, opset_import: ["" : 17]>
    whole (float[n, 2] input) => (float[n, 2] y, float[2] m) {
        y = Neg (input)
        m = ReduceMean <axes = [0], keepdims = 0> (y)
    }"""
    onnx.save(onnx.parser.parse_model(body), tmp_path / "whole.onnx")
    ran.clear()
    with OnnxRuntime().build(tmp_path / "whole.onnx") as engine:
        _, mean_of_all = run_in_pieces(engine, torch.arange(12.0).reshape(6, 2))
    assert ran == [4, 6]
    assert mean_of_all.tolist() == [-5, -6]


def test_a_model_for_one_batch_size_is_traced_with_a_whole_batch(tmp_path):
    class Fixed(models.Chain):
        def forward(self, x):
            assert len(x) == 6
            return super().forward(x)

    found = exported(tmp_path, Fixed, models.batch(6, 16))
    assert found.model("float").graph.outputs[0].shape is not None


def test_what_was_measured_of_a_variant_is_not_simulated_again():
    batches = [(torch.full((2,), float(at)), torch.zeros(2)) for at in range(3)]
    known = {("partial", 1): np.array([7.0, 8.0])}
    simulated = []

    def simulate(inputs):
        simulated.append(float(inputs[0]))
        return inputs

    scoring = Scoring(batches, lambda outputs, _: outputs, simulated=lambda *at: known.get(at))
    found = simulated_scores("partial", scoring, simulate)
    assert found.tolist() == [0, 0, 7, 8, 2, 2]
    assert simulated == [0, 2]


def test_a_unit_that_does_not_exist_cannot_be_skipped(branches, tmp_path):
    with pytest.raises(
        NamesError,
        match="a unit to skip to match exactly one of 7 names, got 'rihgt'. Close names: right",
    ):
        export_files(
            branches.source, branches.inputs, branches.units, ["rihgt"], tmp_path, fingerprint=""
        )


def test_a_model_that_cannot_be_traced_is_refused(tmp_path):
    class Untraceable(models.Chain):
        def forward(self, x):
            return torch.linalg.svdvals(super().forward(x))

    with pytest.raises(
        ExportError, match=r"torch.onnx.export \(TorchScript, opset 17\) to take the model, got"
    ):
        exported(tmp_path, Untraceable, models.batch(4))


def test_a_full_disk_is_one_sentence_and_leaves_no_half_file(branches, tmp_path, monkeypatch):
    def full(path, data):
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(
        WriteError, match=r"to write .*model.int8.onnx, got: No space left on device"
    ):
        export_files(branches.source, branches.inputs, branches.units, [], tmp_path, fingerprint="")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "grid", [(0, 0, 255), (0, -32, 31), (3, -128, 127)], ids=["unsigned", "6-bit", "asymmetric"]
)
def test_a_grid_that_no_signed_type_of_a_file_has_is_refused(grid):
    zero_point, low, high = grid
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["" : 17, "sensitivity" : 1]> '
        'g (float[2] x) => (float[2] y) { y = sensitivity.Quantizer <name="a.input_quantizer"> (x) '
        "}"
    )
    one = Grid(np.ones(1, np.float32), zero_point, low, high, None)
    with pytest.raises(
        ExportError,
        match=f"a.input_quantizer to be symmetric and signed .*, got integers {low} to {high}",
    ):
        InsertQdq({"a.input_quantizer": one}, {})(model)


def test_only_weights_that_round_elsewhere_are_moved():
    grid = Grid(np.float32([0.1, 1.0]), 0, -127, 127, 0)
    weight = np.float32([[0.24, -12.9], [2.5, 3.0]])
    levels = np.int8([[2, -127], [3, 3]])  # a narrow range, and a value on the boundary
    np.testing.assert_allclose(
        snapped(weight, levels, grid, ir.DataType.INT8), [[0.24, -12.7], [3.0, 3.0]], rtol=1e-6
    )
    assert snapped(weight[:, :1], np.int8([[2], [2]]), grid, ir.DataType.INT8) is not None
