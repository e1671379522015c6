"""What can be traced, what cannot, and the sentence that says so."""

from __future__ import annotations

import copy
import logging
import sys

import pytest
import torch
from support.models import (
    Branches,
    Branching,
    Chain,
    Fixed,
    WritesIntoViews,
    batch,
    quantized,
    seeded,
)
from torch import Tensor, nn

from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.quantizers.torch.native import (
    GridQuantizer,
    OwnQuantizer,
    marked_copy,
    native_quantizers,
)
from sensitivity.simulators.torch.tracing import Untraceable, trace

pytest.importorskip("modelopt")


@pytest.fixture(scope="module")
def source() -> ModelOptModel:
    return ModelOptModel(quantized(seeded(Branches), batch()))


def traced(model: nn.Module, *inputs: Tensor):
    return trace(marked_copy(ModelOptModel(quantized(model, *inputs))), inputs)


@pytest.mark.parametrize("name", ["stem.0.input_quantizer", "stem.0.weight_quantizer"])
@pytest.mark.parametrize("scale", [1.0, 40.0], ids=["inside", "clipped"])
def test_a_grid_quantizer_gives_the_bits_of_the_users_own(
    source: ModelOptModel, name: str, scale: float
) -> None:
    module = source.model.get_submodule(name)
    x = source.model.stem[0].weight if "weight" in name else batch(seed=5)
    x = x.detach() * scale
    ours = GridQuantizer(source, name)
    assert torch.equal(ours(x), module(x))
    assert torch.equal(ours.overwrite(x.clone()), module(x))
    assert torch.equal(ours(x.half()), module(x.half()))


def test_a_grid_quantizer_leaves_its_input_as_it_is_unless_asked(source: ModelOptModel) -> None:
    x = batch()
    before = x.clone()
    GridQuantizer(source, "stem.0.input_quantizer")(x)
    assert torch.equal(x, before)


def test_quantizers_without_an_integer_grid_stay_the_users_own_modules() -> None:
    model = quantized(seeded(Chain), batch())
    model.conv1.input_quantizer._num_bits = (4, 3)
    first, second = native_quantizers(ModelOptModel(model))[:2]
    assert isinstance(first, OwnQuantizer)
    assert isinstance(second, GridQuantizer)


def test_the_marked_copy_shares_weights_and_leaves_the_model_alone(source: ModelOptModel) -> None:
    before = source.fingerprint()
    marked = marked_copy(source)
    assert marked.left.weight.data_ptr() == source.model.left.weight.data_ptr()
    assert source.fingerprint() == before
    assert type(source.model.left.input_quantizer).__name__ == "TensorQuantizer"


def test_a_batch_of_one_is_traced_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    trace(torch.nn.Linear(2, 2).eval(), torch.ones(1, 2))
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


def test_every_quantizer_is_found_in_the_graph_at_each_of_its_places(source: ModelOptModel) -> None:
    nodes = trace(marked_copy(source), batch()).nodes
    places = [node.index for node in nodes if node.kind == "quantizer"]
    names = [source.quantizers[index].name for index in places]
    assert set(names) == {quantizer.name for quantizer in source.quantizers}
    assert names.count("shared.input_quantizer") == 2


def test_the_graph_holds_for_other_batch_sizes() -> None:
    assert traced(seeded(Chain), batch()).batches == (2, sys.maxsize)


def test_a_graph_tied_to_one_batch_size_says_so() -> None:
    assert traced(seeded(Fixed), torch.randn(4, 3)).batches == (4, 4)


class Random(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x + torch.rand_like(x))


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.fc(x) * self.calls


class WritesInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mul_(2))


class TrainingNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(
            self.fc(x), self.norm.running_mean, self.norm.running_var, training=True
        )


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (Branching, "torch.export cannot follow it"),
        (Random, "it draws random numbers"),
        (Counting, "it changes"),
        (WritesInput, "it changes"),
        (TrainingNorm, "it updates the statistics"),
    ],
)
def test_what_cannot_be_replayed_is_refused_with_the_reason(build, reason: str) -> None:
    with pytest.raises(Untraceable, match=reason):
        traced(seeded(build), torch.randn(4, 3))


def test_writes_into_views_are_left_to_torchs_own_functionalization() -> None:
    model = seeded(WritesIntoViews)
    assert traced(copy.deepcopy(model), batch()).outputs
