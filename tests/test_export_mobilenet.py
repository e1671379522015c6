"""Export and lowering of a real model: MobileNetV1 x0.25 on ImageNet images."""

import os

import pytest
from support.scripts import load_script

from sensitivity.exporters.example import Example
from sensitivity.exporters.lower import lower_file
from sensitivity.exporters.torch_model import export_files
from sensitivity.exporters.verify import verify
from sensitivity.exporters.verify_lowering import check_lowering
from sensitivity.quantizers.base import layers
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.tasks.scoring import Scoring

SKIP = ["stage1.1.0"]
SAMPLES = 50

pytestmark = pytest.mark.skipif(
    not os.environ.get("SENSITIVITY_ASSETS"),
    reason="SENSITIVITY_ASSETS does not name a folder with MobileNet weights",
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    task = load_script("examples/01_mobilenet/task.py")
    images = task.imagenet()
    source = ModelOptModel(
        task.calibrated(task.batches(images.take(range(task.CALIBRATION_IMAGES))))
    )
    batches = list(task.batches(images.take(range(0, 1000, 1000 // SAMPLES))))
    units = layers(source.quantizers)
    files = export_files(
        source,
        batches[0][0][:16],
        units,
        SKIP,
        tmp_path_factory.mktemp("mobilenet"),
        fingerprint="",
    )
    return source, units, batches, batches[0][0][:16], files


def correct(outputs, targets):
    return outputs.argmax(1) == targets


def test_the_exported_files_agree_with_the_simulated_model(exported):
    source, units, batches, example, files = exported
    found = verify(source, files, example, units, SKIP, scoring=Scoring(batches, correct))
    whole, partial = found.files[1:]
    assert (whole.quantizers, partial.quantizers) == (56, 54)
    assert len(whole.layers) == 28  # 27 convolutions and the linear layer
    assert max(layer.difference for layer in whole.layers) < 2e-6
    assert 0.5 < whole.quantization_rms < 0.9
    assert whole.rms < 0.05 * whole.quantization_rms
    assert partial.quantization_rms < 0.5 * whole.quantization_rms
    assert whole.metric.file + 0.05 < partial.metric.file


def test_lowered_files_agree_with_the_canonical_one(exported, tmp_path):
    _, _, batches, example, files = exported
    example = Example({"input": example.numpy()})
    openvino = lower_file(files["int8"], "openvino", tmp_path / "openvino.onnx")
    assert check_lowering(files["int8"], openvino, files["float"], example).rms < 1e-6
    fast = lower_file(files["partial"], "onnxruntime", tmp_path / "onnxruntime.onnx")
    check = check_lowering(
        files["partial"], fast, files["float"], example, Scoring(batches, correct)
    )
    assert check.metric.n == SAMPLES
    half = lower_file(files["partial"], "tensorrt", tmp_path / "tensorrt.onnx")
    check_lowering(files["partial"], half, files["float"], example)
