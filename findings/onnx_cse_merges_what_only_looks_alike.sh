#!/usr/bin/env bash
# onnx-cse 0.3.1: eliminate_common_subexpressions merges nodes that look alike and are not. Two
# RandomNormalLike nodes without a seed are two draws; afterwards they are one, and noise that was
# independent is added twice. The constants within a branch of an If are told apart by their names
# alone, which count in their own graph only: of two If nodes whose branches multiply by different
# weights of the same name, the second gets the output of the first. Nothing is said.
#
# Seen: the difference of two draws has a deviation of 1.4 before and of 0 after, and two Ifs are
# one If with a difference of 0; with a seed each, and with names of their own, all stay apart.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx-cse==0.3.1 xxhash==3.6.0 onnx==1.19.1 \
    onnxruntime==1.31.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, checker, helper, numpy_helper
from onnx_cse import eliminate_common_subexpressions

rng = np.random.default_rng(0)
x = rng.normal(size=(64, 64)).astype("f4")


def port(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def difference(first, second, *more):
    """y = one - other of two nodes, before and after the elimination."""
    nodes = [first, second, helper.make_node("Sub", ["one", "other"], ["y"])]
    graph = helper.make_graph(nodes, "net", [port("x", x.shape), *more], [port("y", x.shape)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found = []
    for eliminate in (False, True):
        if eliminate:
            eliminate_common_subexpressions(model)
        checker.check_model(model, full_check=True)
        content = model.SerializeToString()
        session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
        given = {"x": x} | {value.name: np.array(True) for value in more}
        found.append(float(session.run(None, given)[0].std()))
    return found


def draw(output, **seed):
    return helper.make_node("RandomNormalLike", ["x"], [output], **seed)


def branch(weight, name, output):
    """A graph that multiplies x by a weight of its own."""
    node = helper.make_node("MatMul", ["x", name], [output])
    stored = [numpy_helper.from_array(weight, name)]
    return helper.make_graph([node], output, [], [port(output, x.shape)], stored)


def chosen(output, name, weight):
    branches = {
        f"{kind}_branch": branch(weight * factor, f"{name}_{kind}", f"{output}_{kind}")
        for kind, factor in (("then", 1), ("else", 2))
    }
    return helper.make_node("If", ["flag"], [output], **branches)


before, after = difference(draw("one"), draw("other"))
print(f"two draws without a seed: difference deviates by {before:.2f}, afterwards {after:.2f}")
assert before > 1 and after == 0, "that changed"
before, after = difference(draw("one", seed=1.0), draw("other", seed=2.0))
assert before > 1 and abs(after - before) < 1e-6

flag = port("flag", [], TensorProto.BOOL)
first, second = rng.normal(size=(2, 64, 64)).astype("f4")
for names in (("a", "b"), ("w", "w")):
    ifs = [chosen(*each) for each in zip(("one", "other"), names, (first, second), strict=True)]
    before, after = difference(*ifs, flag)
    print(f"two Ifs with weights {names}: difference {before:.2f}, afterwards {after:.2f}")
    assert before > 1
    assert after == 0 if names[0] == names[1] else abs(after - before) < 1e-3, "that changed"
PY
