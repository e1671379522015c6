"""Corrected biases and learned rounding in a run: applied to the model, planned again for another
target and after an interrupt, and leaving the model unchanged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from support.commands import verb
from support.onnx_models import run_file
from support.tuning import is_enough
from tasks.coarse import task
from tasks.tiny import images

from sensitivity import api, results
from sensitivity.config import PlanSettings
from sensitivity.errors import ModelError
from sensitivity.records import Plan, cost_of
from sensitivity.repairs import checkpoint
from sensitivity.repairs.tuning import Limits, TooLong
from sensitivity.reporting.verdict import words_of
from sensitivity.run_dir import RunDir
from sensitivity.search.frontier import Frontier
from sensitivity.steps import fine_tune, recalibrate, refit
from sensitivity.steps import plan as plan_step
from sensitivity.steps.recalibrate import Recalibration
from sensitivity.steps.report import report_data

TASK = Path(__file__).parent / "tasks" / "coarse.py"
TARGET = 0.87


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scanned") / "coarse"
    assert verb("scan", TASK, "--out", out) == 0
    return out


@pytest.fixture(scope="module")
def done(scanned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan with one layer left out, and corrected biases and a learned rounding in all others."""
    out = tmp_path_factory.mktemp("planned") / "coarse"
    shutil.copytree(scanned, out)
    with pytest.MonkeyPatch.context() as patch:
        needless = "learned rounding brings bias corrections of its own"
        patch.setattr(recalibrate, "_corrected", lambda *_: pytest.fail(needless))
        plan = planned(out)
    assert plan.skip == ("conv2",)
    assert set(deltas(plan)) == {"conv1", "conv3", "conv4", "conv5", "conv6", "fc"}
    assert {one.quantizer.rpartition(".")[0] for one in plan.ranges if one.rounding} == {
        *deltas(plan)
    }
    return out


def planned(out: Path, **choices: Any) -> Plan:
    settings = {"target": TARGET, "search": True, "fine_tune": "never", **choices}
    return api.plan(PlanSettings(directory=out, **settings))


def read(out: Path) -> Plan:
    return RunDir(out).read("plan.json", Plan)


def deltas(plan: Plan) -> dict[str, np.ndarray]:
    """Layer -> what the plan adds to its bias."""
    return {
        one.quantizer.removesuffix(".weight_quantizer"): np.float32(one.bias)
        for one in plan.ranges
        if one.bias is not None
    }


