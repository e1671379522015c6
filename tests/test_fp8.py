"""FP8 as a format of some layers of an INT8 model: switched and restored, replayed, exported,
planned."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import asdict, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import numpy as np
import pytest
import torch
from onnxruntime.quantization import QuantType
from support import models
from support.commands import TASK, verb
from support.onnx_models import float_file, images, labelled, qdq_file, static_file
from support.pq_models import quantized_by_pq
from support.pt2e_models import quantized_by_pt2e
from support.replays import check

from sensitivity.config import PlanSettings
from sensitivity.errors import SensitivityError
from sensitivity.exporters.onnx_file import export_onnx, verify_onnx
from sensitivity.exporters.torch_model import disabled_by_variant, export_files
from sensitivity.exporters.verify import verify
from sensitivity.journal.lines import RangeTried, made_range
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.uses import format_of
from sensitivity.quantizers.alternatives import Alternatives
from sensitivity.quantizers.base import layers
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.quantizers.onnx.qdq import OnnxQdqModel
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.quantizers.torch.pt2e import Pt2eModel
from sensitivity.quantizers.torch.pytorch_quantization import PytorchQuantizationModel
from sensitivity.records import Range, names_of
from sensitivity.reporting.verdict import words_of
from sensitivity.rules.formats import FP8
from sensitivity.run_dir import RunDir
from sensitivity.search.fp8 import fp8_ranges, slow_in_tensorrt
from sensitivity.search.wide import wide_ranges
from sensitivity.simulators.choose import simulator_for
from sensitivity.simulators.onnx.replay import OnnxReplay
from sensitivity.simulators.onnx.whole import WholeFile
from sensitivity.simulators.torch.replay import ReplaySimulator
from sensitivity.steps import plan as planning
from sensitivity.steps.apply import applied, apply_for_good
from sensitivity.steps.plan_files import search_choices
from sensitivity.steps.report import report_data
from sensitivity.tasks.load import load_task


@pytest.fixture
def source() -> ModelOptModel:
    return ModelOptModel(models.quantized(models.seeded(models.Branches), models.batch()))


def in_fp8(values: np.ndarray, amax: np.ndarray) -> np.ndarray:
    """Values rounded to E4M3 with the largest level at amax, by torch's own type."""
    steps = torch.from_numpy(np.clip(values / amax * 448, -448, 448))
    return steps.to(torch.float8_e4m3fn).double().numpy() * amax / 448


def test_an_fp8_range_is_another_range_than_the_same_of_integers() -> None:
    own = Range("a", "own", (1.0,))
    fp8 = replace(own, fp8=True)
    assert fp8.key != own.key
    assert made_range(RangeTried(fp8.key, **asdict(fp8))) == fp8


def test_ranges_of_fp8_are_those_of_calibration_and_of_each_output_channel(
    source: ModelOptModel,
) -> None:
    ranges = fp8_ranges(source, layers(source.quantizers))
    assert ranges.keys() == {"stem.0", "shared", "left", "right", "up", "box", "classes"}
    x, weight = ranges["up"]
    assert x.amax == source.range("up.input_quantizer").amax
    assert (weight.axis, len(weight.amax)) == (1, 8), "of a transposed convolution"
    values = source.model.get_submodule("up").weight.detach().abs().amax((0, 2, 3))
    np.testing.assert_allclose(weight.amax, values)


def test_layers_with_a_pre_quantization_scale_get_no_second_format() -> None:
    x = models.batch()
    smooth = mtq.quantize(
        models.seeded(models.Branches), mtq.INT8_SMOOTHQUANT_CFG, lambda model: model(x)
    )
    source = ModelOptModel(smooth)
    units = layers(source.quantizers)
    scaled = {
        quantizer.layer
        for quantizer in source.quantizers
        if smooth.get_submodule(quantizer.name).pre_quant_scale is not None
    }
    assert scaled == {"classes"}
    for ranges in (fp8_ranges(source, units), wide_ranges(source, units)):
        assert ranges.keys() == {unit.name for unit in units} - scaled


