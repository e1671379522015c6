"""16-bit activations of some layers: switched and restored, replayed, exported, planned."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support import models
from support.commands import TASK, verb
from support.configs import apply_as_printed, widths
from support.onnx_models import float_file, images, static_file
from support.replays import check

from sensitivity.exporters.configs.ort import OrtConfig
from sensitivity.journal.lines import RangeTried, made_range
from sensitivity.measure.study import Study
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.uses import format_of
from sensitivity.quantizers.alternatives import Alternatives
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.quantizers.onnx.qdq import OnnxQdqModel
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.records import Quantizer, Range, Unit
from sensitivity.reporting.number_formats import plan_formats
from sensitivity.reporting.verdict import words_of
from sensitivity.rules.formats import WIDE
from sensitivity.run_dir import RunDir
from sensitivity.search.wide import WIDE_BITS, wide_range, with_plain_weights
from sensitivity.simulators.onnx.replay import OnnxReplay
from sensitivity.simulators.onnx.whole import WholeFile
from sensitivity.simulators.torch.replay import ReplaySimulator
from sensitivity.steps import plan as planning
from sensitivity.steps.apply import applied, apply_for_good
from sensitivity.steps.config import write_tool_config
from sensitivity.steps.report import report_data
from sensitivity.tasks.load import load_task
from sensitivity.units.units import Pins


@pytest.fixture
def source() -> ModelOptModel:
    return ModelOptModel(models.quantized(models.seeded(models.Branches), models.batch()))


def test_a_range_of_16_bits_is_another_range_than_the_same_with_8() -> None:
    own = Range("a", "own", (1.0,))
    assert wide_range(own) == Range("a", "own", (1.0,), bits=16)
    assert wide_range(own).key != own.key
    wide = wide_range(own)
    assert made_range(RangeTried(wide.key, **asdict(wide))) == wide


def test_torch_quantizers_take_16_bits_inside_the_with_only(source: ModelOptModel) -> None:
    name = "stem.0.input_quantizer"
    module, x = source.model.get_submodule(name), models.batch(seed=1)
    own, before = source.range(name), module(x)
    with source.with_ranges([wide_range(own)]):
        grid, wide = source.grid(name), module(x)
    assert (grid.high, source.grid(name).high) == (32767, 127)
    assert torch.equal(module(x), before)
    inside = x.clamp(-own.amax[0], own.amax[0])
    step = own.amax[0] / 32767
    assert (wide - inside).abs().max() <= step * 0.51 < (before - inside).abs().max()


def test_replay_of_16_bits_is_the_model_that_has_them_bit_for_bit(source: ModelOptModel) -> None:
    wide = [wide_range(source.range(f"{one}.input_quantizer")) for one in ("stem.0", "left")]
    offering = Alternatives(source, wide)
    offered = [one for one in offering.quantizers if one.replaces]
    assert {(one.bits, one.format) for one in offered} == {(WIDE_BITS, "INT16")}
    keys = [one.key for one in wide]
    variants = [frozenset(names) for names in ([], keys, keys[:1], [keys[0], wide[0].quantizer])]
    check(offering, ReplaySimulator(offering), models.batch(seed=7), variants)


def test_weights_beside_16_bits_hold_nothing_that_was_fitted_to_8() -> None:
    wide = {
        "a": (Range("a.x", "own", (1.0,), bits=16),),
        "b": (Range("b.x", "own", (2.0,), bits=16),),
    }
    units = [Unit(name, (f"{name}.x", f"{name}.w")) for name in ("a", "b", "c")]
    corrected = Range("a.w", "mse, bias correction", (0.5, 0.2), axis=0, bias=(0.1, -0.1))
    others = [Range("b.w", "mse", (0.5,)), Range("c.w", "rounded", (0.5,), rounding="AA==")]
    found = with_plain_weights(wide, units, [corrected, Range("a.x", "mse", (0.8,)), *others])
    assert found["a"] == (*wide["a"], Range("a.w", "without corrections", (0.5, 0.2), axis=0))
    assert found["b"] == wide["b"], "a range alone is as good beside 16 bits"
    assert found.keys() == wide.keys()


def test_a_search_offers_weights_without_corrections_beside_16_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The search itself is left out."""
    wide = {"a": (Range("a.x", "own", (1.0,), bits=16),)}
    repaired = Range("a.w", "bias correction", (0.5,), bias=(0.1,))
    plain = Range("a.w", "without corrections", (0.5,))
    offered: list[Range] = []
    measurer = SimpleNamespace(use_candidates=offered.extend, with_ranges=nullcontext)
    session = SimpleNamespace(measurer=measurer, has_large_samples=False)
    study = Study(None, (Unit("a", ("a.x", "a.w")),), (), wide)
    question = planning.Question(study, "greedy", None, Pins(), None, None)

    def choose(session: Any, question: Any, scan: Any, *, may_grow: bool) -> Any:
        return question.study.wide

    monkeypatch.setattr(planning, "_choose", choose)
    monkeypatch.setattr(planning, "_frontier", lambda study, *_: ((), study.wide))
    ranges = SimpleNamespace(ranges=(repaired,), scan=None, fitted_wide=())
    attempt = planning._attempt(session, question, ranges, first=ranges)
    assert attempt.wide == attempt.plan == attempt.values == {"a": (*wide["a"], plain)}
    assert set(offered) == {repaired, plain, *wide["a"]}


