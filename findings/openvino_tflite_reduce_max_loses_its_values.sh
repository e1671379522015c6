#!/usr/bin/env bash
# openvino 2026.4.1: REDUCE_MAX of a fully quantized TFLite file (Keras' GlobalMaxPooling2D) gives
# code -1 everywhere if the int8 tensors have a zero point other than 0, which those behind a ReLU
# or a sigmoid always have. REDUCE_MIN, MAX_POOL_2D and zero point 0 are right.
#
# Seen: all outputs -1 with zero points -5 and -128, LiteRT's values with zero point 0 and for
# REDUCE_MIN.
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
codes = np.random.default_rng(0).integers(-128, 128, size=(1, 8, 8, 4)).astype("i1")


def tensor(name, shape, zero=None, kind=KIND.INT8, buffer=0):
    made = schema.TensorT()
    made.name, made.shape, made.type, made.buffer = name, shape, kind, buffer
    if zero is not None:
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale, made.quantization.zeroPoint = [0.03], [zero]
    return made


def file_of(name, zero):
    stored = schema.BufferT()
    stored.data = np.frombuffer(np.array([1, 2], "i4").tobytes(), "u1")
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0, 1], [2]
    operator.builtinOptionsType = schema.BuiltinOptions.ReducerOptions
    operator.builtinOptions = schema.ReducerOptionsT()
    graph = schema.SubGraphT()
    graph.tensors = [
        tensor("x", [1, 8, 8, 4], zero), tensor("axes", [2], kind=KIND.INT32, buffer=1),
        tensor("y", [1, 4], zero),
    ]
    graph.inputs, graph.outputs, graph.operators = [0], [2], [operator]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
    code.version = 2
    model = schema.ModelT()
    model.version, model.subgraphs, model.operatorCodes = 3, [graph], [code]
    model.buffers = [schema.BufferT(), stored]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def in_litert(content):
    run = Interpreter(model_content=content)
    run.allocate_tensors()
    run.set_tensor(run.get_input_details()[0]["index"], codes)
    run.invoke()
    return run.get_tensor(run.get_output_details()[0]["index"]).ravel().tolist()


def in_openvino(content):
    with open("reduce.tflite", "wb") as file:
        file.write(content)
    core = ov.Core()
    compiled = core.compile_model(core.read_model("reduce.tflite"), "CPU")
    return compiled(codes)[compiled.output(0)].ravel().tolist()


for name, reduce in (("REDUCE_MAX", np.max), ("REDUCE_MIN", np.min)):
    for zero in (0, -5, -128):
        lite, vino = (run(file_of(name, zero)) for run in (in_litert, in_openvino))
        print(f"{name}, zero point {zero}: LiteRT {lite}, OpenVINO {vino}")
        assert lite == reduce(codes, axis=(0, 1, 2)).tolist()
        assert vino == ([-1] * 4 if name == "REDUCE_MAX" and zero else lite), "that changed"
PY
