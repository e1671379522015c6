#!/usr/bin/env bash
# onnxscript 0.7.2: optimizer.optimize, with which torch.onnx.export (torch 2.13.0) ends, joins a
# Clip and the ReLU or Clip behind it into one Clip, and names its limits after the tensor that is
# clipped. Where two branches clip one tensor the names clash, and the second Clip reads limits that
# are not in the file. A Clip to limits below 0 and a ReLU become a Clip whose lower limit is above
# its upper one: the ReLU gives negative numbers.
#
# Seen: one branch is as before; two give a file that the checker refuses; the ReLU of a Clip to -1
# and -0.5 is -0.5 instead of 0.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnxscript==0.7.2 onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, checker, helper, numpy_helper, shape_inference
from onnxscript import optimizer

x = np.linspace(-3, 8, 12, dtype="f4")


def model(*limits):
    """The sum of ReLUs behind a Clip of x to each pair of limits."""
    nodes, stored = [], []
    for index, pair in enumerate(limits):
        names = f"low{index}", f"high{index}"
        stored += [numpy_helper.from_array(np.float32(v), n) for v, n in zip(pair, names)]
        nodes.append(helper.make_node("Clip", ["x", *names], [f"c{index}"]))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
    nodes.append(helper.make_node("Sum", [f"r{index}" for index in range(len(limits))], ["y"]))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [12]) for name in "xy"]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(made, full_check=True)
    return made


def outcome(*limits):
    made = optimizer.optimize(shape_inference.infer_shapes(model(*limits)))
    try:
        checker.check_model(made, full_check=True)
    except checker.ValidationError as error:
        assert "is not output of any previous nodes" in str(error), error
        return "refused"
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return f"least {session.run(None, {'x': x})[0].min():.1f}"


found = {
    "one branch": outcome((-1, 6)),
    "two branches": outcome((-1, 6), (-2, 2)),
    "limits below 0": outcome((-1, -0.5)),
}
print(found)
wanted = {"one branch": "least 0.0", "two branches": "refused", "limits below 0": "least -0.5"}
assert found == wanted, "that changed"
PY
