#!/usr/bin/env bash
# nncf 3.4.0: a regular expression of IgnoredScope(patterns=...) has to match at the start of a
# node's name, and may end anywhere in it. A name written there without "$" leaves out every layer
# whose name goes on: "block.1" also block.10 to block.19. names=... takes whole names.
#
# Seen: of block.1, block.10 and block.2, the pattern "block\.1" leaves out two layers, "block\.1$"
# and the name one; "lock\.1" is refused as matching nothing.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet nncf==3.4.0 onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import nncf
import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

rng = np.random.default_rng(0)
names = ["block.1", "block.10", "block.2"]
nodes, stored = [], []
for position, name in enumerate(names):
    ends = [f"t{position}", f"t{position + 1}"]
    nodes.append(helper.make_node("Conv", [ends[0], f"{name}.w"], ends[1:], name=name))
    stored.append(numpy_helper.from_array(rng.normal(size=(8, 8, 1, 1)).astype("f4"), f"{name}.w"))
ports = [helper.make_tensor_value_info(t, TensorProto.FLOAT, [1, 8, 4, 4]) for t in ("t0", "t3")]
graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
checker.check_model(model, full_check=True)
data = nncf.Dataset([{"t0": rng.normal(size=(1, 8, 4, 4)).astype("f4")} for _ in range(4)])


def left_out(**scope):
    made = nncf.quantize(model, data, ignored_scope=nncf.IgnoredScope(**scope), subset_size=4)
    pairs = {n.output[0] for n in made.graph.node if n.op_type == "DequantizeLinear"}
    return [n.name for n in made.graph.node if n.name in names and n.input[1] not in pairs]


found = {
    pattern: left_out(patterns=[pattern]) for pattern in (r"block\.1", r"block\.1$", ".*lock.1$")
}
for pattern, layers in found.items():
    print(f"pattern {pattern} leaves out {layers}")
assert left_out(names=["block.1"]) == ["block.1"]
assert found[r"block\.1$"] == found[".*lock.1$"] == ["block.1"]
assert found[r"block\.1"] == ["block.1", "block.10"], "that changed"
try:
    left_out(patterns=[r"lock\.1"])
    said = "taken"
except nncf.ValidationError as error:
    said = " ".join(str(error).split())
print("pattern lock\\.1:", said)
assert "were not found" in said, "that changed"
PY
