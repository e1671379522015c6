from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import rel_entr, softmax
from support.models import Branches, Chain, batch, quantized, seeded
from torch import nn

from sensitivity.errors import ModelError, TaskError
from sensitivity.quantizers.base import layers
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.records import Unit
from sensitivity.signals import fisher_pass
from sensitivity.signals.distortion import KL, SQNR, flat_outputs, kl, sqnr
from sensitivity.signals.fisher import fisher
from sensitivity.simulators.toggle import ToggleSimulator

pytest.importorskip("modelopt")


# --- output distortion


def test_sqnr_is_noise_power_over_signal_power_averaged_over_outputs() -> None:
    reference = [np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([2.0, 2.0])]
    outputs = [np.array([[3.0, 4.5], [1.0, 2.0]]), np.array([3.0, 2.0])]
    # 0.25 / 25 and 1 / 4; 4 / 1 and 0 / 4.
    assert sqnr(reference, outputs) == pytest.approx([(0.01 + 0.25) / 2, (4.0 + 0.0) / 2])


def test_sqnr_of_a_silent_sample_is_0_where_it_stays_silent_and_1_where_not() -> None:
    assert sqnr([np.zeros((2, 3))], [np.array([[0.0, 0, 0], [0, 7, 0]])]).tolist() == [0.0, 1.0]


def test_sqnr_in_decibels_falls_by_20_when_the_noise_grows_tenfold() -> None:
    signal, noise = np.random.default_rng(0).normal(size=(2, 4, 50))
    decibels = [-10 * np.log10(sqnr([signal], [signal + size * noise])) for size in (0.1, 1.0)]
    assert decibels[0] - decibels[1] == pytest.approx([20.0] * 4)


def test_sqnr_of_half_precision_outputs_does_not_overflow() -> None:
    big = np.full((1, 4), 60000, np.float16)
    assert sqnr([big], [big / 2]) == pytest.approx([0.25], rel=1e-3)


@given(arrays(np.float64, (2, 3, 5), elements=st.floats(-30, 30)))
def test_kl_agrees_with_scipy(logits: np.ndarray) -> None:
    wanted = rel_entr(softmax(logits[0], axis=1), softmax(logits[1], axis=1)).sum(axis=1)
    got = kl([logits[0]], [logits[1]])
    assert got == pytest.approx(wanted, rel=1e-6, abs=1e-12)
    assert (got >= 0).all()


def test_kl_is_never_negative_by_rounding() -> None:
    logits = np.random.default_rng(0).normal(size=(200, 1000))
    assert kl([logits], [logits + 1e-9]).min() >= 0


def test_outputs_whose_first_axes_differ_are_refused() -> None:
    boxes_of_two_images = [np.ones((5, 4)), np.ones((3, 4))]
    with pytest.raises(ModelError, match="Expected outputs whose first axis is the sample"):
        sqnr(boxes_of_two_images, boxes_of_two_images)


def test_kl_of_extreme_logits_is_finite() -> None:
    assert kl([np.array([[1e4, 0.0]])], [np.array([[0.0, 1e4]])]) == pytest.approx([1e4])


@pytest.mark.parametrize(
    "outputs",
    [[np.ones((2, 3)), np.ones((2, 3))], [np.ones((2, 3, 4))], [np.ones((2, 1))]],
    ids=["two-outputs", "three-axes", "one-class"],
)
def test_kl_refuses_outputs_that_are_no_logits(outputs: list[np.ndarray]) -> None:
    with pytest.raises(
        ModelError,
        match=r"Expected the model to have one output, the logits .* use --signal sqnr\.",
    ):
        kl(outputs, outputs)


@pytest.mark.parametrize("signal", [SQNR, KL], ids=lambda signal: signal.name)
def test_outputs_whose_shape_depends_on_the_values_are_refused(signal: Any) -> None:
    expected = (
        r"got \(4, 6\) from the float model and \(3, 6\) from a quantized one; return what "
        r"comes before"
    )
    with pytest.raises(ModelError, match=expected):
        signal.of([np.ones((4, 6))], [np.ones((3, 6))])


@pytest.mark.parametrize("signal", [SQNR, KL], ids=lambda signal: signal.name)
def test_outputs_that_are_not_finite_are_refused(signal: Any) -> None:
    with pytest.raises(
        ModelError, match="Expected finite outputs, got infinite values or NaN; use --signal metric"
    ):
        signal.of([np.ones((1, 2))], [np.array([[1.0, np.nan]])])


@dataclass
class Output:
    boxes: Any
    name: str


