"""Inputs and labels of an .npz file, in the form that a Q/DQ file takes."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import TaskError
from sensitivity.tasks.classification import Labels, random_parts
from sensitivity.tasks.onnx_data import sizes_of

Inputs = NDArray[Any] | dict[str, NDArray[Any]]
"""An array; for a file with several inputs, arrays by name. The first axis is the sample."""

SAVE = "save it with numpy.savez(file, x=inputs, y=labels)"


CODES = "codes of {}"
"""Entry of a file's metadata for an input of real numbers that may be given as integers: the type,
the scale and the zero point of the integers, as in "int8 0.02 -3"."""


@dataclass(frozen=True)
class Codes:
    """Integers that stand for real numbers: a number means (number - zero_point) * scale.

    dtype: numpy's name of the integers' type.
    """

    dtype: str
    scale: float
    zero_point: int

    @property
    def ends(self) -> tuple[float, float]:
        """The real numbers that the smallest and the largest integer stand for."""
        integers = np.iinfo(self.dtype)
        low = (integers.min - self.zero_point) * self.scale
        high = (integers.max - self.zero_point) * self.scale
        return low, high


@dataclass(frozen=True)
class Port:
    """An input of the file.

    dtype: numpy's name of its type.
    shape: length of each axis; None for an axis of any length.
    codes: the integers that arrays of their type hold, for a file that was made from one whose
        input takes integers. None if there are none.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    codes: Codes | None = None


@dataclass(frozen=True, eq=False)
class ArrayBatches:
    """Batches (x, y) of arrays, which can be iterated any number of times in the same order.

    x: one array, or arrays by the names of the inputs.
    y: labels, or whatever else an evaluator compares outputs with.
    batch: samples in a batch.
    classes: the number of classes. None if it is not known.
    """

    x: Inputs
    y: Inputs
    batch: int = 50
    classes: int | None = field(default=None)

    def __len__(self) -> int:
        return -(-count(self.y) // self.batch)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for start in range(0, count(self.y), self.batch):
            samples = slice(start, start + self.batch)
            yield _selected(self.x, samples), _selected(self.y, samples)


def arrays(data: Path, ports: list[Port], classes: int | None) -> tuple[Inputs, Labels]:
    """Return inputs and labels of an .npz, in the types of the file's inputs.

    The labels are the array `y`, or the only array of integers with one axis that is not an input.
    They are class indices int[n] or one-hot rows [n, classes]. The inputs have the names of the
    file's inputs. An only input may also be called `x`, or have any name if it is the only array
    beside the labels.

    classes: the number of outputs of the file. None if the file does not say.
    Raises TaskError for arrays of other names, shapes, types or values.
    """
    found = _read(data)
    label = _label_name(found, ports)
    names = _input_names(found, ports, label)
    if label is None or not names:
        how = SAVE if len(ports) == 1 else "give the arrays the names of the inputs"
        raise TaskError(
            f"Expected {data} to hold inputs {_wanted(ports)} and labels y (integers, one for each "
            f"sample), got {_listed_with_types(found) or 'nothing'}; {how}."
        )
    labels = class_indices(found[label], f"{label} in {data}", classes)
    inputs = _as_ports(found, ports, names, data)
    samples = count(inputs)
    if samples != len(labels):
        raise TaskError(
            f"Expected as many labels as samples in {data}, got {len(labels)} in {label} and "
            f"{samples} in {', '.join(names)}; save both of the same samples."
        )
    return _alone(inputs), labels


def _listed_with_types(found: Mapping[str, NDArray[Any]]) -> str:
    """Return the names, types and shapes of arrays, for messages."""
    return ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in found.items())


def _listed(found: Mapping[str, NDArray[Any]]) -> list[str]:
    """Return the names and shapes of arrays, for messages."""
    return [f"{name} {list(array.shape)}" for name, array in found.items()]


