"""Q/DQ files as a source: what counts as a quantizer and as a unit, and that switching does what it
says."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.models import quantized
from support.onnx_models import UNITS, float_file, images, qdq_file, run_file, static_file

from sensitivity.errors import ModelError, OnnxFileError, TaskError
from sensitivity.opened import quantized_model
from sensitivity.quantizers.base import QuantizedModel, check_calibrated, layers
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.simulators.base import Simulator
from sensitivity.simulators.onnx.replay import OnnxReplay
from sensitivity.simulators.onnx.whole import WholeFile, onnx_simulator
from sensitivity.testing.reference import reference_inputs, reference_network
from sensitivity.testing.sources import SourceConformance, check_same_ranking, ranking

GRID = {"s": np.float32(0.1), "z": np.int8(0), "u": np.uint8(3)}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The conformance network, quantized by ModelOpt and exported by this project."""
    pytest.importorskip("modelopt")
    from sensitivity.exporters.torch_model import export_files

    source = quantized_model(quantized(reference_network(), reference_inputs()))
    folder = tmp_path_factory.mktemp("reference")
    export_files(source, reference_inputs(), layers(source.quantizers), (), folder, fingerprint="")
    return folder


class TestQdqFile(SourceConformance):
    source_name = "onnx_qdq"
    float_tolerance = 1e-5  # torch and ONNX Runtime sum in other orders
    folder: Path

    @pytest.fixture(autouse=True)
    def _files(self, exported: Path) -> None:
        self.folder = exported

    def make(self) -> Any:
        return OnnxModel(self.folder / "model.int8.onnx")

    def inputs(self, seed: int = 0) -> Any:
        return reference_inputs(seed=seed).numpy()

    def float_outputs(self, inputs: Any) -> Any:
        import torch

        return super().float_outputs(torch.from_numpy(inputs))

    def own_outputs(self, model: Any, inputs: Any) -> Any:
        return run_file(model.path, inputs)

    def simulators(self, source: QuantizedModel) -> Iterable[Simulator]:
        return WholeFile(source), onnx_simulator(source, self.inputs())

    def change_weight(self, model: Any) -> None:
        change(model, "stem.weight", lambda values: values + np.float32(1e-3))

    def uncalibrate(self, model: Any) -> str:
        change(model, "block.conv1.input_quantizer.scale", np.zeros_like)
        return "block.conv1.input_quantizer"

    def test_a_model_without_quantizers_is_refused_with_what_to_do(self) -> None:
        with pytest.raises(
            OnnxFileError,
            match=r"^Expected model.float.onnx to hold Q/DQ pairs, .*; quantize it first",
        ):
            OnnxModel(self.folder / "model.float.onnx")

    def test_it_ranks_as_the_torch_model_that_was_exported(self) -> None:
        torch_source = quantized_model(quantized(reference_network(), reference_inputs()))
        from sensitivity.simulators.choose import simulator_for

        theirs = ranking(
            torch_source,
            simulator_for(torch_source, reference_inputs()),
            [reference_inputs(seed=7)],
        )
        source = quantized_model(self.make())
        ours = ranking(source, onnx_simulator(source, self.inputs()), [self.inputs(7)])
        assert check_same_ranking(theirs, ours) >= 0.95


def change(model: OnnxModel, name: str, how: Any) -> None:
    value = model.graph.graph.initializers[name]
    assert value.const_value is not None
    value.const_value = ir.tensor(how(value.const_value.numpy()), name=name)


