import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from support.qdq_chain import chain, inputs

from sensitivity.errors import OnnxFileError, SensitivityError
from sensitivity.processor import cpu_info
from sensitivity.records import Estimate, Timing
from sensitivity.runtimes.base import LayerRun
from sensitivity.runtimes.onnxruntime import OnnxRuntime
from sensitivity.timing import protocol
from sensitivity.timing.environment import environment
from sensitivity.timing.profile import FileProfile
from sensitivity.timing.protocol import LEAST_ROUNDS, bench_files, interleaved, spread_of
from sensitivity.timing.ratio import median_ratio
from sensitivity.timing.sentences import bench_sentences, saturation_sentences


class FakeEngine:
    """Always takes the same time, and records each call."""

    precision = "fp32"

    def __init__(self, name: str, ms: float, calls: list[tuple[str, int]]) -> None:
        self.name, self.ms, self.calls, self.closed = name, ms, calls, False

    def run(self, inputs: object) -> dict:
        return {}

    def time_ms(self, inputs: object, repeats: int) -> np.ndarray:
        self.calls.append((self.name, repeats))
        if self.ms < 0:
            raise OnnxFileError("broken while running")
        return np.full(repeats, self.ms)

    def close(self) -> None:
        self.closed = True


class FakeRuntime:
    name = "fake"

    def __init__(self, ms: dict[str, float]) -> None:
        self.ms, self.calls, self.engines = ms, [], []

    def build(self, file: Path, *, threads: int | None = None) -> FakeEngine:
        self.engines.append(FakeEngine(file.stem, self.ms[file.stem], self.calls))
        return self.engines[-1]


FILES = {"float": Path("f.onnx"), "int8": Path("q.onnx")}
X = {"x": np.zeros((4, 3))}


def row(variant: str, ratio: Estimate, median_ms: float = 10.0, precision: str = "fp32") -> Timing:
    return Timing(
        file=f"model.{variant}.onnx",
        variant=variant,  # type: ignore[arg-type]
        runtime="onnxruntime",
        precision=precision,
        batch=1,
        threads=2,
        n=50,
        median_ms=median_ms,
        p90_ms=median_ms * 1.1,
        p95_ms=median_ms * 1.2,
        p99_ms=median_ms * 1.3,
        spread_ms=0.2,
        ratio=ratio,
    )


FLOAT = row("float", Estimate(1, 1, 1, 50))


def test_every_file_has_one_turn_per_round_and_the_order_differs_between_rounds() -> None:
    runtime = FakeRuntime({"f": 2.0, "q": 1.0})
    bench_files(FILES, runtime, X, threads=1, rounds=20, warmup=3)
    warm, turns = runtime.calls[:2], runtime.calls[2:]
    assert warm == [("f", 3), ("q", 3)]
    rounds = [tuple(name for name, _ in turns[i : i + 2]) for i in range(0, 40, 2)]
    assert {frozenset(names) for names in rounds} == {frozenset({"f", "q"})}
    assert set(Counter(rounds)) == {("f", "q"), ("q", "f")}


@pytest.mark.parametrize(
    ("rounds", "enough_s", "timed"),
    [(100, 0.0, LEAST_ROUNDS), (100, None, 100), (100, 60.0, 100), (5, 0.0, 5)],
    ids=["time-is-over", "no-limit", "time-is-left", "few-rounds"],
)
def test_timing_ends_early_if_it_takes_long_but_not_before_enough_rounds(
    rounds: int, enough_s: float | None, timed: int
) -> None:
    runtime = FakeRuntime({"f": 2.0, "q": 1.0})
    timings = bench_files(FILES, runtime, X, threads=1, rounds=rounds, warmup=0, enough_s=enough_s)
    assert [timing.n for timing in timings] == [timed, timed]


