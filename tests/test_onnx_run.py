"""From a Q/DQ file and data to a verified partial file, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from support.commands import verb
from support.onnx_models import float_file, images, labelled, run_file, static_file

from sensitivity.errors import TaskError
from sensitivity.exporters.agreement import most_agree
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_task import onnx_task
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.quantizers.onnx.qdq import OnnxQdqModel
from sensitivity.steps.plan import ANEW, MANY
from sensitivity.tasks.base import EvaluateTask


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with float.onnx, int8.onnx and data.npz."""
    folder = tmp_path_factory.mktemp("onnx")
    static_file(float_file(folder / "float.onnx"), folder / "int8.onnx")
    labelled(folder / "float.onnx", folder / "data.npz")
    return folder


def with_own_ranges(made: Path) -> tuple[Any, ...]:
    """The options of a run that keeps the ranges of the file."""
    data, float_model = made / "data.npz", made / "float.onnx"
    target = ("--target", "0.95", "--no-recalibrate")
    return ("--data", data, "--float-model", float_model, *target)


@pytest.fixture(scope="module")
def done(made: Path) -> Path:
    """A finished run with the file's own ranges (`test_onnx_ranges` has one with others)."""
    code = verb(
        "run",
        made / "int8.onnx",
        *with_own_ranges(made),
        "--rounds",
        "5",
        "--threads",
        "1",
        "--out",
        made / "run",
    )
    assert code == 0
    return made / "run"


def test_a_run_from_a_file_and_data_leaves_what_every_run_leaves(done: Path) -> None:
    for name in (
        "task.py",
        "run.json",
        "scan.csv",
        "plan.json",
        "export.json",
        "bench.csv",
        "report.html",
    ):
        assert (done / name).stat().st_size > 0, name
    info = json.loads((done / "run.json").read_text())
    assert info["source"] == "onnx_qdq"
    assert (
        info["simulator"]["reason"]
        == "the file run in parts gives its own outputs bit for bit on the example batch"
    )
    assert "Conv_c2" in set(pd.read_csv(done / "scan.csv")["unit"])


def test_the_int8_file_is_the_users_own_byte_for_byte(done: Path, made: Path) -> None:
    assert (done / "model.int8.onnx").read_bytes() == (made / "int8.onnx").read_bytes()


def test_the_partial_file_is_the_original_without_the_skipped_pairs_and_nothing_else(
    done: Path, made: Path
) -> None:
    plan = json.loads((done / "plan.json").read_text())
    assert plan["skip"], "something had to be left out"
    partial, original = onnx.load(done / "model.partial.onnx"), onnx.load(made / "int8.onnx")
    nodes = {node.name: node for node in original.graph.node}
    changed = set()
    for node in partial.graph.node:
        before = onnx.NodeProto()
        before.CopyFrom(nodes[node.name])
        for one in (node, before):  # "" may be written or left out
            one.domain or one.ClearField("domain")
        if list(node.input) != list(before.input):
            changed.add(node.name)
            before.input[:] = node.input
        assert node.SerializeToString() == before.SerializeToString(), node.name
    assert changed <= {*plan["skip"], "Flatten_f1"}, (
        "Flatten only moves what the linear layer reads"
    )
    assert [node.name for node in partial.graph.node] == [
        node.name
        for node in original.graph.node
        if node.name in {one.name for one in partial.graph.node}
    ]
    reads = {
        name for node in partial.graph.node if node.name in plan["skip"] for name in node.input
    }
    quantized = {
        node.output[0] for node in partial.graph.node if node.op_type == "DequantizeLinear"
    }
    assert not reads & quantized
    assert partial.opset_import == original.opset_import
    assert list(partial.graph.input) == list(original.graph.input)
    assert list(partial.graph.output) == list(original.graph.output)
    assert {item.key: item.value for item in partial.metadata_props}["author"] == "someone"


def test_the_files_reach_what_the_plan_says(done: Path, made: Path) -> None:
    with np.load(made / "data.npz") as content:
        x, y = content["x"], content["y"]
    accuracy = {
        name: float((run_file(done / f"model.{name}.onnx", x).argmax(1) == y).mean())
        for name in ("float", "int8", "partial")
    }
    assert accuracy["float"] == 1.0
    assert accuracy["int8"] < accuracy["partial"]
    assert np.array_equal(run_file(done / "model.float.onnx", x), run_file(made / "float.onnx", x))


def test_a_file_of_another_tool_that_loses_many_layers_is_worth_quantizing_anew(done: Path) -> None:
    plan = json.loads((done / "plan.json").read_text())
    info = json.loads((done / "run.json").read_text())
    assert len(plan["skip"]) > MANY * len(info["units"])
    assert ANEW in plan["notes"]


