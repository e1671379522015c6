"""How ONNX Runtime runs a lowered detector: in integers from the first convolution to the last but
one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

torch = pytest.importorskip("torch", reason="exports a PyTorch model")
pytest.importorskip("modelopt", reason="exports a model calibrated by ModelOpt")

from support.blocks import YoloLike  # noqa: E402
from support.models import batch, quantized, seeded  # noqa: E402

from sensitivity.exporters.example import Example  # noqa: E402
from sensitivity.exporters.lower import lower_file  # noqa: E402
from sensitivity.exporters.torch_model import export_files  # noqa: E402
from sensitivity.exporters.verify_lowering import check_lowering  # noqa: E402
from sensitivity.onnx_graph.passes.join_slices import JoinSlices  # noqa: E402
from sensitivity.quantizers.base import layers  # noqa: E402
from sensitivity.quantizers.torch.modelopt import ModelOptModel  # noqa: E402
from sensitivity.units.placement import scale_groups, unified_scales  # noqa: E402


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, images = tmp_path_factory.mktemp("yolo"), batch(size=32)
    source = ModelOptModel(quantized(seeded(YoloLike), images, skip=("pool*", "*norm*")))
    with unified_scales(source, scale_groups(source, images)):
        files = export_files(
            source, images, layers(source.quantizers), ["coarse.cv1.0"], folder, fingerprint="test"
        )
    files["lowered"] = lower_file(files["int8"], "onnxruntime", folder / "lowered.onnx")
    return files


def test_sizes_that_are_known_are_no_longer_computed_in_the_file(files: dict[str, Path]) -> None:
    kinds = kinds_in(onnx.load(files["int8"]))
    assert kinds["Range"] == 0
    assert kinds["Cast"] == 0


def test_everything_between_the_input_and_the_heads_runs_in_integers(
    files: dict[str, Path], tmp_path: Path
) -> None:
    kinds = kinds_in(optimized(files["lowered"], tmp_path / "optimized.onnx"))
    assert kinds["QuantizeLinear"] == 1  # the input
    assert kinds["MatMulIntegerToFloat"] == 2  # box and classes, from integers to float
    assert kinds["DequantizeLinear"] == kinds["Conv"] == kinds["Resize"] == 0
    assert kinds["QLinearSigmoid"] == kinds["QLinearMul"] == kinds["QLinearConv"] == 12
    assert kinds["QLinearAdd"] == 2


def test_a_concat_copies_integers_where_all_its_parts_go_to_one_grid(
    files: dict[str, Path], tmp_path: Path
) -> None:
    model = optimized(files["lowered"], tmp_path / "optimized.onnx")
    numbers = {
        one.name: float(onnx.numpy_helper.to_array(one).ravel()[0])
        for one in model.graph.initializer
    }
    concats = [node for node in model.graph.node if node.op_type == "QLinearConcat"]
    assert len(concats) == 4
    # scale and zero point of the output, then (tensor, scale, zero point) of each part
    for node in concats:
        scales, zero_points = [node.input[0], *node.input[3::3]], [node.input[1], *node.input[4::3]]
        assert (
            len({numbers[name] for name in scales})
            == len({numbers[name] for name in zero_points})
            == 1
        )


def test_the_lowered_detector_agrees_with_the_canonical_one(files: dict[str, Path]) -> None:
    example = Example({"input": batch(size=32, seed=1).numpy()})
    check_lowering(files["int8"], files["lowered"], files["float"], example)


SLICES = """<ir_version: 8, opset_import: ["" : 17]>
    example (float[1,8,2,2] x, float[1,4,2,2] y) => (float[n,m,2,2] z) {{
    {first} = Slice (x, zero, four, one)
    {second} = Slice (x, four, {end}, one)
    z = Concat <axis = 1> (a, b, y)
}}"""


@pytest.mark.parametrize(
    ("first", "second", "end", "parts"),
    [("a", "b", "eight", ["x", "y"]), ("a", "b", "huge", ["x", "y"]),
     ("b", "a", "eight", ["a", "b", "y"]),
     ("a", "b", "six", ["a", "b", "y"])],
    ids=["whole", "to-the-end", "turned-round", "cut-short"],
)  # fmt: skip
def test_a_value_cut_in_pieces_for_a_concat_alone_is_passed_whole(
    tmp_path: Path, first: str, second: str, end: str, parts: list[str]
) -> None:
    proto = onnx.parser.parse_model(SLICES.format(first=first, second=second, end=end))
    numbers = {"zero": 0, "one": 1, "four": 4, "six": 6, "eight": 8, "huge": 2**63 - 1}
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.array([number]), name) for name, number in numbers.items()
    )
    model = JoinSlices()(ir.from_proto(proto)).model
    (concat,) = [node for node in model.graph if node.op_type == "Concat"]
    assert [value.name for value in concat.inputs] == parts
    feed = {
        "x": np.arange(32, dtype=np.float32).reshape(1, 8, 2, 2),
        "y": np.ones((1, 4, 2, 2), np.float32),
    }
    results = [run(one.SerializeToString(), feed) for one in (proto, ir.to_proto(model))]
    np.testing.assert_array_equal(*results)


def run(model: bytes, feed: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0]


def optimized(file: Path, out: Path) -> onnx.ModelProto:
    """The operations that ONNX Runtime runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(out)
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return onnx.load(out)


def kinds_in(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type.removeprefix("Nhwc") for node in model.graph.node)
