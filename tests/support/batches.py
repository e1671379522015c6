"""Batches for the fake model of `sensitivity.testing`."""

from __future__ import annotations

from typing import Any

import numpy as np


def batches(n: int = 100, size: int = 20, seed: int = 0) -> list[tuple[Any, Any]]:
    samples = np.random.default_rng(seed).permutation(np.linspace(0, 0.999, n))
    return [(samples[i : i + size], None) for i in range(0, n, size)]