@pytest.fixture(
    scope="module",
    params=["int8-per_tensor", "uint8-per_tensor", "int8-per_channel", "float_weights"],
)
def files(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """(float file, the file that quantize_static made of it)."""
    from onnxruntime.quantization import QuantType

    folder = tmp_path_factory.mktemp("static")
    source = float_file(folder / "float.onnx")
    options: dict[str, Any] = {
        "int8-per_tensor": {"activation_type": QuantType.QInt8},
        "uint8-per_tensor": {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8},
        "int8-per_channel": {"per_channel": True},
        "float_weights": {"extra_options": {"AddQDQPairToWeight": True}},
    }[request.param]
    return source, static_file(source, folder / "int8.onnx", **options)


def test_every_operation_that_reads_a_pair_is_a_unit(files: tuple[Path, Path]) -> None:
    source = quantized_model(OnnxModel(files[1]))
    units = {unit.name: unit.quantizers for unit in layers(source.quantizers)}
    assert set(units) == (UNITS | {"GlobalAveragePool_g1"} | {"y"})
    roles = {quantizer.name: quantizer.role for quantizer in source.quantizers}
    assert [roles[name] for name in units["Conv_c1"]] == ["input", "weight", "weight"]
    assert len(units["Mul_m1"]) == 2, "what both of its inputs are quantized to"
    assert [roles[name] for name in units["y"]] == ["output"]
    assert {quantizer.bits for quantizer in source.quantizers} == {8, 32}, (
        "biases are stored in 32 bits"
    )


def test_all_off_with_the_float_file_is_the_float_file_bit_for_bit(
    files: tuple[Path, Path],
) -> None:
    original, path = files
    model = OnnxModel(path, float_path=original)
    source = quantized_model(model)
    with source.disabled(quantizer.name for quantizer in source.quantizers):
        (off,) = model.run(None, {"x": images(4, 0)})
    assert np.array_equal(off, run_file(original, images(4, 0)))
    (on,) = model.run(None, {"x": images(4, 0)})
    assert np.array_equal(on, run_file(path, images(4, 0)))
    assert not np.array_equal(on, off)


def test_without_the_float_file_weights_are_what_is_left_of_them(tmp_path: Path) -> None:
    original = float_file(tmp_path / "float.onnx")
    path = static_file(original, tmp_path / "int8.onnx")
    model = OnnxModel(path)
    source = quantized_model(model)
    weights = [quantizer.name for quantizer in source.quantizers if quantizer.role == "weight"]
    with source.disabled(weights):
        (off,) = model.run(None, {"x": images(4, 0)})
    assert np.array_equal(off, run_file(path, images(4, 0))), (
        "the weights that the pair gives, as before"
    )


def test_replay_equals_a_session_of_the_edited_file_bit_for_bit(files: tuple[Path, Path]) -> None:
    source = quantized_model(OnnxModel(files[1], float_path=files[0]))
    rng = np.random.default_rng(0)
    names = np.array([quantizer.name for quantizer in source.quantizers])
    variants = [frozenset(unit.quantizers) for unit in layers(source.quantizers)]
    variants += [
        frozenset(names[rng.random(len(names)) < share].tolist()) for share in (0.1, 0.5, 0.9)
    ]
    replay = OnnxReplay(source)
    for seed in (0, 1):
        ours = dict(replay.outputs(images(5, seed), variants))
        for index, theirs in WholeFile(source).outputs(images(5, seed), variants):
            assert np.array_equal(ours[index], theirs), variants[index]


@pytest.mark.parametrize("memory", [0, 10_000, None])
def test_replay_is_the_same_within_any_memory(tmp_path: Path, memory: int | None) -> None:
    source = quantized_model(
        OnnxModel(static_file(float_file(tmp_path / "f.onnx"), tmp_path / "q.onnx"))
    )
    variants = [frozenset(unit.quantizers) for unit in layers(source.quantizers)]
    unlimited = dict(OnnxReplay(source).outputs(images(6, 2), variants))
    replay = OnnxReplay(source, memory)
    limited = dict(replay.outputs(images(6, 2), variants))
    assert all(np.array_equal(unlimited[index], limited[index]) for index in range(len(variants)))
    assert bool(replay.warnings) == (memory is not None)  # neither holds the values of one piece


def test_a_batch_that_does_not_fit_into_memory_is_never_run_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sensitivity.simulators.onnx.replay.LARGEST_VALUE", 1)  # one sample a piece
    source = quantized_model(
        OnnxModel(static_file(float_file(tmp_path / "f.onnx"), tmp_path / "q.onnx"))
    )
    ran: list[int] = []
    tried: list[int] = []
    start = OnnxReplay._start

    def counted(self: OnnxReplay, plan: Any, arrays: Any) -> list[Any]:
        ran.append(len(arrays["x"]))
        return start(self, plan, arrays)

    def stand_alone(self: OnnxReplay, arrays: Any, size: int) -> bool:
        tried.append(len(arrays["x"]))
        return True

    monkeypatch.setattr(OnnxReplay, "_start", counted)
    monkeypatch.setattr(OnnxReplay, "_stand_alone", stand_alone)
    ((_, limited),) = OnnxReplay(source, 10_000).outputs(images(6, 2), [frozenset()])
    ((_, unlimited),) = OnnxReplay(source).outputs(images(6, 2), [frozenset()])
    assert set(ran) == {1}
    assert tried == [2, 2], "two are enough to see that they stand alone"
    assert np.array_equal(limited, unlimited)


def test_batches_are_cut_down_to_pieces_that_stand_alone_which_is_tried_once_for_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sensitivity.simulators.onnx.replay.LARGEST_VALUE", 1)  # one sample a piece
    file = static_file(float_file(tmp_path / "f.onnx"), tmp_path / "q.onnx")
    for alone in (True, False):
        tried: list[int] = []

        def give_the_same(
            self: OnnxReplay, arrays: Any, size: int, alone: bool = alone, to: list[int] = tried
        ) -> bool:
            to.append(size)
            return alone

        monkeypatch.setattr(OnnxReplay, "_give_the_same", give_the_same)
        source = quantized_model(OnnxModel(file))
        assert OnnxReplay(source).smallest is None, "no example"
        assert OnnxReplay(source, example={"x": images(4, 2)}).smallest is None, "too few"
        for threads in (1, 2):
            replay = OnnxReplay(source, threads=threads, example={"x": images(50, 2)})
            assert replay.smallest == (4 if alone else None)
            list(replay.outputs(images(6, 2), [frozenset()]))
            assert replay.smallest == (4 if alone else None), "whatever was run before"
        assert tried == [4, 1]
    fixed = OnnxModel(_with_batch(file, 2, tmp_path / "q2.onnx"))
    assert OnnxReplay(quantized_model(fixed)).smallest == 2


def test_a_file_is_compared_whole_once_and_new_ranges_in_halves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = static_file(float_file(tmp_path / "f.onnx"), tmp_path / "q.onnx")
    source = quantized_model(OnnxModel(file))
    asked: list[list[int]] = []
    outputs = WholeFile.outputs

    def counted(self: WholeFile, inputs: Any, variants: Any) -> Any:
        asked.append([len(variant) for variant in variants])
        return outputs(self, inputs, variants)

    monkeypatch.setattr(WholeFile, "outputs", counted)
    for _ in range(2):
        assert onnx_simulator(source, images(5, 1)).name == "replay"
    count = len(source.quantizers)
    halves = [-(-count // 2), count // 2]
    assert asked == [[*halves, 0, count], halves]


def test_outputs_are_the_callers_to_change(tmp_path: Path) -> None:
    source = quantized_model(
        OnnxModel(static_file(float_file(tmp_path / "f.onnx"), tmp_path / "q.onnx"))
    )
    expected = run_file(tmp_path / "q.onnx", images(1, 0))
    for _, outputs in OnnxReplay(source).outputs(images(1, 0), [frozenset()] * 3):
        assert np.array_equal(outputs, expected)
        outputs *= 0


def test_a_file_for_one_sample_serves_batches_of_any_size(tmp_path: Path) -> None:
    whole = float_file(tmp_path / "f.onnx")
    fixed = quantized_model(
        OnnxModel(_with_batch(static_file(whole, tmp_path / "q.onnx"), 2, tmp_path / "q2.onnx"))
    )
    free = quantized_model(OnnxModel(tmp_path / "q.onnx"))
    ((_, ours),) = OnnxReplay(fixed).outputs(images(5, 0), [frozenset()])
    ((_, theirs),) = WholeFile(free).outputs(images(5, 0), [frozenset()])
    assert ours.shape == (5, 5)
    assert np.allclose(ours, theirs, atol=1e-6)


def _with_batch(path: Path, size: int, out: Path) -> Path:
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = size
    del model.graph.value_info[:]
    onnx.save(model, out)
    return out


def test_a_shared_pair_is_switched_for_each_reader_alone(tmp_path: Path) -> None:
    body = (
        "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) a = Relu (d) b = Neg (d) y "
        "= Add (a, b)"
    )
    model = OnnxModel(qdq_file(tmp_path / "q.onnx", body, GRID))
    source = quantized_model(model)
    assert [quantizer.name for quantizer in source.quantizers] == [
        "QuantizeLinear_q>Relu_a",
        "QuantizeLinear_q>Neg_b",
    ]
    x = np.array([[0.44, -0.44, 0.26, 1.0]], np.float32)
    for names in ([], ["QuantizeLinear_q>Relu_a"], ["QuantizeLinear_q>Neg_b"]):
        quantized_x = np.float32(0.1) * np.rint(x / np.float32(0.1))
        relu, neg = (
            x if f"QuantizeLinear_q>{unit}" in names else quantized_x
            for unit in ("Relu_a", "Neg_b")
        )
        with source.disabled(names):
            (y,) = model.run(None, {"x": x})
        assert np.allclose(y, np.maximum(relu, 0) - neg, atol=1e-6), names


def test_a_chain_of_pairs_belongs_to_the_operation_at_its_end(tmp_path: Path) -> None:
    body = """q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) f = Flatten (d)
              q2 = QuantizeLinear (f, s, z) d2 = DequantizeLinear (q2, s, z) y = Relu (d2)"""
    model = OnnxModel(qdq_file(tmp_path / "q.onnx", body, GRID))
    source = quantized_model(model)
    assert {quantizer.layer for quantizer in source.quantizers} == {"Relu_y"}
    x = np.array([[0.44, -0.44, 0.26, 1.0]], np.float32)
    with source.disabled(["QuantizeLinear_q"]):
        (half,) = model.run(None, {"x": x})
    with source.disabled(["QuantizeLinear_q", "QuantizeLinear_q2"]):
        (off,) = model.run(None, {"x": x})
    (on,) = model.run(None, {"x": x})
    assert np.array_equal(half, on), "on one grid either pair alone changes nothing"
    assert np.array_equal(off, np.maximum(x, 0))


def test_the_pair_on_an_output_is_a_unit_of_its_own_and_the_output_keeps_its_name(
    tmp_path: Path,
) -> None:
    body = "r = Relu (x) q = QuantizeLinear (r, s, u) y = DequantizeLinear (q, s, u)"
    model = OnnxModel(qdq_file(tmp_path / "q.onnx", body, {"s": GRID["s"], "u": GRID["u"]}))
    source = quantized_model(model)
    assert [(quantizer.layer, quantizer.role) for quantizer in source.quantizers] == [
        ("y", "output")
    ]
    edited = model.without(frozenset(quantizer.name for quantizer in source.quantizers))
    assert [value.name for value in edited.graph.outputs] == ["y"]
    assert [node.op_type for node in edited.graph] == ["Relu"]
    assert set(edited.graph.initializers) == set(), "constants that only the pair read go with it"


def test_a_weight_behind_a_transpose_belongs_to_its_matrix_product(tmp_path: Path) -> None:
    body = """wq = QuantizeLinear (w, s, z) wd = DequantizeLinear (wq, s, z)
              wt = Transpose <perm = [1, 0]> (wd)
              xq = QuantizeLinear (x, s, z) xd = DequantizeLinear (xq, s, z) y = MatMul (xd, wt)"""
    weight = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    model = OnnxModel(qdq_file(tmp_path / "q.onnx", body, GRID | {"w": weight}))
    source = quantized_model(model)
    found = {quantizer.name: (quantizer.layer, quantizer.role) for quantizer in source.quantizers}
    assert found == {
        "QuantizeLinear_xq": ("MatMul_y", "input"),
        "QuantizeLinear_wq": ("MatMul_y", "weight"),
    }
    x = np.eye(4, dtype=np.float32)[:1] * np.float32(0.3)
    with source.disabled(found):
        (y,) = model.run(None, {"x": x})
    assert np.allclose(y, x @ weight.T, atol=1e-6)


def test_a_pair_without_a_zero_point_is_unsigned_from_0_as_onnx_says(tmp_path: Path) -> None:
    body = "q = QuantizeLinear (x, s) d = DequantizeLinear (q, s) y = Relu (d)"
    source = quantized_model(OnnxModel(qdq_file(tmp_path / "q.onnx", body, {"s": GRID["s"]})))
    grid = source.grid("QuantizeLinear_q")
    assert (grid.zero_point, grid.low, grid.high) == (0, 0, 255)
    ((_, y),) = OnnxReplay(source).outputs(
        np.array([[-1.0, 0.44, 30.0, 0]], np.float32), [frozenset()]
    )
    assert np.allclose(y, [[0, 0.4, 25.5, 0]])


def test_an_asymmetric_grid_per_channel_is_reported_as_it_is(tmp_path: Path) -> None:
    body = (
        "q = QuantizeLinear <axis = 1> (x, s, z) d = DequantizeLinear <axis = 1> (q, s, z) y = "
        "Relu (d)"
    )
    scales = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    source = quantized_model(
        OnnxModel(qdq_file(tmp_path / "q.onnx", body, {"s": scales, "z": np.full(4, 7, np.uint8)}))
    )
    grid = source.grid("QuantizeLinear_q")
    assert (grid.zero_point, grid.low, grid.high, grid.axis) == (7, 0, 255, 1)
    assert np.array_equal(grid.scale, scales)
    mixed = {"s": scales, "z": np.array([7, 7, 8, 7], np.uint8)}
    other = quantized_model(OnnxModel(qdq_file(tmp_path / "m.onnx", body, mixed)))
    with pytest.raises(ModelError, match="its channels have different zero points"):
        other.grid("QuantizeLinear_q")


def test_a_scale_of_zero_is_named(tmp_path: Path) -> None:
    body = "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) y = Relu (d)"
    source = quantized_model(
        OnnxModel(qdq_file(tmp_path / "q.onnx", body, GRID | {"s": np.float32(0)}))
    )
    with pytest.raises(
        ModelError, match=r"got 1 that are not \(QuantizeLinear_q: its scale is 0\)"
    ):
        check_calibrated(source.quantizers)


@pytest.mark.parametrize("opset", [10, 11, 13, 21])
def test_older_and_newer_opsets_are_handled(tmp_path: Path, opset: int) -> None:
    body = "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) y = Relu (d)"
    source = quantized_model(OnnxModel(qdq_file(tmp_path / "q.onnx", body, GRID, opset=opset)))
    x = np.array([[0.44, -0.44, 0.26, 1.0]], np.float32)
    replay = onnx_simulator(source, x)
    assert replay.name == "replay"
    found = dict(replay.outputs(x, [frozenset(), frozenset(["QuantizeLinear_q"])]))
    assert np.allclose(found[0], [[0.4, 0, 0.3, 1.0]])
    assert np.array_equal(found[1], np.maximum(x, 0))


def test_replay_is_compared_with_the_file_in_one_thread_as_it_runs_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads add in another order than one, and a value that rounds the other way moves by a
    whole step of the grid."""
    body = "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) y = Relu (d)"
    model = OnnxModel(qdq_file(tmp_path / "q.onnx", body, GRID))
    run = OnnxModel.run

    def off_by_a_step_in_several_threads(self: OnnxModel, *arguments: Any) -> list[Any]:
        return [output + (0.1 if self._threads != 1 else 0.0) for output in run(self, *arguments)]

    monkeypatch.setattr(OnnxModel, "run", off_by_a_step_in_several_threads)
    x = np.array([[0.44, -0.44, 0.26, 1.0]], np.float32)
    replay = onnx_simulator(quantized_model(model), x)
    assert (replay.name, "bit for bit" in replay.reason) == ("replay", True)
    assert model.run(None, {"x": x})[0][0, 0] == pytest.approx(0.5), (
        "and all cores again afterwards"
    )


@pytest.mark.parametrize(
    ("body", "opset", "sentence"),
    [
        ("y = Relu (x)", 17, "to hold Q/DQ pairs, got 1 operations and no pair"),
        (
            "q, s1, z1 = DynamicQuantizeLinear (x) y = DequantizeLinear (q, s1, z1)",
            17,
            "to be quantized statically, .* got dynamic quantization \\(DynamicQuantizeLinear at",
        ),
        (
            "m = ReduceMax <keepdims = 0> (x) t = Mul (m, s) q = QuantizeLinear (x, t, z) d = "
            "DequantizeLinear (q, t, z) y = Relu (d)",
            17,
            "the scales of the pairs in .* to be calibrated, got ones that the graph computes from "
            "each input \\(DequantizeLinear at .*\\), .*with range_given=True and the ranges seen",
        ),
        (
            "q = QuantizeLinear (x, s, z) p = QLinearMatMul (q, s, z, w, s, z, s, z) y = "
            "DequantizeLinear (p, s, z)",
            17,
            "got integer operations \\(QLinearMatMul at .*\\), the QOperator format; "
            ".*quant_format=QuantFormat.QDQ",
        ),
        (
            "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) y = other.EfficientNMS "
            "(d)",
            17,
            "operations that ONNX Runtime knows, got other.EfficientNMS at EfficientNMS_y; cut the "
            "file before",
        ),
        (
            "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) y = Relu (d)",
            9,
            "to be of opset 10 or later, got opset 9; convert the float model",
        ),
        (
            "h = CastLike (x, half) r = Relu (h) q = QuantizeLinear (r, s, z) d = DequantizeLinear "
            "(q, s, z) y = Relu (d)",
            23,
            "to have a scale of its input's type, since ONNX Runtime fails to run others, got "
            "FLOAT for FLOAT16 \\(QuantizeLinear at QuantizeLinear_q\\); write the scales in",
        ),
    ],
    ids=["no-qdq", "dynamic", "computed-scale", "qoperator", "custom-op", "opset-9", "mixed-scale"],
)
def test_files_that_cannot_be_switched_are_refused_in_a_sentence(
    tmp_path: Path, body: str, opset: int, sentence: str
) -> None:
    constants = GRID | {"w": np.eye(4, dtype=np.int8), "half": np.float16(0)}
    with pytest.raises(OnnxFileError, match=sentence):
        OnnxModel(qdq_file(tmp_path / "bad.onnx", body, constants, opset=opset))


def test_a_float_file_of_another_model_is_refused(tmp_path: Path) -> None:
    original = float_file(tmp_path / "float.onnx")
    path = static_file(original, tmp_path / "int8.onnx")
    other = onnx.load(original)
    for tensor in other.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor) + np.float32(3)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(
        OnnxFileError,
        match=r"Expected other.onnx to be the float model that was quantized, got none of",
    ):
        OnnxModel(path, float_path=tmp_path / "other.onnx")


def test_a_batch_that_does_not_fit_the_file_is_reported(tmp_path: Path) -> None:
    source = quantized_model(
        OnnxModel(static_file(float_file(tmp_path / "f.onnx"), tmp_path / "q.onnx"))
    )
    with pytest.raises(
        TaskError,
        match="Expected the model to accept a batch of the task's data, got from ONNX Runtime",
    ):
        list(OnnxReplay(source).outputs(np.zeros((1, 4, 12, 12), np.float32), [frozenset()]))
    with pytest.raises(
        TaskError, match="Expected a batch with the inputs x of the ONNX file, got image"
    ):
        list(OnnxReplay(source).outputs({"image": images(1, 0)}, [frozenset()]))


def test_batches_of_another_type_than_the_file_takes_are_named_and_not_blamed_on_the_file(
    tmp_path: Path,
) -> None:
    path = static_file(float_file(tmp_path / "float.onnx"), tmp_path / "int8.onnx")
    with pytest.raises(
        TaskError, match="to have float32 in the input x of int8.onnx, got float64; cast them"
    ):
        onnx_simulator(quantized_model(OnnxModel(path)), images(2, 0).astype(np.float64))
