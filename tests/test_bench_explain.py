from pathlib import Path

import numpy as np
import pytest
from support.qdq_chain import chain, inputs

from sensitivity.errors import RuntimeUnavailable
from sensitivity.records import Estimate, Timing
from sensitivity.runtimes.base import LayerRun, Port
from sensitivity.runtimes.onnxruntime import OnnxRuntime
from sensitivity.timing.explain import explain, mixed_adds, not_in, reformats
from sensitivity.timing.profile import FileProfile, layer_rows, profile_file, quantized_nodes
from sensitivity.timing.sentences import bench_sentences


def step(
    name: str,
    precision: str,
    reads: list[str],
    writes: str,
    ms: float = 1.0,
    origin: str | None = None,
) -> LayerRun:
    """Tensors are written "name:precision"."""
    return LayerRun(
        name, "op", precision, ms, (name,), origin, tuple(map(port, reads)), (port(writes),)
    )


def port(text: str) -> Port:
    return Port(*text.split(":"))


INPUT = step("Q0", "fp32", ["x:fp32"], "x8:int8", 0.5, "qdq")
CONV = step("conv1", "int8", ["x8:int8"], "a:int8")
FLOAT = step("pool", "fp16", ["a16:fp16"], "b16:fp16")


def test_a_quantized_layer_that_ran_in_float_is_named_with_its_precision() -> None:
    runs = [CONV, step("conv2", "fp16", ["a:int8"], "b:fp16")]
    assert not_in("int8", runs, ("conv1", "conv2", "conv3")) == {"conv2": "fp16", "conv3": "?"}
    words = explain(runs, ("conv1", "conv2", "conv3"))
    assert words[0].startswith(
        "2 of 3 quantized layers did not run in INT8: conv2 (fp16), conv3 (?)"
    )


def test_when_all_quantized_layers_ran_in_int8_it_says_so() -> None:
    assert explain([CONV], ("conv1",))[0] == "All 1 quantized layers ran in INT8."


def test_a_step_that_only_quantizes_does_not_count_as_running_the_layer() -> None:
    quantize = step("conv1", "int8", ["x:fp32"], "y:int8", origin="qdq")
    assert not_in("int8", [quantize], ("conv1",)) == {"conv1": "?"}


@pytest.mark.parametrize(
    ("runs", "cause", "beside"),
    [
        ([INPUT, CONV], "input", ("conv1",)),
        ([CONV, step("D", "int8", ["a:int8"], "out:fp32", 1, "qdq")], "output", ("conv1",)),
        ([INPUT, CONV, step("D", "int8", ["a:int8"], "a16:fp16", 1, "qdq"), FLOAT],
         "float neighbour", ("pool",)),
        ([CONV, step("R", "int8", ["a:int8"], "r:int8", 1, "reformat"),
          step("conv2", "int8", ["r:int8"], "c:int8")],
         "layout", ("conv1", "conv2")),
        ([CONV, step("Q", "int8", ["a:int8"], "r:int8", 1, "qdq"),
          step("concat", "int8", ["r:int8"], "c:int8")],
         "scales", ("conv1", "concat")),
        ([CONV, step("add", "int8", ["a:int8", "skip:fp16"], "s:fp16"),
          step("Q", "fp16", ["s:fp16"], "s8:int8", 1, "qdq"),
          step("conv2", "int8", ["s8:int8"], "c:int8")],
         "residual", ("add",)),
    ],
    ids=["input", "output", "float-neighbour", "layout", "scales", "residual"],
)  # fmt: skip
def test_the_cause_of_a_reformat_follows_from_its_neighbours(
    runs: list[LayerRun], cause: str, beside: tuple[str, ...]
) -> None:
    found = reformats(runs)[-1]
    assert (found.cause, found.beside) == (cause, beside)


def test_neighbours_are_seen_through_a_second_reformat() -> None:
    copy = step("R", "int8", ["x8:int8"], "xr:int8", 0.1, "reformat")
    conv = step("conv1", "int8", ["xr:int8"], "a:int8")
    assert [item.cause for item in reformats([INPUT, copy, conv])] == ["input", "input"]


def test_a_tensor_that_an_unquantized_add_also_reads_is_its_residual() -> None:
    quantize = step("Q", "fp16", ["skip:fp16"], "skip8:int8", 1, "qdq")
    runs = [
        step("pool", "fp16", ["p:fp16"], "skip:fp16"),
        quantize,
        step("conv1", "int8", ["skip8:int8"], "a:int8"),
        step("conv2 + add", "int8", ["a:int8", "skip:fp16"], "s:fp16"),
    ]
    assert [item.cause for item in reformats(runs)] == ["residual"]
    assert [run.name for run in mixed_adds(runs)] == ["conv2 + add"]


