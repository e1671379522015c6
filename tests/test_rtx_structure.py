"""What TensorRT-RTX builds of a file compared with the plan: on logs written here, and on the real
builder where it is installed."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from support.qdq_chain import chain

from sensitivity.cli.main import main
from sensitivity.errors import OnnxFileError, RuntimeUnavailable
from sensitivity.exporters.facts import facts
from sensitivity.exporters.verification import Verification
from sensitivity.records import BuiltLayer, EngineStructure
from sensitivity.rules.base import PlanNames
from sensitivity.rules.examples import CANONICAL, Example, qdq, weights
from sensitivity.runtimes import tensorrt_rtx_build as rtx
from sensitivity.runtimes.tensorrt_rtx_build import Build, ParserError
from sensitivity.runtimes.tensorrt_rtx_log import Layer, Tensor
from sensitivity.timing.engine_structure import (
    build_or_say_why,
    build_structure,
    planned_float,
    structure_of,
)

# `sensitivity.bench` is the verb
STRUCTURE = importlib.import_module("sensitivity.timing.engine_structure")
real = pytest.mark.skipif(rtx.unavailable() is not None, reason=str(rtx.unavailable()))
TRANSPOSED = Example(
    qdq("x") + qdq("d", "s") + "[up] y = ConvTranspose <pads = [1, 1, 1, 1]> (xd, dd)",
    constants={"d": weights(16, 16, 3, 3)},
)
"""A quantized transposed convolution, which 1.7.1 builds in float."""


def tensor(dtype: str, *shape: int) -> Tensor:
    return Tensor("t", dtype, shape or (1, 16, 8, 8))


def layer(
    name: str, kind: str, onnx: str, *, reads: str = "fp32", writes: str = "fp32", weight: str = ""
) -> Layer:
    constants = (
        (tensor("fp32", 1), tensor(weight, 16, 16, 3, 3), tensor("fp32", 16)) if weight else ()
    )
    return Layer(
        f"{name}_myl0_0", kind, tuple(onnx.split()), (tensor(reads),), constants, (tensor(writes),)
    )


def made(*layers: Layer) -> Build:
    return Build("1.7.1.116", 89, ok=True, parsed=True, layers=layers)


QUANTIZE = layer("__myl_MulMinMaxRounCast", "kgen", "act0_Q", writes="int8")
WAIT = Layer("bb^wait_myl0_0", "wait", (), (), (), ())


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    """layer0 quantized, layer1 in float; both with a ReLU, then a pool."""
    return chain(tmp_path / "partial.onnx", {0}, layers=2)


def test_layers_are_int8_where_both_operands_are(partial: Path) -> None:
    found = structure_of(
        made(
            QUANTIZE,
            layer("layer0/Conv", "correlation", "layer0/Conv act0_DQ", reads="int8", weight="int8"),
            layer(
                "__myl_CorrRelu",
                "runtime_fusion",
                "layer1/Conv layer1/Relu",
                reads="fp16",
                weight="fp16",
            ),
            layer("__myl_Mean", "kgen", "pool"),
        ),
        partial,
    )
    assert found.layers == (
        BuiltLayer("layer0/Conv", "int8", "int8"),
        BuiltLayer("layer1/Conv", "float", "fp16"),
    )
    assert found.as_planned
    assert (found.version, found.sm) == ("1.7.1.116", 89)


def test_weights_in_int8_alone_are_no_int8_layer_and_a_missing_layer_is_none(partial: Path) -> None:
    found = structure_of(
        made(layer("layer0/Conv", "gemm", "layer0/Conv", reads="fp16", weight="int8")), partial
    )
    assert found.layers == (
        BuiltLayer("layer0/Conv", "int8", "fp16"),
        BuiltLayer("layer1/Conv", "float", None),
    )
    assert [one.as_planned for one in found.layers] == [False, False]
    assert not found.as_planned


def test_a_kernel_around_a_layer_names_it_too_and_is_not_the_layer(partial: Path) -> None:
    found = structure_of(
        made(
            layer("__myl_MulMinMaxRounCastConc", "kgen", "act0_Q layer0/Conv", writes="int8"),
            layer("layer1/Conv", "correlation", "layer1/Conv layer0/Conv", weight="fp32"),
            layer("layer0/Conv", "correlation", "layer0/Conv", reads="int8", weight="int8"),
        ),
        partial,
    )
    assert [one.built for one in found.layers] == ["int8", "fp32"]


def test_a_plan_says_what_is_planned(partial: Path) -> None:
    plan = PlanNames(("stem",), ("layer0/Conv.weight_quantizer",))
    assert planned_float(plan) == {"stem", "layer0/Conv"}
    assert structure_of(made(QUANTIZE), partial, planned_float(plan)).layers[0].planned == "float"


@pytest.mark.parametrize(
    ("name", "onnx", "requantizes"),
    [
        ("__myl_MulMinMaxRounCast", "act0_Q", True),
        ("__myl_MinMaxRounCastCastMul", "act0_Q act0_DQ", True),
        ("__myl_CastMulMinMaxRounCastConc", "act0_Q layer0/Conv layer1/Relu", True),
        ("__myl_Tran", "", True),
        ("__myl_MulMinMaxRounCast", "layer0/Relu act0_Q", False),
        ("__myl_Tran", "pool", False),
        ("__myl_MulAddMaxMulMinMaxRounCast", "layer0/Relu act0_Q", False),
        ("__myl_MulAdd", "layer0/Conv", False),
    ],
    ids=[
        "quantize",
        "q-dq",
        "padded",
        "reorder",
        "relu-in-it",
        "of-the-file",
        "bias-and-relu",
        "bias",
    ],
)
def test_kernels_that_only_requantize_are_counted(
    partial: Path, name: str, onnx: str, requantizes: bool
) -> None:
    assert structure_of(made(layer(name, "kgen", onnx)), partial).requantize_kernels == int(
        requantizes
    )


def test_kernels_write_and_bytes_are_what_they_write(partial: Path) -> None:
    found = structure_of(
        made(QUANTIZE, WAIT, layer("layer0/Conv", "correlation", "layer0/Conv")), partial
    )
    assert (found.kernels, found.activation_bytes) == (2, 1024 + 4096)


@pytest.mark.parametrize(
    ("answer", "kind", "sentence"),
    [
        (
            Build(
                "1.7",
                89,
                ok=False,
                parsed=False,
                errors=(ParserError("x_Q", "QuantizeLinear", "not zero."),),
            ),
            OnnxFileError,
            "Expected f.onnx to be a model that TensorRT-RTX can parse, got: the parser of "
            "TensorRT-RTX 1.7 refuses QuantizeLinear x_Q: not zero.",
        ),
        (
            Build("1.7", 89, ok=False, parsed=True, ended="the builder had no end after 2 s"),
            RuntimeUnavailable,
            "Expected TensorRT-RTX to build f.onnx, got: the builder had no end after 2 s.",
        ),
    ],
    ids=["parser", "builder"],
)
def test_why_there_is_no_engine_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, answer: Build, kind: type[Exception], sentence: str
) -> None:
    monkeypatch.setattr(STRUCTURE, "build", lambda file, sm: answer)
    with pytest.raises(kind) as error:
        build_structure(Path("f.onnx"))
    assert str(error.value) == sentence


@real
def test_the_real_engine_of_a_partial_file_is_as_planned(partial: Path) -> None:
    found = build_structure(partial, sm=86)
    assert found.layers == (
        BuiltLayer("layer0/Conv", "int8", "int8"),
        BuiltLayer("layer1/Conv", "float", "fp32"),
    )
    assert found.sm == 86
    assert found.kernels > found.requantize_kernels > 0


def lint(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["lint", *map(str, arguments)])
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out, said.err


def saved(example: Example, folder: Path) -> Path:
    onnx.save(example.proto(), folder / "model.onnx")
    return folder / "model.onnx"


BUILD = ("--for", "tensorrt-rtx", "--build")


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in for the builder, which records what it was asked for."""
    asked: list[dict[str, Any]] = []

    def stand_in(file: Path, **settings: Any) -> EngineStructure:
        asked.append({"file": file, **settings})
        return EngineStructure(
            "1.7.1.116", settings["sm"], (BuiltLayer("conv", "int8", "fp32"),), 5, 2, 1_500_000
        )

    monkeypatch.setattr(STRUCTURE, "build_structure", stand_in)
    return asked