def test_the_same_seed_gives_the_same_order() -> None:
    first, second, other = (FakeRuntime({"f": 2.0, "q": 1.0}) for _ in range(3))
    for runtime, seed in ((first, 7), (second, 7), (other, 8)):
        bench_files(FILES, runtime, X, threads=1, rounds=20, warmup=0, seed=seed)
    assert first.calls == second.calls != other.calls


def test_a_file_that_takes_half_the_time_has_ratio_two() -> None:
    timings = bench_files(
        FILES, FakeRuntime({"f": 2.0, "q": 1.0}), X, threads=3, rounds=5, warmup=0
    )
    int8 = timings[1]
    assert (int8.variant, int8.median_ms, int8.ratio, int8.batch, int8.threads) == (
        "int8",
        1.0,
        Estimate(2, 2, 2, 5),
        4,
        3,
    )


def test_a_runtime_with_costly_turns_runs_several_rounds_in_one_turn() -> None:
    runtime = FakeRuntime({"f": 2.0, "q": 1.0})
    runtime.per_turn = 4  # type: ignore[attr-defined]
    timings = bench_files(FILES, runtime, X, threads=1, rounds=10, warmup=0)
    assert [repeats for name, repeats in runtime.calls if name == "q"] == [5, 5, 3]
    assert [each.n for each in timings] == [10, 10]


@pytest.mark.parametrize(
    ("ms", "warmup", "per_turn", "of_a_turn"),
    [(99.0, 3, 1, 2), (101.0, 3, 1, 1), (101.0, 0, 1, 2), (101.0, 3, 4, 5)],
    ids=["fast", "slow", "unknown", "costly-turns"],
)
def test_the_first_inference_of_a_turn_counts_only_where_caches_hardly_matter(
    ms: float, warmup: int, per_turn: int, of_a_turn: int
) -> None:
    runtime = FakeRuntime({"f": ms, "q": 200.0})
    runtime.per_turn = per_turn  # type: ignore[attr-defined]
    timings = bench_files(FILES, runtime, X, threads=1, rounds=4, warmup=warmup)
    turns = [repeats for name, repeats in runtime.calls if name == "q"][1 if warmup else 0 :]
    assert set(turns) == {of_a_turn}
    assert [each.n for each in timings] == [4, 4]


def test_rounds_of_one_turn_are_one_block_of_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks: list[int | None] = []

    def ratio(base: np.ndarray, other: np.ndarray, *, block: int | None = None) -> Estimate:
        blocks.append(block)
        return Estimate(1, 1, 1, len(base))

    monkeypatch.setattr(protocol, "median_ratio", ratio)
    for per_turn in (1, 4):
        runtime = FakeRuntime({"f": 2.0})
        runtime.per_turn = per_turn  # type: ignore[attr-defined]
        bench_files({"float": Path("f.onnx")}, runtime, X, threads=1, rounds=8, warmup=0)
    assert blocks == [None, 4]


def test_engines_are_closed_also_when_one_of_them_fails() -> None:
    runtime = FakeRuntime({"f": 2.0, "q": -1.0})
    with pytest.raises(OnnxFileError, match="broken while running"):
        bench_files(FILES, runtime, X, threads=1, rounds=5, warmup=0)
    assert [engine.closed for engine in runtime.engines] == [True, True]


def test_progress_is_reported_after_each_round() -> None:
    seen: list[tuple[int, int]] = []
    engines = {"float": FakeEngine("f", 1.0, [])}
    interleaved(
        engines, X, rounds=3, warmup=0, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("files", "numbers", "sentence"),
    [
        ({"int8": Path("q")}, {}, "Expected a float file to compare with, got int8"),
        (FILES, {"rounds": 0}, "Expected rounds of at least 1, got 0"),
        (FILES, {"threads": 0}, "Expected threads of at least 1, got 0"),
        (FILES, {"warmup": -1}, "Expected warmup of at least 0, got -1"),
    ],
    ids=["no-float-file", "no-rounds", "no-threads", "negative-warmup"],
)
def test_settings_that_make_no_sense_are_refused(files: dict, numbers: dict, sentence: str) -> None:
    with pytest.raises(SensitivityError, match=sentence):
        bench_files(
            files, FakeRuntime({}), X, **({"threads": 1, "rounds": 1, "warmup": 0} | numbers)
        )


