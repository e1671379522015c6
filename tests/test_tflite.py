"""The ONNX form of .tflite files has LiteRT's numbers."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

pytest.importorskip("ai_edge_litert")

from support.commands import verb
from support.tflite_models import Lite, small_net

from sensitivity.errors import MissingPackage, TfliteFileError
from sensitivity.onnx_task import onnx_task
from sensitivity.tflite.convert import onnx_from_tflite
from sensitivity.tflite.operators import OPERATORS
from sensitivity.tflite.read import read_tflite

ROOT = Path(__file__).parents[1]
SAME, VALID = 0, 1
RELU, RELU6, TANH_FUSED = 1, 3, 4
SHAPE = (1, 5, 6, 4)
TIES = 1 / 3
"""The share of numbers that may be a step apart: LiteRT rounds halves away from zero and ONNX to
even numbers, and the scales of these cases make many halves."""

Case = Callable[[Lite, int], list[int]]


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("tflite")


def ints(seed: int, shape: tuple[int, ...], dtype: str = "i1") -> Any:
    return np.random.default_rng(seed).integers(-127, 128, shape).astype(dtype)


def weight(lite: Lite, shape: tuple[int, ...], axis: int, *, channels: bool = True) -> int:
    count = shape[axis] if channels else 1
    grid = (np.linspace(0.002, 0.01, count), np.zeros(count))
    return lite.tensor("weight", (), "INT8", grid, ints(1, shape), axis)


def bias(lite: Lite, count: int, *, channels: bool = True, step: float = 0.05) -> int:
    scales = step * np.linspace(0.002, 0.01, count if channels else 1)
    values = np.random.default_rng(2).integers(-3000, 3000, count).astype("i4")
    return lite.tensor("bias", (), "INT32", (scales, np.zeros(scales.size)), values)


def out(lite: Lite, *shape: int, grid: Any = (0.1, -7), kind: str = "INT8") -> int:
    return lite.tensor(f"out{len(lite.tensors)}", shape, kind, grid)


def unary(kind: str, grid: Any = (0.05, 3), **options: Any) -> Case:
    return lambda lite, x: [lite.add(kind, [x], [out(lite, *SHAPE, grid=grid)], **options)]


def binary(kind: str, shape: tuple[int, ...], **options: Any) -> Case:
    def build(lite: Lite, x: int) -> list[int]:
        grid = (0.05, 3) if kind in ("MAXIMUM", "MINIMUM") else (0.03, 5)
        other = lite.tensor("other", (), "INT8", grid, ints(3, shape))
        made = out(lite, *SHAPE, grid=grid if kind in ("MAXIMUM", "MINIMUM") else (0.1, -7))
        return [lite.add(kind, [x, other], [made], **options)]

    return build


def conv(padding: int, stride: int, dilation: int = 1, activation: int = 0) -> Case:
    def build(lite: Lite, x: int) -> list[int]:
        reach = 2 * dilation + 1
        height, width = (
            -(-side // stride) if padding == SAME else (side - reach) // stride + 1
            for side in SHAPE[1:3]
        )
        made = out(lite, 1, height, width, 8)
        inputs = [x, weight(lite, (8, 3, 3, 4), 0), bias(lite, 8)]
        options = {"padding": padding, "strideH": stride, "strideW": stride}
        options |= {"dilationHFactor": dilation, "dilationWFactor": dilation}
        return [lite.add("CONV_2D", inputs, [made], fusedActivationFunction=activation, **options)]

    return build


def grouped(lite: Lite, x: int) -> list[int]:
    inputs = [x, weight(lite, (6, 1, 1, 2), 0), bias(lite, 6)]
    options = {"padding": VALID, "strideH": 1, "strideW": 1}
    options |= {"dilationHFactor": 1, "dilationWFactor": 1}
    return [lite.add("CONV_2D", inputs, [out(lite, 1, 5, 6, 6)], **options)]


def depthwise(lite: Lite, x: int) -> list[int]:
    inputs = [x, weight(lite, (1, 3, 3, 8), 3), bias(lite, 8)]
    options = {"padding": SAME, "strideH": 2, "strideW": 2, "depthMultiplier": 2}
    options |= {"dilationHFactor": 1, "dilationWFactor": 1, "fusedActivationFunction": RELU6}
    return [lite.add("DEPTHWISE_CONV_2D", inputs, [out(lite, 1, 3, 3, 8)], **options)]


def transposed(padding: int) -> Case:
    def build(lite: Lite, x: int) -> list[int]:
        sides = (1, 10, 12, 8) if padding == SAME else (1, 11, 13, 8)
        inputs = [lite.axes(*sides), weight(lite, (8, 3, 3, 4), 0), x, bias(lite, 8)]
        options = {"padding": padding, "strideH": 2, "strideW": 2}
        return [lite.add("TRANSPOSE_CONV", inputs, [out(lite, *sides)], **options)]

    return build


def dense(lite: Lite, x: int) -> list[int]:
    """Over the last axis of all pixels, with their places kept."""
    inputs = [x, weight(lite, (8, 4), 0, channels=False), bias(lite, 8, channels=False)]
    made = out(lite, 1, 5, 6, 8)
    return [lite.add("FULLY_CONNECTED", inputs, [made], keepNumDims=True)]


def product(lite: Lite, x: int) -> list[int]:
    other = lite.tensor("other", (), "INT8", (0.03, 0), ints(3, (1, 5, 7, 4)))
    return [lite.add("BATCH_MATMUL", [x, other], [out(lite, 1, 5, 6, 7)], adjY=True)]


def pool(kind: str, padding: int) -> Case:
    def build(lite: Lite, x: int) -> list[int]:
        sides = (3, 3) if padding == SAME else (2, 2)
        options = {"strideH": 2, "strideW": 2, "filterHeight": 3, "filterWidth": 3}
        made = out(lite, 1, *sides, 4, grid=(0.05, 3))
        return [lite.add(kind, [x], [made], padding=padding, **options)]

    return build


def reduced(kind: str, axes: tuple[int, ...], keep: bool, grid: Any = (0.05, 3)) -> Case:
    def build(lite: Lite, x: int) -> list[int]:
        sides = [1 if at in axes else side for at, side in enumerate(SHAPE)]
        sides = sides if keep else [side for at, side in enumerate(SHAPE) if at not in axes]
        made = out(lite, *sides, grid=grid)
        return [lite.add(kind, [x, lite.axes(*axes)], [made], keepDims=keep)]

    return build


def resized(kind: str, sides: tuple[int, int], **options: Any) -> Case:
    def build(lite: Lite, x: int) -> list[int]:
        made = out(lite, 1, *sides, 4, grid=(0.05, 3))
        return [lite.add(kind, [x, lite.axes(*sides)], [made], **options)]

    return build


def moved(kind: str, shape: tuple[int, ...], *given: Any, **options: Any) -> Case:
    """An operator that moves numbers, with constants of int32."""

    def build(lite: Lite, x: int) -> list[int]:
        constants = [
            lite.tensor(f"given{at}", (), "INT32", None, np.array(each, "i4"))
            for at, each in enumerate(given)
        ]
        made = out(lite, *shape, grid=(0.05, 3))
        return [lite.add(kind, [x, *constants], [made], **options)]

    return build


def padded_with_a_value(lite: Lite, x: int) -> list[int]:
    pads = lite.tensor("pads", (), "INT32", None, np.array([[0, 0], [1, 2], [0, 3], [0, 0]], "i4"))
    value = lite.tensor("value", (), "INT8", (0.05, 3), np.array([77], "i1"))
    made = out(lite, 1, 8, 9, 4, grid=(0.05, 3))
    return [lite.add("PADV2", [x, pads, value], [made])]


def joined(lite: Lite, x: int) -> list[int]:
    other = lite.tensor("other", (), "INT8", (0.05, 3), ints(3, SHAPE))
    made = out(lite, 1, 5, 6, 8, grid=(0.05, 3))
    return [lite.add("CONCATENATION", [x, other], [made], axis=-1)]


def packed(lite: Lite, x: int) -> list[int]:
    made = out(lite, 1, 2, 5, 6, 4, grid=(0.05, 3))
    return [lite.add("PACK", [x, x], [made], axis=1, valuesCount=2)]


def apart(kind: str) -> Case:
    def build(lite: Lite, x: int) -> list[int]:
        grid = (0.05, 3)
        match kind:
            case "SPLIT":
                parts = [out(lite, 1, 5, 6, 2, grid=grid) for _ in range(2)]
                lite.add(kind, [lite.axes(3), x], parts, numSplits=2)
            case "SPLIT_V":
                parts = [out(lite, 1, 5, side, 4, grid=grid) for side in (4, 2)]
                lite.add(kind, [x, lite.axes(4, 2), lite.axes(2)], parts, numSplits=2)
            case _:
                parts = [out(lite, 1, 5, 4, grid=grid) for _ in range(6)]
                lite.add(kind, [x], parts, axis=2, num=6)
        return parts

    return build


def gathered(lite: Lite, x: int) -> list[int]:
    made = out(lite, 1, 5, 3, 4, grid=(0.05, 3))
    return [lite.add("GATHER", [x, lite.axes(4, 0, 4)], [made], axis=2)]


def curved(lite: Lite, x: int) -> list[int]:
    slopes = lite.tensor("slopes", (), "INT8", (0.01, 2), ints(3, (1, 1, 4)))
    return [lite.add("PRELU", [x, slopes], [out(lite, *SHAPE, grid=(0.06, 5))])]


WHOLE = [[0, 0], [2, 0], [1, 3], [0, 0]]

CASES: dict[str, Case] = {
    "CONV_2D-same": conv(SAME, 2, activation=RELU),
    "CONV_2D-valid-dilated": conv(VALID, 1, dilation=2),
    "CONV_2D-grouped": grouped,
    "DEPTHWISE_CONV_2D": depthwise,
    "TRANSPOSE_CONV-same": transposed(SAME),
    "TRANSPOSE_CONV-valid": transposed(VALID),
    "FULLY_CONNECTED": dense,
    "BATCH_MATMUL": product,
    "ADD-channel": binary("ADD", (4,)),
    "ADD-image": binary("ADD", SHAPE, fusedActivationFunction=RELU),
    "ADD-rows": binary("ADD", (6, 1)),
    "SUB": binary("SUB", SHAPE),
    "MUL": binary("MUL", (1, 1, 1, 4)),
    "MAXIMUM": binary("MAXIMUM", SHAPE),
    "MINIMUM": binary("MINIMUM", (4,)),
    "SQUARED_DIFFERENCE": binary("SQUARED_DIFFERENCE", SHAPE),
    "LOGISTIC": unary("LOGISTIC", (1 / 256, -128)),
    "TANH": unary("TANH", (1 / 128, 0)),
    "HARD_SWISH": unary("HARD_SWISH", (0.05, -100)),
    "ELU": unary("ELU"),
    "ABS": unary("ABS"),
    "RSQRT": unary("RSQRT", (0.05, -100)),
    "LEAKY_RELU": unary("LEAKY_RELU", alpha=0.1),
    "PRELU": curved,
    "RELU": unary("RELU", (0.03, -100)),
    "RELU6": unary("RELU6", (0.03, -100)),
    "RELU_N1_TO_1": unary("RELU_N1_TO_1", (0.01, 5)),
    "SOFTMAX": unary("SOFTMAX", (1 / 256, -128), beta=1.0),
    "SOFTMAX-beta": unary("SOFTMAX", (1 / 256, -128), beta=0.5),
    "LOG_SOFTMAX": unary("LOG_SOFTMAX", (16 / 256, 127)),
    "QUANTIZE": unary("QUANTIZE", (0.07, -20)),
    "AVERAGE_POOL_2D-same": pool("AVERAGE_POOL_2D", SAME),
    "MAX_POOL_2D-valid": pool("MAX_POOL_2D", VALID),
    "MEAN-kept": reduced("MEAN", (1, 2), True),
    "MEAN-image": reduced("MEAN", (1, 2), False),
    "MEAN-channels": reduced("MEAN", (3,), False),
    "SUM": reduced("SUM", (1, 2), True, (0.5, 0)),
    "REDUCE_MAX": reduced("REDUCE_MAX", (2,), False),
    "REDUCE_MIN": reduced("REDUCE_MIN", (3,), True),
    "RESIZE_BILINEAR-half": resized("RESIZE_BILINEAR", (9, 4), halfPixelCenters=True),
    "RESIZE_BILINEAR-corners": resized("RESIZE_BILINEAR", (9, 11), alignCorners=True),
    "RESIZE_BILINEAR": resized("RESIZE_BILINEAR", (10, 12)),
    "RESIZE_NEAREST_NEIGHBOR": resized("RESIZE_NEAREST_NEIGHBOR", (10, 4)),
    "RESIZE_NEAREST_NEIGHBOR-half": resized(
        "RESIZE_NEAREST_NEIGHBOR", (8, 4), halfPixelCenters=True
    ),
    "RESIZE_NEAREST_NEIGHBOR-corners": resized(
        "RESIZE_NEAREST_NEIGHBOR", (9, 11), alignCorners=True
    ),
    "DEPTH_TO_SPACE": moved("DEPTH_TO_SPACE", (1, 10, 12, 1), blockSize=2),
    "RESHAPE": moved("RESHAPE", (1, 10, 12), [1, 10, 12]),
    "EXPAND_DIMS": moved("EXPAND_DIMS", (1, 1, 5, 6, 4), [1]),
    "SQUEEZE": moved("SQUEEZE", (5, 6, 4), squeezeDims=[0]),
    "TRANSPOSE": moved("TRANSPOSE", (1, 6, 4, 5), [0, 2, 3, 1]),
    "TRANSPOSE-to-channels-first": moved("TRANSPOSE", (1, 4, 5, 6), [0, 3, 1, 2]),
    "CONCATENATION": joined,
    "PACK": packed,
    "UNPACK": apart("UNPACK"),
    "PAD": moved("PAD", (1, 7, 10, 4), WHOLE),
    "PADV2": padded_with_a_value,
    "SLICE": moved("SLICE", (1, 3, 4, 2), [0, 1, 2, 1], [1, 3, -1, 2]),
    "STRIDED_SLICE": moved(
        "STRIDED_SLICE", (1, 2, 4, 3), [0, 4, 1, 0], [1, 0, 5, 9], [1, -2, 1, 1], endMask=8,
        beginMask=1,
    ),
    "STRIDED_SLICE-shrunk": moved(
        "STRIDED_SLICE", (1, 6, 4), [0, -1, 0, 0], [1, 0, 6, 4], [1, 1, 1, 1], shrinkAxisMask=2
    ),
    "SPLIT": apart("SPLIT"),
    "SPLIT_V": apart("SPLIT_V"),
    "GATHER": gathered,
}  # fmt: skip


@pytest.mark.parametrize("turned", [False, True], ids=["as it is", "channels first"])
@pytest.mark.parametrize("case", CASES)
def test_an_operator_gives_litert_s_numbers_within_a_step(
    case: str, turned: bool, bench: Any, tmp_path: Path
) -> None:
    lite = Lite()
    grid = (0.05, -128) if case == "RSQRT" else (0.05, 3)
    x = lite.tensor("x", SHAPE, grid=grid)
    outputs = CASES[case](lite, lite.pooled(x) if turned else x)
    path = lite.write(tmp_path / "one.tflite", [x], outputs)
    for steps in bench.whole(path):
        assert steps.max() <= 1
        assert (steps > 0).mean() <= TIES


def test_the_cases_cover_the_operators() -> None:
    """Those left out differ from one that is there by the name of ONNX's operator alone."""
    alike = {"DIV", "NEG", "EXP", "SQRT", "SQUARE", "GELU", "RELU_0_TO_1", "SPACE_TO_DEPTH"}
    seen = {case.partition("-")[0] for case in CASES}
    assert OPERATORS.keys() - seen <= alike | {"DEQUANTIZE"}


