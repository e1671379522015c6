from typing import Any

from sensitivity.runtimes.onnx_names import NodeName, OnnxNames
from sensitivity.runtimes.ort_profile import layer_runs

NAMES = OnnxNames(
    [
        NodeName("/conv/Conv", "Conv", ("x", "w"), ("c",)),
        NodeName("/relu/Relu", "Relu", ("c",), ("r",)),
        NodeName("/cat/Concat", "Concat", ("r", "r"), ("y",)),
        NodeName("/t/Transpose", "Transpose", ("y",), ("z",)),
    ]
)


def event(
    name: str, op: str, us: int, took: list[tuple[str, list[int]]], cat: str = "Node"
) -> dict[str, Any]:
    shapes = [{kind: shape} for kind, shape in took]
    args = {"op_name": op, "input_type_shape": shapes, "output_type_shape": shapes[:1]}
    return {"cat": cat, "name": f"{name}_kernel_time", "dur": us, "args": args}


def test_a_step_named_by_its_last_tensor_is_the_convolution_before_it() -> None:
    (run,) = layer_runs([event("r_nchwc", "Conv", 5, [("float", [1, 3, 8, 8])])], NAMES)
    assert (run.onnx, run.precision, run.origin) == (("/conv/Conv",), "fp32", None)


def test_the_first_inferences_are_left_out_of_the_median() -> None:
    took = [("uint8", [1, 3, 8, 8])]
    events = [event("/conv/Conv_token_7", "QLinearConv", us, took) for us in (9000, 1000, 3000)]
    (run,) = layer_runs(events, NAMES, skip=1)
    assert (run.ms, run.precision, run.onnx) == (2.0, "int8", ("/conv/Conv",))


def test_a_concat_that_takes_its_scales_first_is_judged_by_its_tensors() -> None:
    took = [("float", []), ("uint8", []), ("uint8", [1, 3, 8, 8])]
    (run,) = layer_runs([event("/cat/Concat_token_1", "QLinearConcat", 1, took)], NAMES)
    assert (run.precision, run.onnx) == ("int8", ("/cat/Concat",))


def test_a_transpose_of_the_file_is_a_layer_and_one_that_was_added_is_a_reformat() -> None:
    took = [("float", [1, 3, 8, 8])]
    own, added = layer_runs(
        [event("/t/Transpose", "Transpose", 1, took), event("Transpose", "Transpose", 1, took)],
        NAMES,
    )
    assert (own.origin, own.onnx) == (None, ("/t/Transpose",))
    assert (added.origin, added.onnx) == ("reformat", ())


def test_events_that_are_no_kernels_are_ignored() -> None:
    assert layer_runs([event("model_loading", "", 1, [], cat="Session")], NAMES) == ()
