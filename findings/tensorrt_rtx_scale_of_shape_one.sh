#!/usr/bin/env bash
# tensorrt-rtx 1.7.1.116 (builds without a GPU): an activation scale of shape [1], which ONNX allows and ONNX Runtime's own
# tools write, parses and builds, and the convolution behind it then runs in float, without a word. The same file with a
# scalar runs it on integers.
#
# Seen, in the layers that the builder's log prints: two Int8 inputs with the scalar, Float alone with shape [1].
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 tensorrt-rtx==1.7.1.116 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
import re

import numpy as np
import tensorrt_rtx as trt
from onnx import TensorProto, checker, helper, numpy_helper

rng = np.random.default_rng(0)


class Log(trt.ILogger):
    def __init__(self):
        super().__init__()
        self.lines = []

    def log(self, severity, message):
        self.lines.append(message)


def log_of(shape):
    constants = {
        "w": rng.normal(size=(32, 32, 3, 3)).astype("f4"), "xs": np.full(shape, 0.03, "f4"), "xz": np.zeros(shape, "i1"),
        "ws": np.full(32, 0.03, "f4"), "wz": np.zeros(32, "i1"),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("QuantizeLinear", ["w", "ws", "wz"], ["wq"], axis=0),
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], axis=0),
        helper.make_node("Conv", ["xd", "wd"], ["y"], name="the_conv", pads=[1] * 4),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 32, 32, 32]) for name in ("x", "y")]
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    model = helper.make_model(helper.make_graph(nodes, "net", ports[:1], ports[1:], stored), opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    assert parser.parse(model.SerializeToString()), parser.get_error(0).desc()
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    assert builder.build_serialized_network(network, config) is not None
    return log.lines


def types_of_the_convolution(lines):
    (layers,) = [line for line in lines if line.startswith("Layers:")]
    (layer,) = [line for line in layers.splitlines() if "LayerType: correlation" in line]
    return re.findall(r"Datatype: (\w+)", layer)


scalar, vector = (types_of_the_convolution(log_of(shape)) for shape in ((), (1,)))
print(f"types of the convolution: {scalar} with a scalar, {vector} with shape [1]")
assert scalar[:2] == ["Int8", "Int8"]
assert "Int8" not in vector, "a scale of shape [1] works now"
PY
