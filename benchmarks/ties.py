"""How much more than believed is lost when a classifier's best answer gives way to a close second.

    python benchmarks/ties.py --write                                (half a minute)

Where two answers are nearly tied, float's probabilities may be off although its temperature was
fitted to the labels (`AnswerLost`). How much this differs from classifier to classifier is the
prior `OFFSET` of `sensitivity.stats.soft_drop`. The classifiers here are small ones on handwritten
digits and on images of CIFAR-10, trained on few samples, so that many of their answers are close.
No plan is judged with these models. Needs SENSITIVITY_ASSETS for CIFAR-10.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from sensitivity.stats.soft_drop import ramp
from sensitivity.tasks.classification import AnswerLost, answer_lost

RESULTS = Path(__file__).parent / "results" / "ties.md"
SIDE, COMPONENTS = 16, 60
"""Side of an image of CIFAR-10 in pixels, and the number of principal components that are kept."""

WIDTHS = (0.0, 0.02, 0.05, 0.1, 0.2)
"""Widths of ramps that are compared."""

LEARNED = 0.5
"""Classifiers of digits with a lower accuracy have hardly learned anything."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Found:
    """What close answers of one classifier lose.

    ties: number of samples whose two best answers are close.
    accuracy: of the classifier.
    temperature: fitted to the labels.
    excess: mean loss by the second answer minus what is believed, as a multiple of `ramp`, weighted
        by how likely noise turns the answer.
    error: standard error of the excess.
    explained: sums of squares of what is left that ramps of WIDTHS explain.
    """

    data: str
    classifier: str
    ties: int
    accuracy: float
    temperature: float
    excess: float
    error: float
    explained: tuple[float, ...] = ()


def digits() -> tuple[Values, NDArray[np.int_]]:
    x, y = load_digits(return_X_y=True)
    return x, y


def cifar() -> tuple[Values, NDArray[np.int_]]:
    """The 2,000 test images and the 500 training images, by their principal components."""
    folder = Path(os.environ["SENSITIVITY_ASSETS"]) / "cifar10"
    files = sorted(folder.glob("test/*/*")) + sorted(folder.glob("train/*/*"))
    names = sorted({file.parent.name for file in files})
    pixels = [
        np.asarray(Image.open(file).convert("RGB").resize((SIDE, SIDE)), float) for file in files
    ]
    x = np.stack(pixels).reshape(len(files), -1) / 255
    y = np.array([names.index(file.parent.name) for file in files])
    return PCA(COMPONENTS, random_state=0).fit_transform(x), y


def classifiers() -> Iterator[tuple[str, int, str, Any]]:
    """Data, number of training samples, name and classifier."""
    for samples in (60, 150):
        for width, epochs in ((16, 30), (64, 60), (64, 400), (256, 200)):
            name = f"{width} units, {epochs} epochs, {samples} samples"
            yield "digits", samples, name, MLPClassifier((width,), max_iter=epochs)
        yield "digits", samples, f"logistic, {samples} samples", LogisticRegression(C=0.1)
    for layers, epochs, decay in (
        ((32,), 20, 1e-4),
        ((128,), 40, 1e-4),
        ((128,), 200, 1e-4),
        ((64,), 60, 1.0),
        ((64, 64), 60, 1e-2),
    ):
        name = f"{'+'.join(map(str, layers))} units, {epochs} epochs, weight decay {decay:g}"
        yield "cifar10", 1000, name, MLPClassifier(layers, max_iter=epochs, alpha=decay)
    yield "cifar10", 1000, "logistic", LogisticRegression(C=0.1, max_iter=200)


def judged(data: str, name: str, logits: Values, labels: NDArray[np.int_]) -> Found:
    """What close answers lose on samples that did not train the classifier."""
    temperature = answer_lost.fit([logits], [labels])[0]
    counted, believed = AnswerLost(temperature).ties([logits], [labels])
    close = believed > 0
    left = (counted - believed)[close]
    near = ramp(believed[close])
    # Noise turns an answer the more likely the closer the second one is.
    weights = near * (1 - believed[close] / believed.max())
    excess = float(weights @ left / (weights @ near))
    error = float(np.linalg.norm(weights * (left - excess * near)) / (weights @ near))
    accuracy = float(np.mean(logits.argmax(axis=1) == labels))
    explained = tuple(explained_by(width, believed[close], left) for width in WIDTHS)
    return Found(data, name, int(close.sum()), accuracy, temperature, excess, error, explained)


