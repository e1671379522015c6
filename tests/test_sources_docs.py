"""The tasks in docs/sources.md work, and a repository's own evaluation script drives the scan of
every torch source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from support import pq_models  # noqa: F401 - makes pytorch_quantization importable

from sensitivity import api
from sensitivity.config import PlanSettings, ScanSettings
from sensitivity.errors import TaskError
from sensitivity.opened import quantized_model
from sensitivity.quantizers.base import check_calibrated
from sensitivity.registry import FAMILIES
from sensitivity.tasks.load import load_task

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/sources.md").read_text()
SECTIONS = dict(
    re.findall(r"^## (.+?)\n(?:(?!^## ).*\n)*?```python\n((?:.*\n)*?)```", PAGE, re.MULTILINE)
)
SCRIPT = "Your repository's own evaluation script"

MY_MODEL = """
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 3, 3)
        self.names = ["a", "b", "c"]

    def forward(self, x):
        return self.second(torch.relu(self.first(x))).mean((2, 3))

def batches(split):
    seed = ("calib", "rank", "confirm", "holdout").index(split)
    x = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return [(part, Model()(part).argmax(1)) for part in x.split(20)]

def score(outputs, targets):
    return (outputs.argmax(1) == targets).double()
"""

CALIBRATED = {
    "modelopt": """
import modelopt.torch.quantization as mtq

def calibrated_model():
    forward = lambda model: [model(x) for x, _ in batches("calib")]
    return mtq.quantize(Model().eval(), mtq.INT8_DEFAULT_CFG, forward)
""",
    "pytorch_quantization": """
def calibrated_model():
    import pq_task
    return pq_task.task().model
""",
    "pt2e": """
def calibrated_model():
    import pt2e_task
    model = pt2e_task.task().model
    model.names = Model().names
    return model
""",
}

VAL = """
# A validation script as repositories have them: it sets the mode, asks for the device, keeps its
# own state.
import torch
from my_model import batches

calls = []

@torch.no_grad()
def run(data, model):
    model.eval()
    device = next(model.parameters()).device
    right = total = 0
    for x, y in batches(data.removesuffix(".yaml")):
        right += (model(x.to(device)).argmax(1) == y.to(device)).sum().item()
        total += len(y)
    calls.append(data)
    return (0.0, 0.0, 0.0, right / total), [model.names[0]]
"""


@pytest.fixture
def folder(user_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's repository with all that the page's tasks read."""
    (user_folder / "pq_task.py").write_text(SECTIONS["pytorch-quantization"])
    (user_folder / "pt2e_task.py").write_text(SECTIONS["PyTorch PT2E"])
    quantizer = (
        (ROOT / "examples/01_mobilenet/task_pt2e.py").read_text().partition("\ndef task(")[0]
    )
    (user_folder / "my_quantizer.py").write_text(
        re.sub(r"^from (task|sensitivity).*\n", "", quantizer, flags=re.MULTILINE)
    )
    (user_folder / "my_model.py").write_text(MY_MODEL)
    (user_folder / "val.py").write_text(VAL)
    (user_folder / "my_task.py").write_text(SECTIONS[SCRIPT])
    monkeypatch.syspath_prepend(str(user_folder))
    return user_folder


def test_the_page_names_every_source_and_has_a_task_for_each_of_its_own() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert set(rows) == set(FAMILIES["quantizers"])
    assert list(SECTIONS) == ["pytorch-quantization", "PyTorch PT2E", SCRIPT]


@pytest.mark.parametrize(
    ("task", "source"),
    [("pq_task.py", "pytorch_quantization"), ("pt2e_task.py", "pt2e")],
    ids=["pq", "pt2e"],
)
def test_a_task_of_the_page_works(folder: Path, task: str, source: str) -> None:
    loaded: Any = load_task(f"{task}:task")
    found = quantized_model(loaded.model)
    check_calibrated(found.quantizers)
    assert found.source == source
    assert {quantizer.layer for quantizer in found.quantizers} == {"first", "second"}


@pytest.mark.parametrize("source", CALIBRATED)
def test_a_repositorys_own_script_drives_scan_and_plan(folder: Path, source: str) -> None:
    (folder / "my_model.py").write_text(MY_MODEL + CALIBRATED[source])
    out = folder / "run"
    scanned = api.scan(ScanSettings(task="my_task.py:task", out=out))
    assert {effect.unit for effect in scanned.effects} == {"first", "second"}
    assert scanned.baselines["float"].value == 1.0
    plan = api.plan(PlanSettings(directory=out, max_drop="1pt"))
    assert plan.metric.name == "mAP50-95"
    import val

    assert {"rank.yaml", "confirm.yaml", "holdout.yaml"} == set(val.calls)


@pytest.mark.parametrize("source", CALIBRATED)
def test_a_script_that_fails_leaves_the_model_as_it_was(folder: Path, source: str) -> None:
    (folder / "my_model.py").write_text(MY_MODEL + CALIBRATED[source])
    (folder / "val.py").write_text(VAL.replace("calls.append(data)", "raise KeyError('no labels')"))
    task: Any = load_task("my_task.py:task")
    found = quantized_model(task.model)
    before, x = found.fingerprint(), torch.ones(2, 3, 8, 8)
    with torch.no_grad():
        outputs = task.model(x)
    from sensitivity.simulators.evaluate import EvaluateSimulator

    with pytest.raises(TaskError, match=r"got KeyError: 'no labels'; run it on the model by hand"):
        list(
            EvaluateSimulator(found).outputs(task.evaluate, [frozenset([found.quantizers[0].name])])
        )
    with torch.no_grad():
        assert torch.equal(task.model(x), outputs)
    assert found.fingerprint() == before
