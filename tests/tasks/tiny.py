"""A task that runs in seconds: ten small convolutions on random images, labelled by the float model
itself."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.models import Chain, quantized, seeded

from sensitivity import EvaluateTask, Task
from sensitivity.tasks.classification import classification_task, from_arrays

BATCH = 4


def images(samples: int, seed: int) -> torch.Tensor:
    return torch.randn(samples, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def top1(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs.argmax(1) == targets).double()


def labelled(
    samples: int, seed: int, net: torch.nn.Module | None = None
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    x = images(samples, seed)
    with torch.inference_mode():
        y = (net or seeded(lambda: Chain(6)))(x).argmax(1)
    return [(x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, samples, BATCH)]


def model() -> torch.nn.Module:
    """Ranges of two layers far too wide, as outliers in calibration data make them."""
    calibrated = quantized(seeded(lambda: Chain(6)), images(8, seed=9))
    calibrated.conv2.input_quantizer.amax *= 60
    calibrated.conv5.input_quantizer.amax *= 30
    return calibrated


def task() -> Task:
    data = {split: labelled(40, seed) for seed, split in enumerate(("rank", "confirm", "holdout"))}
    return Task(model(), data, top1, metric="top-1")


def mislabelled() -> Task:
    """Every label is another class than float's answer."""
    data = {
        split: [(x, (y + 1) % 5) for x, y in labelled(40, seed)]
        for seed, split in enumerate(("rank", "confirm", "holdout"))
    }
    return Task(model(), data, top1, metric="top-1")


def drawn() -> Task:
    """Splits that are drawn at random with the seed of the command."""
    x = images(120, seed=3)
    with torch.inference_mode():
        y = seeded(lambda: Chain(6))(x).argmax(1)
    sizes = {"rank": 40, "confirm": 40, "holdout": 40}
    return classification_task(model(), from_arrays(x, y, sizes=sizes, batch=BATCH))


def balanced() -> torch.nn.Module:
    """The same layers, with a bias that makes every class as likely."""
    net = seeded(lambda: Chain(6))
    with torch.no_grad():
        net.fc.bias -= net(images(200, seed=7)).mean(0)
    return net


def far_too_wide() -> Task:
    """Ranges so wide that hardly a value is left of two layers: another calibration mends all of
    it."""
    calibrated = quantized(balanced(), images(8, seed=9))
    calibrated.conv2.input_quantizer.amax *= 60
    calibrated.conv5.input_quantizer.amax *= 30
    data = {
        split: labelled(40, seed, balanced())
        for seed, split in enumerate(("rank", "confirm", "holdout"))
    }
    return Task(calibrated, data, top1, metric="top-1")


class Skip(torch.nn.Module):
    """A residual add with a convolution in its shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = (
            torch.nn.Conv2d(3, 4, 3, padding=1),
            torch.nn.Conv2d(4, 4, 3, padding=1),
        )
        self.short, self.fc = torch.nn.Conv2d(4, 4, 1), torch.nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        return self.fc(torch.relu(self.conv(x) + self.short(x)).mean((2, 3)))


def residual() -> Task:
    data = {
        split: labelled(16, seed, seeded(Skip))
        for seed, split in enumerate(("rank", "confirm", "holdout"))
    }
    return Task(quantized(seeded(Skip), images(8, seed=9)), data, top1)


def evaluate_only() -> EvaluateTask:
    batches = labelled(40, seed=0)

    def evaluate(switched: torch.nn.Module) -> float:
        with torch.inference_mode():
            return float(torch.cat([top1(switched(x), y) for x, y in batches]).mean())

    return EvaluateTask(model(), evaluate, example_inputs=images(4, seed=1), metric="top-1")


def uncalibrated() -> Task:
    broken = task()
    broken.model.conv3.input_quantizer.reset_amax()
    return broken


def empty_split() -> Task:
    whole = task()
    return Task(whole.model, {**whole.data, "confirm": []}, top1)


def same_splits() -> Task:
    return Task(model(), dict.fromkeys(("rank", "confirm", "holdout"), labelled(40, seed=0)), top1)


def metric_raises() -> Task:
    whole = task()

    def score(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise KeyError("labels")

    return Task(whole.model, whole.data, score)
