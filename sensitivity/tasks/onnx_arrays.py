"""Inputs and labels of an .npz, as a Q/DQ file takes them."""

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
"""Entry of a file's metadata that says what whole numbers stand for in an input that takes real
ones, as in "int8 0.02 -3"."""


@dataclass(frozen=True)
class Codes:
    """dtype: numpy's name of the type of such numbers: (number - zero_point) * scale is meant."""

    dtype: str
    scale: float
    zero_point: int

    @property
    def ends(self) -> tuple[float, float]:
        """What the smallest and the largest number mean."""
        kind = np.iinfo(self.dtype)
        low, high = ((end - self.zero_point) * self.scale for end in (kind.min, kind.max))
        return low, high


@dataclass(frozen=True)
class Port:
    """An input of the file. dtype: numpy's name of its type. shape: None for axes of any length.
    codes: of a file that was made of one that takes whole numbers; arrays of their type hold them.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    codes: Codes | None = None


@dataclass(frozen=True, eq=False)
class ArrayBatches:
    """Batches (x, y) of arrays, in their order, again and again. x: one array, or arrays by the
    names of the inputs. y: labels, or whatever else an evaluator compares outputs with."""

    x: Inputs
    y: Inputs
    batch: int = 50
    classes: int | None = field(default=None)

    def __len__(self) -> int:
        return -(-count(self.y) // self.batch)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for start in range(0, count(self.y), self.batch):
            part = slice(start, start + self.batch)
            yield _taken(self.x, part), _taken(self.y, part)


def arrays(data: Path, ports: list[Port], classes: int | None) -> tuple[Inputs, Labels]:
    """Return the inputs and labels of an .npz, in the types of the file's inputs.

    The labels are `y`, or the only integers of one axis that are no input. The inputs have the
    names that the file gives them; that of a file with one input may also be `x`, or have any name
    where nothing else is there. Labels are class indices int[n] or one-hot rows [n, classes].
    classes: how many outputs the file has; None where it does not say. Raises TaskError for arrays
    of other names, shapes, types or values.
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
    """Names, types and shapes of arrays, for messages."""
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
    """Return whether an .npz has an array for each input of the file and no other. Raises TaskError
    for a file that is none."""
    found = set(_read_names(data))
    if found == {port.name for port in ports}:
        return True
    # The array of the only input may have any name but that of the labels.
    is_one_for_one = len(found) == len(ports) == 1
    return is_one_for_one and "y" not in found


def inputs_alone(data: Path, ports: list[Port]) -> Inputs:
    """Return all samples of an .npz without labels, in the types of the file's inputs.

    Raises TaskError for arrays of other names, shapes or values, and for no sample at all.
    """
    return calibration_inputs(data, ports, None)


def calibration_inputs(source: Path, ports: list[Port], samples: int | None) -> Inputs:
    """Return the first samples of an .npz, all for None, in the types of the file's inputs; labels
    need not be there.

    Raises TaskError for arrays of other names, shapes or values.
    """
    found = _read(source)
    names = _input_names(found, ports, _label_name(found, ports))
    if not names:
        raise TaskError(
            f"Expected {source} to hold inputs {_wanted(ports)} to calibrate with, got "
            f"{', '.join(found) or 'nothing'}; save it with numpy.savez(file, x=inputs)."
        )
    return _taken(_alone(_as_ports(found, ports, names, source)), slice(samples))


def samples(data: Path, ports: list[Port]) -> tuple[Inputs, Inputs]:
    """Return the inputs of an .npz, in the types of the file's inputs, and all that an evaluator
    compares the
    outputs with: the array `y`, or the others by their names where there are more.

    Raises TaskError for inputs that are not there or do not fit, and arrays of other lengths.
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
    """Return the arrays of these names as the inputs of the file, in the types that it takes.
    Raises TaskError unless each has an entry for each sample."""
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
    """Return how many samples there are."""
    first = next(iter(arrays.values())) if isinstance(arrays, dict) else arrays
    return len(first)


def split_arrays(
    x: Inputs, y: Inputs, batch: int, *, set_aside: int = 0, seed: int | None = None
) -> dict[str, ArrayBatches]:
    """Split name -> random samples of the arrays, the same for the same seed. set_aside: see
    `sizes_of`."""
    n = count(y)
    parts = random_parts(n, sizes_of(n, set_aside), seed)
    return {name: ArrayBatches(_taken(x, at), _taken(y, at), batch) for name, at in parts.items()}


def _taken(x: Inputs, at: Any) -> Inputs:
    if isinstance(x, dict):
        return {name: np.ascontiguousarray(array[at]) for name, array in x.items()}
    return np.ascontiguousarray(x[at])


def _read(data: Path) -> dict[str, NDArray[Any]]:
    with _opened(data) as content:
        return {name: content[name] for name in content.files}


def _read_names(data: Path) -> list[str]:
    with _opened(data) as content:
        return list(content.files)


@contextmanager
def _opened(data: Path) -> Iterator[Any]:
    """An .npz; what numpy says of a file that is none is a TaskError."""
    try:
        with np.load(data, allow_pickle=False) as content:
            yield content
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        said = " ".join(str(error).split())[:200]
        raise TaskError(
            f"Expected {data} to be an .npz of numbers, got: {said}; {SAVE}."
        ) from error


def _label_name(found: Mapping[str, NDArray[Any]], ports: list[Port]) -> str | None:
    """Return the name of the array of labels; None where none can be told from the others."""
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
    """Return the name of the array for each input, in their order; none where they are not
    there."""
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
    """Return the class indices int64[n] from integers [n] or [n, 1], whole numbers in any type, or
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
    """Raise TaskError for an index below 0, or above that of the last class where it is known."""
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
            f"Expected {what} to be one-hot rows of one 1 and else 0, got {given.dtype} of shape "
            f"{list(given.shape)} with "
            f"another row at sample {bad[0]}; pass one class index for each sample."
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
    """Return the numbers in another type. Raises TaskError where one does not keep its meaning in
    it: a float may lose digits, and nothing else."""
    kind = np.dtype(port.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        made = given.astype(kind)
        back = made.astype(np.float64)
    both_floats = kind.kind == given.dtype.kind == "f"
    kept = np.isfinite(back) if both_floats else back == given.astype(np.float64)
    if not kept.all():
        worst = given[np.unravel_index(int(np.argmin(kept)), given.shape)]
        raise TaskError(
            f"Expected values of {what} that the file's input {port.name} can hold as "
            f"{port.dtype}, got {worst:g}; scale "
            "them as the model takes them."
        )
    return made


def _check_shape(given: NDArray[Any], port: Port, what: str) -> None:
    """Raise TaskError unless every side but the first is as the file says, where it does."""
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
    """Return whether a side is as long as the file says; None where it takes any length."""
    return wanted in (None, side)


def _check_finite(given: NDArray[Any], what: str) -> None:
    if given.dtype.kind == "f" and not np.isfinite(given).all():
        sample = int(np.argwhere(~np.isfinite(given))[0][0])
        raise TaskError(
            f"Expected {what} to hold finite numbers, got NaN or infinity in sample {sample}; "
            "leave it out."
        )
