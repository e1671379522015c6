#!/usr/bin/env bash
# openvino 2026.4.1: RESIZE_NEAREST_NEIGHBOR of a TFLite file ignores half_pixel_centers, which
# TensorFlow 2 writes. Halving an image gives its first, third ... pixels where the file means the
# second, fourth ..., so that a segmentation mask or a feature pyramid is moved by a pixel. Whole
# multiples upwards are the same in both readings.
#
# Seen: 8 pixels to 4, 5 and 13 are those of a file without half_pixel_centers; LiteRT's are
# floor((i + 0.5) * 8 / n).
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet openvino==2026.4.1 ai-edge-litert==2.3.0 \
    flatbuffers==25.12.19 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import flatbuffers
import numpy as np
import openvino as ov
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

KIND = schema.TensorType
pixels = np.arange(8, dtype="f4")


def tensor(name, shape, kind, buffer=0):
    made = schema.TensorT()
    made.name, made.shape, made.type, made.buffer = name, shape, kind, buffer
    return made


def file_of(size, half_pixels):
    stored = schema.BufferT()
    stored.data = np.frombuffer(np.array([1, size], "i4").tobytes(), "u1")
    options = schema.ResizeNearestNeighborOptionsT()
    options.halfPixelCenters = half_pixels
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0, 1], [2]
    operator.builtinOptionsType = schema.BuiltinOptions.ResizeNearestNeighborOptions
    operator.builtinOptions = options
    graph = schema.SubGraphT()
    graph.tensors = [
        tensor("x", [1, 1, 8, 1], KIND.FLOAT32), tensor("size", [2], KIND.INT32, 1),
        tensor("y", [1, 1, size, 1], KIND.FLOAT32),
    ]
    graph.inputs, graph.outputs, graph.operators = [0], [2], [operator]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RESIZE_NEAREST_NEIGHBOR
    code.version = 3
    model = schema.ModelT()
    model.version, model.subgraphs, model.operatorCodes = 3, [graph], [code]
    model.buffers = [schema.BufferT(), stored]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def in_litert(content):
    run = Interpreter(model_content=content)
    run.allocate_tensors()
    run.set_tensor(run.get_input_details()[0]["index"], pixels.reshape(1, 1, 8, 1))
    run.invoke()
    return run.get_tensor(run.get_output_details()[0]["index"]).ravel().astype(int).tolist()


def in_openvino(content):
    with open("resize.tflite", "wb") as file:
        file.write(content)
    core = ov.Core()
    compiled = core.compile_model(core.read_model("resize.tflite"), "CPU")
    result = compiled(pixels.reshape(1, 1, 8, 1))[compiled.output(0)]
    return result.ravel().astype(int).tolist()


for half_pixels in (False, True):
    for size in (4, 5, 13, 16):
        lite, vino = (run(file_of(size, half_pixels)) for run in (in_litert, in_openvino))
        print(f"8 pixels to {size}, half pixels {half_pixels}: LiteRT {lite}, OpenVINO {vino}")
        corners, centers = ((np.arange(size) + shift) * 8 / size for shift in (0, 0.5))
        assert lite == np.floor(centers if half_pixels else corners).astype(int).tolist()
        assert vino == np.floor(corners).astype(int).tolist(), "that changed"
PY
