"""The builder of TensorRT for RTX: the real one where it is installed, and harmless stand-ins for
its possible behaviour."""

import importlib.metadata
import importlib.util
import json
import re
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from support.qdq_chain import chain

from sensitivity import doctor
from sensitivity.errors import OnnxFileError, RuntimeUnavailable
from sensitivity.runtimes import tensorrt_rtx_build as rtx
from sensitivity.runtimes.tensorrt import TensorRtRtx
from sensitivity.runtimes.tensorrt_build import (
    TensorRtSettings,
    build_plan,
    make_logger,
    strongly_typed,
)
from sensitivity.runtimes.tensorrt_rtx_log import Tensor, engine_layers
from sensitivity.timing.environment import environment

real = pytest.mark.skipif(rtx.unavailable() is not None, reason=str(rtx.unavailable()))

LISTED = """Layers:
Name: __myl_MulMinMaxRounCast_myl0_0, LayerType: kgen, Inputs: [ { Name: x, Dimensions: \
[1,16,8,8], Strides: [1024,64,8,1], StrideOrder: [3,2,1,0], Datatype: Float, Format: (Linear) Row \
major linear format }], Constants: [], Outputs: [ { Name: xq, Dimensions: [1,16,8,8], Strides: \
[1024,1,128,16], StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) Channel major format }], \
TacticName: __myl_MulMinMaxRounCast_0x7b, StreamId: 0, Metadata: [ONNX Layer: node_of_xq]
Name: conv_myl0_1, LayerType: correlation, Inputs: [ { Name: xq, Dimensions: [1,16,8,8], Strides: \
[1024,1,128,16], StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) Channel major format }], \
Constants: [ { Name: w, Dimensions: [16,16,3,3], Strides: [144,1,48,16], StrideOrder: [3,0,2,1], \
Datatype: Int8, Format: (NHWC) Channel major format }, { Name: s, Dimensions: [1], Strides: [1], \
StrideOrder: [0], Datatype: Half, Format: (Linear) Row major linear format }], Outputs: [ { Name: \
y, Dimensions: [1,16,8,8], Strides: [1024,1,128,16], StrideOrder: [3,0,2,1], Datatype: Float, \
Format: (NHWC) Channel major format }], TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: \
[ONNX Layer: conv][ONNX Layer: node_of_xd][ONNX Layer: conv]
Name: entry^bb^wait^2_myl0_2, LayerType: wait, Inputs: [], Constants: [], Outputs: [], \
TacticName: , StreamId: 0, Metadata:

I/O Tensors:
 Name: x, IOMode: Input"""


def test_the_log_lists_layers_with_types_shapes_and_onnx_names() -> None:
    quantize, conv, wait = engine_layers(LISTED, "1.7.1.116")
    assert (quantize.kind, quantize.onnx) == ("kgen", ("xq",))
    assert quantize.outputs == (Tensor("xq", "int8", (1, 16, 8, 8)),)
    assert (conv.name, conv.kind, conv.onnx) == ("conv_myl0_1", "correlation", ("conv", "xd"))
    assert [tensor.dtype for tensor in conv.inputs + conv.constants + conv.outputs] == [
        "int8",
        "int8",
        "fp16",
        "fp32",
    ]
    assert [tensor.nbytes for tensor in conv.inputs + conv.constants] == [1024, 2304, 2]
    assert (wait.kind, wait.onnx, wait.inputs, wait.outputs) == ("wait", (), (), ())


@pytest.mark.parametrize(
    "text", ["Layers:\nLayer 0: conv", "Layers:", ""], ids=["other-form", "no-layers", "empty"]
)
def test_a_log_of_another_form_is_named_and_is_no_engine_without_layers(text: str) -> None:
    with pytest.raises(
        RuntimeUnavailable,
        match=r"Expected the log of TensorRT-RTX 9.9 to list the engine's layers",
    ):
        engine_layers(text, "9.9")


@real
def test_a_partial_file_is_built_with_the_types_that_it_has(tmp_path: Path) -> None:
    made = rtx.build(chain(tmp_path / "partial.onnx", {0, 2}))
    assert made.ok
    assert made.parsed
    assert made.problem is None
    assert re.fullmatch(r"\d+(\.\d+)+", made.version)
    convolutions = {layer.onnx[0]: layer for layer in made.layers if layer.kind == "correlation"}
    types = {
        name: [t.dtype for t in (*layer.inputs, layer.constants[0])]
        for name, layer in convolutions.items()
    }
    assert types == {
        "layer0/Conv": ["int8", "int8"],
        "layer1/Conv": ["fp32", "fp32"],
        "layer2/Conv": ["int8", "int8"],
    }


@real
def test_a_free_first_axis_is_built_for_one_sample(tmp_path: Path) -> None:
    made = rtx.build(chain(tmp_path / "free.onnx", {0}, dynamic=True))
    assert made.ok
    assert {
        tensor.shape for layer in made.layers for tensor in layer.inputs if tensor.name == "x"
    } == {(1, 3, 16, 16)}


@real
def test_a_parser_error_has_node_operator_and_text(tmp_path: Path) -> None:
    file = chain(tmp_path / "unknown.onnx", {0})
    model = onnx.load(file)
    model.graph.node[-1].op_type = "GlobalNothingPool"
    onnx.save(model, file)
    made = rtx.build(file)
    assert not made.ok
    assert not made.parsed
    (error,) = made.errors
    assert (error.node, error.operator) == ("pool", "GlobalNothingPool")
    assert error.text
    assert (
        made.problem
        == f"the parser of TensorRT-RTX {made.version} refuses GlobalNothingPool pool: {error.text}"
    )