def test_a_whole_net_keeps_names_weights_and_answers(bench: Any, tmp_path: Path) -> None:
    path = small_net(tmp_path / "net.tflite")
    model = onnx.load_from_string(onnx_from_tflite(path))
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == [
        "image",
        "answer",
    ]
    layers = {node.name: node.op_type for node in model.graph.node}
    assert {name: layers[name] for name in ("first", "second", "mean", "logits", "answer")} == {
        "first": "Conv",
        "second": "Conv",
        "mean": "ReduceMean",
        "logits": "Gemm",
        "answer": "Softmax",
    }
    stored = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    weight = read_tflite(path).tensors[1]
    assert weight.values is not None
    assert np.array_equal(stored["w1"], weight.values.transpose(0, 3, 1, 2))
    assert [op for op in layers.values() if op == "Transpose"] == ["Transpose"]  # of the input
    (steps,) = bench.whole(path)
    assert steps.max() <= 1


def test_a_float_file_has_no_pairs_and_the_same_numbers(bench: Any, tmp_path: Path) -> None:
    path = small_net(tmp_path / "net.tflite", kind="FLOAT32")
    model = onnx.load_from_string(onnx_from_tflite(path))
    assert "QuantizeLinear" not in {node.op_type for node in model.graph.node}
    (apart,) = bench.whole(path)
    assert apart.max() < 1e-6


