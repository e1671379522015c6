#!/usr/bin/env bash
# pychop 0.6.2: Chopi(8, symmetric=True) divides the distance from the smallest to the largest value
# by 255 for its step, and has no zero point. That is right for values that reach as far to both
# sides; outputs of a ReLU lose everything above their half, weights that lean to one side a part of
# it. Without `symmetric` the codes go from 0 to 127, so that 8 bits have the error of 7.
#
# Seen: 0 to 10 comes back as 0 to 4.98, -1 to 10 as -0.99 to 5.48; -10 to 10 is exact to half a
# step. Without `symmetric` the error of 0 to 10 is that of 127 steps.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet pychop==0.6.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
from pychop import Chopi

for low, high, symmetric in ((-10, 10, True), (0, 10, True), (-1, 10, True), (0, 10, False)):
    x = np.linspace(low, high, 1001, dtype="f4")
    quantizer = Chopi(8, symmetric=symmetric)
    codes = quantizer.quantize(x)
    found = quantizer.dequantize(codes)
    step = (high - low) / 255
    error = float(np.abs(found - x).max())
    print(
        f"{low} to {high}, symmetric={symmetric}: codes {codes.min()} to {codes.max()}, "
        f"values {found.min():.2f} to {found.max():.2f}, off by up to {error:.3f}, half a step of "
        f"8 bits is {step / 2:.3f}"
    )
    if not symmetric:
        assert codes.min() == 0 and codes.max() == 127 and error > 0.9 * step, "that changed"
    elif low == -10:
        assert error < 1.1 * step / 2 + 1e-6
    else:
        assert abs(found.max() - 127 * step) < 1e-3 < high - found.max() - 1, "that changed"
PY
