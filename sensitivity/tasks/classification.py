"""Classifiers judged by top-1 accuracy, from a folder of images or from arrays.

splits = from_folder("images", transform=centre_crop(224, resize=256))
model = mtq.quantize(net, mtq.INT8_DEFAULT_CFG, lambda net: [net(x) for x, _ in splits["calib"]])
return classification_task(model, splits)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from sensitivity import optional
from sensitivity.errors import TaskError
from sensitivity.records import SPLITS, Scores
from sensitivity.seeds import generator
from sensitivity.tasks.base import Task
from sensitivity.tasks.batches import as_numpy
from sensitivity.tasks.images import SUFFIXES, image_files, read_rgb

SIZES: Mapping[str, float] = {"calib": 0.2, "rank": 0.3, "confirm": 0.25, "holdout": 0.25}
"""Shares of the samples; calibration has its own, so that no range is fitted to a sample that is
scored."""

CACHE_BYTES = 1 << 28
"""Prepared images kept in memory for each split; the rest is read again on each pass."""

Labels = NDArray[np.int64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled image files. labels: int64[n], indices of the model's outputs. classes: how many;
    None if unknown."""

    files: Sequence[Path]
    labels: Labels
    classes: int | None = None

    def take(self, indices: Sequence[int] | Indices) -> Images:
        return Images(
            [self.files[at] for at in indices], self.labels[np.asarray(indices, int)], self.classes
        )


