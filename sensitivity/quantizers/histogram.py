"""Histograms that are streamed in bounded memory, and the quantization ranges that follow from
them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sensitivity.quantizers.ranges import PERCENTILES, lowest_error

HALF = 2048
"""Number of bins on each side of 0."""

ENTROPY_LEVELS = 128
"""Number of bins into which the entropy search merges those of the histogram, as TensorRT and ONNX
Runtime do."""

ENTROPY_STRIDE = 16
"""Number of bins between two ranges of the entropy search."""

LEAST_SHARE = 1e-6
"""Smallest share of the quantized distribution in a bin that the other distribution fills, so that
the divergence stays finite."""

CANDIDATES = 48
"""Number of range ends that are tried on each side of 0."""

ROUNDS = 2
"""Number of rounds in which they are tried."""

Ends = tuple[float, float]
"""Smallest and largest value that does not clip; 0 lies between them."""


class Histogram:
    """Counts of values in bins of equal width on both sides of 0. If values lie beyond its ends,
    pairs of bins are merged.

    total: number of finite values added.
    low, high: smallest and largest of them.
    """

    def __init__(self) -> None:
        self.total = 0
        self.low, self.high = np.inf, -np.inf
        self._counts = np.zeros(2 * HALF)
        self._top = 0.0

    def add(self, values: NDArray[np.floating]) -> None:
        """Count these values, of any shape; values that are not finite are left out."""
        flat = np.asarray(values, np.float32).reshape(-1)
        if flat.size and not np.isfinite([flat.min(), flat.max()]).all():  # NaN would be both
            flat = flat[np.isfinite(flat)]
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        self._widen(max(abs(low), abs(high)))
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.total += flat.size
        if self._top == 0:
            self._counts[HALF] += flat.size
            return
        scaled = flat * np.float32(HALF / self._top)
        bins = np.floor(scaled, out=scaled).astype(np.intp)
        bins += HALF
        # The largest value is at the upper end of the last bin.
        self._counts += np.bincount(bins.clip(0, 2 * HALF - 1, out=bins), minlength=2 * HALF)

    def ranges(self, levels: int, *, symmetric: bool) -> dict[str, Ends]:
        """Return the range that each method finds, by method; empty if all values are 0.

        levels: number of levels of the whole grid minus one, 255 for INT8.
        symmetric: whether the grid has as many levels on both sides of 0.
        """
        if self._top == 0:
            return {}
        lowest_mse = self._symmetric_mse if symmetric else self._mse
        tried = {f"percentile {share}": self._percentile(share, symmetric) for share in PERCENTILES}
        tried["entropy"] = self._entropy()
        tried["mse"] = lowest_mse(levels)
        by_method: dict[str, Ends] = {}
        for method, (low, high) in tried.items():
            if symmetric:
                low, high = _symmetric(low, high)
            if high > low:
                by_method[method] = low, high
        return by_method

    def bins(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the middles of the bins that hold values, float64[n], and the number of values in
        each.

        The bin of 0 has its middle at 0, because most of its values are 0.
        """
        middles = (self._edges[1:] + self._edges[:-1]) / 2
        middles[HALF] = 0.0
        seen = self._counts > 0
        return np.clip(middles[seen], self.low, self.high), self._counts[seen]

    def _widen(self, largest: float) -> None:
        self._top = self._top or largest  # all values before were 0, and are in the bin above 0
        while self._top < largest:
            merged = self._counts.reshape(-1, 2).sum(1)
            self._counts = np.concatenate([np.zeros(HALF // 2), merged, np.zeros(HALF // 2)])
            self._top *= 2

    @property
    def _edges(self) -> NDArray[np.float64]:
        return np.linspace(-self._top, self._top, 2 * HALF + 1)

    @property
    def _magnitudes(self) -> NDArray[np.float64]:
        """Counts of absolute values, by the bins above 0."""
        return np.asarray(self._counts[HALF:] + self._counts[HALF - 1 :: -1])

    def _within(self, low: float, high: float) -> Ends:
        """Return the ends, cut to the range of the values and widened to include 0."""
        return min(max(low, self.low), 0.0), max(min(high, self.high), 0.0)

    def _percentile(self, share: float, symmetric: bool) -> Ends:
        """Return the range that leaves out (100 - share) % of the values; of a tensor with both
        signs, half of that on each side."""
        edges, out = self._edges, (100 - share) / 100 * self.total
        if symmetric:
            running = np.cumsum(self._magnitudes)
            end = float(edges[HALF + 1 + int(np.searchsorted(running, self.total - out))])
            return self._within(-end, end)
        if self.low < 0 < self.high:
            out = out / 2
        running = np.cumsum(self._counts)
        low = high = 0.0
        if self.low < 0:
            low = float(edges[int(np.searchsorted(running, out, side="right"))])
        if self.high > 0:
            high = float(edges[1 + int(np.searchsorted(running, self.total - out))])
        return self._within(low, high)

    def _entropy(self) -> Ends:
        """Return the symmetric range with the smallest Kullback-Leibler divergence of the quantized
        distribution.

        ONNX Runtime's own search over as many bins takes seconds for each tensor.
        """
        halves = range(ENTROPY_LEVELS // 2, HALF + 1, ENTROPY_STRIDE)
        best = min(halves, key=lambda half: _divergence(self._counts, half))
        end = float(self._edges[HALF + best])
        return self._within(-end, end)

    def _symmetric_mse(self, levels: int) -> Ends:
        end = lowest_error(self._magnitudes, self._edges[HALF:], levels // 2)
        return -end, end

    def _mse(self, levels: int) -> Ends:
        """Return the range with the smallest squared error, found for each end in turn while the
        other end stays."""
        low, high = self._within(-np.inf, np.inf)
        parts = np.linspace(1, CANDIDATES, CANDIDATES) / CANDIDATES
        lows, highs = low * parts, high * parts
        for _ in range(ROUNDS):
            high = float(highs[np.argmin(self._errors(np.full(CANDIDATES, low), highs, levels))])
            low = float(lows[np.argmin(self._errors(lows, np.full(CANDIDATES, high), levels))])
        return low, high

    def _errors(
        self, low: NDArray[np.float64], high: NDArray[np.float64], levels: int
    ) -> NDArray[np.float64]:
        """Return the squared errors of quantization with these ends, float[n].

        low, high: float[n], the ends of each range tried.
        """
        seen = self._counts > 0
        centres = ((self._edges[1:] + self._edges[:-1]) / 2)[seen]
        steps = np.maximum(high - low, 1e-30)[:, None] / levels
        zero = np.rint(-low[:, None] / steps)
        quantized = (np.clip(np.rint(centres / steps) + zero, 0, levels) - zero) * steps
        return np.asarray((quantized - centres) ** 2 @ self._counts[seen])


def _symmetric(low: float, high: float) -> Ends:
    """Return the smallest symmetric range around this range."""
    largest = max(-low, high)
    return -largest, largest


def _divergence(counts: NDArray[np.float64], half: int) -> float:
    """Return the divergence between the distribution of the values, clipped to `half` bins on each
    side of 0, and the same merged to 128 levels."""
    middle = len(counts) // 2
    window = counts[middle - half : middle + half]
    clipped = window.copy()
    clipped[0] += counts[: middle - half].sum()
    clipped[-1] += counts[middle + half :].sum()
    level = np.arange(2 * half) * ENTROPY_LEVELS // (2 * half)
    filled = clipped > 0
    share = np.bincount(level, window) / np.maximum(np.bincount(level, filled), 1)
    p, q = clipped[filled] / clipped.sum(), share[level][filled] / max(window.sum(), 1)
    return float(np.sum(p * np.log(p / np.maximum(q, LEAST_SHARE))))
