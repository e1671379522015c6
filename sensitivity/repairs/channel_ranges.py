"""What equalization of torch models and of Q/DQ files have in common."""

from __future__ import annotations

METHOD = "equalized"

SMALLEST = 1e-3
"""Smallest range of a channel, as a fraction of the largest channel's. It bounds channels that are
almost 0."""

BINS = 4096
"""Bins in the histogram of a channel, so that a step of 8 bits is at least 16 bins wide. All values
are counted, since the few large ones decide: with a sample of 8,000 values from 200 images, the
outputs of MobileNetV1 were a tenth further from float."""
