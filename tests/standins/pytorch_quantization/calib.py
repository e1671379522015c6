"""Calibrators: they watch what passes, and say the range."""

import torch


class MaxCalibrator:
    def __init__(self, num_bits, axis, unsigned):
        self._num_bits, self._axis, self._unsigned = num_bits, axis, unsigned
        self._calib_amax = None

    def collect(self, x):
        axes = self._axis if isinstance(self._axis, (list, tuple)) else [self._axis]
        kept = [axis % x.dim() for axis in axes if axis is not None]
        found = x.detach().abs().amax([axis for axis in range(x.dim()) if axis not in kept], keepdim=True)
        found = found.squeeze() if found.numel() == 1 else found
        self._calib_amax = found if self._calib_amax is None else torch.maximum(self._calib_amax, found)

    def compute_amax(self):
        return self._calib_amax
