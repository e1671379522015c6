#!/usr/bin/env bash
# coremltools 9.0: palettize_weights with enable_per_channel_scale=True divides the weight by
# scales, in place, before it knows whether the weight can be palettized. If it cannot, the weight
# stays float and the scales are lost. The only word about it is a warning that the operation was
# skipped, which usually means that a weight stays as exact as it was.
#
# Seen: a Linear of 120 outputs in groups of 16 keeps a float weight whose largest value is 1 for
# each input, and so does a Conv with more than 256 different values in mode "unique"; outputs are
# off by 0.66 and 0.57 of the largest. Without scales both weights stay as they were; groups that
# divide the outputs are right.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet coremltools==9.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
from coremltools.converters.mil import Builder

rng = np.random.default_rng(0)
matrix = rng.normal(size=(120, 64)).astype("f4")
kernels = rng.normal(size=(16, 32, 3, 3)).astype("f4")
target = ct.target.iOS18


@Builder.program(input_specs=[Builder.TensorSpec(shape=(1, 64))], opset_version=target)
def linear(x):
    return Builder.linear(x=x, weight=matrix, bias=np.zeros(120, "f4"))


@Builder.program(input_specs=[Builder.TensorSpec(shape=(1, 32, 8, 8))], opset_version=target)
def conv(x):
    return Builder.conv(x=x, weight=kernels)


def stored(model, kind):
    """The kind of node that holds the weight, and the weight in float."""
    dense = cto.decompress_weights(model)
    nodes = [
        node
        for one in (model, dense)
        for node in one._mil_program.functions["main"].operations
        if node.op_type == kind
    ]
    return nodes[0].weight.op.op_type, nodes[1].weight.val


def palettized(program, **settings):
    model = ct.convert(
        program,
        minimum_deployment_target=target,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    config = cto.OpPalettizerConfig(
        granularity="per_grouped_channel", weight_threshold=0, **settings
    )
    return cto.palettize_weights(model, cto.OptimizationConfig(global_config=config))


uniform = {"mode": "uniform", "nbits": 8}
cases = (
    (linear, "linear", matrix, uniform | {"group_size": 16}, True),
    (linear, "linear", matrix, uniform | {"group_size": 8}, False),
    (conv, "conv", kernels, {"mode": "unique", "group_size": 4}, True),
    (conv, "conv", kernels, uniform | {"group_size": 4}, False),
)
for program, kind, weight, settings, is_skipped in cases:
    rows = weight.reshape(len(weight), -1)
    x = rng.normal(size=rows.shape[1]).astype("f4")
    for scales in (False, True):
        model = palettized(program, enable_per_channel_scale=scales, **settings)
        node, found = stored(model, kind)
        found = found.reshape(rows.shape)
        cost = float(np.abs(found @ x - rows @ x).max() / np.abs(rows @ x).max())
        print(f"{kind} {settings}, scales {scales}: {node}, outputs off by {cost:.4f}")
        assert (node == "const") == is_skipped, "that changed"
        if is_skipped and scales:
            scaled = rows / np.abs(rows).max(axis=0)
            assert np.allclose(found, scaled) and cost > 0.5, "that changed"
        else:
            assert cost == 0 if is_skipped else cost < 0.02
PY
