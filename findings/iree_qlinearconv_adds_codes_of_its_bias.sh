#!/usr/bin/env bash
# iree-base-compiler 3.13.0: QLinearConv with a weight scale per channel (quantize_static with
# quant_format=QOperator and per_channel) adds the codes of its int32 bias as if they were values.
# The scale that ONNX gives them, that of the input times that of the weight, is used only where the
# weight has a single one. Biases of hundreds or thousands of codes saturate every output, without a
# word. Weight scales per channel are right.
#
# Seen: with 100 codes of bias all channels are at the end of the output's range, where ONNX Runtime
# has 1.1, 2.2, 4.4 and 8.8; without bias, and with one scale, both agree.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "iree-base-compiler[onnx]==3.13.0" iree-base-runtime==3.13.0 \
    onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
cd "$work"; export PATH="$work/venv/bin:$PATH"
python - 2>/dev/null <<'PY'
import subprocess

import iree.runtime
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, checker, helper, numpy_helper

node = helper.make_node
x = np.full([1, 2, 2, 3], 5, "f4")


def outputs(w_scale, bias):
    """What ONNX Runtime and IREE give for each channel."""
    constants = {
        "xs": np.float32(1), "ys": np.float32(0.1), "z": np.uint8(128),
        "w": np.ones([4, 2, 1, 1], "i1"), "ws": w_scale, "wz": np.zeros(w_scale.shape, "i1"),
        "b": np.full(4, bias, "i4"),
    }
    nodes = [
        node("QuantizeLinear", ["x", "xs", "z"], ["q"]),
        node("QLinearConv", ["q", "xs", "z", "w", "ws", "wz", "ys", "z", "b"], ["c"]),
        node("DequantizeLinear", ["c", "ys", "z"], ["y"]),
    ]
    shapes = (("x", [1, 2, 2, 3]), ("y", [1, 4, 2, 3]))
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes]
    stored = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    onnx.save(model, "net.onnx")
    session = ort.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    theirs = session.run(None, {"x": x})[0][0, :, 0, 0]
    subprocess.run(["iree-import-onnx", "net.onnx", "-o", "net.mlir"], check=True)
    target = ["--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=llvm-cpu"]
    subprocess.run(["iree-compile", "net.mlir", *target, "-o", "net.vmfb"], check=True)
    context = iree.runtime.SystemContext(config=iree.runtime.Config("local-task"))
    context.add_vm_module(iree.runtime.VmModule.mmap(context.instance, "net.vmfb"))
    found = np.asarray(context.modules.module["net"](x))[0, :, 0, 0]
    return theirs, found


several, one = np.array([0.01, 0.02, 0.04, 0.08], "f4"), np.array([0.01], "f4")
for words, scale, bias in (
    ("a scale per channel, no bias", several, 0),
    ("one scale, 100 codes of bias", one, 100),
    ("a scale per channel, 100 codes of bias", several, 100),
):
    theirs, found = outputs(scale, bias)
    shown = [" ".join(f"{value:.1f}" for value in values) for values in (theirs, found)]
    print(f"{words}: ONNX Runtime {shown[0]}, IREE {shown[1]}")
    if bias and scale.size > 1:
        assert np.allclose(found, 12.7), "that changed"
        assert np.allclose(theirs, 110 * scale, atol=0.06)
    else:
        assert np.allclose(found, theirs, atol=0.01)
PY
