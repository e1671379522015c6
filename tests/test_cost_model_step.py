"""The cost of whole engines: groups that take turns, each beside everything in INT8."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sensitivity.steps.cost_model import AT_ONCE, FEW, PASSES, Prober

UNITS = tuple(f"unit{number}" for number in range(2 * AT_ONCE + 1))
TRUTH = {(): 2.0, **{(unit,): 2.0 + 0.1 * number for number, unit in enumerate(UNITS)}}


class Made:
    """Every skip-set in a file of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.skip_of = folder, {}

    def lowered(self, skip: tuple[str, ...], name: str) -> Path:
        value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
        out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [out])
        file = self.folder / f"{name}.onnx"
        onnx.save(helper.make_model(graph), file)
        self.skip_of[file] = skip
        return file


class SlowingRuntime:
    """Each time that all engines are closed, the machine gets slower by half."""

    name = "fake"

    def __init__(self, made: Made, scale: float = 1.0) -> None:
        self.made, self.scale, self.loaded, self.most, self.slow = made, scale, 0, 0, 1.0

    def build(self, file: Path, *, threads: int) -> "SlowingEngine":
        self.loaded += 1
        self.most = max(self.most, self.loaded)
        return SlowingEngine(self, self.scale * TRUTH[self.made.skip_of[file]])


class SlowingEngine:
    def __init__(self, runtime: SlowingRuntime, ms: float) -> None:
        self.runtime, self.ms = runtime, ms

    def time_ms(self, inputs, repeats: int) -> np.ndarray:
        return np.full(repeats, self.ms * self.runtime.slow)

    def close(self) -> None:
        self.runtime.loaded -= 1
        if not self.runtime.loaded:
            self.runtime.slow *= 1.5


def test_engines_are_compared_within_their_group_so_that_a_slower_machine_changes_nothing(
    tmp_path: Path,
) -> None:
    made = Made(tmp_path)
    runtime = SlowingRuntime(made)
    done = []
    found = Prober(made, runtime, 1)(list(TRUTH), lambda steps, samples: done.append(steps))
    assert np.array(found) / found[0] == pytest.approx(np.array(list(TRUTH.values())) / 2.0)
    assert found[0] == pytest.approx(2.0 * 1.5**2), (
        "the median of the three groups, slower than a first engine alone"
    )
    assert runtime.loaded == 0
    assert runtime.most <= AT_ONCE + 2, "few engines are in memory at once"
    assert sum(done) == len(UNITS)


def test_one_set_alone_is_timed_as_it_is(tmp_path: Path) -> None:
    made = Made(tmp_path)
    assert Prober(made, SlowingRuntime(made), 1)([()]) == [2.0 * 1.5]


def test_quick_engines_are_built_and_timed_several_times(tmp_path: Path) -> None:
    made = Made(tmp_path)
    done = []
    found = Prober(made, SlowingRuntime(made, 0.1), 1)(
        list(TRUTH), lambda steps, samples: done.append(steps)
    )
    assert np.array(found) / found[0] == pytest.approx(np.array(list(TRUTH.values())) / 2.0)
    assert sum(done) == PASSES * len(UNITS)


def test_a_few_engines_are_built_and_timed_several_times_however_slow(tmp_path: Path) -> None:
    made = Made(tmp_path)
    done = []
    few = list(TRUTH)[:FEW]
    Prober(made, SlowingRuntime(made), 1)(few, lambda steps, samples: done.append(steps))
    assert sum(done) == PASSES * (FEW - 1), "everything in INT8 is built in every group anyway"


def test_later_calls_speak_of_the_pace_of_the_first(tmp_path: Path) -> None:
    made = Made(tmp_path)
    probe = Prober(made, SlowingRuntime(made), 1)
    first = probe([(), UNITS[:1], UNITS[3:4]])
    assert probe([UNITS[3:4], UNITS[:1]]) == pytest.approx([first[2], first[1]])


def test_each_build_is_given_as_a_part_of_all_in_int8_beside_it(tmp_path: Path) -> None:
    made = Made(tmp_path)
    int8_ms, ratios = Prober(made, SlowingRuntime(made), 1).timed([UNITS[5:6], ()], passes=4)
    assert ratios.shape == (4, 2)
    assert ratios == pytest.approx(np.tile([2.5 / 2.0, 1.0], (4, 1)))
    assert int8_ms == pytest.approx(2.0 * np.median(1.5 ** np.arange(4)))
