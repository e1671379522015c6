"""YOLOs of their own repositories: the templates run on stand-ins with the same blocks, entry
points and outputs.

The repositories' own code is not here; `test_yolo_checkouts` runs it where it is available.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from support.yolo_models import NAMES, yolo, yolo_folder
from torch import nn

from sensitivity.config import ScanSettings
from sensitivity.errors import ModelError
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.tasks.load import load_task
from sensitivity.units.relations import placed
from sensitivity.workflows.reparameterise import branched, reparameterised

EXAMPLES = Path(__file__).parents[1] / "examples"

STAND_IN = '''
import torch
from torch import nn


def conv_bn(inputs, outputs, kernel):
    conv = nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class RepVGGBlock(nn.Module):
    """Names and methods as in RepVGG and YOLOv6 (and, by the other name, in YOLOv7)."""

    def __init__(self, channels):
        super().__init__()
        self.rbr_dense = conv_bn(channels, channels, 3)
        self.rbr_1x1 = conv_bn(channels, channels, 1)

    def forward(self, x):
        if hasattr(self, "rbr_reparam"):
            return torch.relu(self.rbr_reparam(x))
        return torch.relu(self.rbr_dense(x) + self.rbr_1x1(x))

    def {method}(self):
        weights, biases = [], []
        for conv, norm in (self.rbr_dense, self.rbr_1x1):
            factor = norm.weight / (norm.running_var + norm.eps).sqrt()
            padded = nn.functional.pad(conv.weight, [(3 - conv.kernel_size[0]) // 2] * 4)
            weights.append(padded * factor[:, None, None, None])
            biases.append(norm.bias - norm.running_mean * factor)
        self.rbr_reparam = nn.Conv2d(*weights[0].shape[1::-1], 3, 1, 1)
        self.rbr_reparam.weight.data = sum(weights).detach()
        self.rbr_reparam.bias.data = sum(biases).detach()
        del self.rbr_dense, self.rbr_1x1


class Detect(nn.Module):
    export = end2end = False

    def __init__(self, classes):
        super().__init__()
        self.m = nn.ModuleList(nn.Conv2d(8, 5 + classes, 1) for _ in range(2))

    def forward(self, x):
        out = [one(x).flatten(2).permute(0, 2, 1).sigmoid() for one in self.m]
        every = torch.cat(out, 1)
        every = torch.cat([every[..., :4] * 30, every[..., 4:]], -1)
        return every if self.end2end else (every,) if self.export else (every, out)


class Model(nn.Module):
    names = {{0: "cat", 1: "dog", 2: "cow"}} if {dictionary} else ["cat", "dog", "cow"]

    def __init__(self):
        super().__init__()
        blocks = RepVGGBlock(8), RepVGGBlock(8)
        self.model = nn.Sequential(nn.Conv2d(3, 8, 3, 8, 1), *blocks, Detect(3))

    def forward(self, x):
        return self.model(x)


def {loader}(weights, device=None, map_location=None, fuse=True):
    torch.manual_seed(0)
    return Model().eval()
'''

REPOSITORIES = {
    "06_yolov5": ("YOLOV5", "models/experimental.py", "attempt_load", "switch_to_deploy", True),
    "07_yolov6": (
        "YOLOV6",
        "yolov6/utils/checkpoint.py",
        "load_checkpoint",
        "switch_to_deploy",
        False,
    ),
    "08_yolov7": ("YOLOV7", "models/experimental.py", "attempt_load", "fuse_repvgg_block", False),
}


@pytest.fixture(params=REPOSITORIES)
def template(request, tmp_path, monkeypatch):
    """The example's task, with a stand-in in place of the user's checkout."""
    variable, place, loader, method, dictionary = REPOSITORIES[request.param]
    file = tmp_path / "checkout" / place
    file.parent.mkdir(parents=True)
    for folder in file.parents[: len(Path(place).parents) - 1]:
        (folder / "__init__.py").write_text("")
    file.write_text(STAND_IN.format(loader=loader, method=method, dictionary=dictionary))
    monkeypatch.setenv(variable, str(tmp_path / "checkout"))
    monkeypatch.setenv(f"{variable}_WEIGHTS", "any.pt")
    monkeypatch.setenv("YOLO_DATA", str(yolo_folder(tmp_path / "data", 6)))
    for name in [name for name in sys.modules if name.partition(".")[0] in ("models", "yolov6")]:
        monkeypatch.delitem(sys.modules, name)
    yield load_task(f"{EXAMPLES / request.param / 'task.py'}:task")
    for name in [name for name in sys.modules if name.partition(".")[0] in ("models", "yolov6")]:
        del sys.modules[name]


def test_a_template_merges_repvgg_blocks_and_gives_boxes_that_are_judged(template):
    assert not branched(template.model)
    inputs, targets = next(iter(template.data["rank"]))
    with torch.no_grad():
        outputs = template.model(inputs)
    assert isinstance(outputs, torch.Tensor)
    assert template.score(outputs, targets).shape[0] == len(inputs)
    source = ModelOptModel(template.model)
    found = placed(source, inputs, ScanSettings(task="a.py", unit="group"))
    kinds = {unit.name: unit.kind for unit in found.units}
    assert list(kinds.values()).count("repvgg") == 2
    assert "head" in kinds.values()


def test_merging_is_refused_where_it_changes_the_outputs():
    class Wrong(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.conv1(x) if hasattr(self, "conv1") else x

        def switch_to_deploy(self):
            del self.conv1

    with pytest.raises(
        ModelError,
        match="merging the branches of 1 RepVGG blocks to leave the outputs as they are, got",
    ):
        reparameterised(nn.Sequential(Wrong()).eval(), torch.rand(1, 3, 4, 4))


def test_blocks_of_ultralytics_are_recognised_and_merged_too():
    model = yolo("yolov9t.yaml")
    blocks = [name for name, module in model.named_modules() if type(module).__name__ == "RepConv"]
    x = torch.rand(1, 3, 64, 64)
    assert set(reparameterised(model, x)) == set(blocks)
    assert not branched(model)
    assert len(NAMES) == 3


def test_a_model_without_such_blocks_is_left_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 1)).eval()
    assert reparameterised(model, torch.rand(1, 3, 4, 4)) == ()
