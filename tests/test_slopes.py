"""How much errors of activations matter to what comes next: by hand, and where nothing tells."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import models
from torch import nn

from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.repairs.slopes import LEAST_WEIGHT, values_and_weights


class Chain(nn.Module):
    """Two depthwise convolutions of one pixel with an activation in place between them."""

    is_branched = False

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1, groups=3)
        self.second = nn.Conv2d(3, 3, 1, groups=3)
        self.last = nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.leaky_relu_(self.first(x), 0.1)
        y = self.second(x)
        return self.last(y + x if self.is_branched else y).mean((2, 3))


class Branched(Chain):
    """The same with a branch around the second."""

    is_branched = True


@pytest.fixture
def source() -> ModelOptModel:
    return ModelOptModel(models.quantized(models.seeded(Chain), models.batch(8, 6)))


class InPlace(Chain):
    """Changes the output of a ReLU, which gradients would need."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.relu(self.first(x))
        y += 1
        return self.last(self.second(y)).mean((2, 3))


class Total(Chain):
    """Also returns a number without axes."""

    def forward(self, x: torch.Tensor) -> Any:
        y = super().forward(x)
        return y, y.sum()


class Detached(Chain):
    """Leaves torch on its way."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(super().forward(x).numpy())


class Guarded(Chain):
    """Asserts that it is used for inference only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        assert not y.requires_grad
        return y


@pytest.mark.parametrize("kind", [InPlace, Total, Detached, Guarded])
def test_a_model_that_refuses_gradients_has_weights_of_one(kind: type[nn.Module]) -> None:
    refusing = ModelOptModel(models.quantized(models.seeded(kind), models.batch(8, 6)))
    inputs = models.batch(8, 6, seed=3)
    name = "first.input_quantizer"
    values, found = values_and_weights(refusing, [name], inputs)[name]
    assert torch.equal(values, inputs)
    assert (found == 1).all()


def weights(source: Any, name: str, inputs: torch.Tensor, first: int = 0) -> torch.Tensor:
    (found,) = values_and_weights(source, [name], inputs, first).values()
    return found[1]


def test_an_error_counts_by_the_slope_up_to_the_next_quantizer(source: ModelOptModel) -> None:
    inputs, layer = models.batch(8, 6, seed=3), source.model.first
    values, found = values_and_weights(source, ["first.input_quantizer"], inputs)[
        "first.input_quantizer"
    ]
    with torch.no_grad():
        slope = torch.where(layer._conv_forward(inputs, layer.weight, layer.bias) > 0, 1.0, 0.1)
        squared = (slope * layer.weight.reshape(1, 3, 1, 1)).square()
    assert torch.equal(values, inputs)
    assert torch.allclose(found, squared / squared.mean() + LEAST_WEIGHT, rtol=1e-5)
    assert found.mean() == pytest.approx(1 + LEAST_WEIGHT)


def test_what_takes_another_way_around_the_layer_does_not_count() -> None:
    source = ModelOptModel(models.quantized(models.seeded(Branched), models.batch(8, 6)))
    found = weights(source, "second.input_quantizer", models.batch(8, 6, seed=3))
    squared = source.model.second.weight.detach().reshape(1, 3, 1, 1).square()
    assert torch.allclose(found, squared / squared.mean() + LEAST_WEIGHT, rtol=1e-5)


def test_a_layer_that_mixes_channels_has_the_weights_of_its_squares_on_average(
    source: ModelOptModel,
) -> None:
    inputs = models.batch(200, 6, seed=3)
    found = weights(source, "last.input_quantizer", inputs).mean((0, 2, 3))
    squared = source.model.last.weight.detach().square().sum(0).flatten()
    assert torch.allclose(found, squared / squared.mean() + LEAST_WEIGHT, rtol=0.3)


def test_weights_of_a_sample_do_not_depend_on_the_batch_it_is_in(source: ModelOptModel) -> None:
    inputs, name = models.batch(8, 6, seed=3), "last.input_quantizer"
    whole, part = weights(source, name, inputs), weights(source, name, inputs[5:], 5)
    ratio = (whole[5:] - LEAST_WEIGHT) / (part - LEAST_WEIGHT)
    assert torch.allclose(ratio, ratio.mean(), rtol=1e-3)
    other = weights(source, name, inputs[5:])
    assert not torch.allclose(part, other, rtol=0.1)


def test_without_gradients_all_errors_count_the_same(source: ModelOptModel) -> None:
    source.model.forward = torch.no_grad()(source.model.forward)
    found = weights(source, "first.input_quantizer", models.batch(8, 6))
    assert torch.equal(found, torch.ones_like(found))


def test_the_model_is_as_it_was(source: ModelOptModel) -> None:
    inputs = models.batch(8, 6)
    with torch.no_grad():
        before = source.model(inputs)
        names = ["first.input_quantizer", "last.input_quantizer"]
        assert set(values_and_weights(source, names, inputs)) == set(names)
        assert torch.equal(source.model(inputs), before)
    assert all(value.grad is None for value in source.model.parameters())
    assert not any(module._forward_pre_hooks for module in source.model.modules())
