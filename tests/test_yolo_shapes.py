"""The example of shapes: its labels match the drawings, and its training learns from them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from support.scripts import load_script

EXAMPLE = "examples/15_yolo_shapes"
TASKS = ("segment", "pose", "obb")


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / EXAMPLE))
    train = load_script(f"{EXAMPLE}/train.py")
    monkeypatch.setattr(train, "BATCH", 2)
    return train


@pytest.fixture
def data(tmp_path: Path, train: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(train.write.__globals__, "COUNTS", {"train": 2, "val": 2})
    train.write(tmp_path)
    return tmp_path


@pytest.mark.parametrize("task", TASKS)
def test_labels_lie_on_what_was_drawn(task: str, train: ModuleType, data: Path) -> None:
    form = train.MODELS[task][2]
    found = train.labelled(data / task / "data.yaml", train.NAMES, split="val", form=form).images
    corners = {
        "segment": lambda image: [np.reshape(line[0], (4, 2)) for line in image.outlines],
        "pose": lambda image: image.keypoints[..., :2],
        "obb": lambda image: image.corners,
    }[task]
    rng = np.random.default_rng(len("val"))
    for image in found:
        _, drawn = train.write.__globals__["scene"](rng)
        assert image.classes.tolist() == [label for label, _ in drawn]
        np.testing.assert_allclose(corners(image), [points for _, points in drawn], atol=1e-3)


@pytest.mark.parametrize("task", TASKS)
def test_the_loss_of_ultralytics_falls_on_its_batches(
    task: str, train: ModuleType, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = train.trained(task, data / task / "data.yaml", 6)
    losses = [
        line.split("loss ")[1].split(",")[0] for line in capsys.readouterr().out.split("\n")[:6]
    ]
    assert float(losses[-1]) < float(losses[0])
    assert not model.training
    assert torch.isfinite(model(torch.rand(1, 3, train.SIDE, train.SIDE))[0][0]).all()