def test_an_int8_step_that_reads_one_float_tensor_is_no_residual_add() -> None:
    assert mixed_adds([step("conv1", "int8", ["x:fp32"], "a:int8")]) == ()


def test_times_are_summed_by_cause_and_the_dearest_comes_first() -> None:
    runs = [INPUT, CONV, step("D", "int8", ["a:int8"], "a16:fp16", 2.0, "qdq"), FLOAT]
    words = explain(runs)
    assert words[0] == "Conversions and copies: 2 steps, 2.5 of 4.5 ms (56% of the profiled time)."
    assert words[1].startswith(
        "Beside layers that run in float: 1 step, 2 ms (pool). Quantize the layer between"
    )
    assert words[2].startswith("At the network's input: 1 step, 0.5 ms (conv1).")


def test_an_engine_without_reformats_says_so() -> None:
    assert explain([CONV]) == ["No step only converts or copies."]


def test_steps_without_times_give_counts_alone() -> None:
    untimed = LayerRun(
        "Q", "op", "fp32", None, (), "reformat", (port("x:fp32"),), (port("y:int8"),)
    )
    assert explain([untimed])[0] == "Conversions and copies: 1 step."


def test_quantized_nodes_are_those_with_both_inputs_quantized(tmp_path: Path) -> None:
    assert quantized_nodes(chain(tmp_path / "partial.onnx", {0, 2})) == (
        "layer0/Conv",
        "layer2/Conv",
    )
    assert quantized_nodes(chain(tmp_path / "float.onnx")) == ()


def test_an_unlowered_file_in_onnx_runtime_is_explained(tmp_path: Path) -> None:
    profile = profile_file(
        chain(tmp_path / "int8.onnx", {0, 1, 2}), OnnxRuntime(), inputs(), threads=1, repeats=2
    )
    words = explain(profile.runs, profile.kept)
    assert words[0].startswith("3 of 3 quantized layers did not run in INT8: layer0/Conv (fp32), ")
    assert any(
        sentence.startswith("Q and DQ of the file that were not fused into a layer: ")
        for sentence in words
    )
    assert any("sensitivity export --for" in sentence for sentence in words)


def test_a_lowered_file_in_onnx_runtime_runs_in_int8(tmp_path: Path) -> None:
    file = chain(tmp_path / "lowered.onnx", {0, 1, 2}, outputs_too=True, dtype=np.uint8)
    profile = profile_file(file, OnnxRuntime(), inputs(), threads=1, repeats=2)
    assert explain(profile.runs, profile.kept)[0] == "All 3 quantized layers ran in INT8."
    rows = layer_rows("int8", profile)
    assert [row["precision"] for row in rows if row["quantized"]] == ["int8", "int8", "int8"]
    assert sum(float(str(row["share"])) for row in rows) == pytest.approx(1)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))


def test_a_runtime_without_a_profiler_says_so_and_its_engine_is_closed(tmp_path: Path) -> None:
    closed: list[bool] = []

    class Plain:
        def close(self) -> None:
            closed.append(True)

    class NoProfiler(OnnxRuntime):
        name = "plain"

        def build(self, file: Path, *, threads: int | None = None) -> Plain:  # type: ignore[override]
            return Plain()

    with pytest.raises(
        RuntimeUnavailable, match="Expected a runtime with a profiler, got plain, which has none"
    ):
        profile_file(tmp_path / "any.onnx", NoProfiler(), inputs())
    assert closed == [True]


def test_the_verdict_holds_the_explanation_of_each_profiled_file() -> None:
    def row(variant: str, ratio: Estimate) -> Timing:
        return Timing("m", variant, "tensorrt", "fp16", 1, 1, 50, 10, 11, 12, 13, 0.1, ratio)  # type: ignore[arg-type]

    profile = FileProfile((INPUT, CONV), ("conv1",))
    words = bench_sentences(
        [row("float", Estimate(1, 1, 1, 50)), row("partial", Estimate(0.9, 0.8, 0.95, 50))],
        {"partial": profile},
    )
    assert "The partial plan: All 1 quantized layers ran in INT8." in words
    assert not any("per-layer profile" in sentence for sentence in words)
    assert any(
        sentence.startswith("The partial plan: At the network's input: 1 step")
        for sentence in words
    )
    assert words[-1].startswith("Float takes 10 ms.")