def test_the_format_of_weights_is_their_own_beside_16_bits() -> None:
    quantizers = [Quantizer("a.x", "a", "input", 8, None), Quantizer("a.w", "a", "weight", 8, 0)]
    ranges = (Range("a.x", "own", (1.0,), bits=16), Range("a.w", "without corrections", (0.5,)))
    plan = SimpleNamespace(format_ranges=ranges, skip=())
    formats = plan_formats([Unit("a", ("a.x", "a.w"))], quantizers, plan)
    assert formats == {"a": "INT8 with INT16 activations"}


def outputs(simulator: Any, variant: frozenset[str], x: Any) -> np.ndarray:
    ((_, found),) = simulator.outputs(x, [variant])
    return np.array(found)


@pytest.mark.parametrize("opset", [13, 21])
def test_uses_of_a_file_take_16_bits_as_the_edited_file_and_replay_do(
    opset: int, tmp_path: Path
) -> None:
    unquantized = float_file(tmp_path / "net.onnx", opset)
    quantized = static_file(unquantized, tmp_path / "net.qdq.onnx")
    source = OnnxQdqModel(OnnxModel(quantized, float_path=unquantized))
    names = [one.name for one in source.quantizers if one.role == "input"]
    x = {"x": images(4, seed=3)}
    wide = [wide_range(source.range(name)) for name in names]
    offering = Alternatives(source, wide)
    replay, keys = OnnxReplay(offering), frozenset(one.key for one in wide)
    with source.with_ranges(wide):
        edited = source.model.without(frozenset())
        whole = outputs(WholeFile(source), frozenset(), x)
        assert all(source.grid(name).high in (32767, 65535) for name in names)
    np.testing.assert_array_equal(outputs(replay, keys, x), whole)
    domains = {node.domain for node in edited.graph if node.op_type == "QuantizeLinear"}
    assert domains == ({"", "com.microsoft"} if opset == 13 else {""})
    unquantized_activations = outputs(replay, frozenset(names), x)
    near = np.abs(whole - unquantized_activations).max()
    assert near < 0.1 * np.abs(outputs(replay, frozenset(), x) - unquantized_activations).max()


# Plans.
# --------------------------------------------------------------------------------------------------

