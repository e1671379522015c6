"""Our own exports break no rule of the runtime for which they are made."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="exports a PyTorch model")
pytest.importorskip("modelopt", reason="exports a model calibrated by ModelOpt")

from support.blocks import Residual, Transposed, YoloLike  # noqa: E402
from support.models import Chain, batch, quantized, seeded  # noqa: E402

from sensitivity.errors import ExportError, ModelError  # noqa: E402
from sensitivity.exporters.lower import lower_file  # noqa: E402
from sensitivity.exporters.torch_model import export_files  # noqa: E402
from sensitivity.onnx_graph import qdq  # noqa: E402
from sensitivity.onnx_graph.load import load_model  # noqa: E402
from sensitivity.quantizers.base import check_calibrated, layers  # noqa: E402
from sensitivity.quantizers.torch.modelopt import ModelOptModel  # noqa: E402
from sensitivity.rules.lint import run_lint  # noqa: E402
from sensitivity.rules.targets import RTX, TENSORRT  # noqa: E402
from sensitivity.tasks.load import load_task  # noqa: E402
from sensitivity.units.placement import add_residual_quantizers, scale_groups, unified_scales  # noqa: E402

MODELS = {"chain": lambda: Chain(channels=16), "yolo-like": YoloLike, "residual": Residual}
SKIPPED = {"chain": "conv2", "yolo-like": "coarse.cv1.0", "residual": "second.1"}


@pytest.fixture(scope="module", params=MODELS)
def placed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model exported whole and with one convolution left out, its scales shared and skip
    connections quantized."""
    folder = tmp_path_factory.mktemp(request.param)
    images = batch(size=32)
    source = ModelOptModel(
        quantized(seeded(MODELS[request.param]), images, skip=("pool*", "*norm*"))
    )
    add_residual_quantizers(source, [images])
    source = ModelOptModel(source.model)
    with unified_scales(source, scale_groups(source, images)):
        export_files(
            source,
            images,
            layers(source.quantizers),
            [SKIPPED[request.param]],
            folder,
            fingerprint="test",
        )
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten convolutions in a row, exported whole and with the second one left out, with the plan
    that says so."""
    folder = tmp_path_factory.mktemp("export")
    source = ModelOptModel(quantized(seeded(lambda: Chain(channels=16)), batch()))
    units = {unit.name: unit for unit in layers(source.quantizers)}
    export_files(source, batch(), list(units.values()), ["conv2"], folder, fingerprint="test")
    plan = {"skip": ["conv2"], "quantizers": list(units["conv2"].quantizers)}
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder


@pytest.mark.parametrize("file", ["model.int8.onnx", "model.partial.onnx"])
@pytest.mark.parametrize("target", [*TENSORRT, RTX])
def test_the_canonical_files_break_no_rule_for_tensorrt(
    placed: Path, file: str, target: str
) -> None:
    assert faults(placed / file, target) == []


@pytest.mark.parametrize("file", ["model.int8.onnx", "model.partial.onnx"])
@pytest.mark.parametrize(
    ("runtime", "target"),
    [
        *(("tensorrt", target) for target in (*TENSORRT[1:], RTX)),
        ("openvino", "openvino"),
        ("onnxruntime", "onnxruntime"),
    ],
)
def test_a_lowered_file_breaks_no_rule_of_its_runtime(
    placed: Path, tmp_path: Path, file: str, runtime: str, target: str
) -> None:
    lowered = lower_file(placed / file, runtime, tmp_path / file)  # type: ignore[arg-type]
    assert faults(lowered, target) == []


def test_a_channel_that_is_all_but_dead_is_no_fault_of_a_file_lowered_for_tensorrt(
    tmp_path: Path,
) -> None:
    """Its scale is too small for FP16, so the layer computes in FP32: Q and DQ of one pair differ
    in type only."""
    model = seeded(Residual)
    model.first[1].weight.data[3] = 1e-9
    source = ModelOptModel(quantized(model, batch(size=32), skip=("*norm*",)))
    add_residual_quantizers(source, [batch(size=32)])
    source = ModelOptModel(source.model)
    files = export_files(
        source, batch(size=32), layers(source.quantizers), [], tmp_path, fingerprint="test"
    )
    lowered = lower_file(files["int8"], "tensorrt", tmp_path / "lowered.onnx")
    assert faults(lowered, "tensorrt-11") == []
    assert faults(lowered, RTX) == []
    assert {finding.code for finding in run_lint(lowered, "tensorrt-11")} >= {"SQ203"}


def test_weights_of_a_linear_layer_on_three_axes_lie_directly_behind_their_pair(
    tmp_path: Path,
) -> None:
    source = ModelOptModel(quantized(seeded(Transposed), batch(size=32), skip=("up*",)))
    files = export_files(
        source, batch(size=32), layers(source.quantizers), [], tmp_path, fingerprint="test"
    )
    assert faults(files["int8"], "tensorrt-10") == []
    mixer = next(node for node in load_model(files["int8"]).graph if node.name == "mixer")
    pair = qdq.pair_of(mixer.inputs[1])
    assert mixer.op_type == "MatMul"
    assert pair is not None
    assert (pair.source.name, pair.axis, qdq.constant(pair.source).shape) == (
        "mixer.weight",
        1,
        (24, 16),
    )


@pytest.mark.parametrize("target", TENSORRT)
def test_a_transposed_convolution_has_its_scales_along_its_output_channels(
    tmp_path: Path, target: str
) -> None:
    source = ModelOptModel(quantized(seeded(Transposed), batch(size=32)))
    files = export_files(
        source, batch(size=32), layers(source.quantizers), [], tmp_path, fingerprint="test"
    )
    assert faults(files["int8"], target) == []
    up = next(node for node in load_model(files["int8"]).graph if node.name == "up")
    pair = qdq.pair_of(qdq.weight(up))
    assert pair is not None
    assert (pair.axis, pair.scale.shape) == (1, (24,))


def test_a_transposed_convolution_with_scales_along_its_input_channels_is_refused(
    tmp_path: Path,
) -> None:
    """Calibrated as by every configuration of ModelOpt."""
    import modelopt.torch.quantization as mtq

    model = mtq.quantize(
        seeded(Transposed), mtq.INT8_DEFAULT_CFG, lambda model: model(batch(size=32))
    )
    source = ModelOptModel(model)
    with pytest.raises(
        ModelError,
        match=r"up\.weight_quantizer: its scales run along axis 0, and the output channels of a "
        r"ConvTranspose are "
        r"axis 1; give ModelOpt's quant_cfg \{'quantizer_name': '\*weight_quantizer', "
        r"'parent_class'",
    ):
        check_calibrated(source.quantizers)
    with pytest.raises(
        ExportError,
        match=r"Expected the weight of up \(ConvTranspose\) quantized along axis 1, .* got axis 0",
    ):
        export_files(
            source, batch(size=32), layers(source.quantizers), [], tmp_path, fingerprint="test"
        )


class Square(torch.nn.Sequential):
    """As many outputs as inputs in every layer, with biases, and an average between them."""

    def __init__(self) -> None:
        super().__init__(
            torch.nn.Conv2d(3, 3, 3, padding=1),
            torch.nn.AvgPool2d(2),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(3, 3),
        )


def test_no_export_holds_what_onnxruntime_would_fuse_into_something_else(tmp_path: Path) -> None:
    source = ModelOptModel(quantized(seeded(Square), batch()))
    files = export_files(
        source, batch(), layers(source.quantizers), [], tmp_path, fingerprint="test"
    )
    lowered = lower_file(files["int8"], "onnxruntime", tmp_path / "lowered.onnx")
    kinds = {node.op_type for node in load_model(lowered).graph}
    assert kinds >= {"AveragePool", "Conv"}
    assert not kinds.isdisjoint({"Gemm", "MatMul"})
    for file in (files["int8"], lowered):
        found = {one.code for one in run_lint(file, "onnxruntime")}
        assert found.isdisjoint({"SQ707", "SQ708", "SQ709", "SQ710"})


def faults(file: Path, target: str) -> list[tuple[str, str, str]]:
    """The findings that would keep the file out of a CI that fails on warnings."""
    return [
        (one.code, one.node, one.message)
        for one in run_lint(file, target)
        if one.severity != "info"
    ]


def test_the_canonical_file_is_slow_in_onnxruntime_and_the_rules_say_why(exported: Path) -> None:
    found = run_lint(exported / "model.int8.onnx", "onnxruntime")
    assert {finding.code for finding in found} == {"SQ701", "SQ702", "SQ713"}
    assert [finding.node for finding in found if finding.code == "SQ702"] == [
        f"conv{index}" for index in range(1, 11)
    ]


def test_the_partial_file_agrees_with_its_plan_and_the_int8_file_does_not(exported: Path) -> None:
    plan = exported / "plan.json"
    assert run_lint(exported / "model.partial.onnx", "tensorrt-10", plan) == []
    found = run_lint(exported / "model.int8.onnx", "tensorrt-10", plan)
    assert {finding.code for finding in found} == {"SQ501"}
    assert sorted(finding.node for finding in found) == [
        "conv2.input_quantizer/QuantizeLinear",
        "conv2.weight_quantizer/QuantizeLinear",
    ]


def test_a_file_that_skips_more_than_the_plan_is_an_error(exported: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"skip": [], "quantizers": []}))
    found = run_lint(exported / "model.partial.onnx", "tensorrt-10", plan)
    assert [(finding.code, finding.severity, finding.node) for finding in found] == [
        ("SQ502", "error", "conv2")
    ]


@pytest.mark.skipif(
    "SENSITIVITY_ASSETS" not in os.environ, reason="SENSITIVITY_ASSETS is not set: no weights"
)
@pytest.mark.parametrize(
    ("example", "expected"),
    [("01_mobilenet", set()), ("02_resnet20", {"SQ401"})],
    ids=["mobilenet", "resnet20"],
)
def test_exports_of_the_examples_break_no_rule(
    tmp_path: Path, example: str, expected: set[str]
) -> None:
    """ResNet-20's skip connections carry what functions give, no modules: they are not quantized,
    and lint says so."""
    task = load_task(str(Path(__file__).parents[1] / "examples" / example / "task.py") + ":task")
    source = ModelOptModel(task.model)
    images = next(iter(task.data["rank"]))[0][:4]
    files = export_files(
        source, images, layers(source.quantizers), [], tmp_path, fingerprint="test"
    )
    for target in TENSORRT:
        assert {code for code, _, _ in faults(files["int8"], target)} == expected
    for runtime, target in (
        ("tensorrt", "tensorrt-11"),
        ("openvino", "openvino"),
        ("onnxruntime", "onnxruntime"),
    ):
        lowered = lower_file(files["int8"], runtime, tmp_path / f"{runtime}.onnx")  # type: ignore[arg-type]
        assert {code for code, _, _ in faults(lowered, target)} == (
            expected if runtime == "tensorrt" else set()
        )
