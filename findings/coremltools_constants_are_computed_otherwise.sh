#!/usr/bin/env bash
# coremltools 9.0: what a network computes of constants alone is computed while the network is
# built, and not always as the operations are documented. thresholded_relu writes its zeros into the
# constant itself, so a layer with the same weight gets them too. concat with interleave=True puts
# the operands one behind the other, as with False. Nothing is said.
#
# Seen: a Linear beside a thresholded_relu of its own weight has lost every weight below the
# threshold, and its outputs are off by 0.56 of the largest; beside a relu it keeps all. Two
# interleaved constants have their rows in the order 1 2 3 4 instead of 1 3 2 4.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet coremltools==9.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder

target = ct.target.iOS18


def converted(build, size):
    """The operations of a network of x [1, size]."""
    port = Builder.TensorSpec(shape=(1, size))
    program = Builder.program(input_specs=[port], opset_version=target)(build)
    model = ct.convert(
        program,
        minimum_deployment_target=target,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    return {node.op_type: node for node in model._mil_program.functions["main"].operations}


rng = np.random.default_rng(0)
original = rng.normal(size=(32, 32)).astype("f4")
x = rng.normal(size=32).astype("f4")
for kind, options in (("relu", {}), ("thresholded_relu", {"alpha": 0.5})):
    weight = original.copy()

    def build(x):
        layer = Builder.linear(x=x, weight=weight)
        other = getattr(Builder, kind)(x=weight, **options)
        return layer, Builder.matmul(x=x, y=other)

    found = converted(build, 32)["linear"].weight.val
    cost = float(np.abs(found @ x - original @ x).max() / np.abs(original @ x).max())
    kept = int((found != 0).sum())
    print(f"Linear beside {kind}: {kept} of 1024 weights are not 0, outputs off by {cost:.2f}")
    if kind == "relu":
        assert np.array_equal(found, original)
    else:
        lost = np.where(original < 0.5, 0, original)
        assert np.array_equal(found, lost) and cost > 0.3, "that changed"

first, second = np.array([[1.0], [2.0]], "f4"), np.array([[3.0], [4.0]], "f4")
for interleave in (False, True):

    def joined(x):
        rows = Builder.concat(values=(first, second), axis=0, interleave=interleave)
        return Builder.matmul(x=x, y=rows)

    rows = converted(joined, 4)["matmul"].y.val.ravel()
    print(f"concat with interleave={interleave}: rows {rows}")
    assert rows.tolist() == [1, 2, 3, 4], "that changed"
PY
