"""After a collapse, the few units that cause it are found, and nothing else is left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.onnx_models import qdq_file
from support.studies import study_of

from sensitivity.config import ScanSettings
from sensitivity.errors import ModelError
from sensitivity.journal.journal import open_journal
from sensitivity.measure.measurer import Measurer
from sensitivity.measure.raced import (
    COSTLY_SAMPLES,
    EXACT_UP_TO,
    FEW_SAMPLES,
    SIGNAL_SAMPLES,
    Budget,
    measured_signal,
    raced_scan,
)
from sensitivity.measure.scan import scan, usual_mode
from sensitivity.opened import quantized_model
from sensitivity.planners.base import Choice, Goal, Judged
from sensitivity.planners.culprits import END, NEAR, CulpritPlanner
from sensitivity.planners.pinned import PinnedPlanner
from sensitivity.quantizers.base import ends, layers
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.records import Plan, Target
from sensitivity.search.choose import SearchOptions, choose_plan
from sensitivity.search.judge import RoughJudge
from sensitivity.signals.distortion import SQNR
from sensitivity.steps import scan as scan_step
from sensitivity.tasks.base import Task
from sensitivity.testing.fakes import FakeModel, FakeSimulator

UNITS = [f"op{index:02}" for index in range(60)]
SMALL = 1e-4


# --- whole networks


class Detector(FakeModel):
    """Boxes in pixels and probabilities in one tensor: float32[n, 4 + 3].

    Each operation adds a little noise to both. The operations `wrong` put both on one grid of 2.5
    pixels, so that every probability is 0 while one of them is in INT8.
    """

    def __init__(self, units: list[str], wrong: tuple[str, ...]) -> None:
        super().__init__(dict.fromkeys(units, SMALL))
        self.wrong = wrong

    def __call__(self, inputs: Any) -> Any:
        on = {quantizer.layer for quantizer in self.quantizers if quantizer.name not in self.off}
        pixels = inputs[:, :1] * np.array([600.0, 400, 90, 50]) + len(on) * SMALL * 640
        sure = 0.9 * (inputs[:, 1:] > 0.7) - len(on) * SMALL * inputs[:, 1:]
        found = np.concatenate([pixels, np.maximum(sure, 0)], axis=1)
        return np.round(found / 2.5) * 2.5 if on & set(self.wrong) else found


class TwoOutputs(FakeModel):
    """A few logits, and an embedding of thousands that does not count and that a harmless operation
    moves."""

    def __call__(self, inputs: Any) -> Any:
        on = {quantizer.layer for quantizer in self.quantizers if quantizer.name not in self.off}
        logits = inputs[:, 1:] * (0.0 if "ruins" in on else 1.0)
        return {
            "embedding": 3000 * inputs + 100.0 * ("moves" in on),
            "logits": logits + 1e-9 * len(on),
        }


def detected(outputs: Any, _: Any) -> Any:
    """The share of right answers among three classes, where an object is present."""
    wanted = detected.wanted  # type: ignore[attr-defined]
    return ((outputs[:, 4:] > 0.5) & wanted[: len(outputs)]).sum(axis=1) / np.maximum(
        wanted.sum(axis=1), 1
    )


def planned(
    model: FakeModel, score: Callable[[Any, Any], Any], width: int, path: Path, **settings: Any
) -> Plan:
    """What the plain command does: mode, raced scan and plan with the default signal."""
    inputs = np.random.default_rng(3).uniform(0, 1, (40, width))
    inputs[:, -1] = 1.0  # something is there in every sample
    detected.wanted = inputs[:, 1:] > 0.7  # type: ignore[attr-defined]
    data = {split: [(inputs, inputs)] for split in ("rank", "confirm", "holdout")}
    task = Task(model, data, score)
    with open_journal(path, {}, resume=True) as journal:
        measurer = Measurer(task, lambda _: FakeSimulator(model), journal)
        study = study_of(measurer, model)
        assert usual_mode(study) == "enable"
        signal = measured_signal(study, SQNR, FEW_SAMPLES)
        scanned = raced_scan(study, "enable", signal, Budget(2000))
        found = SearchOptions(
            signal=SQNR, alone=scanned.signal, ends=ends(model, study.units), **settings
        )
        return choose_plan(study, scanned, Target(drop=0.01), found)


@pytest.mark.parametrize(
    "wrong",
    [("op58", "op59"), ("op57",), ("op00",), ("op00", "op59"), ("op20", "op41")],
    ids=["last-two", "one-of-the-last", "the-first", "both-ends", "in-the-middle"],
)
@pytest.mark.parametrize("planner", ["greedy", "cost"])
def test_exactly_the_operations_that_round_pixels_and_probabilities_alike_are_left_out(
    wrong: tuple[str, ...], planner: str, tmp_path: Path
) -> None:
    plan = planned(Detector(UNITS, wrong), detected, 4, tmp_path / "j", planner=planner)
    assert plan.met
    assert set(plan.skip) == set(wrong)


def test_the_output_that_ruins_the_metric_is_found_beside_one_of_a_scale_of_thousands(
    tmp_path: Path,
) -> None:
    def right(outputs: Any, inputs: Any) -> Any:
        return (np.sign(outputs["logits"] - 0.5) == np.sign(inputs[:, 1:] - 0.5)).all(axis=1) & (
            outputs["logits"].max(axis=1) > 0.1
        )

    harm = dict.fromkeys([*UNITS, "moves", "ruins"], SMALL)
    plan = planned(TwoOutputs(harm), right, 4, tmp_path / "j")
    assert plan.met
    assert plan.skip == ("ruins",)


def test_a_collapse_that_is_measured_whole_is_planned_alike(tmp_path: Path) -> None:
    """A small model has no race, and a task without outputs no distortion."""
    model = Detector(UNITS[:20], ("op18", "op19"))
    inputs = np.random.default_rng(3).uniform(0, 1, (40, 4))
    inputs[:, -1] = 1.0
    detected.wanted = inputs[:, 1:] > 0.7  # type: ignore[attr-defined]
    task = Task(
        model, {split: [(inputs, None)] for split in ("rank", "confirm", "holdout")}, detected
    )
    for signal in (SQNR, None):
        with open_journal(tmp_path / str(signal is None), {}, resume=True) as journal:
            measurer = Measurer(task, lambda _: FakeSimulator(model), journal)
            study = study_of(measurer, model)
            scanned = scan(study, "enable")
            options = SearchOptions(signal=signal, ends=ends(model, study.units))
            plan = choose_plan(study, scanned, Target(drop=0.01), options)
        assert plan.met
        assert set(plan.skip) == {"op18", "op19"}


# --- the planner alone


def search(
    needed: set[str],
    ranking: list[str],
    *,
    ends_: Any = (),
    noise: Mapping[str, float] | None = None,
    planner: Any = None,
) -> tuple[Choice, list[int]]:
    """A model that works if `needed` is left out.

    noise: unit -> its share of the distortion; None if it is unknown.
    """
    asked: list[int] = []

    def judge(skip: tuple[str, ...]) -> Judged:
        met = needed <= set(skip)
        return Judged(float(met), met, 100)

    def distortion(skips: Any) -> list[float]:
        asked.append(len(skips))
        return [sum(noise[unit] for unit in ranking if unit not in skip) for skip in skips]

    goal = Goal(1.0, 1.0, distortion=distortion if noise is not None else None)
    return (planner or CulpritPlanner(ends_)).choose(ranking, judge, goal), asked


@settings(deadline=None)
@given(st.sets(st.sampled_from(UNITS), max_size=9), st.randoms(use_true_random=False))
def test_what_is_left_out_is_what_is_needed_wherever_it_stands(
    needed: set[str], random: Any
) -> None:
    ranking = random.sample(UNITS, len(UNITS))
    noise = {unit: 1.0 if unit in needed else 1e-3 for unit in UNITS}
    choice, _ = search(needed, ranking, noise=noise)
    assert set(choice.skip) == needed
    assert choice.skip == tuple(unit for unit in ranking if unit in needed), (
        "in the order of the ranking"
    )


def test_an_end_of_the_graph_is_tried_where_the_ranking_does_not_know_it() -> None:
    """Three of the last four units, which are last in the ranking: a prefix would have to hold
    everything."""
    needed = {"op56", "op58", "op59"}
    noise = {unit: 1.0 if unit in needed else 1e-3 for unit in UNITS}
    choice, asked = search(needed, UNITS, ends_=(UNITS, UNITS[::-1]), noise=noise)
    assert set(choice.skip) == needed
    assert max(len(step.skip) for step in choice.path) == 4, (
        "no set was judged that is larger than the end"
    )
    assert sum(asked) < 25, "distortions: of the sets of both steps"
    assert len(choice.path) <= 10


def test_without_a_distortion_ends_and_prefixes_are_judged_and_units_go_back_one_at_a_time() -> (
    None
):
    choice, _ = search({"op59", "op57"}, UNITS, ends_=(UNITS, UNITS[::-1]))
    assert set(choice.skip) == {"op57", "op59"}
    assert max(len(step.skip) for step in choice.path) <= END


def test_a_set_that_leaves_no_less_distortion_than_a_smaller_one_is_not_judged() -> None:
    noise = dict.fromkeys(UNITS, 0.0) | {"op03": 1.0}
    choice, _ = search(
        {"op03"}, ["op03", *(unit for unit in UNITS if unit != "op03")], ends_=(UNITS,), noise=noise
    )
    assert [step.skip for step in choice.path] == [(), ("op03",)]


def test_units_that_are_pinned_are_kept_and_left_out_in_every_set() -> None:
    noise = {unit: 1.0 if unit in {"op10", "op20"} else 1e-3 for unit in UNITS}
    pinned = PinnedPlanner(CulpritPlanner((UNITS, UNITS[::-1])), ["op05"], ["op59"])
    choice, _ = search({"op10", "op20"}, UNITS, noise=noise, planner=pinned)
    assert set(choice.skip) == {"op05", "op10", "op20"}
    assert all("op05" in step.skip and "op59" not in step.skip for step in choice.path)


def test_a_target_that_nothing_meets_gives_the_best_set_tried() -> None:
    noise = dict.fromkeys(UNITS, 1.0)
    goal = Goal(
        2.0, 1.0, distortion=lambda skips: [sum(noise.values()) - len(skip) for skip in skips]
    )
    choice = CulpritPlanner().choose(
        UNITS, lambda skip: Judged(-abs(len(skip) - 8.0), False, 100), goal
    )
    assert not choice.met
    assert len(choice.skip) == 8


@pytest.mark.parametrize("guided", [True, False])
def test_once_the_collapse_has_ended_the_rest_is_no_search_for_culprits(guided: bool) -> None:
    """One unit of 250 ruins the model, and the others lose a little each, as in a detector whose
    file has boxes and probabilities on one grid."""
    units = ["ruins", *(f"op{index:03}" for index in range(249))]
    noise = {unit: 0.985**index for index, unit in enumerate(units)} | {"ruins": 1000.0}
    tail = 0.1 / sum(list(noise.values())[1:])
    least = next(size for size in range(250) if tail * sum(list(noise.values())[size:]) <= 0.05)

    def judge(skip: tuple[str, ...]) -> Judged:
        lost = sum(noise[unit] for unit in units[1:] if unit not in skip) * tail
        metric = 1.0 - lost if "ruins" in skip else 0.0
        return Judged(metric, metric >= 0.95, 100)

    def distortion(skips: Any) -> list[float]:
        return [sum(noise[unit] for unit in units if unit not in skip) for skip in skips]

    planner = CulpritPlanner((units, units[::-1]), noise if guided else None)
    choice = planner.choose(units, judge, Goal(0.95, 1.0, distortion=distortion))
    assert choice.met
    assert choice.skip[0] == "ruins"
    large = [len(step.skip) for step in choice.path if len(step.skip) > END]
    if guided:
        assert len(large) <= 4
        assert min(large) > least / 2
        assert least <= len(choice.skip) <= (1 + NEAR) * least
    else:
        assert len(large) > 6
        assert len(choice.skip) == least


def test_a_second_culprit_that_the_ranking_does_not_know_is_left_out_without_its_neighbours() -> (
    None
):
    noise = dict.fromkeys(UNITS, 1e-3) | {"op00": 1.0, "op30": 1e-3}
    together = noise | {"op30": 0.5}

    def judge(skip: tuple[str, ...]) -> Judged:
        metric = 1.0 - 0.7 * ("op00" not in skip) - 0.3 * ("op30" not in skip)
        return Judged(metric, metric >= 0.95, 100)

    def distortion(skips: Any) -> list[float]:
        return [sum(together[unit] for unit in UNITS if unit not in skip) for skip in skips]

    goal = Goal(0.95, 1.0, distortion=distortion)
    choice = CulpritPlanner((UNITS, UNITS[::-1]), noise).choose(UNITS, judge, goal)
    assert choice.met
    assert choice.skip == ("op00", "op30")


def test_a_model_that_does_not_know_its_graph_has_two_ends() -> None:
    model = FakeModel({"a": 0.1, "b": 0.1, "c": 0.1})
    assert ends(model, layers(model.quantizers)) == (("a", "b", "c"), ("c", "b", "a"))


# --- judging


def test_a_set_that_misses_by_far_is_refused_on_a_part_of_confirm_and_a_plan_never_is(
    tmp_path: Path,
) -> None:
    """A metric that is not a mean has no bound: its jackknife values say when the drop is clear."""
    model = FakeModel({"ruins": 0.6, "harms": 0.004})
    samples = np.random.default_rng(0).permutation(np.linspace(0, 0.999, 200))
    batches = [(samples[i : i + 10], None) for i in range(0, 200, 10)]
    task = Task(
        model,
        dict.fromkeys(("rank", "confirm", "holdout"), batches),
        lambda outputs, _: outputs,
        aggregate=median_free,
    )
    with open_journal(tmp_path / "j", {}, resume=True) as journal:
        measurer = Measurer(task, lambda _: FakeSimulator(model), journal)
        study = study_of(measurer, model)
        (float_scores,) = measurer.scores([study.float_variant], "confirm", "float")
        judge = RoughJudge(study, 0.99, float_scores)
        ruined, harmed = judge(()), judge(("ruins",))
    assert (ruined.met, ruined.n, ruined.part) == (False, 20, 0.1)
    assert ruined.metric == pytest.approx(0.4, abs=0.3)
    assert 0 < ruined.error < 0.2
    assert (harmed.met, harmed.n, harmed.part, harmed.error) == (True, 200, 1.0, 0.0)
    assert harmed.metric == pytest.approx(0.995, abs=0.005)


def median_free(scores: Any) -> float:
    """A mean that is not known to be one."""
    return float(np.mean(scores))


# --- ends of a graph


def test_the_ends_of_a_file_are_the_operations_before_each_output_the_nearest_first(
    tmp_path: Path,
) -> None:
    """Two branches: a unit that is near one output is not before the other output, wherever it is
    in the file."""
    body = (
        "qx = QuantizeLinear (x, s, z) dx = DequantizeLinear (qx, s, z) t = Relu (dx) "
        "qt = QuantizeLinear (t, s, z) dt = DequantizeLinear (qt, s, z) a = Neg (dt) "
        "qu = QuantizeLinear (t, s, z) du = DequantizeLinear (qu, s, z) b = Abs (du) "
        "qb = QuantizeLinear (b, s, z) db = DequantizeLinear (qb, s, z) y2 = Exp (db) "
        "qa = QuantizeLinear (a, s, z) y = DequantizeLinear (qa, s, z)"
    )
    grid = {"s": np.float32(0.1), "z": np.int8(0)}
    path = qdq_file(tmp_path / "q.onnx", body, grid)
    model = onnx.load(path)
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("y2", onnx.TensorProto.FLOAT, None)
    )
    onnx.save(model, path)
    source = quantized_model(OnnxModel(path))
    found = ends(source, layers(source.quantizers))
    assert found == (
        ("Relu_t", "Neg_a", "Abs_b", "Exp_y2", "y"),
        ("y", "Neg_a", "Relu_t"),
        ("Exp_y2", "Abs_b", "Relu_t"),
    )


# --- what is measured


@pytest.mark.parametrize(
    ("samples", "large", "mode", "answer"),
    [(5000, False, "enable", "exact"), (5001, False, "enable", "race of 400"),
     (5001, True, "enable", "race of 200, first 8"), (5001, False, "disable", "exact"),
     (20001, False, "disable", "race of 1000"), (20001, True, "disable", "race of 400, first 8")],
)  # fmt: skip
def test_a_collapsed_model_is_raced_sooner_and_for_less(
    samples: int, large: bool, mode: Any, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert measured(samples, mode, monkeypatch, large=large) == answer


def test_a_collapsed_model_whose_outputs_cannot_be_compared_is_measured_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = ModelError("Expected finite outputs, got infinite values or NaN.")
    assert measured(20000, "enable", monkeypatch, refused) == "exact"
    with pytest.raises(ModelError, match="Expected finite outputs"):
        measured(20001, "enable", monkeypatch, refused)


def in_words(budget: Budget) -> str:
    first = "" if budget.entrants is None else f", first {budget.entrants}"
    return f"race of {budget.samples}{first}"


def measured(
    samples: int,
    mode: Any,
    monkeypatch: pytest.MonkeyPatch,
    refused: Exception | None = None,
    *,
    large: bool = False,
) -> str:
    """How the plain command scans a model whose exact scan takes this many samples.

    refused: the error that its signal raises.
    large: whether each sample holds many values.
    """
    usual = COSTLY_SAMPLES if large else SIGNAL_SAMPLES

    def signal(name: str, few: int) -> dict[str, float]:
        assert (name, few) == ("boxes", FEW_SAMPLES if mode == "enable" else usual)
        if refused:
            raise refused
        return {}

    monkeypatch.setattr(scan_step, "measure_scan", lambda *_: "exact")
    monkeypatch.setattr(scan_step, "raced_scan", lambda *subject: in_words(subject[-1]))
    session: Any = SimpleNamespace(
        study=None,
        exact_samples=lambda: samples,
        affordable=EXACT_UP_TO,
        has_large_samples=large,
        signal=signal,
        usual_signal="boxes",
    )
    found: Any = scan_step.measured_scan(session, ScanSettings(task="task.py:task"), mode)
    return str(found)
