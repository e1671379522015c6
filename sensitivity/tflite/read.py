"""Reads a .tflite file with the schema that LiteRT ships."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from sensitivity import optional
from sensitivity.errors import MissingPackage, TfliteFileError
from sensitivity.tflite.model import Array, Graph, Grid, Operator, Tensor

IDENTIFIER = b"TFL3"
"""Bytes 4 to 7 of every .tflite file."""

DTYPES: dict[str, Any] = {
    "FLOAT32": np.float32,
    "FLOAT16": np.float16,
    "BFLOAT16": ml_dtypes.bfloat16,
    "FLOAT64": np.float64,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT16": np.int16,
    "UINT16": np.uint16,
    "INT32": np.int32,
    "UINT32": np.uint32,
    "INT64": np.int64,
    "UINT64": np.uint64,
    "BOOL": np.bool_,
}
"""Type in the schema -> type of numpy."""

DAMAGED = (struct.error, ValueError, TypeError, IndexError, AttributeError, KeyError, MemoryError)
"""Exceptions that reading raises if offsets lead out of the file."""

WORDS = {"padding": "Padding", "fusedActivationFunction": "ActivationFunctionType"}
"""Options that are read as words of an enumeration -> that enumeration."""


def read_tflite(path: Path) -> Graph:
    """Return the only subgraph of a .tflite file.

    Raises MissingPackage without LiteRT's package, TfliteFileError for a file that is missing, cut
    short or not TFLite, or that has several subgraphs, sparse tensors or blocks of scales.
    """
    content = _content(path)
    schema = _schema()
    try:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        return _graph(model, content, path.name)
    except DAMAGED as error:
        raise TfliteFileError(
            f"Expected {path} to be a whole .tflite file, got {len(content)} bytes that do not "
            "parse; it is cut short or damaged: copy or convert it again."
        ) from error


def _content(path: Path) -> bytes:
    """Return the bytes of the file. Raises TfliteFileError unless they are those of a .tflite
    file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TfliteFileError(
            f"Expected {path} to be a readable .tflite file, got: {error.strerror or error}."
        ) from error
    if content[4:8] != IDENTIFIER:
        raise TfliteFileError(
            f"Expected {path} to be a .tflite file, got {len(content)} bytes without its "
            f"identifier {IDENTIFIER.decode()}; convert the model again."
        )
    return content


def _schema() -> Any:
    """Return LiteRT's schema. Raises MissingPackage without it."""
    try:
        return optional.tflite_schema
    except ImportError:
        raise MissingPackage("ai-edge-litert", "reading a .tflite file", "tflite") from None


def _graph(model: Any, content: bytes, file: str) -> Graph:
    """Return the subgraph of a model as records. Raises TfliteFileError if there are several."""
    if len(model.subgraphs) != 1:
        raise TfliteFileError(
            f"Expected {file} to have one subgraph, got {len(model.subgraphs)}, as loops, branches "
            "and several signatures have; convert one signature without them."
        )
    subgraph = model.subgraphs[0]
    buffers = [_bytes(buffer, content) for buffer in model.buffers]
    names = _unique_names(subgraph.tensors)
    tensors = tuple(
        _tensor(table, name, buffers[table.buffer], file)
        for table, name in zip(subgraph.tensors, names, strict=True)
    )
    for index in _indices(subgraph.inputs):
        _check_sides(subgraph.tensors[index], names[index], file)
    operators = tuple(
        _operator(table, model.operatorCodes[table.opcodeIndex], place)
        for place, table in enumerate(subgraph.operators)
    )
    return Graph(file, tensors, operators, _indices(subgraph.inputs), _indices(subgraph.outputs))


def _check_sides(table: Any, name: str, file: str) -> None:
    """Raise TfliteFileError for an input with an open side other than the number of samples."""
    sides = _indices(table.shapeSignature)
    if min(sides[1:], default=0) < 0:
        raise TfliteFileError(
            f"Expected inputs of {file} that leave open at most how many samples they have, got "
            f"{list(sides)} for {name}, where -1 is of any length; convert the model with inputs "
            "of fixed sides."
        )