def biases(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {
        name.removesuffix(".bias"): value.detach().numpy().copy()
        for name, value in model.named_parameters()
        if name.endswith(".bias")
    }


def test_inside_the_with_layers_have_the_biases_of_the_plan_and_those_left_out_their_own(
    done: Path,
) -> None:
    plan, model, x = results.planned(done, None), task().model, images(16, seed=3)
    own, added = biases(model), deltas(read(done))
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        before = model(x)
        with plan.apply(model):
            inside, outputs = biases(model), model(x)
        after = model(x)
    for layer, bias in own.items():
        assert np.array_equal(inside[layer], bias + added.get(layer, np.float32(0))), layer
    assert {name: id(value) for name, value in model.named_parameters()} == {
        name: id(value) for name, value in parameters.items()
    }, "the user's own parameters are back"
    assert torch.equal(before, after)
    assert not torch.equal(before, outputs)


def test_applied_for_good_the_model_gives_what_the_with_and_the_exported_file_give(
    done: Path, tmp_path: Path
) -> None:
    plan, model, x = results.planned(done, None), task().model, images(16, seed=3)
    own, added = biases(model), deltas(read(done))
    with torch.no_grad(), plan.apply(model):
        inside = model(x)
    plan.apply_permanently(model)
    with torch.no_grad():
        outputs = model(x)
    assert torch.equal(outputs, inside)
    for layer, bias in biases(model).items():
        assert np.array_equal(bias, own[layer] + added.get(layer, np.float32(0))), layer
    file = run_file(exported(done, tmp_path / "run") / "model.partial.onnx", x.numpy())
    assert np.abs(file - outputs.numpy()).max() < 1e-4


def test_an_exception_inside_the_with_gives_the_biases_back(done: Path) -> None:
    plan, model = results.planned(done, None), task().model
    own = biases(model)
    with pytest.raises(ZeroDivisionError), plan.apply(model):
        raise ZeroDivisionError
    assert all(np.array_equal(bias, own[layer]) for layer, bias in biases(model).items())


@pytest.mark.parametrize(("target", "left_out"), [(0.6, set()), (0.99, {"conv2", "conv3"})])
def test_another_target_is_planned_with_the_biases_that_were_found(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: float, left_out: set[str]
) -> None:
    out = tmp_path / "again"
    shutil.copytree(done, out)
    known = deltas(read(out))
    for repair in ("bias_corrections", "learned_roundings"):
        monkeypatch.setattr(recalibrate, repair, refused)
    plan = planned(out, target=target)
    assert left_out <= set(plan.skip)
    for layer in known.keys() - set(plan.skip):
        assert np.array_equal(deltas(plan)[layer], known[layer]), layer
    assert not deltas(plan).keys() & set(plan.skip)
    fresh = json.loads((out / "recalibration.json").read_text())
    assert fresh == json.loads((done / "recalibration.json").read_text())


def test_with_16_bits_on_offer_a_plan_costs_no_more_than_without(
    scanned: Path, done: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(scanned, tmp_path / "run")
    plan = planned(out, formats="int8,int16,float")
    assert plan.met
    assert cost_of(plan.names, None) <= len(read(done).skip)
    assert any(one.rounding is not None for one in plan.ranges)


def test_roundings_learned_beside_activations_of_16_bits_stay_with_them_alone(
    scanned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def for_all_but_one_step(number: int, tried: Callable[[int], Any]) -> Any:
        return tried(number - 1)

    monkeypatch.setattr(refit, "_of_fewest", for_all_but_one_step)
    monkeypatch.setattr(refit, "_is_met", lambda *_: True)
    monkeypatch.setattr(plan_step, "cheapest", lambda plans, *_: len(plans) - 1)
    out = shutil.copytree(scanned, tmp_path / "run")
    planned(out, target=0.99, formats="int8,int16,float")
    found = RunDir(out).read("recalibration.json", Recalibration)
    wide = RunDir(out).read("frontier.json", Frontier).wide
    assert set() < set(found.fitted_wide) < set(wide), "some have 16 bits, others only may"
    for unit, ranges in wide.items():
        weights = [one for one in ranges if one.quantizer.endswith("weight_quantizer")]
        assert bool(weights) == (unit not in found.fitted_wide), unit
        assert not any(one.rounding or one.bias for one in weights), unit
    rounded = {one.quantizer for one in found.ranges if one.rounding is not None}
    assert {f"{unit}.weight_quantizer" for unit in found.fitted_wide} <= rounded


def refused(*args: object, **named: object) -> None:
    raise AssertionError("it was computed again")


@pytest.mark.parametrize("where", ["while the repair is judged", "while sets are tried"])
def test_a_search_that_was_interrupted_goes_on_to_the_same_plan(
    scanned: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def interrupted(*args: object, **named: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "interrupted"
    shutil.copytree(scanned, out)
    places: dict[str, Callable[[], None]] = {
        "while the repair is judged": lambda: patch.setattr(recalibrate, "repaired", interrupted),
        "while sets are tried": lambda: patch.setattr(plan_step, "choose_plan", interrupted),
    }
    with monkeypatch.context() as patch:
        places[where]()
        with pytest.raises(KeyboardInterrupt):
            planned(out)
    assert not (out / "plan.json").exists()
    if where == "while sets are tried":
        for repair in ("bias_corrections", "learned_roundings"):
            monkeypatch.setattr(recalibrate, repair, refused)
    plan, wanted = planned(out), read(done)
    assert (plan.skip, plan.ranges, plan.metric) == (wanted.skip, wanted.ranges, wanted.metric)


def test_the_float_file_of_a_plan_with_repairs_is_that_of_a_plan_without(
    scanned: Path, done: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(scanned, plain)
    planned(plain, no_recalibrate=True)
    assert verb("export", plain) == 0
    mended = exported(done, tmp_path / "mended")
    files = [folder / "model.float.onnx" for folder in (plain, mended)]
    one, other = map(contents, files)
    assert one.keys() == other.keys()
    assert all(np.array_equal(value, other[name]) for name, value in one.items())
    x = images(16, seed=3).numpy()
    assert np.array_equal(*(run_file(file, x) for file in files))


def exported(run: Path, out: Path) -> Path:
    shutil.copytree(run, out)
    assert verb("export", out) == 0
    return out


def contents(file: Path) -> dict[str, np.ndarray]:
    """The nodes of a file as text, and its constants."""
    graph = onnx.load(file).graph
    nodes = {f"node {number}": np.array(str(node)) for number, node in enumerate(graph.node)}
    return nodes | {value.name: numpy_helper.to_array(value) for value in graph.initializer}


@pytest.fixture(scope="module")
def tuned(done: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plan of `done` with fine-tuning, because `done` leaves a layer out."""
    out = tmp_path_factory.mktemp("tuned") / "coarse"
    shutil.copytree(done, out)
    with pytest.MonkeyPatch.context() as patch:
        for repair in ("bias_corrections", "learned_roundings"):
            patch.setattr(recalibrate, repair, refused)
        patch.setattr(fine_tune, "Limits", partial(Limits, steps=100))
        patch.setattr(fine_tune, "is_enough", is_enough)
        plan = planned(out, fine_tune="auto")
    assert plan.tuning.kept
    return out


def test_fine_tuning_follows_where_a_layer_would_be_left_out_and_says_what_it_gave(
    tuned: Path,
) -> None:
    plan = read(tuned)
    assert plan.metric.recalibrated.value > 0
    assert plan.tuning.before.n == plan.tuning.after.n == 80
    assert {one.method for one in plan.ranges if one.rounding} == {"learned rounding, fine-tuning"}
    text = " ".join(words_of(report_data(tuned)).sentences)
    assert "Fine-tuning by distillation from the float model, without labels, took" in text


def test_what_was_fine_tuned_is_exported_and_taken_back(tuned: Path, tmp_path: Path) -> None:
    plan, model, x = results.planned(tuned, None), task().model, images(16, seed=3)
    with torch.no_grad():
        before = model(x)
        with plan.apply(model):
            inside = model(x)
        assert torch.equal(model(x), before)
    plan.apply_permanently(model)
    with torch.no_grad():
        assert torch.equal(model(x), inside)
    file = run_file(exported(tuned, tmp_path / "run") / "model.partial.onnx", x.numpy())
    # Sums in another order may round a value of one sample to its other level.
    apart = np.abs(file - inside.numpy()).max(axis=1)
    assert np.sort(apart)[-2] < 1e-4


@pytest.mark.parametrize(
    ("choice", "target", "is_tuned"),
    [("auto", 0.8, True), ("always", 0.9, True), ("never", 0.9, False)],
)
def test_fine_tuned_weights_are_found_again_unless_they_are_not_wanted(
    tuned: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    choice: str,
    target: float,
    is_tuned: bool,
) -> None:
    out = tmp_path / "again"
    shutil.copytree(tuned, out)
    monkeypatch.setattr(fine_tune, "fine_tuned", refused)
    plan = planned(out, target=target, fine_tune=choice)
    assert (plan.tuning is not None) == is_tuned
    assert any("fine-tuning" in one.method for one in plan.ranges) == is_tuned


def test_fine_tuning_that_is_interrupted_keeps_the_other_repairs_and_goes_on(
    done: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[int, int]] = []

    @contextmanager
    def until(last: int, what: str, total: int) -> Iterator[Any]:
        def advance(steps: int, samples: int) -> None:
            if what == "fine-tune":
                shown.append((steps, total))
                if sum(steps for steps, _ in shown) >= last:
                    raise KeyboardInterrupt

        yield advance

    out = tmp_path / "interrupted"
    shutil.copytree(done, out)
    for repair in ("bias_corrections", "learned_roundings"):
        monkeypatch.setattr(recalibrate, repair, refused)
    monkeypatch.setattr(fine_tune, "is_enough", is_enough)
    monkeypatch.setattr(fine_tune, "Limits", partial(Limits, steps=100))
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
    settings = PlanSettings(directory=out, target=TARGET, search=True, fine_tune="auto")
    with pytest.raises(KeyboardInterrupt):
        api.plan(settings, partial(until, 60))
    assert shown == [(0, 100), *[(1, 100)] * 60]
    shown.clear()
    plan, wanted = api.plan(settings, partial(until, 101)), read(tuned)
    assert shown == [(59, 100), *[(1, 100)] * 41]
    assert (plan.skip, plan.ranges, plan.tuning) == (wanted.skip, wanted.ranges, wanted.tuning)
    assert not (out / fine_tune.STATE).exists()


@pytest.mark.parametrize(
    ("raised", "note"),
    [
        (TooLong(1500), "it would take about 25 minutes; --fine-tune always runs it."),
        (ModelError("Expected gradients."), "Fine-tuning was left out: Expected gradients."),
        (torch.OutOfMemoryError(), "too little memory for the gradients of 32 samples."),
    ],
)
def test_where_fine_tuning_is_left_out_a_note_says_why(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, note: str
) -> None:
    def refuses(*args: object, **named: object) -> None:
        raise raised

    out = tmp_path / "noted"
    shutil.copytree(done, out)
    # On a loaded machine a forward may say that even this model takes too long.
    monkeypatch.setattr(fine_tune, "check_time", lambda *_: None)
    monkeypatch.setattr(fine_tune, "fine_tuned", refuses)
    monkeypatch.setattr(fine_tune, "is_enough", is_enough)
    plan = planned(out, fine_tune="auto")
    assert plan.tuning is None
    assert any(note in one for one in plan.notes)
    assert plan.ranges == read(done).ranges