@dataclass(frozen=True, eq=False)
class ImageBatches:
    """Batches (float32[n, ...], int64[n]) as torch tensors, in the order of `images`, again and
    again.

    transform: an RGB image -> array or tensor, the same shape for all. Files are read when their
    batch is asked for.
    """

    images: Images
    transform: Callable[[Any], Any]
    batch: int = 50
    _kept: dict[int, NDArray[Any]] = field(default_factory=dict, repr=False)

    @property
    def classes(self) -> int | None:
        return self.images.classes

    def __len__(self) -> int:
        return -(-len(self.images.files) // self.batch)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for start in range(0, len(self.images.files), self.batch):
            numbers = range(start, min(start + self.batch, len(self.images.files)))
            pixels = [self._prepared(number) for number in numbers]
            self._check_shapes(pixels, numbers)
            yield (
                optional.torch.from_numpy(np.stack(pixels)),
                optional.torch.from_numpy(self.images.labels[numbers.start : numbers.stop]),
            )

    def _prepared(self, number: int) -> NDArray[Any]:
        if number in self._kept:
            return self._kept[number]
        made = as_numpy(self.transform(read_rgb(self.images.files[number])))
        if (len(self._kept) + 1) * made.nbytes <= CACHE_BYTES:
            self._kept[number] = made
        return made

    def _check_shapes(self, pixels: list[NDArray[Any]], numbers: range) -> None:
        for number, made in zip(numbers, pixels, strict=True):
            if made.shape != pixels[0].shape:
                raise TaskError(
                    "Expected the transform to give one shape for all images, got "
                    f"{pixels[0].shape} and then {made.shape} for {self.images.files[number]}; "
                    "resize or crop to one size."
                )


@dataclass(frozen=True, eq=False)
class ArrayBatches:
    """Batches (x, y) of two arrays as torch tensors, in their order, again and again."""

    x: NDArray[Any]
    y: Labels
    batch: int = 50
    classes: int | None = None

    def __len__(self) -> int:
        return -(-len(self.x) // self.batch)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for start in range(0, len(self.x), self.batch):
            samples = slice(start, start + self.batch)
            yield (
                optional.torch.from_numpy(self.x[samples]),
                optional.torch.from_numpy(self.y[samples]),
            )


def from_folder(
    root: str | Path,
    *,
    transform: Callable[[Any], Any],
    label: Callable[[Path], int] | None = None,
    sizes: Mapping[str, float] = SIZES,
    batch: int = 50,
    seed: int | None = None,
) -> dict[str, ImageBatches]:
    """Return the batches for "calib", "rank", "confirm" and "holdout": disjoint, drawn at random,
    the same for the same seed; None takes that of the command, --seed.

    root: one folder per class, whose alphabetical order is the order of the model's outputs; or,
    with `label`, any folder of images. label: the class index of a file. transform: an RGB Pillow
    image -> float32[c, h, w], such as `centre_crop(224)`. sizes: see `random_parts`. Raises
    TaskError.
    """
    images = labelled_images(Path(root), label) if label else images_by_class(Path(root))
    parts = random_parts(len(images.files), sizes, seed)
    return {
        name: ImageBatches(images.take(indices), transform, batch)
        for name, indices in parts.items()
    }


def from_arrays(
    x: ArrayLike,
    y: ArrayLike,
    *,
    sizes: Mapping[str, float] = SIZES,
    batch: int = 50,
    seed: int | None = None,
) -> dict[str, ArrayBatches]:
    """Return the same from arrays or tensors. x: [n, ...] as the model takes it. y: int[n], class
    indices."""
    inputs, labels = as_numpy(x), as_numpy(y)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) != len(inputs):
        raise TaskError(
            f"Expected y to be one class index for each of the {len(inputs)} samples, got "
            f"{labels.dtype} of shape {labels.shape}; pass integers from 0, not one-hot rows or "
            "names."
        )
    parts = random_parts(len(inputs), sizes, seed)
    return {
        name: ArrayBatches(inputs[at], labels[at].astype(np.int64), batch)
        for name, at in parts.items()
    }


def classification_task(model: Any, splits: Mapping[str, Any]) -> Task:
    """Return a task whose metric is top-1 accuracy, 0..1.

    model: calibrated, gives scores [n, classes]. splits: batches for "rank", "confirm" and
    "holdout", as `from_folder` and `from_arrays` make them; "calib", where it is there, is what
    other ranges are calibrated on, and "unlabeled" more samples of the same kind.
    """
    known = (*SPLITS, "calib", "unlabeled")
    data = {name: batches for name, batches in splits.items() if name in known}
    counts = (getattr(batches, "classes", None) for batches in data.values())
    classes = next(filter(None, counts), None)
    return Task(model, data, Top1(classes), metric="top-1", soft=answer_lost)


@dataclass(frozen=True)
class Top1:
    """(outputs, targets) -> 1.0 where the highest output is the target's, else 0.0: float64[n].

    classes: how many outputs the model must have; None where the data does not say. reading: how
    images were given to the model, where a file was told nothing; said where float is no good.
    """

    classes: int | None = None
    reading: str = ""

    def __call__(self, outputs: Any, targets: Any) -> Scores:
        scores, labels = _class_scores(outputs), as_numpy(targets)
        wanted = self.classes or int(labels.max(initial=0)) + 1
        given = scores.shape[1]
        fits = given == wanted if self.classes else given >= wanted
        if not fits:
            at_least = "" if self.classes else "at least "
            raise TaskError(
                f"Expected the model to have {at_least}{wanted} outputs, one for each class of the "
                f"data, got {given}; use the data that the model was trained for, or "
                "give `label` its class indices."
            )
        return np.asarray(scores.argmax(axis=1) == labels, dtype=np.float64)


top1 = Top1()


@dataclass(frozen=True)
class AnswerLost:
    """Float's probability of its own answer less its probability of the variant's answer,
    float64[n]: what float expects to lose of the accuracy. 0 where the answer is the same.

    Called with the outputs of float and of a variant: logits [n, classes], or probabilities, of the
    same samples. temperature: what logits are divided by, since a network may be too sure of its
    answers, or not sure enough (Guo et al. 2017, "On calibration of modern neural networks").

    >>> lost = answer_lost(np.log([[0.5, 0.3, 0.2]] * 2), np.array([[1, 2, 0], [3, 2, 0]]))
    >>> lost.round(3).tolist()
    [0.2, 0.0]
    """

    temperature: float = 1.0

    def __call__(self, float_outputs: Any, outputs: Any) -> Scores:
        wanted, got = _class_scores(float_outputs), _class_scores(outputs)
        belief = np.exp(_log_probabilities(_logits(wanted) / self.temperature))
        rows = np.arange(len(belief))
        lost = belief[rows, wanted.argmax(axis=1)] - belief[rows, got.argmax(axis=1)]
        return np.asarray(lost, dtype=np.float64)

    def fit(self, outputs: Sequence[Any], targets: Sequence[Any]) -> tuple[float]:
        """Return the temperature of the highest posterior, to two digits that matter: the
        likelihood of the labels, and before them 1 within a factor of about 1.6
        (`TEMPERATURE_SPREAD`).

        outputs: of float, a batch each; targets: class indices of the same samples.
        """
        labels = np.concatenate([as_numpy(one).reshape(-1) for one in targets]).astype(int)
        logits = np.concatenate([_logits(_class_scores(one)) for one in outputs])
        rows = np.arange(len(labels))

        def surprise(log_temperature: float) -> float:
            found = _log_probabilities(logits / math.exp(log_temperature))[rows, labels]
            return float((log_temperature / TEMPERATURE_SPREAD) ** 2 / 2 - found.sum())

        best = minimize_scalar(surprise, bounds=(-2, 2), method="bounded").x
        return (float(f"{math.exp(best):.2g}"),)

    def fitted(self, parameters: tuple[float, ...]) -> AnswerLost:
        return AnswerLost(*parameters)


TEMPERATURE_SPREAD = 0.5
"""Standard deviation of the logarithm of a temperature, before any label was seen."""

answer_lost = AnswerLost()


def _logits(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Of scores that are probabilities their logarithms; all others as they are."""
    found = scores.astype(np.float64)
    if found.min(initial=0.0) >= 0 and np.allclose(found.sum(axis=1), 1.0, atol=1e-3):
        return np.asarray(np.log(np.maximum(found, SMALLEST)))
    return np.asarray(found)


SMALLEST = 1e-12
"""A probability that is not told from 0."""


def _log_probabilities(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(logits - logsumexp(logits, axis=1, keepdims=True))


def images_by_class(root: Path) -> Images:
    """Return the images of root/CLASS/..., classes numbered in alphabetical order. Raises TaskError
    for an empty class."""
    files = image_files(root)
    folders = _class_folders(root)
    if not folders:
        raise TaskError(
            f"Expected one folder per class in {root}, got {len(files)} images and no folder; "
            "pass label=, a function from a file's path to its class index."
        )
    in_folders = [file for file in files if file.parent != root]
    names = [file.relative_to(root).parts[0] for file in in_folders]
    empty = sorted(set(folders) - set(names))
    if empty:
        raise TaskError(
            f"Expected images in every class folder of {root}, got none in {', '.join(empty[:5])}; "
            f"add images ({', '.join(sorted(SUFFIXES))}) or remove the folder, which moves the "
            "class indices after it."
        )
    number = {folder: at for at, folder in enumerate(folders)}
    labels = np.array([number[name] for name in names], np.int64)
    return Images(in_folders, labels, len(folders))


def _class_folders(root: Path) -> list[str]:
    """Return the names of the folders of classes, in alphabetical order; hidden ones are none."""
    folders = filter(Path.is_dir, root.iterdir())
    return sorted(folder.name for folder in folders if not folder.name.startswith("."))


def labelled_images(root: Path, label: Callable[[Path], int]) -> Images:
    """Return every image below root with the class index that `label` gives its path."""
    files = image_files(root)
    if not files:
        raise TaskError(
            f"Expected images in {root}, got none that end in {', '.join(sorted(SUFFIXES))}."
        )
    return Images(files, np.array([label(file) for file in files], np.int64))


def random_parts(n: int, sizes: Mapping[str, float], seed: int | None = None) -> dict[str, Indices]:
    """Disjoint parts of range(n), drawn at random; the same for the same seed, None for that
    of the command, --seed.

    sizes: name -> number of samples (int) or share of n (float). Each part stays in random order,
    so that its first samples are a fair draw too. Raises TaskError where a part would be empty or
    there are too few samples.
    """
    counts = {
        name: size if isinstance(size, int) else int(n * size + 1e-9)
        for name, size in sizes.items()
    }
    if min(counts.values()) < 1 or sum(counts.values()) > n:
        shown = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise TaskError(
            f"Expected sizes of at least 1 sample each that fit into the {n} there are, got "
            f"{shown}; add samples or change `sizes`."
        )
    order = generator(seed).permutation(n)
    ends = np.cumsum(list(counts.values()))
    return dict(zip(counts, np.split(order[: ends[-1]], ends[:-1]), strict=True))


def _class_scores(outputs: Any) -> NDArray[Any]:
    """Return the model's outputs as an array [n, classes]."""
    got = f"a {type(outputs).__name__}"
    if hasattr(outputs, "shape"):
        got = f"shape {tuple(outputs.shape)}"
    is_matrix = len(getattr(outputs, "shape", ())) == 2
    if not is_matrix:
        raise TaskError(
            f"Expected the model to give one array [n, classes], got {got}; return a Task with "
            "your own score()."
        )
    scores = as_numpy(outputs)
    if np.isnan(scores).any():
        bad = int(np.argwhere(np.isnan(scores).any(axis=1))[0][0])
        raise TaskError(
            f"Expected outputs that are numbers, got NaN for sample {bad}; check the model on this "
            "batch."
        )
    return scores
