"""Data of a Q/DQ file as users have it: arrays of any type, class folders, rectangular images,
boxes chosen by the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from support.commands import verb

from sensitivity.errors import TaskError
from sensitivity.onnx_task import onnx_task
from sensitivity.tasks.detection_boxes import Suppression, decode_chosen, decode_yolox, detections
from sensitivity.tasks.detection_images import letterbox, to_image
from sensitivity.tasks.images import centre_crop
from sensitivity.tasks.onnx_arrays import Port, arrays, inputs_alone
from sensitivity.tasks.onnx_decode import decode_name

FLOAT = Port("image", "float32", (None, 3, 4, 4))
X = np.random.default_rng(0).normal(size=(8, 3, 4, 4))
Y = np.arange(8) % 5


def saved(folder: Path, **content: Any) -> Path:
    np.savez(folder / "d.npz", **content)
    return folder / "d.npz"


def read(
    folder: Path, port: Port = FLOAT, classes: int | None = 5, **content: Any
) -> tuple[Any, Any]:
    return arrays(saved(folder, **content), [port], classes)


@pytest.mark.parametrize(("given", "port"), [
    (X, "float32"), (X.astype("f4"), "float32"), (X, "float16"), (X.astype("f4"), "float64"),
    (np.full(X.shape, 200, "u1"), "float32"), (np.full(X.shape, 200, "i8"), "uint8"),
    (np.full(X.shape, 7.0), "int64"),
    (np.full(X.shape, True), "float32"),
])  # fmt: skip
def test_inputs_become_the_type_of_the_file(tmp_path: Path, given: np.ndarray, port: str) -> None:
    x, _ = read(tmp_path, Port("image", port, FLOAT.shape), x=given, y=Y)
    assert x.dtype == port
    np.testing.assert_allclose(
        x.astype("f8"), given.astype("f8"), rtol=1e-3 if port == "float16" else 1e-7
    )


@pytest.mark.parametrize(("given", "port", "said"), [
    (np.full(X.shape, 300), "uint8", r"x in .* that the file's input image can hold as uint8, got "
                                     r"300"),
    (np.full(X.shape, -1), "uint8", "can hold as uint8, got -1"),
    (np.full(X.shape, 0.5), "int64", "can hold as int64, got 0.5"),
    (np.full(X.shape, 1e6), "float16", r"can hold as float16, got 1e\+06"),
    (np.full(X.shape, 2**24 + 1), "float32", "can hold as float32, got 16777217|1.67772e"),
    (np.full(X.shape, np.nan), "float32", "finite numbers, got NaN or infinity in sample 0"),
    (np.full(X.shape, "a"), "float32", "numbers for the file's input image, got <U1"),
    (X.transpose(0, 2, 3, 1), "float32", r"the file's input image, \[n, 3, 4, 4\], got \[8, 4, 4, "
                                         r"3\]"),
    (X[0], "float32", r"the file's input image, \[n, 3, 4, 4\], got \[3, 4, 4\]"),
    (X[:7], "float32", "as many labels as samples in .*, got 8 in y and 7 in x"),
    (np.array([None] * 8), "float32", "to be an .npz of numbers, got: Object arrays cannot be "
                                      "loaded"),
])  # fmt: skip
def test_inputs_that_the_file_cannot_take_are_one_sentence(
    tmp_path: Path, given: np.ndarray, port: str, said: str
) -> None:
    with pytest.raises(TaskError, match=said):
        read(tmp_path, Port("image", port, FLOAT.shape), x=given, y=Y)


@pytest.mark.parametrize("labels", [
    Y, Y.astype("u1"), Y.astype("f8"), Y[:, None], np.eye(5)[Y], np.eye(5, dtype=bool)[Y],
    np.eye(5, dtype="i4")[Y],
], ids=["int64", "uint8", "float64", "column", "one-hot float", "one-hot bool",
        "one-hot int"])  # fmt: skip
def test_labels_are_class_indices_or_one_hot_rows(tmp_path: Path, labels: np.ndarray) -> None:
    _, y = read(tmp_path, x=X, y=labels)
    assert y.dtype == np.int64
    np.testing.assert_array_equal(y, Y)


@pytest.mark.parametrize(("labels", "said"), [
    (Y + 1, "Expected class indices from 0 to 4, as the file has 5 outputs, got 5 in y in .*count "
            "classes from 0"),
    (Y - 1, "Expected class indices from 0 to 4, .* got -1"),
    (Y + 0.5, r"y in .* to be one class index for each sample, got float64 of shape \[8\]"),
    (np.eye(5)[Y] * 0.9, r"one-hot rows with a single 1 and otherwise 0, got float64 of shape "
                         r"\[8, 5\] with another row at sample 0"),
    (np.zeros((8, 2, 2), int), r"one class index for each sample, got int64 of shape \[8, 2, 2\]"),
    (np.array(["cat"] * 8), "one class index for each sample, got <U3"),
    (np.int64(3), r"one class index for each sample, got int64 of shape \[\]"),
])  # fmt: skip
def test_other_labels_are_one_sentence(tmp_path: Path, labels: np.ndarray, said: str) -> None:
    with pytest.raises(TaskError, match=said):
        read(tmp_path, x=X, y=labels)


def test_a_file_that_is_no_npz_is_one_sentence(tmp_path: Path) -> None:
    for name, content in {
        "text": b"no zip",
        "cut": saved(tmp_path, x=X, y=Y).read_bytes()[:900],
    }.items():
        (tmp_path / f"{name}.npz").write_bytes(content)
        with pytest.raises(
            TaskError, match=f"Expected .*{name}.npz to be an .npz of numbers, got: "
        ):
            arrays(tmp_path / f"{name}.npz", [FLOAT], 5)
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, X)
    with pytest.raises(TaskError, match="Expected .*array.npz to be an .npz of numbers"):
        arrays(tmp_path / "array.npz", [FLOAT], 5)


def test_inputs_are_found_by_name_by_x_or_as_the_only_other_array(tmp_path: Path) -> None:
    for content in ({"image": X, "y": Y}, {"x": X, "y": Y, "z": Y}, {"pixels": X, "target": Y}):
        np.testing.assert_allclose(read(tmp_path, **content)[0], X, rtol=1e-6)
    with pytest.raises(
        TaskError, match=r"to hold inputs x and labels y .*, got a float64\[8, 3, 4, 4\], b float64"
    ):
        read(tmp_path, a=X, b=X, y=Y)


@pytest.mark.parametrize("labels", [{"y": Y}, {}])
def test_an_input_that_all_samples_share_is_one_sentence(tmp_path: Path, labels: Any) -> None:
    ports = [FLOAT, Port("state", "float32", (2, None, 3)), Port("rate", "int64", ())]
    content = {"image": X, "state": np.zeros((2, 1, 3)), "rate": np.array(16000), **labels}
    data = saved(tmp_path, **content)
    said = r"got image \[8, 3, 4, 4\] and state \[2, 1, 3\] and rate \[\]; what all samples share"
    with pytest.raises(TaskError, match=said):
        arrays(data, ports, 5) if labels else inputs_alone(data, ports)


def classifier(
    path: Path, inputs: dict[str, tuple[int, list[Any]]], *, classes: int = 5, axes: Any = (2, 3)
) -> Path:
    """A file that takes the mean of each channel of each input, of which only the last is
    quantized, and one Gemm."""
    constants = {"s": np.float32(0.05), "z": np.int8(0)}
    nodes, means = [], []
    for name, (kind, _) in inputs.items():
        value = name
        if kind != TensorProto.FLOAT:
            nodes.append(helper.make_node("Cast", [name], [f"{name}f"], to=TensorProto.FLOAT))
            value = f"{name}f"
        nodes.append(
            helper.make_node(
                "ReduceMean",
                [value],
                [f"{name}m"],
                axes=list(axes),
                keepdims=0,
                name=f"mean_{name}",
            )
        )
        means.append(f"{name}m")
    nodes.append(helper.make_node("Concat", means, ["c"], axis=1, name="concat"))
    nodes.append(helper.make_node("QuantizeLinear", ["c", "s", "z"], ["cq"], name="c_Q"))
    nodes.append(helper.make_node("DequantizeLinear", ["cq", "s", "z"], ["cd"], name="c_DQ"))
    channels = sum(shape[1 if tuple(axes) == (2, 3) else -1] for _, shape in inputs.values())
    constants["w"] = np.random.default_rng(0).normal(size=(channels, classes)).astype(np.float32)
    nodes.append(helper.make_node("Gemm", ["cd", "w"], ["y"], name="fc"))
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(name, kind, shape) for name,
         (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", classes])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def test_a_file_with_two_inputs_takes_its_arrays_by_name(tmp_path: Path) -> None:
    inputs = {
        "rgb": (TensorProto.FLOAT, ["n", 3, 6, 6]),
        "depth": (TensorProto.FLOAT, ["n", 1, 6, 6]),
    }
    file = classifier(tmp_path / "q.onnx", inputs)
    rng = np.random.default_rng(0)
    content = {
        "rgb": rng.normal(size=(80, 3, 6, 6)),
        "depth": rng.normal(size=(80, 1, 6, 6)),
        "y": np.arange(80) % 5,
    }
    data = saved(tmp_path, **content)
    batch, labels = next(iter(onnx_task(file, data).data["rank"]))
    assert {name: (array.dtype.name, array.shape) for name, array in batch.items()} == {
        "rgb": ("float32", (40, 3, 6, 6)), "depth": ("float32", (40, 1, 6, 6)),
    }  # fmt: skip
    assert labels.shape == (40,)
    out = tmp_path / "out"
    assert verb(
        "run", file, "--data", data, "--target", "0.01", "--rounds", "3", "--force", "--out", out
    ) in (0, 2)
    assert (out / "model.partial.onnx").exists()
    saved(tmp_path, x=content["rgb"], y=content["y"])
    with pytest.raises(
        TaskError,
        match="to hold inputs rgb, depth and labels y .*; give the arrays the names of the inp",
    ):
        onnx_task(file, data)


def test_too_few_samples_are_one_sentence(tmp_path: Path) -> None:
    file = classifier(tmp_path / "q.onnx", {"x": (TensorProto.FLOAT, ["n", 3, 4, 4])})
    with pytest.raises(TaskError, match="at least 1 sample each that add up to at most 2"):
        onnx_task(file, saved(tmp_path, x=X[:2], y=Y[:2]))
    with pytest.raises(
        TaskError,
        match="colours, top, mean and std with images, got one of them with .*, whose arrays are",
    ):
        onnx_task(file, saved(tmp_path, x=X, y=Y), top=255.0)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 256, (70, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    return tmp_path / "images"


def first(task: Any) -> np.ndarray:
    batch: np.ndarray = next(iter(task.data["rank"]))[0]
    return batch


def test_class_folders_honour_colours_and_top(tmp_path: Path, folders: Path) -> None:
    file = classifier(tmp_path / "q.onnx", {"x": (TensorProto.FLOAT, ["n", 3, 32, 32])}, classes=2)
    usual, scaled = first(onnx_task(file, folders)), first(onnx_task(file, folders, top=255.0))
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled, np.rint(scaled))
    mean, std = (
        np.array(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    np.testing.assert_allclose(usual, (scaled / 255 - mean) / std, atol=1e-5)
    np.testing.assert_array_equal(
        first(onnx_task(file, folders, colours="bgr", top=255.0)), scaled[:, ::-1]
    )
    np.testing.assert_array_equal(first(onnx_task(file, folders, colours="bgr")), usual[:, ::-1])
    np.testing.assert_allclose(first(onnx_task(file, folders, top=1.0)), scaled / 255, rtol=1e-6)


def test_inputs_of_whole_numbers_and_the_channels_last_get_pixels(
    tmp_path: Path, folders: Path
) -> None:
    floats = classifier(
        tmp_path / "f.onnx", {"x": (TensorProto.FLOAT, ["n", 3, 32, 32])}, classes=2
    )
    bytes_ = classifier(
        tmp_path / "u.onnx", {"x": (TensorProto.UINT8, ["n", 32, 32, 3])}, classes=2, axes=(1, 2)
    )
    made = first(onnx_task(bytes_, folders))
    assert (made.dtype, made.shape) == (np.uint8, (4, 32, 32, 3))
    np.testing.assert_array_equal(
        made, first(onnx_task(floats, folders, top=255.0)).transpose(0, 2, 3, 1)
    )


def test_class_folders_of_a_rectangular_input(tmp_path: Path, folders: Path) -> None:
    file = classifier(tmp_path / "q.onnx", {"x": (TensorProto.FLOAT, ["n", 3, 24, 48])}, classes=2)
    assert first(onnx_task(file, folders)).shape == (4, 3, 24, 48)
    with pytest.raises(
        TaskError,
        match=r"know the size of .* x \[.n., 3, 24, .w.\], whose sides are open; .* --imgs",
    ):
        onnx_task(
            classifier(tmp_path / "w.onnx", {"x": (TensorProto.FLOAT, ["n", 3, 24, "w"])}), folders
        )


def test_a_crop_is_of_the_middle_and_keeps_the_proportions() -> None:
    # 100x40
    wide = Image.fromarray(
        np.repeat(np.arange(0, 200, 2, dtype=np.uint8)[None, :, None], 40, 0).repeat(3, 2)
    )
    made = centre_crop((40, 60), mean=(0, 0, 0), std=(1, 1, 1))(wide)
    np.testing.assert_allclose(made[0, 0] * 255, np.arange(40, 160, 2), atol=1e-3)
    assert centre_crop((10, 20), resize=(20, 30))(wide).shape == (3, 10, 20)
    halved = centre_crop((20, 50), resize=(20, 20), mean=(0, 0, 0), std=(1, 1, 1))(wide)
    assert halved.shape == (3, 20, 50), "the whole image at half its size"


def test_boxes_come_back_from_a_rectangular_letterbox() -> None:
    pixels, geometry = letterbox(Image.new("RGB", (200, 100), (255, 0, 0)), (64, 96))
    assert pixels.shape == (64, 96, 3)
    red = np.argwhere(pixels[..., 1] == 0)
    assert (red.min(0).tolist(), red.max(0).tolist()) == ([8, 0], [55, 95])
    np.testing.assert_allclose(to_image(np.array([[0.0, 8, 96, 56]]), geometry), [[0, 0, 200, 100]])


def test_the_cells_of_a_rectangular_yolox_run_along_its_rows() -> None:
    cells = [
        (step, x, y) for step in (8, 16, 32) for y in range(64 // step) for x in range(96 // step)
    ]
    raw = np.zeros((1, len(cells), 6), np.float32)
    boxes, _ = decode_yolox(raw, (64, 96))
    expected = [
        [(x - 0.5) * step, (y - 0.5) * step, (x + 0.5) * step, (y + 0.5) * step]
        for step, x, y in cells
    ]
    np.testing.assert_allclose(boxes[0], expected)


def test_chosen_boxes_are_reported_as_they_are() -> None:
    rows = np.array(
        [[0, 0, 10, 10, 0.9, 1], [0, 0, 10, 11, 0.8, 1], [5, 5, 9, 9, 0.7, 0], [0, 0, 0, 0, 0, 0]],
        np.float32,
    )
    boxes, confidences = decode_chosen((rows[None], "more"), 3)
    assert confidences.shape == (1, 3, 4)
    found = detections(boxes, confidences, Suppression(iou=1.0))
    np.testing.assert_array_equal(found.boxes[0, :3], rows[:3, :4])
    assert found.classes[0, :3].tolist() == [1, 1, 0]
    assert found.confidences[0, 3] == 0


@pytest.mark.parametrize(("shape", "size", "classes", "name"), [
    (["n", 8400, 85], 640, 80, "yolox"), (["n", 25200, 85], 640, 80, "yolov5"),
    (["n", 84, 8400], 640, 80, "yolo"),
    (["n", 300, 6], 640, 80, "end2end"), (["n", 300, 6], 64, 1, "end2end"),
    ([1, 100, 6], 640, 1, "end2end"),
    ([1, 84, 6], 64, 1, "yolox"), ([1, 252, 6], 64, 1, "yolov5"),
    ([1, 126, 6], (64, 96), 1, "yolox"),
    (["n", "a", 85], 640, 80, "yolox"), (["n", 85, 85], 640, 80, "yolox"),
    ([1, 5, 8400], 640, 1, "yolo"),
    ([1, 25500, 85], 640, 80, "yolov5"),
])  # fmt: skip
def test_what_a_detectors_output_means_follows_from_its_shape(
    shape: list[Any], size: Any, classes: int, name: str
) -> None:
    assert decode_name([shape], size, classes) == name


@pytest.mark.parametrize(("shape", "classes"), [
    (["n", "a", 6], 1), (["n", 8400, 84], 80), (["n", 84], 80), (["n", "a", "b"], 80),
])  # fmt: skip
def test_an_output_that_could_be_two_things_or_none_is_one_sentence(
    shape: list[Any], classes: int
) -> None:
    with pytest.raises(
        TaskError,
        match=r"with the choice of boxes \[n, 300, 6\].* for .* say which it is with --decode",
    ):
        decode_name([shape], 640, classes)


def detector(path: Path, inputs: list[Any], outputs: list[int]) -> Path:
    """A file that gives nearly the same boxes for every image; the mean of the image changes them a
    little."""
    rows = np.zeros(outputs, np.float32)
    rows[:, 2:4] = [40, 30]
    rows[:, 4] = np.linspace(0.9, 0.1, len(rows))
    rows[0, :4] = [8, 8, 38, 38]
    values = {
        "rows": rows,
        "s": np.float32(0.01),
        "z": np.int8(0),
        "axes": np.array([1, 2, 3]),
        "tiny": np.float32(1e-6),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "s", "z"], ["q"], name="in_Q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="in_DQ"),
        helper.make_node("ReduceMean", ["d"], ["m"], axes=[1, 2, 3], keepdims=0, name="mean"),
        helper.make_node("Mul", ["m", "tiny"], ["t"], name="mul"),
        helper.make_node("Unsqueeze", ["t", "back"], ["u"], name="up"),
        helper.make_node("Add", ["u", "rows"], ["boxes"], name="add"),
    ]
    values["back"] = np.array([1, 2])
    used = {
        name: value for name, value in values.items() if any(name in node.input for node in nodes)
    }
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("images", TensorProto.FLOAT, inputs)],
        [helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["n", *outputs])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in used.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def coco(folder: Path, size: tuple[int, int]) -> Path:
    """24 images of this (width, height) with one box of one class, [8, 8, 38, 38]."""
    (folder / "images").mkdir(parents=True)
    images, boxes = [], []
    for number in range(24):
        Image.new("RGB", size, (number, 0, 0)).save(folder / f"images/{number}.png")
        images.append(
            {"id": number, "file_name": f"{number}.png", "width": size[0], "height": size[1]}
        )
        boxes.append(
            {
                "id": number + 1,
                "image_id": number,
                "category_id": 7,
                "bbox": [8, 8, 30, 30],
                "iscrowd": 0,
            }
        )
    content = {"images": images, "annotations": boxes, "categories": [{"id": 7, "name": "defect"}]}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 96)])
def test_a_model_of_one_class_that_chooses_its_boxes_is_judged_on_any_size(
    tmp_path: Path, height: int, width: int
) -> None:
    file = detector(tmp_path / "q.onnx", ["n", 3, height, width], [300, 6])
    task = onnx_task(file, coco(tmp_path / "d", (width, height)))
    inputs, targets = next(iter(task.data["rank"]))
    assert inputs.shape == (6, 3, height, width)
    outputs = task.model.run(None, {"images": inputs})[0]
    assert task.aggregate(task.score(outputs, targets)) == pytest.approx(1.0), (
        "the first box is the right one"
    )


@pytest.mark.parametrize(("samples", "refused"), [("n", False), (4, False), ("n", True)])
def test_what_a_detectors_output_means_follows_from_a_run_if_the_file_leaves_its_sides_open(
    tmp_path: Path, samples: Any, refused: bool
) -> None:
    file = detector(
        tmp_path / "q.onnx", [samples, 3, 64, 64], [85 if refused else 300, 7 if refused else 6]
    )
    model = onnx.load(file)
    model.graph.node[-1].output[0] = "sum"
    model.graph.node.extend(
        [
            helper.make_node("Shape", ["sum"], ["sides"]),
            helper.make_node("Abs", ["sides"], ["unknown"]),
            helper.make_node("Reshape", ["sum", "unknown"], ["boxes"]),
        ]
    )
    model.graph.output[0].type.tensor_type.shape.ClearField("dim")
    for _ in range(3):
        model.graph.output[0].type.tensor_type.shape.dim.add()
    onnx.save(model, file)
    data = coco(tmp_path / "d", (64, 64))
    if refused:
        with pytest.raises(TaskError, match=r"for 1 class, got \[\d, 85, 7\] at input size 64"):
            onnx_task(file, data)
    else:
        task = onnx_task(file, data)
        assert task.score.decode.name == "end2end"


def test_imgsz_takes_height_and_width(capsys: pytest.CaptureFixture[str]) -> None:
    from sensitivity.cli.options import _ImageSize

    kind = _ImageSize()
    read = [kind.convert(text, None, None) for text in ("640", "64,96", "64x96", "64X96", "64x64")]
    assert read == [640, (64, 96), (64, 96), (64, 96), 64]
    arguments = ("--weights", "w.pt", "--data", "d.yaml")
    for text in ("64x", "a", "64x96x3", "-64", "6.4"):
        assert verb("yolo", "run", *arguments, "--imgsz", text) == 1
        said = " ".join(capsys.readouterr().err.split())
        assert (
            f"'{text}' is neither a side in pixels such as 640 nor HEIGHTxWIDTH such as 384x640"
            in said
        )


TENSORS = """
import torch
from sensitivity import Task
from sensitivity.quantizers.onnx.model import OnnxModel