@real
def test_a_file_that_is_no_model_is_refused_by_the_parser(tmp_path: Path) -> None:
    file = tmp_path / "text.onnx"
    file.write_text("not a model")
    made = rtx.build(file)
    assert not made.parsed
    assert made.errors


@real
def test_another_compute_capability_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailable, match=r"Expected --sm to be one of .*89.*, got 11\."):
        rtx.build(chain(tmp_path / "file.onnx", {0}), sm=11)


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script of ours in place of the child process, whose body the test writes."""
    monkeypatch.setattr(rtx, "unavailable", lambda: None)
    monkeypatch.setattr(rtx, "CHILD", tmp_path / "child.py")
    return tmp_path / "child.py"


def stand_in(child: Path, stage: str | None, end: str, **more: object) -> Path:
    """A child that writes the answer of a stage and then ends as told. Gives the file to build."""
    answer = json.dumps({"version": "1.7.1.116", "known": ["SM89"], "stage": stage, **more})
    write = f"open(sys.argv[3], 'w').write({answer!r})" if stage else ""
    child.write_text(f"import os, signal, sys, time\n{write}\nsys.stdout.flush()\n{end}\n")
    return chain(child.with_name("file.onnx"), {0})


@pytest.mark.skipif(not hasattr(__import__("signal"), "SIGKILL"), reason="Windows has no SIGKILL")
def test_a_child_that_a_signal_ends_is_a_record_and_not_an_error(child: Path) -> None:
    made = rtx.build(stand_in(child, "build", "os.kill(os.getpid(), signal.SIGKILL)"))
    assert (made.ok, made.parsed, made.errors, made.layers) == (False, True, (), ())
    assert (
        made.ended == "the builder of TensorRT-RTX 1.7.1.116 ended its process with signal SIGKILL"
    )


def test_the_last_words_of_a_child_that_ends_are_reported(child: Path) -> None:
    made = rtx.build(
        stand_in(
            child, "parse", "print('first\\nlast words', file=sys.stderr, flush=True); os._exit(3)"
        )
    )
    assert (made.ok, made.parsed) == (False, False)
    assert (
        made.ended
        == "the parser of TensorRT-RTX 1.7.1.116 ended its process with exit code 3 (last words)"
    )


def test_a_child_without_end_is_ended_after_the_limit(child: Path) -> None:
    made = rtx.build(stand_in(child, "build", "time.sleep(200)"), timeout_s=2)
    assert made.ended == "the builder of TensorRT-RTX 1.7.1.116 had no end after 2 s"


def test_the_words_of_a_builder_that_gives_up_are_reported(child: Path) -> None:
    made = rtx.build(stand_in(child, "build", "", errors=["no tactic", "out of luck"]))
    assert made.ended == "the builder of TensorRT-RTX 1.7.1.116 says: no tactic; out of luck"


def test_a_library_that_does_not_load_is_one_sentence(child: Path) -> None:
    with pytest.raises(
        RuntimeUnavailable,
        match=r"Expected tensorrt_rtx to load, got: .*exit code 1 \(OSError: no lib",
    ):
        rtx.build(stand_in(child, None, "raise OSError('no lib')"))


def test_it_says_how_to_install_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rtx, "MODULE", "no_such_module")
    with pytest.raises(
        RuntimeUnavailable, match="no_such_module is not installed; run: pip install tensorrt-rtx"
    ):
        rtx.build(chain(tmp_path / "file.onnx", {0}))


@real
def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(OnnxFileError, match=r"Expected an ONNX file at .*gone\.onnx, got none"):
        rtx.build(tmp_path / "gone.onnx")


def test_a_weakly_typed_network_is_refused_by_the_name_of_rtx() -> None:
    trt = SimpleNamespace(__name__="tensorrt_rtx", __version__="1.7.1")
    with pytest.raises(
        RuntimeUnavailable,
        match=r"strongly typed networks with TensorRT-RTX 1\.7\.1, which has no others",
    ):
        strongly_typed(trt, TensorRtSettings(strongly_typed=False))


@real
def test_a_parser_error_of_the_runtime_names_the_node_too(tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    file = chain(tmp_path / "unknown.onnx", {0})
    model = onnx.load(file)
    model.graph.node[-1].op_type = "GlobalNothingPool"
    onnx.save(model, file)
    with pytest.raises(OnnxFileError, match="can parse, got: GlobalNothingPool pool: "):
        build_plan(trt, make_logger(trt), file, TensorRtSettings())


def test_without_a_gpu_the_runtime_says_that_it_builds_and_does_not_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "sensitivity.runtimes.tensorrt.cuda_problem", lambda: "no CUDA driver is here"
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    problem = TensorRtRtx().unavailable()
    assert problem is not None
    assert "no CUDA driver is here" in problem
    assert problem.endswith(
        "builds: yes, with sensitivity lint --build; runs: no, which needs an RTX GPU"
    )


def test_the_packages_for_cuda_12_are_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    """The packages for other CUDA versions bring the same module, and no distribution called
    tensorrt-rtx."""

    def version(name: str) -> str:
        if name != "tensorrt-rtx-cu12":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.7.1.116"

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert {one.name: one.version for one in doctor.packages()}["tensorrt-rtx"] == "1.7.1.116"
    assert environment()["tensorrt-rtx-cu12"] == "1.7.1.116"
