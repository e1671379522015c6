"""Times each distinct layer shape in INT8 and in float, and the conversions at its borders.

The table is stored in the run directory, so that a shape is timed once per runtime, version,
machine and number of threads.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from sensitivity.cost.layer_files import sample, write_conversion, write_float, write_int8
from sensitivity.errors import SensitivityError
from sensitivity.files import write_whole
from sensitivity.onnx_graph.work import LayerShape, Work
from sensitivity.runtimes.base import Runtime
from sensitivity.timing.protocol import interleaved

SIGNED = {"onnxruntime": False, "openvino": False}
"""Whether activations are int8 in the fast kernels of a runtime; True for all others, such as
TensorRT."""

ROUNDS, WARMUP = 60, 10
FILE = "costs.json"


@dataclass(frozen=True)
class LayerTime:
    """Median milliseconds of one layer alone.

    int8: with integer inputs and outputs.
    float_: with float inputs and outputs.
    """

    int8: float
    float_: float


@dataclass(frozen=True)
class ConversionTime:
    """Milliseconds to quantize and to dequantize a tensor, without the time of calling the
    runtime."""

    to_int8: float
    to_float: float


@dataclass(frozen=True)
class Table:
    """The times measured in one place.

    place: runtime, version, threads and machine.
    layers: by `key_of` their shape.
    conversions: by `size_key` of the tensor.
    """

    place: str
    layers: dict[str, LayerTime]
    conversions: dict[str, ConversionTime]

    def layer(self, shape: LayerShape) -> LayerTime:
        """Return the time of a layer of this shape.

        Raises KeyError if it was not measured.
        """
        return self.layers[key_of(shape)]

    def conversion(self, size: tuple[int, ...]) -> ConversionTime:
        """Return the time of converting a tensor of this shape.

        Raises KeyError if it was not measured.
        """
        return self.conversions[size_key(size)]


def key_of(shape: LayerShape) -> str:
    """Return a short text that differs for different shapes, with the readable part in front."""
    digest = hashlib.sha256(repr(shape).encode()).hexdigest()[:8]
    return f"{shape.op} {size_key(shape.input)} {size_key(shape.weight)} {digest}"


def size_key(size: tuple[int, ...]) -> str:
    """Return a shape as in the table's keys: "1x64x56x56"; "" for a scalar."""
    return "x".join(map(str, size))


def measured_table(
    work: Work,
    runtime: Runtime,
    place: str,
    file: Path,
    *,
    threads: int,
    advance: Callable[[int, int], None] | None = None,
) -> Table:
    """Return the times of every layer and conversion in `work`.

    Times that `file` holds of the same place are not measured again. The file is written after each
    measurement, so that a killed process loses at most one.

    place: see `Table`.
    file: where the table is stored.
    advance: called with (1, 0) after each shape and size.
    Raises what the runtime raises for a file that it cannot load.
    """
    table = _stored(file, place)
    shapes = {key_of(layer.shape): layer.shape for layer in work.layers}
    sizes = {size_key(link.size): link.size for link in work.links}
    signed = SIGNED.get(runtime.name, True)
    overhead: float | None = None
    for key, shape in shapes.items():
        if key not in table.layers:
            table = replace(
                table, layers=table.layers | {key: _layer_time(shape, signed, runtime, threads)}
            )
            _store(file, table)
        if advance:
            advance(1, 0)
    for key, size in sizes.items():
        if key not in table.conversions:
            overhead = _overhead(runtime, threads) if overhead is None else overhead
            time = _conversion_time(size, signed, runtime, threads, overhead)
            table = replace(table, conversions=table.conversions | {key: time})
            _store(file, table)
        if advance:
            advance(1, 0)
    return table


def to_measure(work: Work) -> int:
    """Return the number of distinct shapes and sizes in a table of this work."""
    return len({key_of(layer.shape) for layer in work.layers}) + len(
        {size_key(link.size) for link in work.links}
    )


def _layer_time(shape: LayerShape, signed: bool, runtime: Runtime, threads: int) -> LayerTime:
    integer = np.dtype(np.int8 if signed else np.uint8)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {
            "int8": (write_int8(shape, signed, folder / "int8.onnx"), sample(shape.input, integer)),
            "float": (write_float(shape, folder / "float.onnx"), sample(shape.input, None)),
        }
        ms = _medians(files, runtime, threads)
    return LayerTime(ms["int8"], ms["float"])


def _conversion_time(
    size: tuple[int, ...], signed: bool, runtime: Runtime, threads: int, overhead: float
) -> ConversionTime:
    integer = np.dtype(np.int8 if signed else np.uint8)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {
            "q": (write_conversion(size, signed, True, folder / "q.onnx"), sample(size, None)),
            "dq": (
                write_conversion(size, signed, False, folder / "dq.onnx"),
                sample(size, integer),
            ),
        }
        ms = _medians(files, runtime, threads)
    return ConversionTime(max(ms["q"] - overhead, 0.0), max(ms["dq"] - overhead, 0.0))


def _overhead(runtime: Runtime, threads: int) -> float:
    """Return the milliseconds of calling the runtime for next to no work."""
    with tempfile.TemporaryDirectory() as name:
        file = write_conversion(
            (1, 1), SIGNED.get(runtime.name, True), True, Path(name) / "nothing.onnx"
        )
        return _medians({"nothing": (file, sample((1, 1), None))}, runtime, threads)["nothing"]


def _medians(
    files: Mapping[str, tuple[Path, Mapping[str, np.ndarray]]], runtime: Runtime, threads: int
) -> dict[str, float]:
    """Return the median milliseconds of each file; the files are timed in turn."""
    with contextlib.ExitStack() as stack:
        engines = {}
        for name, (file, inputs) in files.items():
            engine = runtime.build(file, threads=threads)
            stack.callback(engine.close)
            engines[name] = _WithInputs(engine, inputs)
        times = interleaved(engines, {}, rounds=ROUNDS, warmup=WARMUP)  # type: ignore[arg-type]
    return {str(name): float(np.median(values)) for name, values in times.items()}


class _WithInputs:
    """An engine that is timed with its own inputs."""

    def __init__(self, engine: object, inputs: Mapping[str, np.ndarray]) -> None:
        self._engine, self._inputs = engine, inputs

    def time_ms(self, inputs: object, repeats: int) -> np.ndarray:
        times: np.ndarray = self._engine.time_ms(self._inputs, repeats)  # type: ignore[attr-defined]
        return times


def _stored(file: Path, place: str) -> Table:
    table = next((table for table in _tables(file) if table.place == place), None)
    return table or Table(place, {}, {})


def _store(file: Path, table: Table) -> None:
    others: Iterable[Table] = (other for other in _tables(file) if other.place != table.place)
    write_whole(file, msgspec.json.format(msgspec.json.encode([*others, table]), indent=1) + b"\n")


def _tables(file: Path) -> list[Table]:
    if not file.exists():
        return []
    try:
        return msgspec.json.decode(file.read_bytes(), type=list[Table])
    except msgspec.MsgspecError as error:
        raise SensitivityError(
            f"Expected {file} to hold measured times, got {error}; delete it to time again."
        ) from error
