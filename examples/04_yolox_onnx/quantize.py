"""YOLOX-nano with everything quantized by ONNX Runtime's quantize_static, as its documentation
shows it.

    python examples/04_yolox_onnx/quantize.py runs/yolox_nano.qdq.onnx

Needs the folder SENSITIVITY_ASSETS with weights/yolox_nano.onnx and
coco/calib/{instances.json,images}.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from sensitivity.tasks.detection_labels import coco_images
from sensitivity.tasks.onnx_data import DetectionBatches
from sensitivity.tasks.onnx_pixels import Pixels, Scale

SIZE, IMAGES = 416, 64


class Calibration(CalibrationDataReader):
    """Letterboxed images, one at a time, as YOLOX takes them: BGR, 0 to 255."""

    def __init__(self, folder: Path) -> None:
        images = coco_images(folder / "instances.json", folder / "images").images[:IMAGES]
        self._batches: Iterator[Any] = iter(
            DetectionBatches(images, SIZE, 1, pixels=Pixels("bgr", Scale(255.0)))
        )

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch[0]}


def main(out: Path) -> None:
    # advice to merge operations first, which this file's exporter has done
    logging.disable(logging.WARNING)
    assets = Path(os.environ["SENSITIVITY_ASSETS"])
    out.parent.mkdir(parents=True, exist_ok=True)
    quantize_static(
        assets / "weights" / "yolox_nano.onnx",
        out,
        Calibration(assets / "coco" / "calib"),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
