"""Small Q/DQ files as toolkits make them, and their data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.load import load_model

BRANCHES = """
<ir_version: 8, opset_import: ["" : {opset}]>
branches (float[batch, 3, 12, 12] x) => (float[batch, 5] y)
{{
    c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    s1 = Sigmoid (c1)
    m1 = Mul (c1, s1)
    c2 = Conv <pads = [1, 1, 1, 1], group = 6> (m1, w2, b2)
    a1 = Add (m1, c2)
    p1 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a1)
    k1 = Concat <axis = 1> (p1, p1)
    g1 = GlobalAveragePool (k1)
    f1 = Flatten (g1)
    y = Gemm <transB = 1> (f1, w3, b3)
}}
"""
SHAPES = {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (6, 1, 3, 3), "b2": (6,), "w3": (5, 12), "b3": (5,)}
UNITS = {
    "Sigmoid_s1",
    "Mul_m1",
    "Conv_c1",
    "Conv_c2",
    "Add_a1",
    "MaxPool_p1",
    "Concat_k1",
    "Gemm_y",
}


def float_file(path: Path, opset: int = 17) -> Path:
    """SiLU, a depthwise convolution, an Add over a skip connection, pool, Concat and a linear
    layer."""
    model = onnx.parser.parse_model(BRANCHES.format(opset=opset))
    rng = np.random.default_rng(3)
    for name, shape in SHAPES.items():
        values = rng.normal(size=shape).astype(np.float32) * (0.1 if len(shape) == 1 else 0.5)
        if name == "w2":
            values[0] *= 40  # one channel sets the range that all share,
        if name == "w3":
            # and no class looks at it
            values *= np.where(np.arange(12) % 6 == 0, 0.0, 1.0).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    for node in model.graph.node:
        node.name = f"{node.op_type}_{node.output[0]}"
    model.metadata_props.append(onnx.StringStringEntryProto(key="author", value="someone"))
    onnx.save(model, path)
    return path


def images(samples: int, seed: int) -> np.ndarray:
    """Each sample has its own colours, so that the file can tell them apart."""
    rng = np.random.default_rng(seed)
    noise, colours = rng.normal(size=(samples, 3, 12, 12)), rng.normal(size=(samples, 3, 1, 1))
    return (0.5 * noise + 2 * colours).astype(np.float32)


class Reader:
    """Calibration data as ONNX Runtime's quantizer reads it."""

    def __init__(self, name: str = "x") -> None:
        self._batches: Iterator[Any] = iter([{name: images(8, seed=100)}])

    def get_next(self) -> Any:
        return next(self._batches, None)


def static_file(source: Path, path: Path, **options: Any) -> Path:
    """Everything quantized by ONNX Runtime's quantize_static."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Calibration(Reader, CalibrationDataReader):
        pass

    quantize_static(
        str(source), str(path), Calibration(), **{"quant_format": QuantFormat.QDQ, **options}
    )
    return path


def qdq_file(
    path: Path, body: str, constants: dict[str, np.ndarray], *, opset: int = 17, ports: str = ""
) -> Path:
    """A file from ONNX's text form; every node without a name gets that of its output."""
    head = ports or "(float[batch, 4] x) => (float[batch, 4] y)"
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}, "other" : 1]> g {head} {{ {body} }}'
    )
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in constants.items()
    )
    for node in model.graph.node:
        node.name = node.name or f"{node.op_type}_{node.output[0]}"
    onnx.save(model, path)
    return path


def run_file(path: Path, x: np.ndarray) -> np.ndarray:
    """The outputs of ONNX Runtime for a file, with every optimization off."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])


def labelled(float_path: Path, data: Path, samples: int = 80) -> Path:
    """An .npz of images and the float file's answers to them."""
    x = images(samples, seed=5)
    np.savez(data, x=x, y=run_file(float_path, x).argmax(1))
    return data


def weight_of(file: Path, layer: str) -> np.ndarray:
    """The weight of a layer: before its pair if it has one."""
    nodes = {node.name: node for node in load_model(file).graph.all_nodes()}
    pair = qdq.pair_of(nodes[layer].inputs[1])
    found = qdq.constant(nodes[layer].inputs[1] if pair is None else pair.source)
    assert found is not None
    return found