def test_the_summary_agrees_with_numpy_and_scipy() -> None:
    ms = np.random.default_rng(0).gamma(2, size=101)
    summary = spread_of(ms)
    assert summary["n"] == 101
    assert summary["median_ms"] == np.median(ms)
    assert summary["spread_ms"] == pytest.approx(scipy.stats.iqr(ms))
    assert summary["p99_ms"] == pytest.approx(np.percentile(ms, 99))
    quantiles = [summary[f"{name}_ms"] for name in ("median", "p90", "p95", "p99")]
    assert quantiles == sorted(quantiles)


def test_the_interval_agrees_with_scipy_where_rounds_are_independent() -> None:
    rng = np.random.default_rng(3)
    base, other = rng.normal(20, 1, 400), rng.normal(10, 1, 400)
    ours = median_ratio(base, other, resamples=4000)
    theirs = scipy.stats.bootstrap(
        (base, other),
        lambda a, b: np.median(a) / np.median(b),
        paired=True,
        vectorized=False,
        method="percentile",
        rng=1,
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.high, abs=0.01)


def test_what_slows_a_whole_round_falls_out_of_the_ratio() -> None:
    slow = np.exp(np.cumsum(np.random.default_rng(0).normal(0, 0.1, 200)))
    ratio = median_ratio(3 * slow, slow)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((3, 3, 3))


def test_neighbouring_rounds_that_are_slowed_alike_widen_the_interval() -> None:
    rng = np.random.default_rng(5)
    base, noise = np.full(216, 10.0), rng.normal(0, 1, 216)
    runs = 10 + np.repeat(noise[:12], 18)
    shuffled = rng.permutation(runs)
    wide, narrow = median_ratio(base, runs), median_ratio(base, shuffled)
    assert wide.high - wide.low > 1.3 * (narrow.high - narrow.low)


@given(st.lists(st.floats(0.01, 1e4), min_size=2, max_size=40), st.floats(0.1, 10))
@settings(max_examples=50, deadline=None)
def test_the_interval_holds_the_ratio_of_proportional_times(
    base: list[float], factor: float
) -> None:
    ratio = median_ratio(np.array(base) * factor, np.array(base), resamples=50)
    assert ratio.low == pytest.approx(factor)
    assert ratio.value == pytest.approx(factor)


def test_one_round_gives_no_interval() -> None:
    assert median_ratio(np.array([2.0]), np.array([1.0])) == Estimate(2.0, None, None, 1)


def test_the_verdict_says_when_int8_is_slower_and_what_to_do() -> None:
    words = " ".join(bench_sentences([FLOAT, row("int8", Estimate(0.7, 0.68, 0.72, 50), 14.3)]))
    assert (
        "Full INT8 is slower than float: 0.70 times its speed (0.68 to 0.72; 14.3 ms, p95 17.2 ms)."
        in words
    )
    assert "an unlowered Q/DQ file is often slower than float" in words
    assert "sensitivity export --for onnxruntime" in words


@pytest.mark.parametrize("formats", [(), ("FP8",)], ids=["INT4", "FP8"])
def test_a_file_that_cannot_be_lowered_is_not_told_to_be(formats: tuple[str, ...]) -> None:
    rows = [FLOAT, row("partial", Estimate(0.7, 0.68, 0.72, 50), 14.3)]
    unfused = LayerRun("q", "QuantizeLinear", "int8", 1.0, ("conv1_Q",), origin="qdq")
    profiles = {"partial": FileProfile((unfused,), ("conv1",), ("conv2",))}
    words = " ".join(bench_sentences(rows, profiles, lowers=False, in_float=formats))
    assert "--for" not in words
    assert "'sensitivity lint' says what keeps them from being fused" in words
    said = "computes FP8 in float: the plan's time says nothing about hardware with FP8" in words
    assert said == bool(formats)


