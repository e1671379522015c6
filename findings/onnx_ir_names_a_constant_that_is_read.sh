#!/usr/bin/env bash
# onnx-ir 1.1.0: onnx_ir.convenience.get_const_tensor, which reads the value of a Constant, names the tensor in the node's
# attribute after the node's output. The model is then saved with other bytes than before it was read, so a digest of its
# serialized form says that it is another model. The docstring says only that the value's `const_value` is not altered.
#
# Seen: another digest after one read, and a name where the file had none.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnx-ir==1.1.0 numpy==2.4.6 ml_dtypes
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import hashlib

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, checker, helper, numpy_helper

value = numpy_helper.from_array(np.float32([1, 2, 3]))
nodes = [
    helper.make_node("Constant", [], ["c"], name="constant", value=value),
    helper.make_node("Add", ["x", "c"], ["y"], name="add"),
]
ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in "xy"]
model = helper.make_model(helper.make_graph(nodes, "net", ports[:1], ports[1:]), opset_imports=[helper.make_opsetid("", 17)])
checker.check_model(model)
read = ir.from_proto(model)
constant = read.graph.node("constant")


def digest() -> str:
    return hashlib.sha256(ir.to_proto(read).SerializeToString(deterministic=True)).hexdigest()


before, name = digest(), constant.attributes["value"].as_tensor().name
ir.convenience.get_const_tensor(constant.outputs[0])
after, renamed = digest(), constant.attributes["value"].as_tensor().name
print(f"the tensor's name was {name!r} and is {renamed!r}; the model's digest was {before[:8]} and is {after[:8]}")
assert not name and renamed == "c" and before != after, "reading a Constant leaves it as it is now"
PY