def _check_samples(inputs: Mapping[str, NDArray[Any]], data: Path) -> None:
    """Raise TaskError unless every input has an entry for each sample."""
    lengths = {array.shape[:1] for array in inputs.values()}
    if len(lengths) == 1 and () not in lengths:
        return
    raise TaskError(
        f"Expected every input in {data} to have the samples as its first axis, as many as the "
        f"others, got {' and '.join(_listed(inputs))}; what all samples share, such as a state or "
        "a rate, cannot be given: export the model with it as a constant, or let a script of yours "
        "judge the quantized file, see docs/onnx.md."
    )


def holds_only_inputs(data: Path, ports: list[Port]) -> bool:
    """Return whether an .npz holds an array for each input of the file and nothing else. Raises
    TaskError for a file that is not an .npz."""
    found = set(_read_names(data))
    if found == {port.name for port in ports}:
        return True
    # The array of the only input may have any name but that of the labels.
    is_one_for_one = len(found) == len(ports) == 1
    return is_one_for_one and "y" not in found


def inputs_alone(data: Path, ports: list[Port]) -> Inputs:
    """Return all samples of an .npz without labels, in the types of the file's inputs.

    Raises TaskError for arrays of other names, shapes or values, and if there are no samples.
    """
    return calibration_inputs(data, ports, None)


def calibration_inputs(source: Path, ports: list[Port], samples: int | None) -> Inputs:
    """Return the first samples of an .npz, in the types of the file's inputs. It may lack labels.

    samples: how many. None takes all of them.
    Raises TaskError for arrays of other names, shapes or values.
    """
    found = _read(source)
    names = _input_names(found, ports, _label_name(found, ports))
    if not names:
        raise TaskError(
            f"Expected {source} to hold inputs {_wanted(ports)} to calibrate with, got "
            f"{', '.join(found) or 'nothing'}; save it with numpy.savez(file, x=inputs)."
        )
    inputs = _alone(_as_ports(found, ports, names, source))
    return _selected(inputs, slice(samples))


def samples(data: Path, ports: list[Port]) -> tuple[Inputs, Inputs]:
    """Return the inputs of an .npz, in the types of the file's inputs, and what an evaluator
    compares the outputs with: the array `y`, or all other arrays by their names if there are more.

    Raises TaskError if an input is missing or does not fit, or if arrays differ in length.
    """
    found = _read(data)
    names = _input_names(found, ports, "y")
    targets = {name: found[name] for name in found if name not in names}
    lengths = {array.shape[:1] for array in found.values()}
    if not all((names, targets)) or len(lengths) > 1:
        raise _no_samples(data, found)
    inputs = _alone(_as_ports(found, ports, names, data))
    if list(targets) == ["y"]:
        return inputs, targets["y"]
    return inputs, targets


def _wanted(ports: list[Port]) -> str:
    """Return the names of the arrays that hold the inputs, for messages."""
    if len(ports) == 1:
        return "x"
    return ", ".join(port.name for port in ports)


def _as_ports(
    found: Mapping[str, NDArray[Any]], ports: list[Port], names: Sequence[str], data: Path
) -> dict[str, NDArray[Any]]:
    """Return the arrays of these names as inputs of the file, in the types that it takes. Raises
    TaskError unless each has an entry for each sample."""
    inputs = {
        port.name: as_port(found[name], port, f"{name} in {data}")
        for port, name in zip(ports, names, strict=True)
    }
    _check_samples(inputs, data)
    return inputs


def _no_samples(data: Path, found: Mapping[str, NDArray[Any]]) -> TaskError:
    return TaskError(
        f"Expected {data} to hold the file's inputs by their names, or x where it has one, and "
        "what --evaluator compares outputs with, such as y, as many of each, got "
        f"{', '.join(_listed(found)) or 'nothing'}; {SAVE}."
    )


def _alone(inputs: dict[str, NDArray[Any]]) -> Inputs:
    """Return the array of the only input, or the arrays by the names of several."""
    if len(inputs) > 1:
        return inputs
    return next(iter(inputs.values()))