def explained_by(width: float, believed: Values, left: Values) -> float:
    """The sum of squares of `left` that a multiple of a ramp explains.

    width: belief from which the ramp is 1; 0 for 1 everywhere.
    """
    near = np.minimum(believed / width, 1.0) if width else np.ones_like(believed)
    return float(near @ left) ** 2 / float(near @ near)


def found() -> Iterator[Found]:
    """Every classifier, trained and judged."""
    sets = {"digits": digits(), "cifar10": cifar()}
    for seed, (data, samples, name, classifier) in enumerate(classifiers(), 1):
        x, y = sets[data]
        order = np.random.default_rng(seed).permutation(len(x))
        train, test = order[:samples], order[samples:]
        x = (x - x[train].mean(axis=0)) / (x[train].std(axis=0) + 1e-3)
        classifier.set_params(random_state=seed).fit(x[train], y[train])
        logits = np.log(np.clip(classifier.predict_proba(x[test]), 1e-9, 1))
        yield judged(data, name, logits, y[test])


def spread(rows: Sequence[Found]) -> tuple[float, float, float]:
    """Mean and standard deviation of the excess between classifiers, and the root of its mean
    square about 0, without the sampling errors: the maximum of the restricted likelihood of a
    random-effects model (Harville 1977)."""
    excess = np.array([row.excess for row in rows])
    errors = np.array([row.error for row in rows])

    def mean_of(deviation: float) -> tuple[float, Values]:
        precisions = 1 / (errors**2 + deviation**2)
        return float(precisions @ excess / precisions.sum()), precisions

    def log_likelihood(deviation: float) -> float:
        mean, precisions = mean_of(deviation)
        squares = float(precisions @ (excess - mean) ** 2)
        return (float(np.log(precisions).sum()) - squares - math.log(precisions.sum())) / 2

    deviation = max(np.linspace(0, 0.5, 2001).tolist(), key=log_likelihood)
    mean, _ = mean_of(deviation)
    return mean, deviation, math.hypot(mean, deviation)


HEAD = (
    "| data | classifier | close answers | accuracy | temperature | loses more than believed | "
    "standard error |\n|---|---|---|---|---|---|---|"
)


def markdown(rows: Sequence[Found]) -> str:
    """One row for each classifier, and the spread between them."""
    lines = [
        f"| {row.data} | {row.classifier} | {row.ties} | {row.accuracy:.0%} | "
        f"{row.temperature:.2g} | {row.excess:+.3f} | {row.error:.3f} |"
        for row in rows
    ]
    parts = {
        "all": rows,
        "digits": [row for row in rows if row.data == "digits"],
        "CIFAR-10": [row for row in rows if row.data == "cifar10"],
        "all but digits under 50 %": [
            row for row in rows if row.data == "cifar10" or row.accuracy >= LEARNED
        ],
    }
    spreads = [
        "| {} | {:+.3f} | {:.3f} | {:.3f} |".format(name, *spread(part))
        for name, part in parts.items()
    ]
    head = "| classifiers | mean | deviation between them | about 0 |\n|---|---|---|---|"
    sums = np.sum([row.explained for row in rows], axis=0)
    widths = [f"| {width:g} | {total:.1f} |" for width, total in zip(WIDTHS, sums, strict=True)]
    title = "# What close answers lose beyond what is believed"
    return "\n".join([
        title, "", HEAD, *lines, "", head, *spreads, "",
        "| the whole is lost from a belief of | squares explained |\n|---|---|", *widths,
    ])  # fmt: skip


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="What do close answers really lose?")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name} too")
    given = parser.parse_args(arguments)
    # Some are meant to stop before they have converged.
    warnings.filterwarnings("ignore")
    table = markdown(list(found()))
    print(table)
    if given.write:
        RESULTS.write_text(f"{table}\n\nCommand: `python benchmarks/ties.py --write`.\n")


if __name__ == "__main__":
    main(sys.argv[1:])
