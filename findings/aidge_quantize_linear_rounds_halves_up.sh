#!/usr/bin/env bash
# aidge_onnx 0.10.1: a QuantizeLinear of a file rounds halves up, where ONNX rounds them to the even
# code, which a Round of the same file does. Values lie on halves as a rule where one pair follows
# another with twice its scale: a quarter of them becomes one code larger, never one smaller.
#
# Seen: -1.5, 0.5 and 2.5 become -1, 1 and 3 instead of -2, 0 and 2; behind a pair of half the scale
# 1 code of 4 is one too large.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet aidge-core==0.10.1 aidge-onnx==0.10.1 \
    aidge-backend-cpu==0.10.1 onnx==1.22.0 onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import aidge_backend_cpu
import aidge_core
import aidge_onnx
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

aidge_core.Log.set_console_level(aidge_core.Level.Fatal)


def pair(source, target, scale):
    """A QuantizeLinear and a DequantizeLinear from `source` to `target`."""
    codes = f"{target}_codes"
    return [
        helper.make_node("QuantizeLinear", [source, scale, "zero"], [codes]),
        helper.make_node("DequantizeLinear", [codes, scale, "zero"], [target]),
    ]


def outputs(nodes, x, scales):
    """What ONNX Runtime and Aidge compute, in steps of 1."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(x.shape)) for name in "xy"]
    stored = [numpy_helper.from_array(np.float32(value), name) for name, value in scales.items()]
    if scales:
        stored += [numpy_helper.from_array(np.int8(0), "zero")]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "net.onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession("net.onnx", options, providers=["CPUExecutionProvider"])
    network = aidge_onnx.load_onnx("net.onnx")
    network.set_backend("cpu")
    network.forward_dims([list(x.shape)], True)
    aidge_core.SequentialScheduler(network).forward(True, [aidge_core.Tensor(x)])
    (last,) = network.get_output_nodes()
    return session.run(None, {"x": x})[0], np.array(last.get_operator().get_output(0))


halves = np.arange(-3.5, 4, dtype="f4")
wanted, found = outputs([helper.make_node("Round", ["x"], ["y"])], halves, {})
assert (found == wanted).all() and (wanted == np.round(halves)).all()
wanted, found = outputs(pair("x", "y", "one"), halves, {"one": 1})
print("values:      ", halves.tolist())
print("ONNX Runtime:", wanted.tolist())
print("Aidge:       ", found.tolist())
assert (wanted == np.round(halves)).all() and (found == np.floor(halves + 0.5)).all(), "changed"

x = np.random.default_rng(0).normal(size=10000).astype("f4") * 20
two = pair("x", "middle", "half") + pair("middle", "y", "one")
wanted, found = outputs(two, x, {"half": 0.5, "one": 1})
share = float((found != wanted).mean())
print(f"behind a pair of half the scale {share:.0%} of the codes are larger by 1, none is smaller")
assert 0.2 < share < 0.3 and (found - wanted).min() == 0 and (found - wanted).max() == 1, "changed"
PY
