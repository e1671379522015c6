"""Whether the ONNX form of .tflite files has LiteRT's values, tensor by tensor.

    python benchmarks/tflite.py models/*.tflite > benchmarks/results/tflite.md

Each operator is translated alone and is given what it got in LiteRT, so that a rounding which
differs from LiteRT counts once. Then the whole file is run. See README.md beside this file.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from sensitivity.tflite.model import Graph, Operator, Tensor
from sensitivity.tflite.operators import translated
from sensitivity.tflite.read import read_tflite

Array = NDArray[Any]

COLUMNS = (
    *("file", "operators", "tensors in integers", "values", "equal", "one step apart", "more"),
    *("float values apart", "outputs apart, whole file"),
)

HEAD = f"""# .tflite files in ONNX and in LiteRT

`python benchmarks/tflite.py FILES` with onnxruntime {onnxruntime.__version__} and ai-edge-litert
{version("ai-edge-litert")}, by its own kernels without delegates. Inputs are drawn; each operator
gets in ONNX what it got in LiteRT. A float tensor is apart by that part of its largest value.
"""


@dataclass(frozen=True)
class Compared:
    """One output of an operator.

    steps: how far each number is from LiteRT's, in steps of its grid; for a float tensor, as a
        fraction of its largest value.
    """

    kind: str
    tensor: Tensor
    steps: Array


def compared(path: Path, seed: int = 0) -> Iterator[Compared]:
    """Every operator's outputs beside LiteRT's, on the same inputs."""
    graph = read_tflite(path)
    theirs = litert_values(path, graph, inputs_of(graph, seed))
    for operator in graph.operators:
        ours = run_onnx(alone(graph, operator), theirs)
        for index, values in zip(operator.outputs, ours, strict=True):
            tensor = graph.tensors[index]
            yield Compared(operator.kind, tensor, apart(values, theirs[index], tensor))


def whole(path: Path, seed: int = 0) -> list[Array]:
    """How far the outputs of the whole file are from LiteRT's, as in `Compared.steps`."""
    graph = read_tflite(path)
    given = inputs_of(graph, seed)
    theirs = litert_values(path, graph, given)
    ours = run_onnx(graph, given)
    return [
        apart(values, theirs[index], graph.tensors[index])
        for values, index in zip(ours, graph.outputs, strict=True)
    ]


def alone(graph: Graph, operator: Operator) -> Graph:
    """One operator as a graph whose inputs are the tensors that it reads."""
    read = dict.fromkeys(index for index in operator.inputs if index >= 0)
    inputs = tuple(index for index in read if graph.tensors[index].values is None)
    return replace(graph, operators=(operator,), inputs=inputs, outputs=operator.outputs)


def inputs_of(graph: Graph, seed: int) -> dict[int, Array]:
    """Random numbers for each input, as the .tflite file takes them."""
    rng = np.random.default_rng(seed)
    drawn: dict[int, Array] = {}
    for index in graph.inputs:
        tensor = graph.tensors[index]
        dtype = np.dtype(tensor.type.lower())
        if dtype.kind == "f":
            drawn[index] = rng.normal(size=tensor.shape).astype(dtype)
        elif tensor.type == "INT32" and tensor.grid is None:  # sides, of a TRANSPOSE_CONV
            reader = next(each for each in graph.operators if index in each.inputs)
            drawn[index] = np.array(graph.tensors[reader.outputs[0]].shape, dtype)
        else:
            limits = np.iinfo(dtype)
            low, high = max(limits.min, -(2**15)), min(limits.max, 2**15 - 1)
            drawn[index] = rng.integers(low, high + 1, tensor.shape).astype(dtype)
    return drawn


def litert_values(path: Path, graph: Graph, given: Mapping[int, Array]) -> dict[int, Array]:
    """Index of a tensor -> its numbers after a run in LiteRT with its own kernels."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    run = Interpreter(
        model_content=path.read_bytes(),
        experimental_op_resolver_type=kernels,
        experimental_preserve_all_tensors=True,
        num_threads=1,
    )
    run.allocate_tensors()
    for index, values in given.items():
        run.set_tensor(index, values)
    run.invoke()
    made = [*graph.inputs, *(index for each in graph.operators for index in each.outputs)]
    return {index: run.get_tensor(index) for index in made}


def run_onnx(graph: Graph, values: Mapping[int, Array]) -> list[Array]:
    """The outputs of the graph's ONNX form.

    values: the numbers of its inputs in the .tflite file.
    """
    content = translated(graph).model().SerializeToString()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    run = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    given = {graph.tensors[at].name: real(values[at], graph.tensors[at]) for at in graph.inputs}
    found: list[Array] = run.run(None, given)
    return found


def real(values: Array, tensor: Tensor) -> Array:
    """The real numbers in float32 that the numbers of a tensor stand for."""
    if tensor.grid is None:
        return values.astype(np.float32) if values.dtype == np.float16 else values
    moved = values.astype(np.float32) - tensor.grid.zero_points.astype(np.float32)
    return np.asarray(moved * tensor.grid.scales, np.float32)


def apart(ours: Array, theirs: Array, tensor: Tensor) -> Array:
    """The steps of `Compared`.

    ours: real numbers.
    theirs: numbers as LiteRT stores them.
    """
    wanted = real(theirs, tensor)
    assert ours.shape == wanted.shape, (tensor.name, ours.shape, wanted.shape)
    difference = np.abs(ours.astype(np.float64) - wanted)
    if tensor.grid is None:
        return np.asarray(difference / max(np.abs(wanted).max(initial=0), 1e-30))
    return np.asarray(np.rint(difference / tensor.grid.scales))


def row(path: Path) -> list[str]:
    """One line of the table."""
    graph = read_tflite(path)
    found = list(compared(path))
    integers = [each.steps.ravel() for each in found if each.tensor.grid is not None]
    steps = np.concatenate(integers) if integers else np.zeros(0)
    floats = [each.steps.max(initial=0) for each in found if each.tensor.grid is None]
    most = max(float(each.max(initial=0)) for each in whole(path))
    in_steps = graph.tensors[graph.outputs[0]].grid is not None
    parts = [f"{np.mean(steps == n):.4%}" if steps.size else "" for n in (0, 1)]
    return [
        path.name,
        *(str(len(graph.operators)), str(len(integers)), str(steps.size), *parts),
        str(int((steps > 1).sum())) if steps.size else "",
        f"{max(floats):.1e}" if floats else "",
        f"{most:g} steps" if in_steps else f"{most:.1e}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    files = parser.parse_args().files
    print(HEAD)
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS))
    for path in files:
        print("| " + " | ".join(row(path)) + " |", flush=True)


if __name__ == "__main__":
    main()