def test_another_runtime_gets_no_advice_about_onnx_runtime() -> None:
    rows = [FLOAT, row("int8", Estimate(0.7, 0.68, 0.72, 50), 14.3)]
    for name, advice in (("trtexec", "The per-layer profile says"), ("mine", None)):
        named = [dataclasses.replace(each, runtime=name) for each in rows]
        words = " ".join(bench_sentences(named))
        assert "ONNX Runtime" not in words
        assert advice is None or advice in words


def test_the_verdict_of_a_faster_plan_gives_no_excuses() -> None:
    rows = [
        FLOAT,
        row("int8", Estimate(2, 1.9, 2.1, 50), 5),
        row("partial", Estimate(1.6, 1.5, 1.7, 50), 6.25),
    ]
    words = bench_sentences(rows)
    assert (
        words[0]
        == "The partial plan is faster than float: 1.60 times its speed (1.50 to 1.70; 6.25 ms, "
        "p95 7.5 ms)."
    )
    assert "The partial plan keeps 75% of the time that full INT8 saves." in words
    assert not any("unlowered" in sentence for sentence in words)


def test_an_interval_that_holds_one_is_no_difference() -> None:
    words = bench_sentences([FLOAT, row("partial", Estimate(1.02, 0.97, 1.05, 50))])
    assert words[0].startswith(
        "The partial plan is not measurably different from float: 1.02 times its speed (0.97 to 1."
    )


@pytest.mark.parametrize(
    ("against", "said"),
    [
        (
            Estimate(0.8, 0.75, 0.85, 50),
            "The partial plan is slower than FP16: 0.80 times its speed (0.75 to 0.85); as ",
        ),
        (
            Estimate(1.0, 0.95, 1.05, 50),
            "The partial plan is not measurably different from FP16: 1.00 times its speed (0.95 to",
        ),
        (
            Estimate(1.3, 1.25, 1.35, 50),
            "The partial plan is faster than FP16: 1.30 times its speed (1.25 to 1.35).",
        ),
    ],
    ids=["slower", "equal", "faster"],
)
def test_a_plan_is_compared_with_fp16_where_fp16_was_computed(against: Estimate, said: str) -> None:
    partial = dataclasses.replace(
        row("partial", Estimate(1.6, 1.5, 1.7, 50), 6.25), against_fp16=against
    )
    words = bench_sentences([FLOAT, partial, row("fp16", Estimate(2, 1.9, 2.1, 50), 5, "fp16")])
    assert [
        sentence[: len(said)]
        for sentence in words
        if "than FP16" in sentence or "from FP16" in sentence
    ] == [said]


def test_an_fp16_file_that_ran_in_fp32_is_no_measure_of_fp16() -> None:
    rows = [
        FLOAT,
        row("partial", Estimate(1.6, 1.5, 1.7, 50), 6.25),
        row("fp16", Estimate(2, 1.9, 2.1, 50), 5),
    ]
    words = bench_sentences(rows)
    ran = (
        "onnxruntime ran the FP16 file in fp32, at 2.00 times the speed of float: that says "
        "nothing about FP16 on a GPU."
    )
    assert [sentence for sentence in words if "FP16" in sentence] == [ran]


class Half(FakeRuntime):
    """Computes the FP16 file in FP16, or refuses it."""

    def __init__(self, *, refuses: bool = False) -> None:
        super().__init__({"float": 4.0, "fp16": 2.0, "int8": 1.0})
        self.refuses = refuses

    def build(self, file: Path, *, threads: int | None = None) -> FakeEngine:
        if file.stem == "fp16" and self.refuses:
            raise OnnxFileError("no FP16 here")
        engine = super().build(file, threads=threads)
        engine.precision = "fp16" if file.stem == "fp16" else "fp32"
        return engine


HALVES = {name: Path(f"{name}.onnx") for name in ("float", "fp16", "int8")}