@pytest.mark.parametrize("kind", ["UINT8", "INT16"])
def test_other_integers_are_read_as_well(kind: str, bench: Any, tmp_path: Path) -> None:
    path = small_net(tmp_path / "net.tflite", kind=kind)
    for found in bench.compared(path):
        assert found.steps.max() <= 1, found.tensor.name
    model = onnx.load_from_string(onnx_from_tflite(path))
    assert model.opset_import[0].version == (21 if kind == "INT16" else 17)


def test_weights_alone_may_be_integers(tmp_path: Path, bench: Any) -> None:
    """LiteRT rounds the activations of such a layer too, to a grid of each run: the file has none,
    and the ONNX form does not either."""
    path = small_net(tmp_path / "net.tflite", kind="HYBRID")
    model = onnx.load_from_string(onnx_from_tflite(path))
    kinds = [node.op_type for node in model.graph.node]
    assert (kinds.count("QuantizeLinear"), kinds.count("DequantizeLinear")) == (0, 3)
    (apart,) = bench.whole(path)
    assert apart.max() < 0.05


def test_a_constant_behind_a_dequantize_is_a_weight(tmp_path: Path, bench: Any) -> None:
    """The form of files in half precision, and of those in which only the weights are stored
    small."""
    lite = Lite()
    x = lite.tensor("x", SHAPE, "FLOAT32", None)
    half = lite.tensor("half", (), "FLOAT16", None, (ints(1, (8, 3, 3, 4)) / 64).astype("f2"))
    weight = lite.tensor("weight", (8, 3, 3, 4), "FLOAT32", None)
    lite.add("DEQUANTIZE", [half], [weight])
    none = lite.tensor("bias", (), "FLOAT32", None, np.zeros(8, "f4"))
    made = lite.tensor("made", (1, 5, 6, 8), "FLOAT32", None)
    options = {"strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}
    lite.add("CONV_2D", [x, weight, none], [made], **options)
    path = lite.write(tmp_path / "half.tflite", [x], [made])
    model = onnx.load_from_string(onnx_from_tflite(path))
    assert [node.op_type for node in model.graph.node] == ["Transpose", "Conv", "Transpose"]
    assert {each.name: each.data_type for each in model.graph.initializer}["half"] == 1
    (apart,) = bench.whole(path)
    assert apart.max() < 1e-6


def test_half_bytes_are_read_lower_half_first(tmp_path: Path) -> None:
    lite = Lite()
    packed = lite.tensor("four", (), "INT4", (0.1, 0), np.array([0x3F, 0x08], "u1"))
    lite.tensors[packed].shape = [3]
    path = lite.write(tmp_path / "four.tflite", [], [packed])
    values = read_tflite(path).tensors[packed].values
    assert values is not None
    assert values.tolist() == [-1, 3, -8]


def one(tmp_path: Path, kind: str, **options: Any) -> Path:
    lite = Lite()
    x = lite.tensor("x", SHAPE)
    made = lite.add(kind, [x, x], [lite.tensor("made", SHAPE)], **options)
    return lite.write(tmp_path / "one.tflite", [x], [made])


def test_what_cannot_be_read_or_written_is_refused_in_one_sentence(tmp_path: Path) -> None:
    refused = partial(pytest.raises, TfliteFileError)
    with refused(match=r"got FLOOR_DIV number 0 of one.tflite, which makes made; give the model"):
        onnx_from_tflite(one(tmp_path, "FLOOR_DIV"))
    with refused(match=r"that clamp .* got TANH in ADD number 0 of one.tflite, which makes made"):
        onnx_from_tflite(one(tmp_path, "ADD", fusedActivationFunction=TANH_FUSED))
    with refused(match=r"Expected .*nowhere.tflite to be a readable .tflite file, got: No such"):
        read_tflite(tmp_path / "nowhere.tflite")
    (tmp_path / "text.tflite").write_text("a model")
    with refused(match=r"got 7 bytes without its identifier TFL3; convert the model again"):
        read_tflite(tmp_path / "text.tflite")
    whole = one(tmp_path, "ADD").read_bytes()
    for end in range(8, len(whole), 97):
        (tmp_path / "cut.tflite").write_bytes(whole[:end])
        with refused(match=f"got {end} bytes that do not parse; it is cut short or damaged"):
            read_tflite(tmp_path / "cut.tflite")


def test_sides_that_the_model_computes_are_reported(tmp_path: Path) -> None:
    lite = Lite()
    x, sides = lite.tensor("x", SHAPE), lite.tensor("sides", (4, 2), "INT32", None)
    made = lite.add("PAD", [x, sides], [lite.tensor("made", (1, 7, 8, 4))])
    path = lite.write(tmp_path / "sides.tflite", [x, sides], [made])
    told = r"Expected input 1 of PAD number 0 of sides.tflite, which makes made to be a constant"
    with pytest.raises(TfliteFileError, match=told):
        onnx_from_tflite(path)


def test_an_open_batch_is_one_sample_and_other_open_sides_are_reported(
    tmp_path: Path,
) -> None:
    lite = Lite()
    x = lite.tensor("x", SHAPE)
    made = lite.add("RELU", [x], [lite.tensor("made", SHAPE)])
    lite.tensors[x].shapeSignature = [-1, *SHAPE[1:]]
    content = onnx_from_tflite(lite.write(tmp_path / "open.tflite", [x], [made]))
    sides = onnx.load_from_string(content).graph.input[0].type.tensor_type.shape.dim
    assert tuple(side.dim_value for side in sides) == SHAPE
    lite.tensors[x].shapeSignature = [-1, -1, -1, 4]
    told = r"open.tflite that leave open at most how many samples .*, got \[-1, -1, -1, 4\] for x"
    with pytest.raises(TfliteFileError, match=told):
        onnx_from_tflite(lite.write(tmp_path / "open.tflite", [x], [made]))


def test_without_the_package_the_way_to_get_it_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = one(tmp_path, "ADD")
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.schema_py_generated", None)
    told = r"Expected ai-edge-litert to be installed for reading a .tflite file; run: .*tflite"
    with pytest.raises(MissingPackage, match=told):
        read_tflite(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.tflite, float.tflite and data.npz, labelled by the float one."""
    folder = tmp_path_factory.mktemp("tflite")
    small_net(folder / "net.tflite")
    small_net(folder / "float.tflite", kind="FLOAT32")
    x = np.random.default_rng(0).normal(size=(80, 8, 8, 3)).astype("f4")
    run = onnxruntime.InferenceSession(onnx_from_tflite(folder / "float.tflite"))
    answers = [run.run(None, {"image": image[None]})[0][0] for image in x]
    np.savez(folder / "data.npz", x=x, y=np.argmax(answers, 1))
    return folder


@pytest.fixture(scope="module")
def scanned(data: Path) -> Path:
    """The run directory of a scan of net.tflite."""
    assert verb("scan", *settings_of(data), "--exact", "--quiet") == 0
    return data / "run"


def settings_of(data: Path) -> tuple[Any, ...]:
    float_model = ("--float-model", data / "float.tflite")
    return (data / "net.tflite", "--data", data / "data.npz", *float_model, "--out", data / "run")


def test_an_integer_file_is_scanned_against_its_float_file(data: Path, scanned: Path) -> None:
    info = json.loads((scanned / "run.json").read_text())
    assert {unit["name"] for unit in info["units"]} >= {"first", "second", "mean", "logits"}
    found = json.loads((scanned / "scan.json").read_text())
    assert found["baselines"]["float"]["value"] == 1.0
    assert (scanned / "tflite/net.onnx").is_file()
    assert (scanned / "tflite/float/float.onnx").is_file()
    assert verb("scan", *settings_of(data), "--exact", "--quiet", "--resume") == 0


def test_a_plan_becomes_a_recipe_by_the_names_of_the_file(scanned: Path) -> None:
    """Also of the operator that makes an output, whose unit is told from that of the output."""
    skipped = ("--skip", "first", "--skip", "Softmax:answer/output", "--no-recalibrate")
    assert verb("plan", scanned, *skipped, "--max-drop", "50pt", "--quiet") == 0
    assert verb("export", scanned, "--config", "litert", "--quiet") == 0
    entries = json.loads((scanned / "config.litert.json").read_text())
    assert [entry["regex"] for entry in entries] == ["(^|;)first;", "(^|;)answer;"]


def test_arrays_of_the_file_s_own_integers_are_what_they_stand_for(data: Path) -> None:
    (data / "codes.onnx").write_bytes(onnx_from_tflite(data / "net.tflite"))
    codes = ints(4, (40, 8, 8, 3))
    real = ((codes.astype("f4") + 3) * np.float32(0.02)).astype("f4")
    for name, x in (("codes", codes), ("real", real)):
        np.savez(data / f"{name}.npz", x=x, y=np.arange(40) % 4)
    first = [
        next(iter(onnx_task(data / "codes.onnx", data / f"{name}.npz").data["rank"]))[0]
        for name in ("codes", "real")
    ]
    assert first[0].dtype == np.float32
    assert np.array_equal(*first)


def test_a_float_file_goes_the_way_of_a_float_onnx_file(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb("check", data / "float.tflite") == 0
    assert "float.onnx is a float file of opset 17: run and scan quantize it" in (
        " ".join(capsys.readouterr().out.split())
    )
    given = (data / "float.tflite", "--data", data / "data.npz", "--out", data / "quantized")
    assert verb("scan", *given, "--exact", "--quiet") == 0
    assert (data / "quantized/quantized.onnx").is_file()


def test_a_setting_of_float_files_is_refused_for_an_integer_one(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = (data / "net.tflite", "--data", data / "data.npz", "--out", data / "refused")
    assert verb("scan", *given, "--for", "openvino") == 1
    assert "Expected no --for with a Q/DQ file, which is calibrated already" in (
        " ".join(capsys.readouterr().err.split())
    )