FORMATS = ("--formats", "int8,int16,float", "--no-recalibrate")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ranges of two layers are far too wide for 8 bits."""
    out = tmp_path_factory.mktemp("wide") / "tiny"
    assert verb("scan", f"{TASK}:far_too_wide", "--out", out) == 0
    assert verb("plan", out, "--target", "0.8", *FORMATS) == 0
    assert verb("export", out) == 0
    return out


def test_layers_that_16_bits_are_enough_for_are_not_left_out(done: Path) -> None:
    plan = RunDir(done).plan()
    assert (plan.met, plan.skip, plan.quantizers) == (True, (), ())
    assert {one.unit for one in plan.widened} == {"conv2", "conv5"}
    assert plan.formats["conv2"] == "INT8 with INT16 activations"
    assert plan.formats["conv1"] == "INT8"
    assert plan.metric.confirm.value > plan.metric.quantized.value


def test_the_partial_file_alone_has_pairs_of_16_bits(done: Path) -> None:
    def kinds(name: str) -> dict[str, str]:
        pairs = qdq.pairs(load_model(done / name).graph)
        return {pair.name.partition("/")[0]: format_of(pair) for pair in pairs}

    partial, int8 = kinds("model.partial.onnx"), kinds("model.int8.onnx")
    wide = {name for name, kind in partial.items() if kind == "INT16"}
    assert wide == {"conv2.input_quantizer", "conv5.input_quantizer"}
    assert partial.keys() == int8.keys()
    assert set(int8.values()) == {"INT8"}
    check = next(one for one in json.loads((done / "export.json").read_text())["files"][::-1])
    assert check["variant"] == "partial"
    assert check["metric"]["file"] == pytest.approx(check["metric"]["simulated"], abs=0.05)


def test_onnx_runtime_quantizes_the_float_file_with_16_bits_where_the_plan_has_them(
    done: Path, tmp_path: Path
) -> None:
    config = write_tool_config(RunDir(done), OrtConfig()).config
    ((x, _), *_) = load_task(f"{TASK}:far_too_wide").data["rank"]
    made = apply_as_printed(done / "model.float.onnx", x.numpy(), config, tmp_path)
    assert widths(made) == widths(done / "model.partial.onnx")
    wide = {name for name, bits in widths(made).items() if 16 in bits.values()}
    assert wide == {"conv2", "conv5"}


def test_another_target_is_answered_from_sets_with_16_bits_that_were_measured(
    done: Path, tmp_path: Path
) -> None:
    out = tmp_path / "again"
    shutil.copytree(done, out)
    before = RunDir(out).plan()
    assert any(step.wide for step in before.path)
    lines = RunDir(out).journal.read_bytes()
    assert verb("plan", out, "--target", "0.79", *FORMATS) == 0
    again = RunDir(out).plan()
    assert set(again.widened) == set(before.widened)
    assert any("measured before" in note for note in again.notes)
    assert RunDir(out).journal.read_bytes() == lines


def test_words_say_how_many_layers_have_16_bits(done: Path, capsys: Any) -> None:
    data = report_data(done)
    words = words_of(data)
    assert "Giving 2 layers activations of 16 bits brings" in words.headline
    assert any("With activations of 16 bits" in sentence for sentence in words.sentences)
    assert "2 of 7 layers with activations of 16 bits (conv2, conv5)" in " ".join(
        data.plan.advice.sentences
    ).replace("conv5, conv2", "conv2, conv5")


def test_a_plan_gives_the_users_own_model_16_bits_for_a_while_and_for_good(done: Path) -> None:
    plan, info = RunDir(done).plan(), RunDir(done).info()
    model = load_task(f"{TASK}:far_too_wide").model
    of = attrgetter("_num_bits")
    with applied(model, plan, info):
        assert (of(model.conv2.input_quantizer), of(model.conv2.weight_quantizer)) == (16, 8)
    assert of(model.conv2.input_quantizer) == 8
    apply_for_good(model, plan, info)
    assert (of(model.conv2.input_quantizer), of(model.conv1.input_quantizer)) == (16, 8)


def test_the_page_of_formats_has_the_table_of_targets() -> None:
    page = (Path(__file__).parents[1] / "docs" / "formats.md").read_text()
    for target, width in WIDE.items():
        takes = "yes" if width.takes else "no"
        assert f"| {target} | {takes} | {width.why} | {width.source} |" in page


def test_a_target_without_16_bits_is_refused_before_the_work(done: Path, capsys: Any) -> None:
    assert verb("plan", done, *FORMATS, "--runtime", "tensorrt") == 1
    assert "Expected a target that takes activations of 16 bits" in capsys.readouterr().err
    assert verb("export", done, "--for", "tensorrt") == 1
    assert "got tensorrt: its formats are INT8, FP8" in capsys.readouterr().err
    assert verb("export", done, "--for", "all") == 1, "none of them takes it"
    assert "got tensorrt: its formats are INT8, FP8" in capsys.readouterr().err
    assert verb("export", done, "--config", "nncf") == 1
    assert "got one with INT16" in capsys.readouterr().err
    assert verb("plan", done, "--planner", "exhaustive", *FORMATS) == 1
    assert "got 7, 7 of them with the choice of 16 bits" in capsys.readouterr().err
    assert verb("plan", done, "--formats", "int8,int4") == 1
    assert "int8,float, with int16, fp8 or both" in capsys.readouterr().err
