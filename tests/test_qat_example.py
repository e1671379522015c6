"""The example that compares four calibrators and fine-tunes ResNet-20."""

import os

import pytest
import torch
from modelopt.torch.quantization.nn import TensorQuantizer
from support.scripts import load_script

pytestmark = pytest.mark.skipif(
    "SENSITIVITY_ASSETS" not in os.environ,
    reason="SENSITIVITY_ASSETS is unset: no weights, no images",
)


@pytest.fixture(scope="module")
def flow():
    return load_script("examples/14_qat/flow.py")


@pytest.fixture(scope="module")
def train(flow):
    images = flow.images_by_class(flow.assets() / "cifar10/train").take(range(0, 500, 25))
    return [flow.as_tensors(*batch) for batch in flow.batches(images)]


@pytest.fixture(scope="module")
def model(flow, train):
    return flow.quantized(train)


def test_shortcuts_are_quantized_and_four_calibrators_give_every_range(
    flow, model, train, monkeypatch
):
    monkeypatch.setitem(flow.METHODS, "entropy", {"stride": 64})  # quicker
    names = flow.activations(model).keys()
    assert sum(name.endswith("residual_quantizer") for name in names) == 9
    ranges = flow.compared(model, train)
    assert list(ranges) == ["max", "percentile", "mse", "entropy"]
    for amaxes in ranges.values():
        assert amaxes.keys() == names
        assert all(torch.isfinite(amax) and amax > 0 for amax in amaxes.values())
    for name in names:
        # By a bin of the histogram it may be larger.
        assert ranges["percentile"][name] <= ranges["max"][name] * 1.05
    changed = flow.with_ranges(model, ranges["mse"])
    assert (
        flow.activations(changed)["conv1.input_quantizer"].amax
        == ranges["mse"]["conv1.input_quantizer"]
    )


def test_quantizers_are_on_again_behind_an_error(flow, model):
    with pytest.raises(RuntimeError), flow.float_only(model):
        raise RuntimeError
    modules = [module for module in model.modules() if isinstance(module, TensorQuantizer)]
    assert sum(module.is_enabled for module in modules) == 49


def test_fine_tuning_moves_the_weights_and_keeps_the_statistics(flow, model, train, monkeypatch):
    monkeypatch.setattr(flow, "EPOCHS", 1)
    ranges = {name: quantizer.amax for name, quantizer in flow.activations(model).items()}
    tuned = flow.with_ranges(model, ranges)
    before = {name: value.clone() for name, value in tuned.state_dict().items()}
    flow.fine_tune(tuned, train)
    after = tuned.state_dict()
    assert not torch.equal(before["conv1.weight"], after["conv1.weight"])
    assert torch.equal(before["bn1.running_mean"], after["bn1.running_mean"])
    assert not tuned.training