def count(arrays: Inputs) -> int:
    """Return the number of samples."""
    if isinstance(arrays, dict):
        return len(next(iter(arrays.values())))
    return len(arrays)


def split_arrays(
    x: Inputs, y: Inputs, batch: int, *, set_aside: int = 0, seed: int | None = None
) -> dict[str, ArrayBatches]:
    """Draw the samples of each split at random, the same for the same seed.

    set_aside: see `sizes_of`.
    seed: None takes the seed of the command, --seed.
    """
    n = count(y)
    parts = random_parts(n, sizes_of(n, set_aside), seed)
    return {
        name: ArrayBatches(_selected(x, indices), _selected(y, indices), batch)
        for name, indices in parts.items()
    }


def _selected(x: Inputs, samples: Any) -> Inputs:
    """Return some samples of each array.

    samples: a slice, or indices.
    """
    if isinstance(x, dict):
        return {name: np.ascontiguousarray(array[samples]) for name, array in x.items()}
    return np.ascontiguousarray(x[samples])


def _read(data: Path) -> dict[str, NDArray[Any]]:
    with _opened(data) as content:
        return {name: content[name] for name in content.files}


def _read_names(data: Path) -> list[str]:
    with _opened(data) as content:
        return list(content.files)


@contextmanager
def _opened(data: Path) -> Iterator[Any]:
    """Open an .npz. An error of numpy becomes a TaskError."""
    try:
        with np.load(data, allow_pickle=False) as content:
            yield content
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        message = " ".join(str(error).split())[:200]
        raise TaskError(
            f"Expected {data} to be an .npz of numbers, got: {message}; {SAVE}."
        ) from error


def _label_name(found: Mapping[str, NDArray[Any]], ports: list[Port]) -> str | None:
    """Return the name of the array of labels; None if it cannot be told from the other arrays."""
    if "y" in found:
        return "y"
    inputs = {port.name for port in ports}
    likely = []
    for name, array in found.items():
        if name not in inputs and _may_be_indices(array):
            likely.append(name)
    if len(likely) != 1:
        return None
    return likely[0]


def _may_be_indices(array: NDArray[Any]) -> bool:
    """Return whether an array holds one integer for each sample."""
    return array.ndim == 1 and array.dtype.kind in "iu"


def _input_names(
    found: Mapping[str, NDArray[Any]], ports: list[Port], label: str | None
) -> list[str]:
    """Return the name of the array of each input, in the order of the inputs; empty if one is
    missing."""
    others = [name for name in found if name != label]
    names = [port.name for port in ports]
    if set(names) <= set(others):
        return names
    if len(ports) > 1:
        return []
    if "x" in others:
        return ["x"]
    if len(others) == 1:
        return others
    return []


def class_indices(given: NDArray[Any], what: str, classes: int | None) -> Labels:
    """Return class indices int64[n] from integers [n] or [n, 1], whole numbers in any type, or
    one-hot rows [n, classes].

    Raises TaskError for anything else, and for an index that is not one of the model's outputs.
    """
    labels = given
    if given.dtype.kind in "iufb" and given.ndim == 2:
        is_one_hot = given.shape[1] > 1
        labels = _from_one_hot(given, what) if is_one_hot else given[:, 0]
    if labels.ndim != 1 or not _are_whole_numbers(labels):
        raise TaskError(
            f"Expected {what} to be one class index for each sample, got {given.dtype} of shape "
            f"{list(given.shape)}; pass "
            "integers from 0, or one-hot rows [n, classes]."
        )
    indices: Labels = labels.astype(np.int64)
    _check_range(indices, what, classes)
    return indices


