"""Calibrators: they watch what passes, and say the range."""

import numpy as np
import torch


class MaxCalibrator:
    def __init__(self, num_bits, axis, unsigned):
        self._num_bits, self._axis, self._unsigned = num_bits, axis, unsigned
        self._calib_amax = None

    def collect(self, x):
        axes = self._axis if isinstance(self._axis, (list, tuple)) else [self._axis]
        kept = [axis % x.dim() for axis in axes if axis is not None]
        found = (
            x.detach()
            .abs()
            .amax([axis for axis in range(x.dim()) if axis not in kept], keepdim=True)
        )
        found = found.squeeze() if found.numel() == 1 else found
        self._calib_amax = (
            found if self._calib_amax is None else torch.maximum(self._calib_amax, found)
        )

    def compute_amax(self):
        return self._calib_amax


class HistogramCalibrator:
    """Counts absolute values in bins of equal width; later values beyond the last bin add bins."""

    def __init__(self, num_bits, axis, unsigned, num_bins=128):
        assert axis is None, "one range per tensor"
        self._num_bits, self._unsigned, self._num_bins = num_bits, unsigned, num_bins
        self._calib_hist = self._calib_bin_edges = None

    def collect(self, x):
        values = x.detach().abs().reshape(-1).numpy()
        if self._calib_hist is None:
            self._calib_hist, self._calib_bin_edges = np.histogram(values, self._num_bins)
            return
        first, width = self._calib_bin_edges[0], self._calib_bin_edges[1] - self._calib_bin_edges[0]
        bins = max(len(self._calib_hist), int(np.ceil((values.max() - first) / width)))
        edges = first + width * np.arange(bins + 1)
        counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
        counts[: len(self._calib_hist)] += self._calib_hist
        self._calib_hist, self._calib_bin_edges = counts, edges

    def compute_amax(self, method, *, stride=1, start_bin=128, percentile=99.99):
        if self._calib_hist is None:
            return None
        if method == "percentile":
            share = np.cumsum(self._calib_hist) / self._calib_hist.sum()
            at = int(np.searchsorted(share, percentile / 100))
        elif method == "entropy":
            tried = range(min(start_bin, len(self._calib_hist)), len(self._calib_hist) + 1, stride)
            at = min(tried, key=self._divergence)
        else:
            raise TypeError(f"Unknown calibration method {method}")
        return torch.tensor(self._calib_bin_edges[at].item())

    def _divergence(self, bins):
        """KL of the counts clipped to the first bins, from the same spread over the levels of the
        grid."""
        kept = self._calib_hist[:bins].astype(float)
        clipped = kept.copy()
        clipped[-1] += self._calib_hist[bins:].sum()
        levels = np.arange(bins) * 2 ** (self._num_bits - 1 + int(self._unsigned)) // bins
        filled = np.bincount(levels, kept > 0)[levels]
        spread = np.where(kept > 0, np.bincount(levels, kept)[levels] / np.maximum(filled, 1), 0)
        p, q = clipped / clipped.sum(), spread / max(spread.sum(), 1)
        used = p > 0
        return float(np.sum(p[used] * np.log(p[used] / np.maximum(q[used], 1e-12))))
