#!/usr/bin/env bash
# onnxruntime-qnn 2.7.0 (QNN 2.51, its HTP backend for x86-64): a padded convolution that reads a
# DequantizeLinear and whose output is not quantized, or quantized to another type, pads with code 0
# instead of with the value 0. A pair of the same type after it makes it right.
#
# Seen: without padding, and with a pair of the same type, QNN agrees with ONNX Runtime's CPU to a
# step; with padding and a float output, or one of 16 bits, it is wrong by more than the largest
# output, and agrees with a convolution whose border is the lowest value of the pair.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 onnxruntime-qnn==2.7.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime as ort
import onnxruntime_qnn as qnn
from onnx import TensorProto, helper, numpy_helper

random = np.random.default_rng(0)
x = random.normal(size=(1, 16, 8, 8)).astype("f4")
constants = {
    "s": np.float32(0.03),
    "z": np.uint8(128),
    "s16": np.float32(0.03 / 256),
    "z16": np.uint16(32768),
    "w": random.integers(80, 176, (16, 16, 3, 3), dtype="u1"),
    "ws": np.float32(0.003),
    "p": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "lowest": np.float32(-128 * 0.03),
}
ort.set_default_logger_severity(3)
ort.register_execution_provider_library("QNNExecutionProvider", qnn.get_library_path())
devices = [one for one in ort.get_ep_devices() if one.ep_name == "QNNExecutionProvider"]


def model(padding, after, border=""):
    """border: name of the value on the border, which a Pad then gives."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "z"], ["wd"]),
    ]
    read = "d"
    if border:
        nodes.append(helper.make_node("Pad", ["d", "p", border], ["padded"]))
        read = "padded"
    pads = [0 if border else padding] * 4
    nodes.append(helper.make_node("Conv", [read, "wd"], ["c" if after else "y"], pads=pads))
    if after:
        nodes.append(helper.make_node("QuantizeLinear", ["c", *after], ["cq"]))
        nodes.append(helper.make_node("DequantizeLinear", ["cq", *after], ["y"]))
    shapes = (("x", [1, 16, 8, 8]), ("y", [1, 16, 6 + 2 * padding, 6 + 2 * padding]))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in shapes]
    stored = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString()


def on_cpu(made):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(made, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def on_qnn(made):
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_provider_for_devices(devices, {"backend_path": qnn.get_qnn_htp_path()})
    return ort.InferenceSession(made, options).run(None, {"x": x})[0]


def apart(ours, theirs):
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


eight, sixteen = ("s", "z"), ("s16", "z16")
cases = {
    "no padding, float": (0, ()),
    "padding, 8 bits": (1, eight),
    "padding, float": (1, ()),
    "padding, 16 bits": (1, sixteen),
}
found = {name: apart(on_qnn(model(*case)), on_cpu(model(*case))) for name, case in cases.items()}
lowest = apart(on_qnn(model(1, ())), on_cpu(model(1, (), border="lowest")))
for name, far in found.items():
    print(f"{name} after it: relative difference {far:.3f}")
print(f"padding, float after it, beside a border of the lowest value: {lowest:.3f}")
assert max(found["no padding, float"], found["padding, 8 bits"], lowest) < 0.05
assert min(found["padding, float"], found["padding, 16 bits"]) > 0.5, "the border is 0 now"
PY