def test_later_verbs_work_on_the_run_directory_alone(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb("plan", done, "--target", "0.95") == 0
    assert verb("export", done) == 0
    assert verb("bench", done, "--rounds", "5", "--threads", "1", "--accuracy") == 0
    assert "measured in onnxruntime on holdout: float 100.0 %" in capsys.readouterr().out


def test_later_verbs_take_the_run_of_a_file_whose_constants_have_no_names(
    tmp_path: Path, made: Path
) -> None:
    """Reading them through onnx_ir names them."""
    model = onnx.load(made / "int8.onnx")
    (output,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = ["kept" if name == output.name else name for name in node.output]
    shape = onnx.numpy_helper.from_array(np.array([0, -1]))
    model.graph.node.extend(
        [
            onnx.helper.make_node("Constant", [], ["shape"], name="constant", value=shape),
            onnx.helper.make_node("Reshape", ["kept", "shape"], [output.name], name="reshape"),
        ]
    )
    file = tmp_path / "int8.onnx"
    onnx.save(model, file)
    source = OnnxQdqModel(OnnxModel(file))
    before = source.fingerprint()
    nodes = {node.op_type: node for node in source.model.graph.graph}
    assert qdq.constant(nodes["Constant"].outputs[0]).tolist() == [0, -1]
    assert nodes["Constant"].attributes["value"].as_tensor().name == "shape"
    assert source.fingerprint() == before
    assert verb("scan", file, "--data", made / "data.npz", "--out", tmp_path / "run") == 0
    assert verb("plan", tmp_path / "run", "--max-drop", "20pt", "--no-recalibrate") == 0


def test_lowering_the_files_of_a_qdq_source_is_refused(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (done / "export.json").read_bytes()
    assert verb("export", done, "--for", "openvino") == 1
    assert (
        "Expected no --for but onnxruntime or qnn with a Q/DQ ONNX file, whose other exports keep "
        "the form that its toolkit gave it, got openvino; export without it"
    ) in " ".join(capsys.readouterr().err.split())
    assert (done / "export.json").read_bytes() == before


def test_with_the_metric_as_signal_the_plan_takes_the_units_in_the_order_of_the_scan(
    made: Path,
) -> None:
    out = made / "metric"
    assert (
        verb(
            "run",
            made / "int8.onnx",
            *with_own_ranges(made),
            "--signal",
            "metric",
            "--rounds",
            "5",
            "--out",
            out,
        )
        == 0
    )
    ranking = list(pd.read_csv(out / "scan.csv")["unit"])
    path = [step["skip"] for step in json.loads((out / "plan.json").read_text())["path"]]
    assert path[2] == ranking[:1], "the first prefix after nothing and everything"
    assert '"rank: sqnr' not in (out / "journal.jsonl").read_text(), "no outputs were compared"


def test_a_damaged_partial_file_is_refused(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sensitivity.errors import ExportError
    from sensitivity.exporters import onnx_file
    from sensitivity.exporters.torch_model import disabled_by_variant
    from sensitivity.opened import quantized_model
    from sensitivity.quantizers.base import layers
    from sensitivity.simulators.onnx.whole import WholeFile

    task = onnx_task(made / "int8.onnx", made / "data.npz")
    source = quantized_model(task.model)
    units = layers(source.quantizers)
    disabled = disabled_by_variant(source, units, ["Conv_c2"])
    files = onnx_file.export_onnx(source, units, ["Conv_c2"], made / "damaged", fingerprint="")

    def refused(match: str) -> None:
        with pytest.raises(ExportError, match=match):
            onnx_file.verify_onnx(source, files, disabled, images(4, 0), WholeFile(source))

    onnx_file.verify_onnx(source, files, disabled, images(4, 0), WholeFile(source))
    whole = files["partial"].read_bytes()
    files["partial"].write_bytes(files["int8"].read_bytes())
    refused("model.partial.onnx to hold Q/DQ pairs for exactly .* of Conv_c2 should not be there")
    partial = onnx.load_from_string(whole)
    next(node for node in partial.graph.node if node.name == "Add_a1").op_type = "Sub"
    onnx.save(partial, files["partial"])
    refused("to keep the operations of the original file, got 2 changed")
    partial = onnx.load_from_string(whole)
    weight = next(tensor for tensor in partial.graph.initializer if tensor.name == "w2")
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 2, "w2"))
    onnx.save(partial, files["partial"])
    refused("Expected outputs of model.partial.onnx to differ from what was measured by at most")


def test_a_session_like_model_is_put_back_after_an_exception(made: Path) -> None:
    from sensitivity.opened import quantized_model
    from sensitivity.simulators.evaluate import EvaluateSimulator

    model = OnnxModel(made / "int8.onnx")
    source = quantized_model(model)
    (before,) = model.run(None, {"x": images(2, 0)})

    def broken(session: Any) -> float:
        assert session.skipped
        raise KeyError("labels")

    task = EvaluateTask(model, broken)
    with pytest.raises(TaskError, match="got KeyError"):
        list(
            EvaluateSimulator(source).outputs(
                task.evaluate, [frozenset([source.quantizers[0].name])]
            )
        )
    (after,) = model.run(None, {"x": images(2, 0)})
    assert np.array_equal(before, after)


def test_an_onnx_file_without_data_learns_what_data_can_be(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb("scan", made / "int8.onnx", "--out", made / "none") == 1
    said = capsys.readouterr().err
    assert "Expected --data with" in said
    assert "COCO annotations, a data YAML, " in said
    assert "images per class, or an .npz with inputs x and labels y" in said


def test_a_model_that_does_not_exist_is_missed_before_its_data(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = made / "other.onnx"
    assert verb("run", file, "--out", made / "none") == 1
    assert f"Expected a model at {file}, got no such file" in capsys.readouterr().err


def test_folders_of_images_are_classified_as_the_file_takes_them(tmp_path: Path) -> None:
    from PIL import Image

    original = onnx.load(float_file(tmp_path / "float.onnx"))
    onnx.save(original, tmp_path / "float.onnx")
    static_file(tmp_path / "float.onnx", tmp_path / "int8.onnx")
    rng = np.random.default_rng(0)
    for name in "abcde":
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 255, (16, 18, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    task = onnx_task(tmp_path / "int8.onnx", tmp_path / "data")
    inputs, labels = next(iter(task.data["rank"]))
    assert inputs.shape == (10, 3, 12, 12)
    assert inputs.dtype == np.float32
    assert set(labels.tolist()) <= set(range(5))
    assert task.metric == "top-1"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none", None, "to be COCO annotations .* got nothing there"),
        (
            "data.npz",
            {"a": np.zeros((4, 3)), "b": np.zeros((4, 2))},
            r"to hold inputs x and labels y .* got a float64\[4, 3\]",
        ),
    ],
    ids=["missing", "npz"],
)
def test_data_of_no_known_kind_is_reported(
    made: Path, tmp_path: Path, name: str, content: Any, sentence: str
) -> None:
    if content:
        np.savez(tmp_path / name, **content)
    with pytest.raises(TaskError, match=sentence):
        onnx_task(made / "int8.onnx", tmp_path / name)


COLLAPSED = """
from sensitivity import EvaluateTask
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.quantizers.onnx.qdq import OnnxQdqModel

def task():
    model = OnnxModel({path!r})

    def accuracy(session):  # any ten quantizers ruin it
        return 1.0 - 0.1 * min(len(session.uses) - len(session.skipped), 9.9)

    return EvaluateTask(model, accuracy)
"""


def test_a_file_that_has_collapsed_is_scanned_with_one_operation_quantized_at_a_time(
    made: Path, tmp_path: Path
) -> None:
    task, out = tmp_path / "task.py", tmp_path / "out"
    task.write_text(COLLAPSED.format(path=str(made / "int8.onnx")))
    assert verb("scan", f"{task}:task", "--out", out) == 0
    assert json.loads((out / "run.json").read_text())["mode"] == "enable"
    scanned = pd.read_csv(out / "scan.csv")
    assert (scanned.effect > 0).all(), "what each costs alone"
    assert verb("scan", f"{task}:task", "--mode", "disable", "--out", tmp_path / "asked") == 0
    assert json.loads((tmp_path / "asked/run.json").read_text())["mode"] == "disable"


def test_outputs_of_a_file_may_differ_by_a_flip_in_few_samples_and_not_in_most() -> None:
    rng = np.random.default_rng(0)
    unquantized = [rng.normal(size=(6, 3, 5)), rng.normal(size=(6, 4))]
    expected = [output + rng.normal(0, 0.1, output.shape) for output in unquantized]

    def moved(samples: list[int], by: float) -> list[np.ndarray]:
        outputs = [output.copy() for output in expected]
        for output in outputs:
            output[samples] += by
        return outputs

    assert most_agree(moved([4], 0.05), expected, unquantized, 0.005)
    assert not most_agree(moved([0, 2, 4], 0.05), expected, unquantized, 0.005)
    # More than quantization changes is no rounding, and neither is what is no number.
    assert not most_agree(moved([4], 0.5), expected, unquantized, 0.005)
    assert not most_agree(moved([4], np.nan), expected, unquantized, 0.005)
    # An output without an axis for the samples cannot be taken apart.
    single = [np.zeros(1), np.zeros((6, 2))]
    assert not most_agree(single, single, single, 0.005)