def test_flat_outputs_looks_into_nests_and_keeps_floats_in_order() -> None:
    outputs = {
        "a": (
            torch.ones(2, 3, requires_grad=True),
            [np.zeros(2), torch.ones(2, dtype=torch.bfloat16)],
        ),
        "b": Output(torch.full((2, 1), 5.0), "text"),
        "classes": torch.tensor([1, 2]),
        "none": None,
        "loss": torch.tensor(0.5),
    }
    found = flat_outputs(outputs)
    assert [array.shape for array in found] == [(2, 3), (2,), (2,), (2, 1)]
    assert [float(array.flat[0]) for array in found] == [1.0, 0.0, 1.0, 5.0]


def test_outputs_without_any_floats_are_refused() -> None:
    with pytest.raises(
        ModelError,
        match=r"Expected the model to return arrays .* got tuple without any; use --signal",
    ):
        flat_outputs((torch.tensor([1, 2]), "text"))


# --- Fisher


class Line(nn.Module):
    """Three linear layers in a row to one number: the first-order error of one layer is its whole
    error."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.b(self.a(x)))


class Axes(Line):
    """The same where `b` sees four windows per sample, and `a` has the sample on its second
    axis."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x.reshape(len(x), 1, 3).expand(-1, 5, 3).transpose(0, 1)).transpose(0, 1)
        windows = y[:, :4].reshape(len(x) * 4, 4)
        return self.c(self.b(windows).reshape(len(x), 4, 4).sum(1))


def rows(samples: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(samples, 3, generator=torch.Generator().manual_seed(seed))


def measured(
    source: ModelOptModel, units: tuple[Unit, ...], batches: list[Any], signal: Any
) -> dict[str, float]:
    """The mean distortion with each unit alone quantized, by running the model once for each."""
    every = frozenset(quantizer.name for quantizer in source.quantizers)
    variants = [every, *(every - set(unit.quantizers) for unit in units)]
    values: dict[str, list[float]] = {unit.name: [] for unit in units}
    for inputs, _ in batches:
        first, *others = [
            [array.copy() for array in flat_outputs(out)]
            for _, out in ToggleSimulator(source).outputs(inputs, variants)
        ]
        for unit, other in zip(units, others, strict=True):
            values[unit.name] += signal(first, other).tolist()
    return {name: float(np.mean(value)) for name, value in values.items()}


def line(build: Any = Line) -> ModelOptModel:
    return ModelOptModel(quantized(seeded(build), rows()))


def test_fisher_is_exact_where_one_layer_moves_the_output_linearly() -> None:
    source = line()
    units, batches = layers(source.quantizers), [(rows(6), None), (rows(3, seed=1), None)]
    assert fisher(source, units, batches) == pytest.approx(
        measured(source, units, batches, sqnr), rel=1e-3
    )


def test_fisher_sees_samples_in_windows_and_on_other_axes() -> None:
    source = line(Axes)
    units = layers(source.quantizers)
    # one sample at a time: no share to be confused
    singles = [(rows(1, seed=seed), None) for seed in range(6)]
    assert fisher(source, units, singles) == pytest.approx(
        measured(source, units, singles, sqnr), rel=1e-3
    )
    _, windows, last = units
    several = [(rows(6), None)]
    assert fisher(source, (windows, last), several) == pytest.approx(
        measured(source, (windows, last), several, sqnr), rel=1e-3
    )


def test_samples_that_share_a_step_have_the_same_mean_score() -> None:
    source = line(Axes)
    first = layers(source.quantizers)[:1]
    batches = [(rows(2, seed=seed), None) for seed in range(250)]
    exact = [(row[None], None) for inputs, _ in batches for row in inputs]
    assert fisher(source, first, batches)["a"] == pytest.approx(
        fisher(source, first, exact)["a"], rel=0.2
    )


def test_a_group_is_scored_by_the_sum_of_its_layers_errors() -> None:
    source = line()
    singles, one = layers(source.quantizers)[:2], [(rows(1), None)]
    group = Unit("both", singles[0].quantizers + singles[1].quantizers)
    a, b = (score**0.5 for score in fisher(source, singles, one).values())
    both = fisher(source, [*singles, group], one)["both"]
    assert min(abs(both - (a + b) ** 2), abs(both - (a - b) ** 2)) < 1e-3 * both


def test_a_quantizer_shared_by_two_layers_counts_in_both() -> None:
    model = quantized(seeded(lambda: Line(5)), rows(64))
    model.c.input_quantizer = model.b.input_quantizer
    # wide enough for both: nothing is clipped, errors are small
    model.b.input_quantizer.amax = torch.tensor(8.0)
    source = ModelOptModel(model)
    units = (Unit("shared", ("b.input_quantizer",)),)
    batches = [(rows(2000), None)]
    assert fisher(source, units, batches) == pytest.approx(
        measured(source, units, batches, kl), rel=0.15
    )


def test_the_random_vectors_of_a_classifier_have_half_the_fisher_information_as_their_mean_square(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    every_sign = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3)), dtype=torch.float64)
    monkeypatch.setattr(fisher_pass, "_signs", lambda out, generator: every_sign)
    logits = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    (vectors,) = fisher_pass.random_vectors([logits.expand(8, 3)], torch.Generator())
    p = torch.softmax(logits, 0)
    torch.testing.assert_close(vectors.T @ vectors / 8, (torch.diag(p) - torch.outer(p, p)) / 2)