def test_json_has_the_engine(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, builder: list[dict[str, Any]]
) -> None:
    code, out, _ = lint(capsys, saved(CANONICAL, tmp_path), *BUILD, "--sm", 120, "--format", "json")
    assert json.loads(out)["build"] == {
        "version": "1.7.1.116",
        "sm": 120,
        "layers": [{"layer": "conv", "planned": "int8", "built": "fp32"}],
        "kernels": 5,
        "requantize_kernels": 2,
        "activation_bytes": 1_500_000,
    }
    assert code == 1  # a layer is not as planned
    assert builder == [{"file": tmp_path / "model.onnx", "sm": 120, "plan": None}]


def test_the_text_says_what_is_not_as_planned_and_that_nothing_ran(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, builder: list[dict[str, Any]]
) -> None:
    code, out, _ = lint(capsys, saved(CANONICAL, tmp_path), *BUILD)
    assert out.splitlines()[-2:] == [
        "TensorRT-RTX 1.7.1.116 builds it for SM 89: 0 of 1 layers in INT8 as planned; 5 kernels, "
        "2 of which only requantize; 1.50 MB of activations. Nothing was executed.",
        "conv: planned int8, built fp32",
    ]
    assert code == 1


def test_a_file_that_lint_refuses_is_not_built(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, builder: list[dict[str, Any]]
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"skip": ["conv"], "quantizers": []}))
    kept = Example(CANONICAL.body, metadata={"sensitivity.kept": '["conv"]'})
    code, out, err = lint(capsys, saved(kept, tmp_path), *BUILD, "--plan", plan, "--format", "json")
    assert (code, builder) == (1, [])
    assert "build" not in json.loads(out)
    assert err.strip() == "Not built: TensorRT-RTX gets only files that have no error above."


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ("--for", "openvino", "--build"),
            "Expected --for tensorrt-rtx with --build, got --for openvino",
        ),
        (
            ("--for", "tensorrt-rtx", "--sm", "89"),
            "Expected --build with --sm, which says what the build is for",
        ),
        ((*BUILD, "--format", "sarif"), "Expected --format text or json with --build, got sarif"),
    ],
    ids=["target", "sm-alone", "sarif"],
)
def test_options_that_do_not_go_together_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: tuple[str, ...], sentence: str
) -> None:
    code, _, err = lint(capsys, saved(CANONICAL, tmp_path), *options)
    assert code == 1
    assert sentence in err


