"""Reading ONNX files and their Q/DQ pairs."""

from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper as onh
import pytest

from sensitivity.errors import OnnxFileError
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.load import LARGEST_BYTES, load_model


def conv_file(path: Path, *, scale: float = 0.1, external: str | None = None) -> Path:
    """x -> Q -> DQ -> Conv with a per-channel weight pair -> y."""
    weight = np.linspace(-1, 1, 4 * 3 * 9, dtype=np.float32).reshape(4, 3, 3, 3)
    scales = np.full(4, 1 / 127, np.float32)
    nodes = [
        oh.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"], name="q"),
        oh.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"], name="dq"),
        oh.make_node("QuantizeLinear", ["w", "ws", "wz"], ["wq"], name="wq", axis=0),
        oh.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], name="wdq", axis=0),
        oh.make_node("Conv", ["xd", "wd"], ["y"], name="conv"),
    ]
    constants = {
        "xs": np.float32(scale), "xz": np.int8(0), "w": weight, "ws": scales,
        "wz": np.zeros(4, np.int8),
    }  # fmt: skip
    initializers = [onh.from_array(np.asarray(value), name) for name, value in constants.items()]
    if external is not None:
        onnx.external_data_helper.set_external_data(
            initializers[2], location=external, offset=0, length=weight.nbytes
        )
        initializers[2].ClearField("raw_data")
        initializers[2].data_location = onnx.TensorProto.EXTERNAL
    image = oh.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 8, 8])
    output = oh.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 4, 6, 6])
    graph = oh.make_graph(nodes, "g", [image], [output], initializers)
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def test_pairs_tell_what_they_quantize_and_how(tmp_path):
    model = load_model(conv_file(tmp_path / "m.onnx"))
    activation, weight = qdq.pairs(model.graph)
    assert (activation.source.name, activation.axis, activation.of_weight) == ("x", None, False)
    assert (weight.source.name, weight.axis, weight.of_weight) == ("w", 0, True)
    assert activation.scale == pytest.approx(0.1)
    assert weight.zero_point.dtype == np.int8
    assert [node.name for node in qdq.weighted_nodes(model.graph)] == ["conv"]


def test_a_file_that_is_not_onnx_is_refused(tmp_path):
    file = tmp_path / "notes.onnx"
    file.write_text("these are not the bytes you are looking for")
    with pytest.raises(OnnxFileError, match="to be a whole ONNX file, got 43 bytes"):
        load_model(file)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(OnnxFileError, match="got 0 bytes without a graph or an opset"):
        load_model(tmp_path / "empty.onnx")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(OnnxFileError, match="No such file or directory"):
        load_model(tmp_path / "absent.onnx")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused(tmp_path, part):
    whole = conv_file(tmp_path / "m.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(OnnxFileError, match=r"cut short or not ONNX|without a graph"):
        load_model(tmp_path / "cut.onnx")


@pytest.mark.parametrize(
    "location", ["../secret.bin", "/etc/passwd", "sub/../../secret.bin", "link.bin", ""]
)
def test_external_data_outside_the_folder_is_refused(tmp_path, location):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(4 * 27 * 4))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(OnnxFileError, match="to lie in its own folder, got"):
        load_model(conv_file(folder / "m.onnx", external=location))


def test_external_data_that_is_missing_or_cut_short_is_refused(tmp_path):
    file = conv_file(tmp_path / "m.onnx", external="w.bin")
    with pytest.raises(OnnxFileError, match=r"external data 'w.bin' of .* to exist, for w"):
        load_model(file)
    (tmp_path / "w.bin").write_bytes(bytes(10))
    with pytest.raises(OnnxFileError, match="to hold bytes 0 to 432 for w, got a file of 10 bytes"):
        load_model(file)


def test_external_data_in_the_folder_is_read(tmp_path):
    file = conv_file(tmp_path / "m.onnx", external="w.bin")
    (tmp_path / "w.bin").write_bytes(np.arange(108, dtype=np.float32).tobytes())
    (_, weight) = qdq.pairs(load_model(file).graph)
    assert qdq.constant(weight.source).ravel()[:3].tolist() == [0, 1, 2]


def test_a_file_larger_than_2_gb_is_refused(tmp_path):
    file = tmp_path / "huge.onnx"
    with file.open("wb") as handle:
        handle.truncate(LARGEST_BYTES + 1)  # sparse: takes no space
    with pytest.raises(OnnxFileError, match=r"to be smaller than 2 GB, got 2.15 GB"):
        load_model(file)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 0.0, -0.1])
def test_scales_that_are_not_finite_and_positive_are_refused(tmp_path, scale):
    file = conv_file(tmp_path / "m.onnx", scale=scale)
    with pytest.raises(
        OnnxFileError, match=r"every scale in m.onnx to be finite and above 0, got .* at q"
    ):
        qdq.check_scales(load_model(file), file.name)
