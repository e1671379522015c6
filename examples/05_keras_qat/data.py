"""The handwritten digits of scikit-learn that the Keras model was not trained on, for `--data`.

python examples/05_keras_qat/data.py digits.npz
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

TRAINED = 900
"""Of the 1,797 digits."""

Part = tuple[NDArray[np.float32], NDArray[np.int64]]


def parts() -> tuple[Part, Part]:
    """(images float32[n, 8, 8, 1] on the scale 0..1, labels) to train on, and the others."""
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    train, rest = order[:TRAINED], order[TRAINED:]
    return (images[train], labels[train]), (images[rest], labels[rest])


def save(path: str) -> None:
    _, (x, y) = parts()
    np.savez_compressed(path, x=x, y=y)


if __name__ == "__main__":
    save(sys.argv[1])
