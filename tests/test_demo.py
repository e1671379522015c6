"""The demo's model is accurate, loses accuracy in INT8 through its weights, and can be trained
again, to the same bits each time."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest
import torch

from sensitivity.errors import TaskError, WriteError
from sensitivity.quantizers.base import check_calibrated, layers
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.records import SPLITS
from sensitivity.tasks.load import load_task
from sensitivity.workflows import demo
from sensitivity.workflows.repvgg import Block, RepVGG, repeatable, train


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> str:
    return demo.prepare(tmp_path_factory.mktemp("demo") / "run")


@pytest.fixture(scope="module")
def task(reference):
    return load_task(reference)


def accuracy(task, splits=SPLITS) -> float:
    with torch.no_grad():
        scores = [task.score(task.model(x), y) for split in splits for x, y in task.data[split]]
    return task.aggregate(np.concatenate(scores))


def test_the_demo_is_accurate_in_float_and_loses_points_in_int8(task):
    source = ModelOptModel(task.model)
    check_calibrated(source.quantizers)
    with source.disabled(quantizer.name for quantizer in source.quantizers):
        float_ = accuracy(task)
    assert float_ > 0.97
    assert float_ - accuracy(task) > 0.05


def test_the_loss_comes_from_the_re_parameterised_weights(task):
    source = ModelOptModel(task.model)
    with source.disabled(
        quantizer.name for quantizer in source.quantizers if quantizer.role == "weight"
    ):
        assert accuracy(task) > 0.97


def test_its_layers_are_nine_convolutions_and_the_head(task):
    units = layers(ModelOptModel(task.model).quantizers)
    assert [unit.name for unit in units] == [*(f"conv{number}" for number in range(1, 10)), "head"]
    assert all(len(unit.quantizers) == 2 for unit in units)


def test_the_digits_are_those_of_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets")
    with np.load(demo.DIGITS) as stored:
        pixels, labels = datasets.load_digits(return_X_y=True)
        np.testing.assert_array_equal(stored["pixels"].reshape(pixels.shape), pixels)
        np.testing.assert_array_equal(stored["labels"], labels)


def test_no_digit_is_in_two_splits():
    splits = demo.digits()
    assert {name: len(split.x) for name, split in splits.items()} == demo.SIZES
    assert sum(demo.SIZES.values()) == 1797
    whole = np.concatenate([split.x.reshape(len(split.x), -1) for split in splits.values()])
    assert len(np.unique(whole, axis=0)) == 1797


def test_a_model_trained_again_loses_as_much_in_int8(tmp_path):
    demo.save_trained(tmp_path / "weights.pt")
    task = demo.task(tmp_path / "weights.pt")
    source = ModelOptModel(task.model)
    with source.disabled(quantizer.name for quantizer in source.quantizers):
        float_ = accuracy(task)
    assert float_ > 0.97
    assert float_ - accuracy(task) > 0.05


def test_another_process_loads_the_same_model(reference, task, warm_bin):
    code = (
        "import sys; from sensitivity.tasks.load import load_task; from "
        "sensitivity.quantizers.torch.modelopt import ModelOptModel; from "
        "sensitivity.workflows import demo; "
        "print(ModelOptModel(load_task(sys.argv[1]).model).fingerprint())"
    )
    command = [warm_bin / "python", "-c", code, reference]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == ModelOptModel(task.model).fingerprint()


def test_weights_in_the_folder_are_kept(tmp_path):
    weights = tmp_path / "run" / "weights.pt"
    demo.prepare(weights.parent)
    weights.write_bytes(b"of another training")
    demo.prepare(weights.parent)
    assert weights.read_bytes() == b"of another training"


def test_lost_weights_are_reported(tmp_path):
    with pytest.raises(TaskError, match="Expected the demo's weights in .*weights.pt, got none"):
        demo.task(tmp_path / "weights.pt")


def test_a_folder_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="Expected to write to .*/file/run"):
        demo.prepare(tmp_path / "file" / "run")


def test_training_gives_the_same_bits_whatever_the_threads_and_leaves_them_as_they_were():
    def weights() -> list[torch.Tensor]:
        with repeatable(seed=3):
            model = RepVGG(4, (2, 1), classes=10)
            generator = torch.Generator().manual_seed(0)
            x, y = (
                torch.rand(64, 1, 8, 8, generator=generator),
                torch.randint(10, (64,), generator=generator),
            )
            train(model, x, y, epochs=2, rate=0.1, decay=0.0, seed=3)
        return list(model.state_dict().values())

    before, state = torch.get_num_threads(), torch.random.get_rng_state()
    first = weights()
    torch.set_num_threads(2)
    second = weights()
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("inputs", "outputs", "stride"),
    [(4, 4, 1), (4, 8, 2), (4, 4, 2)],
    ids=["identity", "grows", "shrinks"],
)
def test_a_plain_convolution_gives_the_values_of_its_branches(inputs, outputs, stride):
    with repeatable(seed=1):
        block = Block(inputs, outputs, stride)
        for module in block.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                for tensor in (
                    module.weight.data,
                    module.bias.data,
                    module.running_mean,
                    module.running_var,
                ):
                    torch.nn.init.uniform_(tensor, 0.5, 1.5)
        x = torch.randn(2, inputs, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(
                block.eval()(x), block.plain()(x).relu(), rtol=1e-5, atol=1e-5
            )


def test_the_plain_model_gives_the_scores_of_the_branched_one():
    with repeatable(seed=1):
        model = RepVGG(4, (2, 2), classes=10)
        model(torch.rand(16, 1, 8, 8))  # moves the running statistics off their start
        x = torch.rand(2, 1, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(model.eval()(x), model.plain()(x), rtol=1e-4, atol=1e-5)