def test_torch_quantizers_take_fp8_inside_the_with_only(source: ModelOptModel) -> None:
    ranges = fp8_ranges(source, layers(source.quantizers))["stem.0"]
    layer, x = source.model.get_submodule("stem.0"), models.batch(seed=1)
    before = layer.input_quantizer(x), layer.weight_quantizer(layer.weight)
    with source.with_ranges(ranges):
        fp8 = layer.input_quantizer(x), layer.weight_quantizer(layer.weight)
        grid = source.file_grid("stem.0.weight_quantizer")
    assert (grid.is_float, grid.axis) == (True, 0)
    amax = np.array(ranges[0].amax)
    np.testing.assert_allclose(fp8[0].numpy(), in_fp8(x.numpy(), amax), rtol=1e-5)
    amax = np.array(ranges[1].amax).reshape(-1, 1, 1, 1)
    weight = layer.weight.detach().numpy()
    np.testing.assert_allclose(fp8[1].detach().numpy(), in_fp8(weight, amax), rtol=1e-5)
    after = layer.input_quantizer(x), layer.weight_quantizer(layer.weight)
    assert all(map(torch.equal, before, after))


def test_replay_of_fp8_is_the_model_that_has_it_bit_for_bit(source: ModelOptModel) -> None:
    by_unit = fp8_ranges(source, layers(source.quantizers))
    ranges = [*by_unit["stem.0"], *by_unit["left"]]
    offering = Alternatives(source, ranges)
    offered = [one for one in offering.quantizers if one.replaces]
    assert {(one.bits, one.format) for one in offered} == {(8, "FP8 E4M3")}
    keys = [one.key for one in ranges]
    variants = [frozenset(names) for names in ([], keys, keys[:2], [keys[0], ranges[0].quantizer])]
    check(offering, ReplaySimulator(offering), models.batch(seed=7), variants)


def test_a_pt2e_graph_takes_fp8_in_replay_and_in_its_files(tmp_path: Path) -> None:
    x = models.batch()
    source = Pt2eModel(quantized_by_pt2e(models.seeded(models.Branches), x))
    units = layers(source.quantizers)
    by_unit = fp8_ranges(source, units)
    ranges = [*by_unit["left"], *by_unit["classes"]]
    offering = Alternatives(source, ranges)
    keys = frozenset(one.key for one in ranges)
    check(offering, ReplaySimulator(offering), models.batch(seed=7), [frozenset(), keys])
    before = source.fingerprint()
    files = export_files(source, x, units, [], tmp_path, fingerprint="", formats=ranges)
    found = verify(source, files, x, units, [], formats=ranges)
    assert [one.variant for one in found.files] == ["float", "int8", "partial"]
    assert kinds(files["partial"])["left.weight_quantizer"] == "FP8 E4M3"
    assert set(kinds(files["int8"]).values()) == {"INT8"}
    assert source.fingerprint() == before


def kinds(file: Path) -> dict[str, str]:
    """Quantizer -> format of its pair in a file."""
    pairs = qdq.pairs(load_model(file).graph)
    return {pair.name.partition("/")[0]: format_of(pair) for pair in pairs}


def outputs(simulator: Any, variant: frozenset[str], x: Any) -> np.ndarray:
    ((_, found),) = simulator.outputs(x, [variant])
    return np.array(found)


