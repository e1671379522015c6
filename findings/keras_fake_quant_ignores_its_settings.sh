#!/usr/bin/env bash
# Keras 3.15.1 on torch 2.13.0: quantizers.fake_quant_with_min_max_vars drops its settings. In a
# functional model, num_bits, narrow_range and axis do not get into the network, without a word:
# whatever they say, it rounds to 8 bits. On tensors, axis is left out of the forward pass, and
# ranges per channel meet the last axis: a square weight is cut off by the ranges of its columns,
# and most others raise an error. A range from 0 to 0, as a channel of zeros has, gives NaN.
#
# Seen: 4 bits are 16 levels on a tensor and 256 in a model of it; ranges for axis 0 of a weight of
# 8 x 8 cost 0.9 and for axis 1 at most half a step; zeros with their own range are all NaN.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 keras==3.15.1 numpy==2.4.6
cd "$work"
KERAS_BACKEND=torch "$work/venv/bin/python" - 2>/dev/null <<'PY'
import keras
import numpy as np
from keras.quantizers import fake_quant_with_min_max_vars as fake_quant

x = np.linspace(-1, 1, 1001, dtype="f4")[None]
ports = keras.Input((1001,))
cases = (({}, 256), ({"num_bits": 4}, 16), ({"num_bits": 2, "narrow_range": True}, 3))
for settings, levels in cases:
    on_tensor = np.unique(keras.ops.convert_to_numpy(fake_quant(x, -1.0, 1.0, **settings)))
    model = keras.Model(ports, fake_quant(ports, -1.0, 1.0, **settings))
    in_model = np.unique(model.predict(x, verbose=0))
    print(f"{settings}: {on_tensor.size} levels on a tensor, {in_model.size} in a model")
    assert (on_tensor.size, in_model.size) == (levels, 256), "that changed"

rng = np.random.default_rng(0)
ranges = np.logspace(-3, 0, 8, dtype="f4")
for axis, shape in ((0, (8, 1)), (1, (1, 8))):
    weight = rng.uniform(-1, 1, (8, 8)).astype("f4") * ranges.reshape(shape)
    found = keras.ops.convert_to_numpy(fake_quant(weight, -ranges, ranges, axis=axis))
    steps = np.abs(found - weight) / (ranges.reshape(shape) / 127.5)
    apart = float(np.abs(found - weight).max())
    print(f"ranges for axis {axis}: at most {apart:.4f} or {steps.max():.1f} steps apart")
    assert (apart > 0.5 and steps.max() > 50) if axis == 0 else steps.max() < 0.6, "that changed"
try:
    fake_quant(np.ones((8, 6), "f4"), -ranges, ranges, axis=0)
except RuntimeError as error:
    print(f"a weight of 8 x 6 with ranges for axis 0: {str(error)[:60]}")
else:
    raise SystemExit("that changed")
found = keras.ops.convert_to_numpy(fake_quant(np.zeros(4, "f4"), 0.0, 0.0))
print(f"zeros with a range from 0 to 0: {found}")
assert np.isnan(found).all(), "that changed"
PY