def test_every_file_is_compared_with_fp16_in_pairs() -> None:
    timings = bench_files(HALVES, Half(), X, threads=1, rounds=20, warmup=0)
    assert [one.against_fp16.value for one in timings] == [0.5, 1.0, 2.0]


def test_an_fp16_file_that_a_runtime_refuses_is_left_out_with_the_reason() -> None:
    refused: list[SensitivityError] = []
    timings = bench_files(
        HALVES, Half(refuses=True), X, threads=1, rounds=2, warmup=0, left_out=refused.append
    )
    assert [(one.variant, one.against_fp16) for one in timings] == [("float", None), ("int8", None)]
    assert [str(error) for error in refused] == ["no FP16 here"]
    with pytest.raises(OnnxFileError, match="no FP16 here"):
        bench_files(HALVES, Half(refuses=True), X, threads=1, rounds=2, warmup=0)


def test_the_verdict_ends_with_how_it_was_measured() -> None:
    words = bench_sentences([FLOAT, row("int8", Estimate(2, 1.9, 2.1, 50))])
    assert words[-1].startswith(
        "Float takes 10 ms. Measured in onnxruntime (2 threads, batch 1, unquantized layers in "
        "fp32)"
    )


def test_the_environment_says_what_a_latency_depends_on() -> None:
    found = environment()
    assert {
        "machine",
        "os",
        "cpu",
        "cpu flags",
        "governor",
        "clock MHz",
        "cores",
        "onnxruntime",
    } <= set(found)
    assert all(isinstance(value, str) and value for value in found.values())
    json.dumps(found)


def test_the_first_processor_of_cpuinfo_is_read() -> None:
    info = cpu_info(
        "model name\t: Some CPU @ 2: GHz\nflags\t\t: avx2 avx512_vnni\n\nmodel name\t: Other\n"
    )
    assert info == {"model name": "Some CPU @ 2: GHz", "flags": "avx2 avx512_vnni"}


def test_three_real_files_are_timed_in_onnx_runtime(tmp_path: Path) -> None:
    files = {
        "float": chain(tmp_path / "model.float.onnx"),
        "int8": chain(tmp_path / "model.int8.onnx", {0, 1, 2}),
        "partial": chain(tmp_path / "model.partial.onnx", {1, 2}),
    }
    timings = bench_files(files, OnnxRuntime(), inputs(), threads=1, rounds=5, warmup=1)
    assert [(each.variant, each.n) for each in timings] == [
        ("float", 5),
        ("int8", 5),
        ("partial", 5),
    ]
    assert timings[0].ratio.value == 1.0
    assert all(np.isfinite([each.median_ms, each.p99_ms, each.ratio.low]).all() for each in timings)
    assert len(bench_sentences(timings)) >= 3


@pytest.mark.parametrize(
    ("flags", "instructions", "warned"),
    [("avx2", "no", True), ("avx2 avx512_vnni", "yes", False), ("asimd", "no", False)],
)
def test_a_processor_whose_int8_sums_saturate_is_named(
    flags: str, instructions: str, warned: bool
) -> None:
    machine = {"cpu flags": flags, "int8 instructions": instructions}
    for name in ("onnxruntime", "openvino"):
        said = saturation_sentences(name, machine)
        assert [("saturate at 16 bits" in sentence) for sentence in said] == [True] * warned
    assert saturation_sentences("tensorrt", machine) == []


def test_a_plan_without_a_layer_in_int8_has_no_int8_sums_to_saturate() -> None:
    machine = {"cpu flags": "avx2", "int8 instructions": "no"}
    quantize = LayerRun("q", "QuantizeLinear", "int8", 1.0, ("conv1_Q",), origin="qdq")
    for precision, warned in (("int8", True), ("fp32", False)):
        conv = LayerRun("c", "Conv", precision, 1.0, ("conv1",))
        profiles = {"partial": FileProfile((quantize, conv), ("conv1",))}
        assert bool(saturation_sentences("onnxruntime", machine, profiles)) == warned
