"""The float models of `formats.py`: an ONNX file each, with its samples and its score."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader
from torch import nn

from sensitivity.tasks.classification import (
    AnswerLost,
    answer_lost,
    from_arrays,
    images_by_class,
    random_parts,
    top1,
)
from sensitivity.workflows import demo

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.scripts import load_script

WEIGHTED = ("Conv", "Gemm", "MatMul")
BATCH = 50

Batches = list[tuple[np.ndarray, Any]]


@dataclass(frozen=True)
class Model:
    """A float ONNX file and what it is judged with.

    file: with a fixed batch. calib: inputs to calibrate on. data: batches of each split. score:
    (outputs, targets) -> per-sample scores. soft: as in `sensitivity.Task`. per_channel: whether
    weights have a scale per output channel.
    """

    name: str
    file: Path
    calib: list[np.ndarray]
    data: Mapping[str, Batches]
    score: Callable[[Any, Any], Any] = top1
    soft: AnswerLost | None = answer_lost
    per_channel: bool = True
    task: str | None = None

    @property
    def input(self) -> str:
        return str(onnx.load(self.file, load_external_data=False).graph.input[0].name)

    def metric(
        self, run: Callable[[np.ndarray], Any], split: str, batches: int | None = None
    ) -> Any:
        """The mean score of a split, or of its first batches. run: inputs -> the first output."""
        scores = [self.score(run(x), targets) for x, targets in self.data[split][:batches]]
        return float(np.mean(np.concatenate(scores)))


class Reader(CalibrationDataReader):
    """Arrays for calibration, as ONNX Runtime and Quark read them; it can start again."""

    def __init__(self, name: str, arrays: Iterable[np.ndarray]) -> None:
        self.name, self.arrays = name, list(arrays)
        self.rewind()

    def rewind(self) -> None:
        self.rest = iter(self.arrays)

    reset_iter = rewind

    def get_next(self) -> dict[str, np.ndarray] | None:
        found = next(self.rest, None)
        return None if found is None else {self.name: found}

    def __len__(self) -> int:
        return len(self.arrays)


def session(model: Path | onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A session that computes a file as it is written, without fusions."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def macs_of(model: Model) -> dict[str, int]:
    """Weighted node -> multiply-accumulates for one sample, with the shapes of a real batch."""
    loaded = onnx.load(model.file)
    nodes = [node for node in loaded.graph.node if node.op_type in WEIGHTED]
    weights = {one.name: tuple(one.dims) for one in loaded.graph.initializer}
    asked = sorted({name for node in nodes for name in (node.input[0], node.output[0])})
    given = {one.name for one in (*loaded.graph.input, *loaded.graph.output)}
    loaded.graph.output.extend(onnx.ValueInfoProto(name=name) for name in set(asked) - given)
    x = model.calib[0]
    runner = session(loaded)
    names = [one.name for one in runner.get_outputs()]
    values = runner.run(names, {model.input: x})
    shapes = {name: value.shape for name, value in zip(names, values, strict=True)}
    shapes[model.input] = x.shape
    found = {}
    for node in nodes:
        depth = shapes[node.input[0]][-1]
        if node.op_type == "Conv":
            depth = int(np.prod(weights[node.input[1]][1:]))
        found[node.name] = int(np.prod(shapes[node.output[0]])) * depth // len(x)
    return found


# Models.
# --------------------------------------------------------------------------------------------------


def mobilenet(folder: Path) -> Model:
    task = load_script("examples/01_mobilenet/task.py")
    calib, splits = task.parts()
    data = {name: arrays(split) for name, split in splits.items()}
    file = exported(task.float_model, data, folder / "mobilenet.onnx")
    images = [x for x, _ in arrays(calib)]
    return Model("MobileNetV1 x0.25", file, images, data, task=example("01_mobilenet"))


def resnet20(folder: Path) -> Model:
    task = load_script("examples/02_resnet20/task.py")
    test, train = (images_by_class(task.assets() / "cifar10" / part) for part in ("test", "train"))
    parts = random_parts(len(test.files), {"rank": 300, "confirm": 400, "holdout": 800}, seed=0)
    data = {name: arrays(task.batches(test.take(at))) for name, at in parts.items()}
    file = exported(task.float_model, data, folder / "resnet20.onnx")
    images = [x for x, _ in arrays(task.batches(train))]
    return Model("ResNet-20", file, images, data)


def repvgg(folder: Path) -> Model:
    """That of `sensitivity demo`."""
    splits = demo.digits()
    data = {name: arrays(splits[name]) for name in ("rank", "confirm", "holdout")}
    file = exported(lambda: demo.trained(splits["train"]), data, folder / "repvgg.onnx")
    calib = [x for x, _ in arrays(splits["calib"])]
    return Model("RepVGG, one scale per tensor", file, calib, data, per_channel=False)


def vit(folder: Path) -> Model:
    """That of `examples/12_transformer`."""
    task = load_script("examples/12_transformer/task.py")
    x, y = task.digits()
    sizes = {"calib": 100, "rank": 300, "confirm": 300, "holdout": 350}
    splits = from_arrays(x[700:], y[700:], sizes=sizes, seed=0)
    data = {name: arrays(split) for name, split in splits.items()}
    calib = [x for x, _ in data.pop("calib")]
    file = exported(lambda: task.train(x[:700], y[:700]), data, folder / "vit.onnx")
    return Model("ViT", file, calib, data)


def text(folder: Path) -> Model:
    """That of `examples/17_text_recogniser`, by character accuracy."""
    render = load_script("examples/17_text_recogniser/render.py")
    score = load_script("examples/17_text_recogniser/characters.py").character_accuracy
    x, y = render.samples()
    sizes = {"calib": 50, "rank": 50, "confirm": 100, "holdout": 150}
    parts = random_parts(len(x), sizes, seed=0)
    data = {name: batches(x[at], y[at]) for name, at in parts.items()}
    calib = [x for x, _ in data.pop("calib")]
    file = of_batches(render.model_file(), calib[0], folder / "text.onnx")
    return Model("PP-OCRv4 recogniser", file, calib, data, score, soft=None)


MODELS: Mapping[str, Callable[[Path], Model]] = {
    "mobilenet": mobilenet,
    "resnet20": resnet20,
    "repvgg": repvgg,
    "vit": vit,
    "text": text,
}


def example(name: str) -> str:
    """The task of an example."""
    return f"{Path(__file__).parents[1] / 'examples' / name / 'task.py'}:task"


def arrays(split: Iterable[tuple[torch.Tensor, Any]]) -> Batches:
    found: Batches = []
    for x, y in split:
        found += batches(np.asarray(x), np.asarray(y))
    return found


def batches(x: np.ndarray, y: np.ndarray) -> Batches:
    """Batches of BATCH samples; what is left over is left out, for files have a fixed batch."""
    whole = len(x) // BATCH * BATCH
    parts = (np.split(one[:whole], whole // BATCH) for one in (x, y))
    return list(zip(*parts, strict=True))


def of_batches(source: Path, x: np.ndarray, path: Path) -> Path:
    """A float file with the batch of `x`, in opset 17, with BatchNorm folded by ONNX Runtime.

    x: a batch.
    """
    if not path.exists():
        model = onnx.load(source)
        shape = model.graph.input[0].type.tensor_type.shape
        for side, size in zip(shape.dim, x.shape, strict=True):
            side.dim_value = size
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        content = onnx.version_converter.convert_version(model, 17).SerializeToString()
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        model = onnx.load(path)
        del model.opset_import[:]  # of domains that the file has no operation of
        model.opset_import.append(onnx.helper.make_opsetid("", 17))
        onnx.save(model, path)
    return path


def exported(net: Callable[[], nn.Module], data: Mapping[str, Batches], path: Path) -> Path:
    """The file of a network, which is trained once. net: gives it."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.onnx.export(
            net().eval(),
            (torch.from_numpy(data["rank"][0][0]),),
            str(path),
            input_names=["input"],
            opset_version=17,
            dynamo=False,
        )
    return path
