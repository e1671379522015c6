"""Damaged files: the same result or one sentence. `benchmarks/damage.py` does the same a thousand
times, with every verb."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.scripts import load_script

from sensitivity.errors import OnnxFileError, SensitivityError
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.well_formed import blamed_on
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.rules.lint import run_lint

damage = load_script("benchmarks/damage.py")


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    files: dict[str, Path] = damage.subjects(tmp_path_factory.mktemp("valid"))
    return files


def test_the_files_are_valid_before_they_are_damaged(valid: dict[str, Path]) -> None:
    for name, file in valid.items():
        onnx.checker.check_model(str(file))
        load_model(file)
        assert isinstance(run_lint(file, "onnxruntime"), list), name


@pytest.mark.parametrize(
    "name", ["pairs", "sub-graph", "function", "external data", "large weights"]
)
def test_a_damaged_file_is_read_or_refused_in_one_sentence(
    name: str, valid: dict[str, Path], tmp_path: Path
) -> None:
    """Every kind of damage. A file that can still be read is also judged and run."""
    place, refused = tmp_path / "damaged", 0
    for number in range(80):
        rng = np.random.default_rng([7, number])
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(valid[name].parent, place)
        subject = place / (
            "weights.bin" if name == "external data" and number % 4 == 0 else "model.onnx"
        )
        kind = damage.KINDS[number % len(damage.KINDS)]
        subject.write_bytes(damage.damaged(subject.read_bytes(), kind, rng))
        for use in (
            lambda: run_lint(place / "model.onnx", damage.TARGETS[number % 4]),  # noqa: B023 - called at once
            lambda: OnnxModel(place / "model.onnx").get_inputs(),
        ):
            try:
                use()
            except SensitivityError:
                refused += 1
    assert refused > 20, "damage was noticed at all"


def edited(source: Path, path: Path, change: Any) -> Path:
    model = onnx.load(source)
    change(model)
    content = model.SerializeToString()
    path.write_bytes(content)
    return path


def unmade(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "nobody"


def unmade_inside(model: onnx.ModelProto) -> None:
    branch = next(node for node in model.graph.node if node.op_type == "If").attribute[1].g
    branch.node[0].input[0] = "nobody"


def short(model: onnx.ModelProto) -> None:
    weight = next(one for one in model.graph.initializer if one.name == "w")
    weight.raw_data = weight.raw_data[:-1]


def odd_type(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_type = 41


def untyped(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.attribute)
    node.attribute[0].ClearField("type")


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        (
            "pairs",
            unmade,
            "Expected the value 'nobody' that QuantizeLinear_xq reads .* got none of that name",
        ),
        ("sub-graph", unmade_inside, "Expected the value 'nobody' that"),
        (
            "pairs",
            short,
            r"Expected the tensor 'w' .* to be whole, got 23 bytes for INT8 of shape \[4, 6\]",
        ),
        ("pairs", odd_type, "got the data type 41, which is none"),
        (
            "pairs",
            untyped,
            "Expected the attribute 'axis' of DequantizeLinear_wd .* to have a type",
        ),
    ],
    ids=["unmade", "unmade-in-a-sub-graph", "short-tensor", "odd-type", "untyped-attribute"],
)
def test_what_parses_and_is_wrong_is_named(
    name: str, change: Any, sentence: str, valid: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(OnnxFileError, match=sentence):
        load_model(edited(valid[name], tmp_path / "m.onnx", change))


def test_a_name_that_is_no_text_is_named(valid: dict[str, Path], tmp_path: Path) -> None:
    content = valid["pairs"].read_bytes()
    for old in (b"QuantizeLinear_xq", b"xd", b"pairs"):
        (tmp_path / "m.onnx").write_bytes(content.replace(old, b"\xff" + old[1:]))
        if old in content:
            with pytest.raises(OnnxFileError, match=r"to be UTF-8, got b'.*xff"):
                load_model(tmp_path / "m.onnx")


def test_an_exception_is_the_files_fault_only_where_the_checker_refuses_it(
    valid: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(KeyError), blamed_on(valid["pairs"]):
        raise KeyError("our own")
    broken = edited(valid["pairs"], tmp_path / "m.onnx", unmade)
    with pytest.raises(OnnxFileError, match="to be a valid ONNX file, got: "), blamed_on(broken):
        raise KeyError("anything")


def test_an_unforeseen_exception_in_a_verb_is_blamed_on_its_file(
    valid: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from sensitivity.cli.main import main

    def fails(*_: Any) -> None:
        raise IndexError("list index out of range")

    broken = edited(valid["pairs"], tmp_path / "m.onnx", unmade)
    monkeypatch.setattr("sensitivity.api.scan", fails)
    with pytest.raises(SystemExit) as stop:
        main(["scan", str(broken), "--out", str(tmp_path / "out")])
    assert stop.value.code == 1
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(IndexError):
        main(["scan", str(valid["pairs"]), "--out", str(tmp_path / "out")])