def test_the_random_vectors_of_other_outputs_measure_them_as_sqnr_does() -> None:
    outputs = [torch.randn(4, 1, 1), torch.randn(4, 1), torch.zeros(4, 1)]
    vectors = fisher_pass.random_vectors(outputs, torch.Generator().manual_seed(0))
    moved = [2.0 * out for out in outputs]
    total = sum(
        (
            (v * (to - out)).flatten() ** 2
            for v, to, out in zip(vectors, moved, outputs, strict=True)
        )
    )
    assert total.numpy() == pytest.approx(
        sqnr([each.numpy() for each in outputs], [each.numpy() for each in moved])
    )


def test_fisher_of_a_classifier_agrees_with_kl_on_small_errors() -> None:
    source = ModelOptModel(quantized(seeded(lambda: Line(5)), rows()))
    units, batches = layers(source.quantizers), [(rows(2000), None)]
    assert fisher(source, units, batches) == pytest.approx(
        measured(source, units, batches, kl), rel=0.15
    )


def test_shared_modules_in_place_steps_and_several_outputs_agree_with_sqnr() -> None:
    # enough to clip little: the mean is no outlier's
    source = ModelOptModel(quantized(seeded(Branches), batch(64)))
    units, batches = layers(source.quantizers), [(batch(500, seed=seed), None) for seed in (3, 4)]
    assert fisher(source, units, batches) == pytest.approx(
        measured(source, units, batches, sqnr), rel=0.15
    )


class Doubled(Line):
    """Quantizes the result of a step that overwrites its own input."""

    class Step(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.quantizer(x.mul_(2))

    def __init__(self) -> None:
        super().__init__()
        self.step = Doubled.Step()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.step(self.b(self.a(x))))


def test_a_step_that_overwrites_its_own_input_is_scored_on_the_input_it_was_given() -> None:
    from modelopt.torch.quantization.nn import TensorQuantizer

    model = seeded(Doubled)
    model.step.quantizer = TensorQuantizer(amax=torch.tensor(9.0))
    source = ModelOptModel(model)
    units, batches = layers(source.quantizers), [(rows(), None)]
    assert [unit.name for unit in units] == ["step"]
    assert fisher(source, units, batches) == pytest.approx(
        measured(source, units, batches, sqnr), rel=1e-3
    )


def test_a_layer_with_a_hugely_widened_range_comes_first() -> None:
    model = quantized(seeded(Chain), batch())
    model.conv6.input_quantizer.amax = model.conv6.input_quantizer.amax * 100
    source = ModelOptModel(model)
    units, batches = layers(source.quantizers), [(batch(16, seed=1), None)]
    for scores in (fisher(source, units, batches), measured(source, units, batches, sqnr)):
        assert max(scores, key=lambda name: scores[name]) == "conv6"


def test_the_same_batches_give_the_same_scores() -> None:
    source = ModelOptModel(quantized(seeded(Chain), batch()))
    units, batches = layers(source.quantizers), [(batch(seed=1), None)]
    assert fisher(source, units, batches) == fisher(source, units, batches)


