"""Fine-tuning by distillation from the float model: what it gains, leaves alone, and refuses."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import models
from support.pq_models import quantized_by_pq
from torch import nn

from sensitivity.errors import ModelError
from sensitivity.quantizers.rounding import pack
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.quantizers.torch.pytorch_quantization import PytorchQuantizationModel
from sensitivity.records import Grid, Range, names_of
from sensitivity.repairs import checkpoint, straight_through, training, tuning
from sensitivity.repairs.checkpoint import Checkpoint
from sensitivity.repairs.samples import Parts
from sensitivity.repairs.training import Tracking
from sensitivity.repairs.tuning import Limits, TooLong
from sensitivity.signals.distillation import distillation_loss

SHORT = Limits(steps=40)
fine_tuned = partial(tuning.fine_tuned, loss_of=distillation_loss)


class Small(nn.Module):
    """A convolution with BatchNorm and without a bias, an in-place activation, and a linear layer
    that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.again = nn.Linear(8, 8)
        self.last = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu_(self.norm(self.stem(x))).mean((2, 3))
        return self.last(torch.relu(self.again(torch.relu(self.again(x)))))


@pytest.fixture
def source() -> ModelOptModel:
    """With weights on grids of about 4 bits."""
    return coarse(ModelOptModel(models.quantized(models.seeded(Small), models.batch(16, 8))))


def coarse(source: Any) -> Any:
    for quantizer in source.quantizers:
        if quantizer.role == "weight":
            source.model.get_submodule(quantizer.name)._buffers["_amax"] *= 16
    return type(source)(source.model)


def output(source: Any, inputs: Any, ranges: Any = (), off: Any = ()) -> torch.Tensor:
    with torch.no_grad(), source.with_ranges(ranges), source.disabled(off):
        return source.model(inputs)


def noise(source: Any, ranges: Any = ()) -> float:
    """Squared error of the outputs on inputs that nothing was fitted to."""
    inputs = models.batch(64, 8, seed=6)
    wanted = output(source, inputs, off=names_of(source.quantizers))
    return float((output(source, inputs, ranges) - wanted).square().mean())


def test_outputs_are_nearer_to_float_on_other_inputs_and_the_model_is_as_it_was(source) -> None:
    before, parameters = source.fingerprint(), dict(source.model.named_parameters())
    hooks = [len(module._forward_hooks) for module in source.model.modules()]
    found = fine_tuned(source, models.batch(64, 8, seed=5), limits=SHORT)
    assert noise(source, found) < 0.5 * noise(source)
    assert source.fingerprint() == before
    after = dict(source.model.named_parameters())
    assert all(after[name] is value for name, value in parameters.items())
    assert all(value.grad is None and value.requires_grad for value in after.values())
    assert [len(module._forward_hooks) for module in source.model.modules()] == hooks
    assert {one.quantizer for one in found} == set(names_of(source.quantizers))
    assert {one.method for one in found} == {"fine-tuning"}