def _bytes(buffer: Any, content: bytes) -> bytes:
    """Return the bytes of a buffer, which lie in the file's tables, or after them in a large
    file."""
    if buffer.offset > 1:
        return content[buffer.offset : buffer.offset + buffer.size]
    data = buffer.data
    if data is None or isinstance(data, int):
        return b""
    return bytes(data)


def _unique_names(tensors: Sequence[Any]) -> list[str]:
    """Return the names of the tensors. If a name is empty or shared, the tensor's number is
    appended."""
    given = [_text(tensor.name) for tensor in tensors]
    count = Counter(given)
    names = []
    for index, name in enumerate(given):
        is_shared = count[name] > 1 or not name
        if is_shared:
            name = f"{name or 'tensor'}_{index}"
        names.append(name)
    return names


def _text(text: bytes | None) -> str:
    """Return a text of the file; "" for None."""
    return (text or b"").decode(errors="replace")


def _tensor(table: Any, name: str, data: bytes, file: str) -> Tensor:
    """Return a tensor of the file as a record. Raises TfliteFileError for a sparse one."""
    kind = _word("TensorType", table.type)
    if table.sparsity is not None:
        raise TfliteFileError(
            f"Expected dense tensors in {file}, got the sparse tensor {name}; convert the model "
            "without sparsity."
        )
    shape = _indices(table.shape)
    grid = _grid(table.quantization, name, file)
    values = _values(data, kind, shape, name, file) if data else None
    return Tensor(name, shape, kind, grid, values)


def _values(data: bytes, kind: str, shape: tuple[int, ...], name: str, file: str) -> Array:
    """Return the values of a constant. Raises TfliteFileError for a type that holds no numbers."""
    if kind == "INT4":
        return _half_bytes(data, shape)
    if kind not in DTYPES:
        raise TfliteFileError(
            f"Expected tensors of numbers in {file}, got {kind} for {name}; convert the model "
            "without it."
        )
    return np.frombuffer(data, DTYPES[kind]).reshape(shape)


def _half_bytes(data: bytes, shape: tuple[int, ...]) -> Array:
    """Return two 4-bit numbers of each byte, the lower half first, as int8."""
    packed = np.frombuffer(data, np.int8)
    low = (packed << 4) >> 4
    both = np.stack([low, packed >> 4], axis=-1).reshape(-1)
    return both[: int(np.prod(shape))].reshape(shape)


def _grid(quantization: Any, name: str, file: str) -> Grid | None:
    """Return the grid of a tensor; None if it has no scales. Raises TfliteFileError for blocks of
    scales."""
    if quantization is None:
        return None
    if quantization.details is not None:
        raise TfliteFileError(
            f"Expected one scale for a tensor or for each channel in {file}, got "
            f"{type(quantization.details).__name__.removesuffix('T')} for {name}; quantize it "
            "per channel."
        )
    scales, given = _array(quantization.scale, np.float32), _array(quantization.zeroPoint, np.int64)
    if not scales.size:
        return None
    zero_points = np.zeros(scales.size, np.int64)
    if given.size:
        zero_points += given
    axis = int(quantization.quantizedDimension) if scales.size > 1 else 0
    return Grid(scales, zero_points, axis)


def _array(numbers: Any, dtype: Any) -> Array:
    """Return numbers of the file as an array; an empty one for None."""
    return np.asarray(() if numbers is None else numbers, dtype)


def _operator(table: Any, code: Any, place: int) -> Operator:
    # Files before 2020 have the number in a field of one byte only, later ones in both fields.
    """Return an operator of the file as a record."""
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    kind = _word("BuiltinOperator", number)
    if kind == "CUSTOM":
        kind = f"CUSTOM:{_text(code.customCode)}"
    options = dict(getattr(table.builtinOptions, "__dict__", {}))
    for name in WORDS.keys() & options.keys():
        options[name] = _word(WORDS[name], options[name])
    return Operator(kind, _indices(table.inputs), _indices(table.outputs), options, place)


def _indices(numbers: Any) -> tuple[int, ...]:
    return tuple(_array(numbers, np.int64).tolist())


def _word(enumeration: str, number: int) -> str:
    """Return the name of a value in an enumeration of the schema, or its number if the schema is
    older."""
    known = vars(getattr(_schema(), enumeration))
    words = filter(str.isupper, known)
    matching = (word for word in words if known[word] == number)
    return next(matching, f"{enumeration} {number}")