def test_each_batch_is_run_forward_and_backward_once(monkeypatch: pytest.MonkeyPatch) -> None:
    source = ModelOptModel(quantized(seeded(Chain), batch()))
    calls: list[str] = []
    grad = torch.autograd.grad

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append("backward")
        return grad(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    source.model.register_forward_hook(lambda *_: calls.append("forward"))
    fisher(source, layers(source.quantizers), [(batch(seed=seed), None) for seed in range(3)])
    assert calls == ["forward", "backward"] * 3


def test_fisher_works_inside_no_grad_and_on_tensors_of_inference_mode() -> None:
    usual = fisher(line(), layers(line().quantizers), [(rows(), None)])
    with torch.inference_mode():
        source = line()
        source.model.cached = torch.ones(3)
        inputs = rows()
        inside = fisher(source, layers(source.quantizers), [(inputs, None)])
    with torch.no_grad():
        outside = fisher(source, layers(source.quantizers), [(inputs, None)])
    assert source.model.a.weight.is_inference()
    assert source.model.cached.is_inference()
    assert usual == pytest.approx(inside, rel=1e-5)
    assert usual == pytest.approx(outside, rel=1e-5)


class Cached(Line):
    """Keeps a tensor that is neither parameter nor buffer, as detection heads keep their
    anchors."""

    strides: Any = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.strides is None:
            self.strides = torch.full((1,), 2.0)
        return super().forward(x) * self.strides


def test_a_tensor_cached_under_inference_mode_does_not_stop_the_gradients() -> None:
    source = line(Cached)
    source.model.strides = None
    with torch.inference_mode():
        inputs = rows()
        source.model(inputs)
    assert min(fisher(source, layers(source.quantizers), [(inputs, None)]).values()) > 0
    assert source.model.strides.is_inference()


def test_trainable_and_frozen_parameters_give_the_same_scores_and_stay_so() -> None:
    source = line()
    units = layers(source.quantizers)
    usual = fisher(source, units, [(rows(), None)])
    source.model.requires_grad_(False)
    source.model.b.weight.requires_grad_(True)
    assert fisher(source, units, [(rows(), None)]) == usual
    assert [name for name, each in source.model.named_parameters() if each.requires_grad] == [
        "b.weight"
    ]
    assert all(each.grad is None for each in source.model.parameters())


@contextmanager
def unchanged(source: ModelOptModel) -> Iterator[None]:
    def state() -> list[Any]:
        return [
            (
                name,
                len(module._forward_hooks),
                len(module._forward_pre_hooks),
                getattr(module, "_disabled", None),
            )
            for name, module in source.model.named_modules()
        ] + [
            (name, each.requires_grad, each.grad) for name, each in source.model.named_parameters()
        ]

    before, fingerprint = state(), source.fingerprint()
    yield
    assert state() == before
    assert source.fingerprint() == fingerprint
    assert torch.is_grad_enabled()


class Stops(Exception):
    pass


def test_everything_is_restored_after_the_scores_and_after_an_exception_of_the_data() -> None:
    source = ModelOptModel(quantized(seeded(Branches), batch()))

    def broken() -> Iterator[tuple[Any, Any]]:
        yield batch(), None
        raise Stops

    with unchanged(source):
        fisher(source, layers(source.quantizers), [(batch(), None)])
    with unchanged(source), pytest.raises(Stops):
        fisher(source, layers(source.quantizers), broken())


def test_everything_is_restored_when_the_model_refuses_a_batch_which_is_the_tasks_error() -> None:
    source = line()
    with unchanged(source), pytest.raises(TaskError, match="Expected the model to accept a batch"):
        fisher(source, layers(source.quantizers), [(rows(), None), (torch.zeros(2, 7), None)])


class Detached(Line):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.b(self.a(x)).detach())


class Rounded(Line):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).argmax(1)


class Overwritten(Line):
    """Overwrites what the backward pass needs, which is fine in inference only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.b(self.a(x)).sigmoid()
        z = y * 2
        y.zero_()
        return self.c(z)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            Detached,
            "Expected gradients to reach every unit that runs for --signal fisher, got none for 2 "
            "of 3 (a, b);",
        ),
        (
            Rounded,
            "Expected gradients to pass through the model for --signal fisher, got outputs that "
            "have none;",
        ),
        (
            Overwritten,
            "Expected gradients to pass through the model for --signal fisher, got RuntimeError: ",
        ),
    ],
)
def test_a_model_that_gradients_cannot_pass_is_named_as_such(build: Any, message: str) -> None:
    source = line(build)
    with unchanged(source), pytest.raises(ModelError, match=re.escape(message)) as caught:
        fisher(source, layers(source.quantizers), [(rows(), None)])
    assert str(caught.value).endswith("use --signal sqnr.")


def test_a_layer_that_never_runs_scores_0() -> None:
    model = quantized(seeded(Line), rows())
    model.forward = lambda x: model.c(model.a(x))
    scores = fisher(ModelOptModel(model), layers(ModelOptModel(model).quantizers), [(rows(), None)])
    assert scores["b"] == 0
    assert min(scores["a"], scores["c"]) > 0


def test_a_model_of_another_framework_and_no_data_are_named() -> None:
    other = SimpleNamespace(model=object(), quantizers=())
    with pytest.raises(
        ModelError,
        match="Expected a torch model for --signal fisher, got object; use --signal sqnr",
    ):
        fisher(other, [], [(rows(), None)])  # type: ignore[arg-type]
    with pytest.raises(
        ModelError, match="Expected at least one batch for --signal fisher, got none"
    ):
        fisher(line(), [], [])
