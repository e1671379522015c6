#!/usr/bin/env bash
# nvidia-modelopt 0.47.0 with torch 2.13.0: HistogramCalibrator's method "mse" does not look for the
# range of the smallest squared error. It hands the number of bits to fake_tensor_quant as third
# argument, which is the bias: 8 is taken from all values and added again, every value becomes the
# same one, and the error is least for the smallest range that is tried, a sixteenth of the largest
# value (bin 128 of 2048). Of uniform values 94 of 100 are cut off. A ResNet-20 calibrated so falls
# from 79 % to 10 % on CIFAR-10. The same search with the arguments by name ends at the whole range.
#
# Seen: amax 0.0627 of 1.0 by "mse"; squared error of that range 0.27, of the whole range 5e-06.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 nvidia-modelopt==0.47.0 requests huggingface_hub numpy==2.4.6
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import numpy as np
import torch
from modelopt.torch.quantization.calib import HistogramCalibrator

values = np.random.default_rng(0).random(100_000).astype(np.float32)


def error(amax):
    """Mean squared error of symmetric 8-bit quantization with this range, by numpy alone."""
    step = amax / 127
    return float(np.mean((np.clip(np.rint(values / step), -127, 127) * step - values) ** 2))


calibrator = HistogramCalibrator(num_bits=8, axis=None, unsigned=False, num_bins=2048)
calibrator.collect(torch.from_numpy(values))
amax = float(calibrator.compute_amax("mse"))
whole = float(values.max())
best = min(np.linspace(0.05, 1.0, 96) * whole, key=error)
print(f"amax {amax:.4f} of {whole:.4f}; the best range is {best:.4f}")
print(f"squared error {error(amax):.2f}, of the whole range {error(whole):.0e}")
assert amax < 0.07 * whole, "that changed"
assert best > 0.98 * whole
assert error(amax) > 10_000 * error(whole)
PY
