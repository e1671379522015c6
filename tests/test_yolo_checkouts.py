"""YOLOv5, v6 and v7 as their own repositories build them, with random weights, through the
templates.

Needs checkouts, whose licences (AGPL, GPL) keep their code out of this repository: YOLOV5, YOLOV6
and YOLOV7 name the folders.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from packaging import version
from support.yolo_models import yolo_folder
from support.yolo_way import whole_way

from sensitivity.tasks.load import load_task
from sensitivity.workflows.reparameterise import branched

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = ["cat", "dog", "cow"]

UNUSED = (
    "torchvision", "torchvision.ops", "torchvision.transforms", "torchvision.transforms.functional",
    "torchvision.utils", "seaborn", "addict", "tensorboard", "pkg_resources",
)  # fmt: skip
"""Packages that the repositories import and that loading and running a model does not use."""


def yolov5(folder: Path):
    from models.yolo import Model

    model = Model(folder / "models" / "yolov5n.yaml", ch=3, nc=3)
    model.names = dict(enumerate(NAMES))
    return model


def yolov6(folder: Path):
    from yolov6.models.yolo import build_model

    settings: dict = {}
    exec((folder / "configs" / "yolov6n.py").read_text(), settings)
    return build_model(_Dots(model=_Dots(settings["model"]), training_mode="repvgg"), 3, "cpu")


def yolov7(folder: Path):
    from models.yolo import Model

    model = Model(folder / "cfg" / "training" / "yolov7.yaml", ch=3, nc=3)
    model.names = NAMES
    return model


class _Dots(dict):
    """A dict whose entries are attributes too, as YOLOv6's settings are."""

    def __getattr__(self, name):
        try:
            value = self[name]
        except KeyError:
            raise AttributeError(name) from None
        return _Dots(value) if isinstance(value, dict) else value


V6 = "yolo.backbone.ERBlock*,yolo.neck.*,yolo.detect.*"
REPOSITORIES = {
    "06_yolov5": ("YOLOV5", yolov5, "Conv", "yolo.model.0.*", "yolo.model.[1-9]*"),
    "07_yolov6": ("YOLOV6", yolov6, "RepVGGBlock", "yolo.backbone.stem*", V6),
    "08_yolov7": ("YOLOV7", yolov7, "RepConv", "yolo.model.0.*", "yolo.model.[1-9]*"),
}


@pytest.mark.parametrize("example", REPOSITORIES)
def test_a_model_of_the_repository_goes_through_its_template(example, tmp_path, monkeypatch):
    variable, built, block, stem, rest = REPOSITORIES[example]
    checkout = os.environ.get(variable)
    if not checkout:
        pytest.skip(f"{variable} names no checkout of the repository")
    _forget(monkeypatch)
    monkeypatch.syspath_prepend(checkout)
    for name in UNUSED:
        monkeypatch.setitem(sys.modules, name, MagicMock(parse_version=version.parse))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    weights = saved(built(Path(checkout)), tmp_path / "weights.pt")
    monkeypatch.setenv(f"{variable}_WEIGHTS", str(weights))
    monkeypatch.setenv("YOLO_DATA", str(yolo_folder(tmp_path / "data", 6)))
    monkeypatch.setenv("YOLO_IMGSZ", "64")
    reference = f"{EXAMPLES / example / 'task.py'}:task"
    task = load_task(reference)
    kinds = {type(module).__name__ for module in task.model.modules()}
    assert block in kinds
    assert not branched(task.model)
    inputs, targets = next(iter(task.data["rank"]))
    with torch.no_grad():
        assert task.score(task.model(inputs), targets).shape[0] == len(inputs)
    whole_way(reference, tmp_path / "run", stem, rest)
    _forget(monkeypatch)


def saved(model, file: Path) -> Path:
    """The model as the repositories save it, with activations that neither vanish nor explode."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.rand(4, 3, 64, 64))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    torch.save({"model": model.eval(), "ema": None}, file)
    return file


def _forget(monkeypatch) -> None:
    """Let no module of one repository stand for one of another."""
    own = {"models", "utils", "yolov6"}
    for name in [name for name in sys.modules if name.partition(".")[0] in own]:
        monkeypatch.delitem(sys.modules, name)
    import_module("importlib").invalidate_caches()
