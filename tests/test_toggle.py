from __future__ import annotations

import pytest
import torch
from support.models import Branches, Chain, batch, quantized, seeded
from torch import nn

from sensitivity.errors import TaskError
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.simulators.evaluate import EvaluateSimulator
from sensitivity.simulators.toggle import ToggleSimulator

pytest.importorskip("modelopt")


@pytest.fixture(scope="module")
def source() -> ModelOptModel:
    return ModelOptModel(quantized(seeded(Chain), batch()))


def everything(source: ModelOptModel) -> frozenset[str]:
    return frozenset(quantizer.name for quantizer in source.quantizers)


def test_all_quantizers_off_equals_the_float_model(source: ModelOptModel) -> None:
    ((_, outputs),) = ToggleSimulator(source).outputs(batch(seed=1), [everything(source)])
    with torch.no_grad():
        assert torch.equal(outputs, seeded(Chain)(batch(seed=1)))


def test_each_variant_comes_once_with_its_own_outputs(source: ModelOptModel) -> None:
    variants = [
        frozenset(),
        frozenset(["conv1.input_quantizer"]),
        frozenset(["conv10.input_quantizer"]),
    ]
    outputs = dict(ToggleSimulator(source).outputs(batch(seed=1), variants))
    assert sorted(outputs) == [0, 1, 2]
    assert not torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[1], outputs[2])


def test_the_model_is_as_it_was_found_between_two_variants(source: ModelOptModel) -> None:
    variants = [frozenset(["conv1.input_quantizer"]), frozenset()]
    for _ in ToggleSimulator(source).outputs(batch(), variants):
        assert not source.model.conv1.input_quantizer._disabled
        assert torch.is_grad_enabled()


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.fc(a) - self.fc(b)


def test_inputs_may_be_a_tuple_a_dict_or_one_value() -> None:
    a, b = torch.randn(2, 3), torch.randn(2, 3)
    simulator = ToggleSimulator(ModelOptModel(quantized(seeded(Two), a, b)))
    results = [
        next(iter(simulator.outputs(inputs, [frozenset()])))[1]
        for inputs in ((a, b), {"b": b, "a": a})
    ]
    assert torch.equal(*results)
    branches = ToggleSimulator(ModelOptModel(quantized(seeded(Branches), batch())))
    ((_, outputs),) = branches.outputs(batch(), [frozenset()])
    assert sorted(outputs) == ["box", "classes"]


def test_a_batch_that_the_model_refuses_is_the_tasks_error_with_its_cause(
    source: ModelOptModel,
) -> None:
    with pytest.raises(
        TaskError, match=r"Expected the model to accept a batch .* got RuntimeError"
    ) as caught:
        list(
            ToggleSimulator(source).outputs(
                torch.zeros(2, 7, 8, 8), [frozenset(["conv1.input_quantizer"])]
            )
        )
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert not source.model.conv1.input_quantizer._disabled


def test_evaluate_is_called_with_the_variants_quantizers_off(source: ModelOptModel) -> None:
    def evaluate(model: nn.Module) -> float:
        return float(
            sum(
                module._disabled
                for name, module in model.named_modules()
                if name.endswith("input_quantizer")
            )
        )

    simulator = EvaluateSimulator(source)
    variants = [frozenset(), frozenset(["conv1.input_quantizer", "conv2.input_quantizer"])]
    base = evaluate(source.model)
    assert list(simulator.outputs(evaluate, variants)) == [(0, base), (1, base + 2)]


def test_an_exception_of_evaluate_keeps_its_cause_and_restores_the_model(
    source: ModelOptModel,
) -> None:
    def evaluate(model: nn.Module) -> float:
        raise ZeroDivisionError("no boxes")

    with pytest.raises(TaskError, match="got ZeroDivisionError: no boxes") as caught:
        list(EvaluateSimulator(source).outputs(evaluate, [frozenset(["conv1.input_quantizer"])]))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert not source.model.conv1.input_quantizer._disabled


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_metric_that_is_not_finite_is_refused(source: ModelOptModel, value: float) -> None:
    with pytest.raises(TaskError, match=rf"return a finite number, got {value}"):
        list(EvaluateSimulator(source).outputs(lambda model: value, [frozenset()]))
