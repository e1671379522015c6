"""Shapes of a file's values with a batch of 1. The file is run once, so computed shapes are exact
too."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from sensitivity.errors import OnnxFileError
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.walk import name_of
from sensitivity.onnx_graph.work import Work, quantized_layers, work
from sensitivity.quantizers.onnx.batches import feed, of_samples
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.records import names_of
from sensitivity.runtimes.onnxruntime import OnnxRuntime
from sensitivity.timing.inputs import random_inputs


def work_of(file: Path, *, products: bool = False) -> Work:
    """Return the work of the quantized layers of a canonical file.

    products: as for `quantized_layers`.
    """
    layers = quantized_layers(load_model(file).graph, products=products)
    return work(layers, value_shapes(file, layers.needed_values))


def work_of_model(model: OnnxModel, inputs: Any) -> Work:
    """Return the work of the quantized layers of a Q/DQ file and of its products of activations.

    inputs: a batch, as `feed` takes it; the shapes are those of its first sample.
    Raises OnnxFileError if a quantized layer is in the body of an If, Loop or Scan.
    """
    layers = quantized_layers(model.graph.graph, products=True)
    inner = [node for node in layers.by_node if node.graph is not model.graph.graph]
    if inner:
        raise OnnxFileError(
            f"Expected all quantized layers of {model.path.name} in its main graph for --cost, got "
            f"{name_of(inner[0])} in the body of another operation; leave --cost out."
        )
    shapes: dict[str, tuple[int, ...]] = {}

    def see(name: str, values: NDArray[Any]) -> None:
        shapes[name] = values.shape

    sample = of_samples(feed(inputs, names_of(model.get_inputs())), slice(0, 1))
    with model.watching(layers.needed_values, see):
        model.run(None, sample)
    quantizers = defaultdict[ir.Node, tuple[str, ...]](tuple)
    for path in model.paths:
        if path.user is not None:
            quantizers[path.user] += tuple(names_of(path.uses))
    return work(layers, shapes, quantizers)


def value_shapes(file: Path, names: Collection[str]) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of these float values."""
    proto = onnx.load(str(file))
    inputs = random_inputs(file)
    outputs = {value.name for value in proto.graph.output}
    proto.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in names
        if name not in outputs and name not in inputs
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(proto.SerializeToString())
        engine = OnnxRuntime(optimize=False).build(path)
        try:
            values = dict(inputs) | engine.run(inputs)
        finally:
            engine.close()
    return {name: tuple(int(size) for size in values[name].shape) for name in names}