def test_without_a_rate_training_gives_back_what_it_started_from(
    source, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = models.batch(16, 8, seed=5)
    start = fine_tuned(source, inputs, limits=Limits(steps=5))
    for rate in ("BIAS_RATE", "RANGE_RATE"):
        monkeypatch.setattr(training, rate, 1e-12)
    again = fine_tuned(source, inputs, ranges=start, limits=Limits(steps=2))
    for first, second in zip(start, again, strict=True):
        assert (first.quantizer, first.rounding) == (second.quantizer, second.rounding)
        assert np.allclose(first.amax, second.amax, rtol=1e-5)
        assert np.allclose(first.bias or 0, second.bias or 0, atol=1e-6)


def test_the_same_inputs_in_other_parts_teach_the_same(source) -> None:
    inputs = models.batch(16, 8, seed=5)
    whole = fine_tuned(source, inputs, limits=Limits(steps=2))
    parts = fine_tuned(source, Parts([inputs[:8], inputs[8:]]), limits=Limits(steps=2))
    assert [one.rounding for one in whole] == [one.rounding for one in parts]


def test_ranges_in_force_are_kept_in_their_name_and_what_is_left_out_gets_nothing(source) -> None:
    given = replace(source.range("stem.weight_quantizer"), method="mse, learned rounding")
    found = fine_tuned(
        source,
        models.batch(8, 8),
        ranges=[given],
        left_out=["last.weight_quantizer", "last.input_quantizer"],
        kept=["again.input_quantizer"],
        limits=Limits(steps=2),
    )
    by_name = {one.quantizer: one.method for one in found}
    assert by_name == {
        "stem.weight_quantizer": "mse, learned rounding, fine-tuning",
        "again.weight_quantizer": "fine-tuning",
        "stem.input_quantizer": "fine-tuning",
    }


def test_weights_keep_the_rounding_that_was_learned(source: ModelOptModel) -> None:
    name = "last.weight_quantizer"
    weight = source.model.last.weight
    moves = np.zeros(tuple(weight.shape), np.int8)
    moves[0, 0] = 1
    rounded = replace(source.range(name), rounding=pack(moves))
    before = weight.detach().clone()
    found = fine_tuned(source, models.batch(16, 8), ranges=[rounded], limits=Limits(steps=3))
    roundings = {one.quantizer: one.rounding for one in found if one.rounding}
    assert roundings == {name: rounded.rounding}
    assert any(any(one.bias) for one in found if one.bias)
    assert torch.equal(source.model.last.weight, before)


def test_a_range_that_clips_too_much_grows_and_one_that_is_too_wide_shrinks() -> None:
    for factor, grows in ((0.25, True), (64.0, False)):
        source = ModelOptModel(models.quantized(models.seeded(Small), models.batch(16, 8)))
        own = source.range("stem.input_quantizer")
        start = replace(own, amax=(own.amax[0] * factor,))
        found = fine_tuned(source, models.batch(64, 8), ranges=[start], limits=SHORT)
        (trained,) = (one for one in found if one.quantizer == own.quantizer)
        assert (trained.amax[0] > start.amax[0]) == grows


def test_models_of_pytorch_quantization_are_tuned_as_those_of_modelopt(source) -> None:
    model = quantized_by_pq(Small, models.batch(16, 8), like=models.seeded(Small))
    other = coarse(PytorchQuantizationModel(model))
    found = fine_tuned(other, models.batch(64, 8, seed=5), limits=SHORT)
    assert noise(other, found) < 0.5 * noise(other)


def test_the_task_s_own_loss_takes_the_place_of_the_default(source) -> None:
    seen = []

    def loss(wanted: torch.Tensor, got: torch.Tensor) -> torch.Tensor:
        seen.append((wanted.requires_grad, got.requires_grad))
        return (got - wanted).abs().mean()

    tuning.fine_tuned(
        source, models.batch(8, 8), loss_of=lambda outputs: loss, limits=Limits(steps=2)
    )
    assert seen == [(False, True)] * 2


def test_other_outputs_than_logits_are_compared_by_group() -> None:
    source = ModelOptModel(models.quantized(models.seeded(models.Branches), models.batch(8, 16)))
    found = fine_tuned(coarse(source), models.batch(8, 16), limits=Limits(steps=2))
    assert all(np.isfinite(one.amax).all() for one in found)
    assert any(one.amax != source.range(one.quantizer).amax for one in found)


@pytest.mark.parametrize(("low", "shape"), [(-127, ()), (-128, ()), (0, (1, 3, 1))])
def test_gradients_are_those_of_straight_through_rounding(low: int, shape: tuple[int, ...]) -> None:
    drawn = torch.Generator().manual_seed(0)
    given = torch.randn(4, 3, 50, generator=drawn).requires_grad_()
    amax = (0.5 + torch.rand(shape, generator=drawn)).requires_grad_()
    slopes = torch.randn(given.shape, generator=drawn)
    axis = None if amax.ndim == 0 else 1
    grid = Grid(np.float32(amax.detach().flatten()), 0, low, 127, axis)
    output = straight_through._on_grid(given.detach(), amax.detach(), grid)
    # The same values by autograd, with rounding errors as constants.
    scale = amax / 127
    levels = (given / scale).clamp(low, 127)
    wanted = (levels + (levels.round() - levels).detach()) * scale
    assert torch.allclose(output, wanted, atol=1e-6)
    passed = straight_through._StraightThrough.apply(given, amax, output, low / 127)
    found = torch.autograd.grad(passed, [given, amax], slopes)
    for one, other in zip(found, torch.autograd.grad(wanted, [given, amax], slopes), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)


def test_values_in_training_are_those_of_the_quantizers(source) -> None:
    inputs = models.batch(16, 8, seed=5)
    own = output(source, inputs)
    with straight_through.differentiable(source, {}, ()), torch.enable_grad():
        assert torch.allclose(source.model(inputs), own, atol=1e-5)
        off = names_of(source.quantizers)
        assert torch.equal(output(source, inputs, off=off), output(source, inputs, off=off))
    assert torch.equal(output(source, inputs), own)
    assert all("forward" not in vars(module) for module in source.model.modules())


def stopping(after: int) -> Callable[[int], Any]:
    """A display that is interrupted after this number of steps."""

    @contextmanager
    def show(steps: int) -> Iterator[Callable[[int, int], None]]:
        done = 0

        def advance(more: int, samples: int) -> None:
            nonlocal done
            done += more
            if done == after:
                raise KeyboardInterrupt

        yield advance

    return show


@pytest.fixture
def saved(source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    """What a training that was interrupted after 4 of 6 steps has left. Its last step was not
    saved."""
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
    kept = Checkpoint(tmp_path / "state.pt", "one")
    with pytest.raises(KeyboardInterrupt):
        fine_tuned(
            source,
            models.batch(64, 8),
            limits=Limits(steps=6),
            tracking=Tracking(stopping(after=4), kept),
        )
    assert kept.load()["steps"] == 3
    return kept


def test_training_that_was_interrupted_goes_on_and_ends_as_if_it_had_not_been(
    source, saved: Checkpoint
) -> None:
    shown: list[tuple[int, int]] = []

    @contextmanager
    def show(steps: int) -> Iterator[Any]:
        shown.append((steps, 0))
        yield lambda done, samples: shown.append((done, samples))

    inputs, limits = models.batch(64, 8), Limits(steps=6)
    whole = fine_tuned(source, inputs, limits=limits)
    assert fine_tuned(source, inputs, limits=limits, tracking=Tracking(show, saved)) == whole
    assert shown == [(6, 0), (3, 0), *[(1, training.FORWARDS_PER_STEP * training.BATCH)] * 3]


def test_the_forecast_of_training_that_goes_on_is_of_the_steps_left(
    source, saved: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "_seconds_per_sample", lambda source, batch: 1.0)
    with pytest.raises(TooLong) as stopped:
        fine_tuned(
            source,
            models.batch(8, 8),
            limits=Limits(steps=6, seconds=1),
            tracking=Tracking(checkpoint=saved),
        )
    assert stopped.value.seconds == 3 * training.FORWARDS_PER_STEP * training.BATCH


def foreign(content: Any) -> bytes:
    """The file of torch that holds something else."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [None, b"", b"no state", b"PK", foreign([1, 2]), foreign({}), foreign(torch.ones(2))],
)
def test_a_state_of_another_training_or_a_torn_one_is_not_taken(
    saved: Checkpoint, content: bytes | None
) -> None:
    other = Checkpoint(saved.file, "one" if content is not None else "other")
    if content is not None:
        saved.file.write_bytes(content)
    assert other.load() is None
    other.remove()
    assert not saved.file.exists()
    assert other.load() is None


def test_what_takes_too_long_is_stopped_with_its_forecast(source) -> None:
    with pytest.raises(TooLong) as stopped:
        fine_tuned(source, models.batch(8, 8), limits=Limits(steps=1000, seconds=0.001))
    assert stopped.value.seconds > 0.001


def test_a_model_without_gradients_is_refused_and_left_as_it_was(source) -> None:
    before, own = source.fingerprint(), source.model.forward
    source.model.forward = torch.no_grad()(own)
    with pytest.raises(ModelError, match="gradients to pass through the model for fine-tuning"):
        fine_tuned(source, models.batch(8, 8), limits=SHORT)
    source.model.forward = own
    assert source.fingerprint() == before


def test_a_model_that_works_in_place_is_refused_and_left_as_it_was(source) -> None:
    before, own = source.fingerprint(), source.model.forward

    def in_place(x: torch.Tensor) -> torch.Tensor:
        y = own(x)
        z = torch.relu(y)
        z += y
        return z

    source.model.forward = in_place
    with pytest.raises(ModelError, match=r"pass through the model for fine-tuning, got RuntimeErr"):
        fine_tuned(source, models.batch(8, 8), limits=SHORT)
    source.model.forward = own
    assert source.fingerprint() == before


def test_a_model_that_returns_no_tensors_is_refused_and_left_as_it_was(source) -> None:
    before, own = source.fingerprint(), source.model.forward
    source.model.forward = lambda x: own(x).detach().numpy()
    with pytest.raises(ModelError, match="the model to return a tensor, so that gradients can"):
        fine_tuned(source, models.batch(8, 8), limits=SHORT)
    source.model.forward = own
    assert source.fingerprint() == before


def test_ranges_of_another_bias_and_rounding_take_part(source) -> None:
    name = "last.weight_quantizer"
    biased = replace(source.range(name), method="bias correction", bias=(1.0,) * 5)
    found: dict[str, Range] = {
        one.quantizer: one
        for one in fine_tuned(source, models.batch(8, 8), ranges=[biased], limits=Limits(steps=1))
    }
    assert np.allclose(found[name].bias, 1.0, atol=0.2)
