"""Every task in docs/tasks.md loads, scores and aggregates."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sensitivity.quantizers.base import check_calibrated
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.records import SPLITS
from sensitivity.tasks.base import EvaluateTask
from sensitivity.tasks.load import load_task

PAGE = Path(__file__).parent.parent / "docs/tasks.md"
SECTIONS = dict(
    re.findall(
        r"^## (.+?)\n(?:(?!^## ).*\n)*?```python\n((?:.*\n)*?)```", PAGE.read_text(), re.MULTILINE
    )
)

NEIGHBOUR = """
import torch
from torch import nn

def load_model():
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *head)

def load_segmenter():
    return nn.Conv2d(3, 1, 3, padding=1)

class LanguageModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(20, 8), nn.Linear(8, 20)

    def forward(self, input_ids, attention_mask=None):
        return {"logits": self.head(self.embedding(input_ids))}

def load_language_model():
    return LanguageModel()

def some_inputs():
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))

def accuracy_on(split, model):
    measured = {"rank": 0.1, "confirm": 0.2, "holdout": 0.3}[split]
    return measured + 0 * float(model(some_inputs()).sum())
"""


@pytest.fixture
def folder(user_folder: Path) -> Path:
    """A user's folder with all that the page's tasks read."""
    (user_folder / "my_model.py").write_text(NEIGHBOUR)
    random = np.random.default_rng(0)
    for number in range(20):
        file = user_folder / "images" / f"class{number % 3}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (260, 300, 3), np.uint8)).save(file)
    x = random.random((100, 3, 8, 8), np.float32)
    np.savez(user_folder / "samples.npz", x=x, y=random.integers(0, 3, 100))
    torch.save(
        {"x": torch.from_numpy(x), "y": torch.from_numpy(x[:, 0] > 0.5)}, user_folder / "masks.pt"
    )
    torch.save(torch.from_numpy(random.integers(0, 20, (100, 6))), user_folder / "tokens.pt")
    return user_folder


def test_the_page_has_a_task_of_each_kind():
    assert list(SECTIONS) == [
        "Images in class folders",
        "Arrays or tensors",
        "A metric of your own",
        "Language models",
        "Only `evaluate(model)`",
    ]


@pytest.mark.parametrize("section", SECTIONS)
def test_a_task_of_the_page_works(section, folder):
    (folder / "my_task.py").write_text(SECTIONS[section])
    task = load_task("my_task.py:task")
    check_calibrated(ModelOptModel(task.model).quantizers)
    if isinstance(task, EvaluateTask):
        assert (task.evaluate(task.model), task.holdout(task.model)) == (0.1, 0.3)
        return
    for split in SPLITS:
        with torch.no_grad():
            scores = [
                np.asarray(task.score(called(task.model, x), y), np.float64)
                for x, y in task.data[split]
            ]
        assert len(scores) == len(task.data[split])
        metric = task.aggregate(np.concatenate(scores))
        if task.metric == "log-likelihood per token":
            assert 1 < np.exp(-metric) < 100, "the perplexity"
        else:
            assert 0 <= metric <= 1


def called(model, inputs):
    """Outputs for a batch, whose inputs may have names."""
    return model(**inputs) if isinstance(inputs, dict) else model(inputs)
