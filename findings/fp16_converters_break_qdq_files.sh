#!/usr/bin/env bash
# onnxruntime 1.31.1 (transformers.float16) and onnxconverter-common 1.16.0: convert_float_to_float16 of a Q/DQ file of opset
# 17 turns the weight initializers into FP16 and leaves QuantizeLinear, which takes FP32 alone before opset 19, in front of
# them. Neither says anything; the file does not load.
#
# Seen: both converters return a model that ONNX Runtime refuses for tensor(float16) at QuantizeLinear.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.31.1 onnxconverter-common==1.16.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
import numpy as np
import onnxruntime as ort
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper
from onnxconverter_common import float16 as common
from onnxruntime.transformers import float16 as transformers

rng = np.random.default_rng(0)
constants = {"w": rng.normal(size=(4, 3, 3, 3)).astype("f4"), "x_s": np.float32(0.03), "x_z": np.int8(0), "w_s": np.full(4, 0.02, "f4"), "w_z": np.zeros(4, "i1")}
nodes = [
    helper.make_node("QuantizeLinear", ["x", "x_s", "x_z"], ["xq"]),
    helper.make_node("DequantizeLinear", ["xq", "x_s", "x_z"], ["xd"]),
    helper.make_node("QuantizeLinear", ["w", "w_s", "w_z"], ["wq"], axis=0),
    helper.make_node("DequantizeLinear", ["wq", "w_s", "w_z"], ["wd"], axis=0),
    helper.make_node("Conv", ["xd", "wd"], ["y"], pads=[1] * 4),
]
ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size, 8, 8]) for name, size in (("x", 3), ("y", 4))]
stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
model = helper.make_model(helper.make_graph(nodes, "net", ports[:1], ports[1:], stored), opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
checker.check_model(model, full_check=True)
ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
for name, convert in (("onnxconverter-common", common.convert_float_to_float16), ("onnxruntime.transformers", transformers.convert_float_to_float16)):
    made = convert(ModelProto.FromString(model.SerializeToString()), keep_io_types=True)
    try:
        ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as error:
        said = str(error)
    else:
        raise SystemExit(f"{name}: the file loads now")
    print(f"{name}: {said[:160]}")
    assert "float16" in said and "QuantizeLinear" in said
PY
