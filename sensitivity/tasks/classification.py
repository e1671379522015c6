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
from sensitivity.tasks.images import SUFFIXES, CentreCrop, image_files, read_rgb

SIZES: Mapping[str, float] = {"calib": 0.2, "rank": 0.3, "confirm": 0.25, "holdout": 0.25}
"""Share of the samples in each split. Calibration has its own, so that no range is fitted to a
sample that is scored."""

CACHE_BYTES = 1 << 28
"""Bytes of prepared images kept in memory for each split; other images are read again on each
pass."""

Labels = NDArray[np.int64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled image files.

    labels: int64[n], indices of the model's outputs.
    classes: the number of classes. None if it is not known.
    """

    files: Sequence[Path]
    labels: Labels
    classes: int | None = None

    def take(self, indices: Sequence[int] | Indices) -> Images:
        """Return the images with these indices, in this order."""
        files = [self.files[index] for index in indices]
        return Images(files, self.labels[np.asarray(indices, int)], self.classes)


@dataclass(frozen=True, eq=False)
class ImageBatches:
    """Batches (float32[n, ...], int64[n]) as torch tensors, in the order of `images`. They can be
    iterated any number of times.

    A file is read when its batch is reached.

    transform: an RGB image -> array or tensor, the same shape for all.
    batch: images in a batch; the last batch may have fewer.
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
            images = [self._prepared(number) for number in numbers]
            self._check_shapes(images, numbers)
            yield (
                optional.torch.from_numpy(self._values(np.stack(images))),
                optional.torch.from_numpy(self.images.labels[numbers.start : numbers.stop]),
            )

    def _prepared(self, number: int) -> NDArray[Any]:
        if number in self._kept:
            return self._kept[number]
        image = read_rgb(self.images.files[number])
        prepared = self._as_kept(image)
        if (len(self._kept) + 1) * prepared.nbytes <= CACHE_BYTES:
            self._kept[number] = prepared
        return prepared

    def _as_kept(self, image: Any) -> NDArray[Any]:
        """Return an image as it is kept: the pixels of a `CentreCrop`, which are a quarter as
        large as their values, or what another transform gives."""
        if isinstance(self.transform, CentreCrop):
            return self.transform.pixels(image)
        return as_numpy(self.transform(image))

    def _values(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return what the model reads of a batch of images as they are kept."""
        if isinstance(self.transform, CentreCrop):
            return self.transform.values(images)
        return images

    def _check_shapes(self, images: list[NDArray[Any]], numbers: range) -> None:
        """Raise TaskError unless the images with these numbers have the same shape."""
        for number, image in zip(numbers, images, strict=True):
            if image.shape != images[0].shape:
                raise TaskError(
                    "Expected the transform to give one shape for all images, got "
                    f"{images[0].shape} and then {image.shape} for {self.images.files[number]}; "
                    "resize or crop to one size."
                )


@dataclass(frozen=True, eq=False)
class ArrayBatches:
    """Batches (x, y) of two arrays as torch tensors, in their order. They can be iterated any
    number of times.

    batch: samples in a batch; the last batch may have fewer.
    classes: the number of classes. None if it is not known.
    """

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
    """Return batches for "calib", "rank", "confirm" and "holdout", which are disjoint and drawn at
    random.

    root: a folder with one folder per class, whose alphabetical order is the order of the model's
        outputs; or, with `label`, any folder of images.
    transform: an RGB Pillow image -> float32[c, h, w], such as `centre_crop(224)`.
    label: the path of a file -> its class index. None takes the folders for classes.
    sizes: see `random_parts`.
    batch: images in a batch.
    seed: the same seed draws the same splits. None takes the seed of the command, --seed.
    Raises TaskError if there are no images, or too few of them.
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
    """Return batches as by `from_folder`, from arrays or tensors.

    x: [n, ...], the inputs as the model takes them.
    y: int[n], class indices.
    sizes, batch, seed: as in `from_folder`.
    Raises TaskError if y is not one class index for each sample, or if there are too few samples.
    """
    inputs, labels = as_numpy(x), as_numpy(y)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) != len(inputs):
        raise TaskError(
            f"Expected y to be one class index for each of the {len(inputs)} samples, got "
            f"{labels.dtype} of shape {labels.shape}; pass integers from 0, not one-hot rows or "
            "names."
        )
    parts = random_parts(len(inputs), sizes, seed)
    return {
        name: ArrayBatches(inputs[indices], labels[indices].astype(np.int64), batch)
        for name, indices in parts.items()
    }


def classification_task(model: Any, splits: Mapping[str, Any]) -> Task:
    """Return a task whose metric is top-1 accuracy, 0..1.

    model: the calibrated model, which gives scores [n, classes].
    splits: batches for "rank", "confirm" and "holdout", as `from_folder` and `from_arrays` make
        them. Other ranges are calibrated on "calib", if it is among them. "unlabeled" may hold more
        samples of the same kind. Splits of other names are left out.
    """
    known = (*SPLITS, "calib", "unlabeled")
    data = {name: batches for name, batches in splits.items() if name in known}
    counts = (getattr(batches, "classes", None) for batches in data.values())
    classes = next(filter(None, counts), None)
    return Task(model, data, Top1(classes), metric="top-1", soft=answer_lost)


@dataclass(frozen=True)
class Top1:
    """(outputs, targets) -> float64[n], 1.0 if the highest output is the target's, else 0.0.

    classes: the number of outputs that the model must have. None if the data does not say.
    reading: a sentence that says how images were given to the model, if the user did not say
        so. It is quoted when the float model is no good.
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
    """The loss of accuracy that the float model expects from a variant, float64[n].

    It is the float model's probability of its own answer minus its probability of the variant's
    answer, and 0 for the same answer. It is called with the outputs of the float model and of the
    variant for the same samples: logits [n, classes], or probabilities.

    temperature: the logits are divided by it, since a network may be too sure of its answers, or
        not sure enough (Guo et al. 2017, "On calibration of modern neural networks").

    >>> lost = answer_lost(np.log([[0.5, 0.3, 0.2]] * 2), np.array([[1, 2, 0], [3, 2, 0]]))
    >>> lost.round(3).tolist()
    [0.2, 0.0]
    """

    temperature: float = 1.0

    def __call__(self, float_outputs: Any, outputs: Any) -> Scores:
        wanted, got = (_class_scores(each, WITHOUT_SOFT) for each in (float_outputs, outputs))
        belief = np.exp(_log_probabilities(_logits(wanted) / self.temperature))
        rows = np.arange(len(belief))
        lost = belief[rows, wanted.argmax(axis=1)] - belief[rows, got.argmax(axis=1)]
        return np.asarray(lost, dtype=np.float64)

    def fit(self, outputs: Sequence[Any], targets: Sequence[Any]) -> tuple[float]:
        """Return the temperature with the highest posterior, rounded to two significant digits.

        The prior of the temperature is 1 within a factor of about 1.6 (`TEMPERATURE_SPREAD`); the
        likelihood is that of the labels.

        outputs: the float model's outputs, batch by batch.
        targets: the class indices of the same samples, batch by batch.
        """
        logits, labels = _labelled(outputs, targets)
        rows = np.arange(len(labels))

        def negative_log_posterior(log_temperature: float) -> float:
            log_probabilities = _log_probabilities(logits / math.exp(log_temperature))
            log_likelihood = log_probabilities[rows, labels].sum()
            return float((log_temperature / TEMPERATURE_SPREAD) ** 2 / 2 - log_likelihood)

        best = minimize_scalar(negative_log_posterior, bounds=(-2, 2), method="bounded").x
        return (float(f"{math.exp(best):.2g}"),)

    def fitted(self, parameters: tuple[float, ...]) -> AnswerLost:
        return AnswerLost(*parameters)

    def ties(self, outputs: Sequence[Any], targets: Sequence[Any]) -> tuple[Scores, Scores]:
        """Return what is lost by the second best answer instead of the best, counted and believed,
        both float64[n]; both 0 unless the two are within `TIE`, or if there is one class alone.

        outputs: the float model's outputs, batch by batch.
        targets: the class indices of the same samples, batch by batch.
        """
        logits, labels = _labelled(outputs, targets)
        if logits.shape[1] == 1:
            return np.zeros(len(labels)), np.zeros(len(labels))
        rows = np.arange(len(labels))
        best, second = np.argsort(-logits, axis=1, kind="stable")[:, :2].T
        belief = np.exp(_log_probabilities(logits / self.temperature))
        believed = belief[rows, best] - belief[rows, second]
        counted = (best == labels).astype(np.float64) - (second == labels)
        close = believed < TIE
        return counted * close, believed * close


TEMPERATURE_SPREAD = 0.5
"""Standard deviation of the logarithm of the temperature in its prior."""

TIE = 0.3
"""Difference of two probabilities up to which answers are nearly tied. Variants change few others:
of the answers that repaired variants of MobileNetV1 changed, 96 % are within it."""

answer_lost = AnswerLost()


def _labelled(
    outputs: Sequence[Any], targets: Sequence[Any]
) -> tuple[NDArray[np.float64], NDArray[np.int_]]:
    """Return the logits float64[n, classes] and the class indices int[n] of some batches.

    Raises TaskError if targets are anything else.
    """
    logits = np.concatenate([_logits(_class_scores(batch, WITHOUT_SOFT)) for batch in outputs])
    given = np.concatenate([np.ravel(as_numpy(batch)) for batch in targets])
    samples, classes = logits.shape
    is_number = np.issubdtype(given.dtype, np.number)
    if not is_number or len(given) != samples or not ((given >= 0) & (given < classes)).all():
        ends = f" from {given.min():g} to {given.max():g}" if is_number else f" of {given.dtype}"
        raise TaskError(
            f"Expected one class index of 0 to {classes - 1} for each of {samples} samples, for a "
            f"task with soft=answer_lost, got {len(given)} targets{ends}; leave soft out of the "
            "task, or give it targets of that kind."
        )
    return logits, given.astype(int)


def _logits(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Return the logarithms of scores that are probabilities; any other scores as they are."""
    values = scores.astype(np.float64)
    are_probabilities = values.min(initial=0.0) >= 0 and np.allclose(
        values.sum(axis=1), 1.0, atol=1e-3
    )
    if are_probabilities:
        return np.asarray(np.log(np.maximum(values, SMALLEST)))
    return np.asarray(values)


SMALLEST = 1e-12
"""A probability at or below this is taken for this value."""


def _log_probabilities(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(logits - logsumexp(logits, axis=1, keepdims=True))


def images_by_class(root: Path) -> Images:
    """Return the images of root/CLASS/..., with classes numbered in alphabetical order. Raises
    TaskError if there is no class, or a class has no image."""
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
    class_index = {folder: index for index, folder in enumerate(folders)}
    labels = np.array([class_index[name] for name in names], np.int64)
    return Images(in_folders, labels, len(folders))


def _class_folders(root: Path) -> list[str]:
    """Return the names of the folders of classes, in alphabetical order, without hidden folders."""
    folders = filter(Path.is_dir, root.iterdir())
    return sorted(folder.name for folder in folders if not folder.name.startswith("."))


def labelled_images(root: Path, label: Callable[[Path], int]) -> Images:
    """Return every image below root, with the class index that `label` gives for its path. Raises
    TaskError if there are no images."""
    files = image_files(root)
    if not files:
        raise TaskError(
            f"Expected images in {root}, got none that end in {', '.join(sorted(SUFFIXES))}."
        )
    return Images(files, np.array([label(file) for file in files], np.int64))


def random_parts(n: int, sizes: Mapping[str, float], seed: int | None = None) -> dict[str, Indices]:
    """Return disjoint parts of range(n), drawn at random.

    Each part stays in random order, so that its first samples are a random draw too.

    sizes: name -> number of samples (int) or share of n (float).
    seed: the same seed draws the same parts. None takes the seed of the command, --seed.
    Raises TaskError if a part would be empty, or if there are too few samples.
    """
    counts = {name: _count_of(size, n) for name, size in sizes.items()}
    if min(counts.values()) < 1 or sum(counts.values()) > n:
        shown = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise TaskError(
            f"Expected sizes of at least 1 sample each that add up to at most {n}, got "
            f"{shown}; add samples or change `sizes`."
        )
    order = generator(seed).permutation(n)
    ends = np.cumsum(list(counts.values()))
    return dict(zip(counts, np.split(order[: ends[-1]], ends[:-1]), strict=True))


def _count_of(size: float, n: int) -> int:
    """Return the number of samples for a size: a number (int) or a share of n (float)."""
    if isinstance(size, int):
        return size
    return int(n * size + 1e-9)


OWN_SCORE = "return a Task with your own score()"
WITHOUT_SOFT = "leave soft=answer_lost out of the task"
"""What to do about outputs that are not class scores, for a score and for a soft drop."""


def _class_scores(outputs: Any, advice: str = OWN_SCORE) -> NDArray[Any]:
    """Return the model's outputs as an array [n, classes]. Raises TaskError for any other shape,
    and for NaN."""
    got = f"a {type(outputs).__name__}"
    if hasattr(outputs, "shape"):
        got = f"shape {tuple(outputs.shape)}"
    is_matrix = len(getattr(outputs, "shape", ())) == 2
    if not is_matrix:
        raise TaskError(f"Expected the model to give one array [n, classes], got {got}; {advice}.")
    scores = as_numpy(outputs)
    has_nan = np.isnan(scores).any(axis=1)
    if has_nan.any():
        sample = int(np.flatnonzero(has_nan)[0])
        raise TaskError(
            f"Expected outputs that are numbers, got NaN for sample {sample}; check the model on "
            "this batch."
        )
    return scores
