#!/usr/bin/env bash
# onnxruntime 1.31.1: quantize_static at its defaults (asymmetric activations) removes every Relu and Clip whose input it
# quantizes. The Q/DQ pair does the clamping from then on, and nothing in the file says that it does.
#
# Whoever takes a pair out to get the layer back in float takes the activation out as well: the network without its
# pairs is not the float model. `qdq_keep_removable_activations` keeps them; it is off by default.
#
# Seen: Relu and Clip gone; without its pairs the network differs from the float model by more than half of its largest
# value; with the option both operations stay.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, quantize_static

rng = np.random.default_rng(0)
images = rng.normal(size=(32, 3, 8, 8)).astype("f4") * 3
weights = {name: rng.normal(size=shape).astype("f4") * 0.3 for name, shape in {"w0": (8, 3, 3, 3), "w1": (8, 8, 3, 3), "w2": (4, 8, 3, 3)}.items()}
constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
constants += [numpy_helper.from_array(np.float32(0), "low"), numpy_helper.from_array(np.float32(1), "high")]
nodes = [
    helper.make_node("Conv", ["x", "w0"], ["c0"], pads=[1] * 4),
    helper.make_node("Relu", ["c0"], ["r0"]),
    helper.make_node("Conv", ["r0", "w1"], ["c1"], pads=[1] * 4),
    helper.make_node("Clip", ["c1", "low", "high"], ["r1"]),
    helper.make_node("Conv", ["r1", "w2"], ["y"], pads=[1] * 4),
]
ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size, 8, 8]) for name, size in (("x", 3), ("y", 4))]
model = helper.make_model(helper.make_graph(nodes, "net", ports[:1], ports[1:], constants), opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.save(model, "float.onnx")


class Reader(CalibrationDataReader):
    def __init__(self):
        self.batches = iter([{"x": images}])

    def get_next(self):
        return next(self.batches, None)


def operations(path):
    return [node.op_type for node in onnx.load(path).graph.node if node.op_type not in ("QuantizeLinear", "DequantizeLinear")]


def without_pairs(path):
    quantized = onnx.load(path)
    stored = {i.name: numpy_helper.to_array(i) for i in quantized.graph.initializer}
    alias, kept, made = {}, [], []
    for node in quantized.graph.node:
        if node.op_type == "QuantizeLinear":
            alias[node.output[0]] = alias.get(node.input[0], node.input[0])
        elif node.op_type == "DequantizeLinear" and node.input[0] in stored:
            name = node.input[0].removesuffix("_quantized")
            made.append(numpy_helper.from_array(weights[name], name))
            alias[node.output[0]] = name
        elif node.op_type == "DequantizeLinear":
            alias[node.output[0]] = alias.get(node.input[0], node.input[0])
        else:
            node.input[:] = [alias.get(name, name) for name in node.input]
            kept.append(node)
    kept.append(helper.make_node("Identity", [alias["y"]], ["y"])) if "y" in alias else None
    for node in kept[:-1]:
        node.output[:] = [name if name != "y" else "y_" for name in node.output]
    del quantized.graph.node[:]
    quantized.graph.node.extend(kept)
    quantized.graph.initializer.extend(made)
    return quantized.SerializeToString()


def run(content):
    return ort.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"x": images})[0]


quantize_static("float.onnx", "default.onnx", Reader())
quantize_static("float.onnx", "kept.onnx", Reader(), extra_options={"QDQKeepRemovableActivations": True})
truth, cut = run("float.onnx"), run(without_pairs("default.onnx"))
apart = float(np.abs(truth - cut).max() / np.abs(truth).max())
print("default:", operations("default.onnx"), "| with QDQKeepRemovableActivations:", operations("kept.onnx"))
print(f"the default file without its pairs differs from the float model by {apart:.2f} of its largest value")
assert operations("default.onnx") == ["Conv", "Conv", "Conv"], "activations are kept now"
assert operations("kept.onnx") == ["Conv", "Relu", "Conv", "Clip", "Conv"], "the option changed"
assert apart > 0.5, "the network without pairs is the float model now"
PY