generator = torch.Generator().manual_seed(0)
rgb, depth = (torch.randn(80, channels, 6, 6, generator=generator) for channels in (3, 1))
labels = torch.arange(80) % 5

class Samples(torch.utils.data.Dataset):
    def __init__(self, start, stop): self.start, self.stop = start, stop
    def __len__(self): return self.stop - self.start
    def __getitem__(self, at): return {items}, labels[self.start + at]

def score(outputs, targets):
    return (outputs.argmax(1) == targets.numpy()).astype(float)

def task():
    loader = lambda start, stop: torch.utils.data.DataLoader(Samples(start, stop), batch_size=10)
    data = {{"rank": loader(0, 40), "confirm": loader(40, 60), "holdout": loader(60, 80)}}
    return Task(OnnxModel({file!r}), data, score)
"""


@pytest.mark.parametrize(
    "items",
    ["rgb[self.start + at]", "(rgb[self.start + at], depth[self.start + at])"],
    ids=["one", "two"],
)
def test_a_data_loader_of_tensors_serves_a_qdq_file(tmp_path: Path, items: str) -> None:
    pytest.importorskip("torch", reason="a DataLoader is torch's")
    names = ["rgb", "depth"] if "depth" in items else ["rgb"]
    inputs = {
        name: (TensorProto.FLOAT, ["n", channels, 6, 6])
        for name, channels in zip(names, (3, 1), strict=False)
    }
    file = classifier(tmp_path / "q.onnx", inputs)
    (tmp_path / "own.py").write_text(TENSORS.format(items=items, file=str(file)))
    out = tmp_path / "out"
    assert verb(
        "run",
        f"{tmp_path / 'own.py'}:task",
        "--target",
        "0.01",
        "--rounds",
        "3",
        "--force",
        "--out",
        out,
    ) in (
        0,
        2,
    )
    checked = json.loads((out / "export.json").read_text())["files"]
    assert [one["metric"]["n"] for one in checked if one["variant"] == "partial"] == [80]


def test_a_detector_whose_float_finds_nothing_learns_how_its_output_was_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = detector(tmp_path / "q.onnx", ["n", 3, 64, 64], [300, 6])
    model = onnx.load(file)
    rows = next(one for one in model.graph.initializer if one.name == "rows")
    rows.CopyFrom(numpy_helper.from_array(np.zeros((300, 6), np.float32), "rows"))
    onnx.save(model, file)
    data = coco(tmp_path / "d", (64, 64))
    assert verb("run", file, "--data", data, "--max-drop", "1pt", "--out", tmp_path / "out") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Accuracy: not proven" in said
    assert "was taken for chosen boxes (end2end: corners, confidence, class), not YOLOX" in said
    assert "given pixels in RGB from 0 to 1. Where the model was trained with others: --col" in said
    assert "was taken for" not in onnx_task(file, data, decode="end2end").score.reading