@pytest.mark.parametrize("signs", ["int8", "uint8 for a ReLU"])
def test_uses_of_a_file_take_fp8_as_the_edited_file_and_replay_do(
    signs: str, tmp_path: Path
) -> None:
    """Where a pair of unsigned integers stands for a ReLU, FP8 needs the ReLU back."""
    unquantized = tmp_path / "net.onnx"
    text = (
        "c = Conv <pads = [1, 1, 1, 1]> (x, w, b)\nr = Relu (c)\n"
        "d = Conv <pads = [1, 1, 1, 1]> (r, v)\n"
        "g = GlobalAveragePool (d)\nf = Flatten (g)\ny = Gemm <transB = 1> (f, m)"
    )
    rng = np.random.default_rng(0)
    shapes = {"w": (8, 3, 3, 3), "b": (8,), "v": (8, 8, 3, 3), "m": (5, 8)}
    constants = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    ports = "(float[batch, 3, 12, 12] x) => (float[batch, 5] y)"
    qdq_file(unquantized, text, constants, opset=19, ports=ports)
    is_signed = signs == "int8"
    kind = QuantType.QInt8 if is_signed else QuantType.QUInt8
    options = {"activation_type": kind, "extra_options": {"ActivationSymmetric": is_signed}}
    quantized = static_file(unquantized, tmp_path / "net.qdq.onnx", **options)
    source = OnnxQdqModel(OnnxModel(quantized, float_path=unquantized))
    has_relu = any(node.op_type == "Relu" for node in source.model.graph.graph)
    assert has_relu == is_signed
    units = layers(source.quantizers)
    by_unit = fp8_ranges(source, units)
    assert {"Conv_c", "Conv_d", "Gemm_y"} <= by_unit.keys()
    ranges = [*by_unit["Conv_d"], *by_unit["Gemm_y"]]
    x, keys = {"x": images(4, seed=3)}, frozenset(one.key for one in ranges)
    offering = Alternatives(source, ranges)
    replay = OnnxReplay(offering)
    with source.with_ranges(ranges):
        whole = outputs(WholeFile(source), frozenset(), x)
        edited = source.model.without(frozenset())
    np.testing.assert_array_equal(outputs(replay, keys, x), whole)
    in_fp8 = [pair for pair in qdq.pairs(edited.graph) if format_of(pair) == "FP8 E4M3"]
    assert len(in_fp8) == len(ranges) >= 4
    assert {pair.axis for pair in in_fp8 if pair.of_weight} == {0}
    float_ = outputs(replay, frozenset(names_of(source.quantizers)), x)
    off = frozenset(one.quantizer for one in ranges)
    left_out = outputs(replay, off, x)
    assert np.abs(whole - left_out).max() < 0.1 * np.abs(float_).max(), "the ReLU is there"
    files = export_onnx(source, units, [], tmp_path, fingerprint="x", formats=ranges)
    disabled = disabled_by_variant(source, units, [])
    found = verify_onnx(source, files, disabled, x, simulator_for(offering, x), formats=ranges)
    assert [one.variant for one in found.files] == ["float", "int8", "partial"]
    assert load_model(files["partial"]).opset_imports[""] == 19


# Plans.
# --------------------------------------------------------------------------------------------------

