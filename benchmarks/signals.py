"""How well a cheap signal ranks the layers: Kendall's tau against the exact effects on the metric.

    SENSITIVITY_ASSETS=... OMP_NUM_THREADS=1 python benchmarks/signals.py

It takes about two minutes and makes the table of docs/signals.md.

The model is MobileNetV1 x0.25 as in examples/01_mobilenet, in mode `enable`: each layer is
quantized alone. The exact effect is the number of correct answers lost on all 1,000 images. The
signals use random images of these, drawn five times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import kendalltau

from sensitivity.measure.variants import unit_variant
from sensitivity.quantizers.base import layers
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.records import Unit
from sensitivity.signals.distortion import kl, sqnr
from sensitivity.signals.fisher import fisher
from sensitivity.simulators.toggle import ToggleSimulator
from sensitivity.tasks.base import Task
from sensitivity.tasks.load import load_task

TASK = Path(__file__).parents[1] / "examples/01_mobilenet/task.py"
BATCH, DRAWS, SAMPLES, FIRST = 50, 5, (32, 100), 6


def unit_outputs(
    source: ModelOptModel, units: Sequence[Unit], images: torch.Tensor
) -> NDArray[np.float32]:
    """float32[1 + units, n, classes]: the outputs of the float model and with each unit alone
    quantized."""
    every = frozenset(quantizer.name for quantizer in source.quantizers)
    variants = [
        every,
        *(unit_variant(unit, source.quantizers, "enable").disabled for unit in units),
    ]
    return np.stack(
        [outputs.numpy() for _, outputs in ToggleSimulator(source).outputs(images, variants)]
    )


def main() -> None:
    task = load_task(f"{TASK}:all_images")
    assert isinstance(task, Task)
    source = ModelOptModel(task.model)
    units = layers(source.quantizers)
    draws = [
        np.random.default_rng(seed).choice(1000, max(SAMPLES), replace=False)
        for seed in range(DRAWS)
    ]
    wanted = {int(index) for draw in draws for index in draw}
    images: dict[int, torch.Tensor] = {}
    labels: list[int] = []
    parts: list[NDArray[np.float32]] = []
    for inputs, targets in task.data["rank"]:
        images |= {
            len(labels) + at: image.clone()
            for at, image in enumerate(inputs)
            if len(labels) + at in wanted
        }
        labels += [int(label) for label in targets]
        parts.append(unit_outputs(source, units, inputs))
    outputs = np.concatenate(parts, axis=1)
    right = outputs.argmax(2) == np.array(labels)
    lost = right[0].mean() - right[1:].mean(1)
    print(
        f"float {right[0].mean():.3f}; lost by each unit: "
        f"{dict(zip([u.name for u in units], lost.round(3), strict=True))}"
    )
    scores = {
        kind.__name__: np.stack([kind([outputs[0]], [other]) for other in outputs[1:]])
        for kind in (sqnr, kl)
    }

    def sampled(name: str) -> Callable[[NDArray[np.int64]], NDArray[np.float64]]:
        return lambda chosen: scores[name][:, chosen].mean(1)

    def gradient(chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        parts = torch.split(torch.stack([images[int(i)] for i in chosen]), BATCH)
        return np.array(list(fisher(source, units, [(part, None) for part in parts]).values()))

    members = {"sqnr": sampled("sqnr"), "kl": sampled("kl"), "fisher": gradient}
    print("| signal | samples | tau, mean | tau, worst | of the exact first six |")
    for count in SAMPLES:
        for name, member in members.items():
            found = [member(draw[:count]) for draw in draws]
            taus = [kendalltau(values, lost).statistic for values in found]
            hits = [
                len({*np.argsort(-values)[:FIRST]} & {*np.argsort(-lost)[:FIRST]})
                for values in found
            ]
            print(
                f"| `{name}` | {count} | {np.mean(taus):.2f} | {min(taus):.2f} | "
                f"{np.mean(hits):.1f} |"
            )
    whole = {name: kendalltau(values.mean(1), lost).statistic for name, values in scores.items()}
    print(
        f"tau of all {len(labels)} samples: {whole}; of sqnr with kl "
        f"{kendalltau(*[v.mean(1) for v in scores.values()]).statistic:.2f}"
    )
    times(source, units, torch.stack([images[int(i)] for i in draws[0][:32]]))


def times(source: ModelOptModel, units: Sequence[Unit], images: torch.Tensor) -> None:
    """Processor seconds, the best of three, as multiples of one float forward."""
    every = [quantizer.name for quantizer in source.quantizers]

    def best(work: Callable[[], Any]) -> float:
        spent = []
        for _ in range(3):
            start = time.process_time()
            work()
            spent.append(time.process_time() - start)
        return min(spent)

    with torch.no_grad(), source.disabled(every):
        forward = best(lambda: source.model(images))
    print(
        f"one float forward of 32: {forward:.3f} s; fisher "
        f"{best(lambda: fisher(source, units, [(images, None)])) / forward:.1f} forwards; "
        f"float and each of {len(units)} units toggled "
        f"{best(lambda: unit_outputs(source, units, images)) / forward:.1f}"
    )


if __name__ == "__main__":
    main()
