#!/usr/bin/env bash
# hls4ml 1.3.0, which makes FPGA code of the files that qonnx 1.0.0 prepares: a GlobalAveragePool or
# GlobalMaxPool, which qonnx leaves with its channels first, is read with its channels last, so each
# output is taken from pixels of all channels. An Elu without `alpha` is not that of alpha 1, both
# attributes of a Selu are left out, and a MaxPool with `ceil_mode` has the smaller output. Nothing
# is said. The generated C++ is compiled with g++, as hls4ml's own `predict` does it.
#
# Seen: channels of 10, 11 and 12 behind a Conv have averages of 11 each, one channel alone is
# right; Elu of -1 is -0.01 instead of -0.63, and right with alpha=1 in the file; Selu is as if it
# had no attributes; a MaxPool of 6 x 6 pixels gives 2 x 2 instead of 3 x 3.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet hls4ml==1.3.0 qonnx==1.0.0 onnx==1.19.1 \
    onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import contextlib
import io

import hls4ml
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, checker, helper, numpy_helper
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.transformation.channels_last import ConvertToChannelsLastAndClean
from qonnx.util.cleanup import cleanup_model

def both(nodes, x, wanted_shape, name, **stored):
    """What ONNX Runtime gives, and the code that hls4ml writes, with 20 bits behind the point."""
    shapes = (("x", x.shape), ("y", wanted_shape))
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes]
    constants = [numpy_helper.from_array(v, n) for n, v in stored.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with contextlib.redirect_stdout(io.StringIO()):
        network = cleanup_model(ModelWrapper(model))
        network = cleanup_model(network.transform(ConvertToChannelsLastAndClean()))
        config = hls4ml.utils.config_from_onnx_model(
            network, granularity="name", backend="Vivado", default_precision="fixed<32,12>"
        )
        project = hls4ml.converters.convert_from_onnx_model(
            network, hls_config=config, output_dir=name, backend="Vivado", io_type="io_parallel"
        )
        project.compile()
        found = np.asarray(project.predict(x))
    return session.run(None, {"x": x})[0].ravel(), found.ravel()


settings = {"kernel_shape": [1, 1], "pads": [0] * 4, "strides": [1, 1], "dilations": [1, 1]}
conv = helper.make_node("Conv", ["x", "w"], ["u"], group=1, **settings)
for channels in (1, 3):
    means = np.arange(10, 10 + channels, dtype="f4")
    x = np.tile(means.reshape(1, -1, 1, 1), (1, 1, 3, 3))
    identity = np.eye(channels, dtype="f4").reshape(channels, channels, 1, 1)
    nodes = [conv, helper.make_node("GlobalAveragePool", ["u"], ["y"])]
    wanted, found = both(nodes, x, [1, channels, 1, 1], f"pool{channels}", w=identity)
    print(f"GlobalAveragePool: {wanted} in ONNX Runtime, {found.round(2)} here")
    assert np.allclose(wanted, means)
    assert np.allclose(found, means.mean(), atol=1e-3), "that changed"

x = np.array([[-2, -1, -0.5, 1]], "f4")
usual = np.where(x > 0, 1.0507 * x, 1.0507 * 1.67326 * np.expm1(x))
cases = (
    ("Elu", {"alpha": 1.0}, np.where(x > 0, x, np.expm1(x))),
    ("Elu", {}, np.where(x > 0, x, 0)),
    ("Selu", {"alpha": 0.5, "gamma": 2.0}, usual),
)
for index, (kind, settings, seen) in enumerate(cases):
    node = helper.make_node(kind, ["x"], ["y"], **settings)
    wanted, found = both([node], x, [1, 4], f"case{index}")
    print(f"{kind} {settings}: {wanted.round(2)} in ONNX Runtime, {found.round(2)} here")
    assert np.allclose(found, seen, atol=0.02), "that changed"
    assert np.allclose(found, wanted, atol=0.02) == (index == 0), "that changed"

x = np.arange(36, dtype="f4").reshape(1, 1, 6, 6)
window = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0] * 4, "ceil_mode": 1}
pool = helper.make_node("MaxPool", ["x"], ["y"], **window)
wanted, found = both([pool], x, [1, 1, 3, 3], "window")
print(f"MaxPool with ceil_mode=1: {wanted.size} values in ONNX Runtime, {found.size} here")
assert (wanted.size, found.size) == (9, 4), "that changed"
PY