@real
def test_a_layer_that_the_builder_leaves_in_float_is_found(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, _ = lint(capsys, saved(CANONICAL, tmp_path), *BUILD, "--format", "json")
    assert json.loads(out)["build"]["layers"] == [
        {"layer": "conv", "planned": "int8", "built": "int8"}
    ]
    assert code == 0
    onnx.save(TRANSPOSED.proto(), tmp_path / "up.onnx")
    found = build_structure(tmp_path / "up.onnx")
    assert found.layers == (BuiltLayer("up", "int8", "fp32"),)


def test_a_longer_job_gets_the_engine_or_why_there_is_none(
    partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Build] = [
        made(QUANTIZE),
        Build("1.7", 89, ok=False, parsed=True, ended="the builder had no end"),
    ]
    monkeypatch.setattr(STRUCTURE, "build", lambda file, sm: answers.pop(0))
    nothing = PlanNames((), ())
    assert isinstance(build_or_say_why(partial, nothing), EngineStructure)
    assert build_or_say_why(partial, nothing) == (
        "Expected TensorRT-RTX to build partial.onnx, got: the builder had no end."
    )


def test_what_was_built_and_what_was_not_is_reported_with_the_files() -> None:
    engine = EngineStructure(
        "1.7.1.116", 89, (BuiltLayer("conv", "int8", "int8"),), 5, 2, 1_500_000
    )
    told = facts(
        Verification((), (), 1, engines={"a.onnx": engine}, not_built={"b.onnx": "no wheel"})
    )
    assert told == {
        "a.onnx in TensorRT-RTX": "TensorRT-RTX 1.7.1.116 builds it for SM 89: 1 of 1 layers in "
        "INT8 as planned; 5 "
        "kernels, 2 of which only requantize; 1.50 MB of activations. Nothing was executed.",
        "b.onnx in TensorRT-RTX": "not built: no wheel",
    }
