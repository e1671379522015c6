"""TensorRT's call order and answers, in a strict stand-in: nothing here ran on TensorRT."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from contract.api import VERSIONS
from contract.standin import FakeCuda, Module, NoTimeHereError
from support.qdq_chain import chain, inputs

from sensitivity.errors import OnnxFileError, RuntimeUnavailable
from sensitivity.run_dir import RunDir
from sensitivity.runtimes.tensorrt import TensorRt, TensorRtEngine, TensorRtRtx, _medians
from sensitivity.runtimes.tensorrt_build import TensorRtSettings, plan_file

DYNAMIC = TensorRtSettings(shapes={"x": ((1, 3, 16, 16), (4, 3, 16, 16), (8, 3, 16, 16))})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return chain(tmp_path / "model.onnx", {0, 1, 2})


def engine(
    version: str,
    file: Path,
    settings: TensorRtSettings | None = None,
    *,
    warm_up_ms: int = 0,
    **world: Any,
) -> tuple[TensorRtEngine, Module]:
    module = Module(version, **world)
    settings = replace(settings or TensorRtSettings(), warm_up_ms=warm_up_ms)
    return TensorRtEngine(module, file, settings, FakeCuda()), module


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_builds_loads_and_runs_by_the_same_path(version: str, file: Path) -> None:
    made, module = engine(version, file)
    with made:
        outputs = made.run(inputs())
    assert outputs["y"].shape == (1, 16, 1, 1)
    names = module.world.names()
    assert names.index("OnnxParser.parse_from_file") < names.index(
        "Builder.build_serialized_network"
    )
    assert names.index("IExecutionContext.set_input_shape") < names.index(
        "IExecutionContext.execute_async_v3"
    )
    assert module.world.loaded == [b"plan"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_launch_is_captured_after_a_first_run_and_no_time_is_made_up(
    version: str, file: Path
) -> None:
    made, module = engine(version, file)
    with pytest.raises(NoTimeHereError):
        made.time_ms(inputs(), 3)
    cuda = made._cuda
    assert cuda.calls == ["synchronize", "capture", "timed launch", "graph launch"]
    # the first run, and the capture
    assert module.world.names().count("IExecutionContext.execute_async_v3") == 2


@pytest.mark.parametrize("version", VERSIONS)
def test_weakly_typed_networks_take_canonical_files_and_the_others_lowered_ones(
    version: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """TensorRT 8.6 reads opset 17 and earlier; files lowered for TensorRT are of opset 19."""
    monkeypatch.setitem(sys.modules, "tensorrt", Module(version))
    for name in ("float", "int8", "int8.tensorrt", "fp16", "fp16.tensorrt"):
        (tmp_path / f"model.{name}.onnx").touch()
    lowered = TensorRt().lowering
    assert lowered == (None if version == "8.6" else "tensorrt")
    names = {variant: file.name for variant, file in RunDir(tmp_path).models(lowered).items()}
    suffix = ".onnx" if lowered is None else ".tensorrt.onnx"
    assert names == {
        "float": "model.float.onnx",
        "int8": f"model.int8{suffix}",
        "fp16": f"model.fp16{suffix}",
    }
    if version not in ("8.6", "11.1"):
        assert TensorRt(TensorRtSettings(strongly_typed=False)).lowering is None


def test_without_a_graph_each_launch_is_enqueued(file: Path) -> None:
    made, module = engine("10.16", file, TensorRtSettings(cuda_graph=False))
    with pytest.raises(NoTimeHereError):
        made.time_ms(inputs(), 1)
    assert "capture" not in made._cuda.calls
    assert module.world.names().count("IExecutionContext.execute_async_v3") == 2


def test_launches_warm_the_gpu_up_before_the_first_timed_one(file: Path) -> None:
    made, _ = engine("10.16", file, warm_up_ms=5)
    with pytest.raises(NoTimeHereError):
        made.time_ms(inputs(), 1)
    calls = made._cuda.calls
    assert calls[:2] == ["synchronize", "capture"]
    assert calls[2:4] == ["graph launch", "synchronize"]
    assert calls.index("timed launch") == len(calls) - 2


def test_a_second_turn_with_the_same_shapes_only_copies_the_values(file: Path) -> None:
    made, _ = engine("10.16", file)
    for _ in range(2):
        with pytest.raises(NoTimeHereError):
            made.time_ms(inputs(), 1)
    assert made._cuda.calls.count("capture") == 1
    made.run(inputs())  # may change shapes and addresses
    with pytest.raises(NoTimeHereError):
        made.time_ms(inputs(), 1)
    assert made._cuda.calls.count("capture") == 2


@pytest.mark.parametrize("version", VERSIONS)
def test_profiling_has_its_own_context_and_no_graph(version: str, file: Path) -> None:
    made, module = engine(version, file)
    (layer,) = made.profile(inputs(), 2)
    assert (layer.onnx, layer.precision, layer.ms) == (("layer0/Conv", "layer0/Relu"), "int8", None)
    names = module.world.names()
    assert names.count("ICudaEngine.create_execution_context") == 2
    assert names.count("IExecutionContext.report_to_profiler") == 2
    assert "capture" not in made._cuda.calls


@pytest.mark.parametrize("version", VERSIONS)
def test_types_come_from_flags_only_in_a_weakly_typed_network(version: str, file: Path) -> None:
    made, module = engine(version, file)
    flags = [args[0].name for name, args in module.world.calls if name == "IBuilderConfig.set_flag"]
    assert flags == (["BuilderFlag.INT8", "BuilderFlag.FP16"] if version == "8.6" else [])
    # the types of the file, where they decide
    assert made.precision == ("fp16" if version == "8.6" else "fp32")


WEAK_OR_STRONG = [
    ("8.6", False),
    ("10.0", False),
    ("10.0", True),
    ("10.16", False),
    ("10.16", True),
    ("11.1", True),
]


@pytest.mark.parametrize(("version", "typed"), WEAK_OR_STRONG)
def test_the_network_is_made_with_the_flags_of_its_version(
    version: str, typed: bool, file: Path
) -> None:
    _, module = engine(version, file, TensorRtSettings(strongly_typed=typed))
    ((flags,),) = [args for name, args in module.world.calls if name == "Builder.create_network"]
    known = module.NetworkDefinitionCreationFlag
    expected = {"EXPLICIT_BATCH": version != "11.1", "STRONGLY_TYPED": typed}
    assert flags == sum(
        1 << int(getattr(known, name)) for name, wanted in expected.items() if wanted
    )


def test_a_weak_fp32_network_asks_for_int8_alone(file: Path) -> None:
    made, module = engine("10.0", file, TensorRtSettings(strongly_typed=False, float_type="fp32"))
    flags = [args[0].name for name, args in module.world.calls if name == "IBuilderConfig.set_flag"]
    assert (flags, made.precision) == (["BuilderFlag.INT8"], "fp32")


def test_the_float_baseline_stays_float_and_an_fp16_file_is_fp16(tmp_path: Path) -> None:
    plain, half = chain(tmp_path / "float.onnx"), chain(tmp_path / "fp16.onnx", half=True)
    for file, flags, precision in ((plain, [], "fp32"), (half, ["BuilderFlag.FP16"], "fp16")):
        made, module = engine("8.6", file)
        assert [
            args[0].name for name, args in module.world.calls if name == "IBuilderConfig.set_flag"
        ] == flags
        assert made.precision == precision
    assert engine("11.1", half)[0].precision == "fp16"


@pytest.mark.parametrize(
    ("version", "typed", "sentence"),
    [
        ("8.6", True, "Expected TensorRT 10 or later for a strongly typed network, got 8.6.1"),
        ("11.1", False, "Expected TensorRT 10 or earlier for a weakly typed network, got 11.1.0"),
    ],
)
def test_a_typing_that_the_version_lacks_is_refused(
    version: str, typed: bool, sentence: str, file: Path
) -> None:
    with pytest.raises(RuntimeUnavailable, match=sentence):
        engine(version, file, TensorRtSettings(strongly_typed=typed))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_dynamic_input_gets_an_optimization_profile(version: str, tmp_path: Path) -> None:
    file = chain(tmp_path / "model.onnx", dynamic=True)
    made, module = engine(version, file, DYNAMIC, dynamic=True)
    (shapes,) = [
        args for name, args in module.world.calls if name == "IOptimizationProfile.set_shape"
    ]
    assert shapes == ("x", (1, 3, 16, 16), (4, 3, 16, 16), (8, 3, 16, 16))
    assert made.run(inputs(batch=4))["y"].shape == (4, 16, 1, 1)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_free_number_of_samples_as_in_our_exports_is_built_for_one(
    version: str, tmp_path: Path
) -> None:
    made, module = engine(version, chain(tmp_path / "model.onnx", dynamic=True), dynamic=True)
    (shapes,) = [
        args for name, args in module.world.calls if name == "IOptimizationProfile.set_shape"
    ]
    assert shapes == ("x", *[(1, 3, 16, 16)] * 3)
    assert made.run(inputs(batch=3))["y"].shape == (3, 16, 1, 1)
    assert module.world.names().count("IExecutionContext.execute_async_v3") == 3


def test_another_free_axis_without_shapes_is_named(tmp_path: Path) -> None:
    file = chain(tmp_path / "model.onnx", dynamic=True)
    with pytest.raises(
        RuntimeUnavailable, match=r"shape of input x, whose shape \(-1, 3, -1, 16\) is dynamic"
    ):
        engine("10.0", file, dynamic=True, free_height=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_workspace_and_timing_cache_are_set_before_the_build_and_the_cache_is_kept(
    version: str, file: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "caches" / "timing.cache"
    _, module = engine(version, file, TensorRtSettings(workspace_mib=64, timing_cache=cache))
    (limit,) = [
        args for name, args in module.world.calls if name == "IBuilderConfig.set_memory_pool_limit"
    ]
    assert (limit[0].name, limit[1]) == ("MemoryPoolType.WORKSPACE", 64 * 2**20)
    assert cache.read_bytes() == b"cache"
    _, again = engine(version, file, TensorRtSettings(timing_cache=cache))
    assert (b"cache",) in [
        args for name, args in again.world.calls if name == "IBuilderConfig.create_timing_cache"
    ]


def test_a_kept_engine_is_loaded_and_not_built_again(file: Path, tmp_path: Path) -> None:
    settings = TensorRtSettings(engines=tmp_path / "engines")
    engine("10.16", file, settings)
    _, module = engine("10.16", file, settings)
    assert "Builder.build_serialized_network" not in module.world.names()
    assert len(list(settings.engines.iterdir())) == 1


def test_a_kept_engine_that_no_longer_loads_is_built_again(file: Path, tmp_path: Path) -> None:
    settings = TensorRtSettings(engines=tmp_path / "engines")
    engine("10.16", file, settings)
    (kept,) = settings.engines.iterdir()
    kept.write_bytes(b"of another driver")
    _, module = engine("10.16", file, settings)
    assert module.world.loaded == [b"of another driver", b"plan"]
    assert kept.read_bytes() == b"plan"


def test_another_file_version_device_or_setting_is_another_engine(
    file: Path, tmp_path: Path
) -> None:
    settings = TensorRtSettings(engines=tmp_path)
    small = TensorRtSettings(engines=tmp_path, workspace_mib=1)
    names = {
        plan_file(Module("10.16"), file, settings, "A100"),
        plan_file(Module("10.16"), file, settings, "H200"),
        plan_file(Module("10.0"), file, settings, "A100"),
        plan_file(Module("10.16"), file, small, "A100"),
    }
    other = chain(tmp_path / "model.onnx", {1})
    names.add(plan_file(Module("10.16"), other, settings, "A100"))
    assert len(names) == 5


@pytest.mark.parametrize(
    ("refuse", "error", "sentence"),
    [
        (
            "parse",
            OnnxFileError,
            "to be a model that TensorRT can parse, got: Foo foo/Foo: unsupported operator Foo",
        ),
        (
            "build",
            RuntimeUnavailable,
            "Expected TensorRT to build model.onnx, got: no kernel for node conv",
        ),
        (
            "load",
            RuntimeUnavailable,
            "Expected TensorRT to load the engine it built, got: no reason given",
        ),
        ("run", RuntimeUnavailable, "Expected the engine to run"),
        ("shape", OnnxFileError, "Expected input x within the engine's shapes, got"),
        (
            "output",
            OnnxFileError,
            r"Expected output y to have a shape that follows .* got \(-1, 4\)",
        ),
        ("dtype", OnnxFileError, "Expected x to have a type that numpy knows"),
    ],
)
def test_each_refusal_is_one_sentence_with_tensorrts_words(
    refuse: str, error: type[Exception], sentence: str, file: Path
) -> None:
    with pytest.raises(error, match=sentence):
        engine("10.16", file, refuse=refuse)[0].run(inputs())


def test_layers_that_share_a_name_have_a_median_each() -> None:
    assert _medians([1.0, 10.0, 3.0, 30.0, 2.0, 20.0], 3) == [2.0, 20.0]
    assert _medians([1.0, 3.0, 2.0], 3) == [2.0]


@pytest.mark.parametrize("refuse", ["", "build"])
def test_a_failed_build_frees_the_device(
    refuse: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = FakeCuda()
    monkeypatch.setitem(sys.modules, "tensorrt", Module("10.16", refuse=refuse))  # type: ignore[arg-type]
    monkeypatch.setattr("sensitivity.runtimes.tensorrt.open_cuda", lambda: cuda)
    monkeypatch.setattr(TensorRt, "unavailable", lambda self: None)
    if refuse:
        with pytest.raises(RuntimeUnavailable, match=r"Expected TensorRT to build model\.onnx"):
            TensorRt().build(file)
    else:
        assert TensorRt().version() == "10.16.0"
        assert TensorRt().build(file).run(inputs())["y"].shape == (1, 16, 1, 1)
    assert ("close" in cuda.calls) is bool(refuse)


def test_closing_frees_the_device(file: Path) -> None:
    made, _ = engine("10.16", file)
    with made:
        pass
    assert made._cuda.calls[-1] == "close"


@pytest.mark.parametrize("runtime", [TensorRt(), TensorRtRtx()], ids=["tensorrt", "rtx"])
def test_a_missing_module_says_how_to_get_it(runtime: TensorRt, file: Path) -> None:
    problem = runtime.unavailable()
    if problem is None or "is installed, but" in problem:
        pytest.skip(f"{runtime.module} is installed here")
    assert (
        problem
        == f"{runtime.module} is not installed; run: pip install {runtime.module.replace('_', '-')}"
    )
    with pytest.raises(RuntimeUnavailable, match=f"{runtime.module} is not installed"):
        runtime.build(file)


class TestTheStandInIsStrict:
    def test_an_unknown_name_raises(self) -> None:
        with pytest.raises(AttributeError, match=r"TensorRT 11\.1 has no BuilderFlag\.INT8"):
            _ = Module("11.1").BuilderFlag.INT8
        with pytest.raises(AttributeError, match=r"TensorRT 8\.6 has no tensorrt\.Foo"):
            _ = Module("8.6").Foo

    def test_an_unknown_argument_raises(self) -> None:
        module = Module("10.0")
        with pytest.raises(TypeError, match="create_network takes"):
            module.Builder(module.ILogger()).create_network(flag=1)

    def test_a_launch_without_addresses_raises(self) -> None:
        module = Module("10.0")
        loaded = module.Runtime(module.ILogger()).deserialize_cuda_engine(b"plan")
        with pytest.raises(AssertionError, match="needs an address"):
            loaded.create_execution_context().execute_async_v3(0)