FORMATS = ("--formats", "int8,fp8,float", "--no-recalibrate")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ranges of two layers are far too wide for 8-bit integers, and not for FP8."""
    out = tmp_path_factory.mktemp("fp8") / "tiny"
    assert verb("scan", f"{TASK}:far_too_wide", "--out", out) == 0
    assert verb("plan", out, "--target", "0.8", *FORMATS) == 0
    assert verb("export", out, "--for", "tensorrt") == 0
    return out


def test_layers_that_fp8_is_enough_for_are_not_left_out(done: Path) -> None:
    plan = RunDir(done).plan()
    assert (plan.met, plan.skip, plan.quantizers, plan.widened) == (True, (), (), ())
    assert set(plan.fp8) == {"conv2", "conv5"}
    assert {plan.formats[unit] for unit in plan.fp8} == {"FP8 E4M3"}
    assert plan.formats["conv1"] == "INT8"
    assert plan.metric.confirm.value > plan.metric.quantized.value


def test_the_partial_file_has_pairs_of_fp8_and_int8_and_computes_what_was_measured(
    done: Path,
) -> None:
    partial, int8 = kinds(done / "model.partial.onnx"), kinds(done / "model.int8.onnx")
    places = ("input_quantizer", "weight_quantizer")
    fp8 = {f"{unit}.{place}" for unit in ("conv2", "conv5") for place in places}
    assert {name for name, kind in partial.items() if kind == "FP8 E4M3"} == fp8
    assert partial.keys() == int8.keys()
    assert set(int8.values()) == {"INT8"}
    assert load_model(done / "model.partial.onnx").opset_imports[""] == 19
    checks = json.loads((done / "export.json").read_text())["files"]
    check = next(one for one in checks if one["variant"] == "partial")
    assert check["metric"]["file"] == pytest.approx(check["metric"]["simulated"], abs=0.05)
    alone = {one["layer"]: one["difference"] for one in check["layers"]}
    assert {unit: alone[unit] < 1e-4 for unit in ("conv1", "conv2", "conv5")} == {
        "conv1": True, "conv2": True, "conv5": True,
    }  # fmt: skip


def test_the_file_for_tensorrt_has_stored_levels_of_both_formats(done: Path) -> None:
    graph = load_model(done / "model.partial.tensorrt.onnx").graph
    stored = {pair.source.name: pair.source.dtype for pair in qdq.pairs(graph) if pair.is_compact}
    assert {kind.name for kind in stored.values()} == {"INT8", "FLOAT8E4M3FN"}
    engines = json.loads((done / "export.json").read_text())["engines"]
    for engine in engines.values():  # none where TensorRT-RTX is not installed
        built = {one["layer"]: (one["planned"], one["built"]) for one in engine["layers"]}
        assert built["conv2"] == ("fp8", "fp8")
        assert built["conv1"] == ("int8", "int8")


def test_a_fresh_run_takes_fp8_and_16_bits_together(tmp_path: Path) -> None:
    """The own format of each unit is compared with both, and measured once."""
    out = tmp_path / "tiny"
    assert verb("scan", f"{TASK}:far_too_wide", "--out", out) == 0
    formats = ("--formats", "int8,int16,fp8,float", "--no-recalibrate")
    assert verb("plan", out, "--target", "0.8", *formats) == 0
    plan = RunDir(out).plan()
    assert (plan.met, plan.skip) == (True, ())
    assert {*plan.fp8, *plan.wide} == {"conv2", "conv5"}


def test_another_target_is_answered_from_sets_with_fp8_that_were_measured(
    done: Path, tmp_path: Path
) -> None:
    out = tmp_path / "again"
    shutil.copytree(done, out)
    before = RunDir(out).plan()
    assert any(step.fp8 for step in before.path)
    lines = RunDir(out).journal.read_bytes()
    assert verb("plan", out, "--target", "0.79", *FORMATS) == 0
    again = RunDir(out).plan()
    assert set(again.in_fp8) == set(before.in_fp8)
    assert any("measured before" in note for note in again.notes)
    assert RunDir(out).journal.read_bytes() == lines
    kept = RunDir(out, "target-0.8-at-0.8").plan()
    assert kept.in_fp8 == before.in_fp8


def test_words_say_fp8_where_it_is(done: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "words"
    shutil.copytree(done, out)
    words = words_of(report_data(out))
    assert "Putting 2 layers into FP8 brings" in words.headline
    sentences = " ".join(words.sentences)
    assert "In FP8, weights and activations: conv2, conv5." in sentences
    assert "2 of 7 layers in FP8 (conv2, conv5)" in sentences
    for form in ("markdown", "sarif", "junit", "netron"):
        assert verb("report", out, "--format", form) == 0
    assert verb("bench", out, "--rounds", "2") == 0
    assert verb("compare", out, done) == 0
    said = capsys.readouterr().out
    assert "2 of 2 layers in FP8 did not run in FP8: conv2 (fp32), conv5 (fp32)" in said
    assert "In FP8, weights and activations: - `conv2`" in " ".join(said.split())
    assert "conv2: This layer is in FP8, so that the accuracy target holds." in said
    assert verb("report", out) == 0
    page = (out / "report.html").read_text()
    assert "2 in FP8" in page
    assert "ONNX Runtime computes FP8 in float" in page
    assert "--for onnxruntime" not in page.replace("lint", "")


def test_files_of_fp8_are_refused_for_onnx_runtime_before_anything_is_loaded(
    done: Path, capsys: Any
) -> None:
    before = (done / "export.json").read_bytes()
    assert verb("export", done, "--for", "onnxruntime") == 1
    assert (
        "Expected everything in INT8 to lower it for onnxruntime, got FP8 E4M3 in the plan; give "
        "the runtime the canonical file, as 'sensitivity bench' does."
    ) in " ".join(capsys.readouterr().err.split())
    assert (done / "export.json").read_bytes() == before


def test_for_all_leaves_out_what_does_not_take_the_plan_and_says_why(
    done: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "all"
    shutil.copytree(done, out)
    assert verb("export", out, "--for", "all") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "model.partial.tensorrt.onnx: " in said
    for target, why in {
        "onnxruntime": "Expected everything in INT8 to lower it for onnxruntime, got FP8 E4M3",
        "openvino": "Expected a target that takes FP8 for the plan with FP8 in conv2, got openvino",
    }.items():
        assert f"model.partial.{target}.onnx: {why}" in said
        assert not (out / f"model.partial.{target}.onnx").exists()
    assert json.loads((out / "export.json").read_text())["left_out"].keys() >= {
        "model.partial.onnxruntime.onnx", "model.partial.openvino.onnx",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("int8,fp8,float", "--for", "qnn"), "takes FP8 for --formats fp8, got qnn: its 8-bit"),
        (("int8,fp8,float", "--for", "openvino"), "takes FP8 for --formats fp8, got openvino"),
        (("int8,int16,float", "--for", "tensorrt"), "16 bits for --formats int16, got tensorrt"),
    ],
    ids=lambda words: "-".join(words) if isinstance(words, tuple) else "",
)
def test_a_format_that_the_target_of_a_plan_does_not_take_is_refused(
    words: tuple[str, ...], sentence: str, done: Path, capsys: Any
) -> None:
    assert verb("plan", done, "--target", "0.8", "--formats", *words) == 1
    assert sentence in " ".join(capsys.readouterr().err.split())
    run = ("run", f"{TASK}:far_too_wide", "--out", done.with_name("refused"), "--formats")
    assert verb(*run, *words) == 1
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_a_target_of_a_plan_without_formats_to_limit_is_refused(done: Path, capsys: Any) -> None:
    assert verb("plan", done, "--target", "0.8", "--for", "tensorrt") == 1
    said = capsys.readouterr().err
    assert "Expected --formats beside --for, which limits the formats of a plan" in said
    out = done.with_name("refused")
    assert verb("run", f"{TASK}:far_too_wide", "--out", out, "--for", "tensorrt") == 1
    assert "Expected no --for with a task that is no ONNX file" in capsys.readouterr().err


def test_a_plan_puts_the_users_own_model_into_fp8_for_a_while_and_for_good(done: Path) -> None:
    plan, info = RunDir(done).plan(), RunDir(done).info()
    model = load_task(f"{TASK}:far_too_wide").model
    of = attrgetter("_num_bits")
    with applied(model, plan, info):
        assert (of(model.conv2.input_quantizer), of(model.conv2.weight_quantizer)) == (
            (4, 3), (4, 3),
        )  # fmt: skip
    assert of(model.conv2.input_quantizer) == 8
    apply_for_good(model, plan, info)
    assert (of(model.conv2.weight_quantizer), of(model.conv1.weight_quantizer)) == ((4, 3), 8)


def test_modelopts_own_settings_give_the_formats_of_the_plan(done: Path) -> None:
    import modelopt.torch.quantization as mtq

    assert verb("export", done, "--config", "modelopt") == 0
    config = copy.deepcopy(mtq.INT8_DEFAULT_CFG)
    config["quant_cfg"] += json.loads((done / "config.modelopt.json").read_text())
    x = models.batch()
    model = mtq.quantize(models.seeded(lambda: models.Chain(6)), config, lambda model: model(x))
    formats = {one.name: one.format for one in ModelOptModel(model).quantizers}
    in_fp8 = {name for name, kind in formats.items() if kind == "FP8 E4M3"}
    assert {name.partition(".")[0] for name in in_fp8} == {"conv2", "conv5"}
    assert len(in_fp8) == 4
    amax = model.conv2.weight_quantizer._amax
    assert amax.numel() == 4, "one for each output channel"


def test_the_page_of_formats_has_the_table_of_targets() -> None:
    page = (Path(__file__).parents[1] / "docs" / "formats.md").read_text()
    for target, taken in FP8.items():
        takes = "yes" if taken.takes else "no"
        assert f"| {target} | {takes} | {taken.why} | {taken.source} |" in page


def test_what_cannot_have_fp8_is_refused_in_one_sentence(
    done: Path, tmp_path: Path, capsys: Any
) -> None:
    def refused(*words: object) -> str:
        assert verb(*words) == 1
        return " ".join(capsys.readouterr().err.split())

    assert "takes FP8 for --formats fp8, got openvino: its CPU plug-in rounds" in refused(
        "plan", done, *FORMATS, "--runtime", "openvino"
    )
    assert "takes FP8 for the plan with FP8 in conv2, got openvino" in refused(
        "export", done, "--for", "openvino"
    )
    assert "got FP8 E4M3 and INT8" not in refused("export", done, "--for", "onnxruntime")
    assert "a plan in INT8 or INT16, which is what these settings of ONNX Runtime give" in refused(
        "export", done, "--config", "ort"
    )
    assert "with int16, fp8 or both between them, got 'int8,fp4,float'" in refused(
        "plan", done, "--formats", "int8,fp4,float"
    )
    assert "got 7, 7 of them with the choice of FP8 (16,384 skip-sets)" in refused(
        "plan", done, "--planner", "exhaustive", *FORMATS
    )


def test_a_file_of_an_older_opset_is_told_which_one_has_fp8(tmp_path: Path, capsys: Any) -> None:
    unquantized = float_file(tmp_path / "float.onnx")
    quantized = static_file(unquantized, tmp_path / "int8.onnx")
    data = labelled(unquantized, tmp_path / "data.npz")
    given = ("--data", data, "--float-model", unquantized, "--out", tmp_path / "run")
    assert verb("run", quantized, *given, "--max-drop", "1pt", *FORMATS) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "got opset 17 in int8.onnx, and QuantizeLinear has FP8 from opset 19 on" in said


def test_models_that_are_in_fp8_already_and_pytorch_quantization_are_refused() -> None:
    settings = PlanSettings(directory=Path("."), formats="int8,fp8,float")
    x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    by_pq = PytorchQuantizationModel(quantized_by_pq(models.Branches, x))
    with pytest.raises(SensitivityError, match="got a pytorch-quantization model, whose FP8 is"):
        planning.check_formats(settings, by_pq)
    fp8 = models.quantized(models.seeded(models.Branches), models.batch())
    for module in fp8.modules():
        if hasattr(module, "_num_bits"):
            module._num_bits = (4, 3)
    source = ModelOptModel(fp8)
    assert fp8_ranges(source, layers(source.quantizers)) == {}
    with pytest.raises(SensitivityError, match="integer grids of 8 bits .* got FP8 E4M3; leave"):
        planning._fp8_of(settings, source, layers(source.quantizers))


def test_layers_that_tensorrt_runs_in_float_or_slowly_get_no_fp8_for_it(
    source: ModelOptModel,
) -> None:
    units = layers(source.quantizers)
    assert slow_in_tensorrt(source, units) == {"shared", "up"}, "depthwise, and transposed"
    plain = PlanSettings(directory=Path("."), formats="int8,fp8,float")
    settings, same = replace(plain, runtime="tensorrt_rtx"), replace(plain, for_="tensorrt")
    for asked in (settings, same):
        assert planning._fp8_of(asked, source, units).keys() == {
            "stem.0", "left", "right", "box", "classes",
        }  # fmt: skip
    assert search_choices(settings) == search_choices(same) != search_choices(plain)
