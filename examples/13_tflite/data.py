"""CIFAR-10's test images as MLPerf Tiny's image classifier takes them: whole numbers from 0 to 255
as float, channels last.

    python examples/13_tflite/data.py runs/tflite/cifar10.npz

Needs the folder SENSITIVITY_ASSETS with cifar10/test/CLASS/.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from sensitivity.tasks.classification import images_by_class
from sensitivity.tasks.images import read_rgb


def main(out: Path, samples: int = 1000) -> None:
    found = images_by_class(Path(os.environ["SENSITIVITY_ASSETS"]) / "cifar10/test")
    chosen = np.random.default_rng(0).permutation(len(found.files))[:samples]
    x = np.stack([np.asarray(read_rgb(found.files[at]), np.float32) for at in chosen])
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(out, x=x, y=np.asarray(found.labels)[chosen])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