def _check_range(indices: Labels, what: str, classes: int | None) -> None:
    """Raise TaskError for an index below 0, or above that of the last class.

    classes: the number of classes; None if it is not known.
    """
    is_wrong = indices < 0
    upto = ""
    if classes is not None:
        is_wrong |= indices >= classes
        upto = f" to {classes - 1}, as the file has {classes} outputs"
    if is_wrong.any():
        raise TaskError(
            f"Expected class indices from 0{upto}, got {indices[is_wrong][0]} in {what}; leave out "
            "samples without a class, and count classes from 0."
        )


def _are_whole_numbers(labels: NDArray[Any]) -> bool:
    """Return whether the array holds integers, in their own type or as floats."""
    if labels.dtype.kind == "f":
        return bool(np.all(labels == np.rint(labels)))
    return labels.dtype.kind in "iu"


def _from_one_hot(given: NDArray[Any], what: str) -> NDArray[Any]:
    """Return the column of the one 1 of each row."""
    ones = given == 1
    has_others = ((given != 0) & ~ones).any(axis=1)
    bad = np.flatnonzero(has_others | (ones.sum(axis=1) != 1))
    if bad.size:
        raise TaskError(
            f"Expected {what} to be one-hot rows with a single 1 and otherwise 0, got "
            f"{given.dtype} of shape {list(given.shape)} with another row at sample {bad[0]}; pass "
            "one class index for each sample."
        )
    return np.asarray(ones.argmax(axis=1))


def as_port(given: NDArray[Any], port: Port, what: str) -> NDArray[Any]:
    """Return an array in the shape and type of an input of the file.

    Raises TaskError where a side differs, or a value does not keep its meaning in that type.
    """
    _check_shape(given, port, what)
    kind = np.dtype(port.dtype)
    if port.codes is not None and given.dtype == port.codes.dtype:
        moved = given.astype(kind) - port.codes.zero_point
        given = moved * kind.type(port.codes.scale)
    if given.dtype.kind not in "iufb" and given.dtype != kind:
        raise TaskError(
            f"Expected {what} to hold numbers for the file's input {port.name}, got {given.dtype}."
        )
    _check_finite(given, what)
    if given.dtype == kind:
        return given
    return _converted(given, port, what)


def _converted(given: NDArray[Any], port: Port, what: str) -> NDArray[Any]:
    """Return the numbers in the type of an input.

    A float may lose digits in another type of floats. Raises TaskError if a number changes in any
    other way.
    """
    kind = np.dtype(port.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        converted = given.astype(kind)
        back = converted.astype(np.float64)
    both_floats = kind.kind == given.dtype.kind == "f"
    is_kept = np.isfinite(back) if both_floats else back == given.astype(np.float64)
    if not is_kept.all():
        first_changed = given[np.unravel_index(int(np.argmin(is_kept)), given.shape)]
        raise TaskError(
            f"Expected values of {what} that the file's input {port.name} can hold as "
            f"{port.dtype}, got {first_changed:g}; scale them as the model takes them."
        )
    return converted


def _check_shape(given: NDArray[Any], port: Port, what: str) -> None:
    """Raise TaskError unless every axis but the first is as long as the file says. Axes of which it
    says nothing may have any length."""
    sides = port.shape[1:]
    fits = given.ndim == len(port.shape) and all(map(_may_be, sides, given.shape[1:]))
    if port.shape and not fits:
        wanted = ["n", *("any" if side is None else side for side in sides)]
        raise TaskError(
            f"Expected {what} to have the shape of the file's input {port.name}, "
            f"[{', '.join(map(str, wanted))}], got "
            f"{list(given.shape)}; the samples are its first axis."
        )


def _may_be(wanted: int | None, side: int) -> bool:
    """Return whether an axis is as long as the file says. None stands for any length."""
    return wanted in (None, side)


def _check_finite(given: NDArray[Any], what: str) -> None:
    if given.dtype.kind == "f" and not np.isfinite(given).all():
        sample = int(np.argwhere(~np.isfinite(given))[0][0])
        raise TaskError(
            f"Expected {what} to hold finite numbers, got NaN or infinity in sample {sample}; "
            "leave it out."
        )
