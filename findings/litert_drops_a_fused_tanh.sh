#!/usr/bin/env bash
# ai-edge-litert 2.3.0: TFLite's schema lets CONV_2D, ADD, MUL and the pools carry a fused TANH.
# The kernels take such a file and leave the tanh out, without a word; FULLY_CONNECTED refuses it.
# OpenVINO 2026.4.1 applies it, so one file has two meanings.
#
# Seen: LiteRT's outputs with TANH are those with NONE, for ADD and MUL; OpenVINO's are their tanh.
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

NONE, RELU, TANH = (getattr(schema.ActivationFunctionType, n) for n in ("NONE", "RELU", "TANH"))
x = np.random.default_rng(0).normal(size=(2, 9)).astype("f4") * 2


def tensor(name):
    made = schema.TensorT()
    made.name, made.shape, made.type, made.buffer = name, [2, 9], schema.TensorType.FLOAT32, 0
    return made


def file_of(name, activation):
    options = {"ADD": schema.AddOptionsT, "MUL": schema.MulOptionsT}[name]()
    options.fusedActivationFunction = activation
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0, 0], [1]
    operator.builtinOptions = options
    kind = type(options).__name__.removesuffix("T")
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
    graph = schema.SubGraphT()
    graph.tensors, graph.operators = [tensor("x"), tensor("y")], [operator]
    graph.inputs, graph.outputs = [0], [1]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
    code.version = 1
    model = schema.ModelT()
    model.version, model.subgraphs, model.operatorCodes = 3, [graph], [code]
    model.buffers = [schema.BufferT()]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def in_litert(content):
    run = Interpreter(model_content=content)
    run.allocate_tensors()
    run.set_tensor(run.get_input_details()[0]["index"], x)
    run.invoke()
    return run.get_tensor(run.get_output_details()[0]["index"])


def in_openvino(content):
    with open("fused.tflite", "wb") as file:
        file.write(content)
    core = ov.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model("fused.tflite"), "CPU", options)
    return compiled(x)[compiled.output(0)]


for name, plain in (("ADD", x + x), ("MUL", x * x)):
    for activation, wanted in ((NONE, plain), (RELU, np.maximum(plain, 0)), (TANH, np.tanh(plain))):
        lite, vino = (run(file_of(name, activation)) for run in (in_litert, in_openvino))
        largest = [round(float(np.abs(values).max()), 3) for values in (lite, vino, wanted)]
        print(f"{name} with activation {activation}: largest values {largest}, the last wanted")
        assert np.allclose(vino, wanted, atol=1e-4)
        assert np.allclose(lite, plain if activation == TANH else wanted, atol=1e-5), "that changed"
PY
