"""docs/runtimes.md agrees with the code."""

import dataclasses
import re
from pathlib import Path

import pytest
from support.qdq_chain import chain

from sensitivity.registry import FAMILIES, load
from sensitivity.runtimes.tensorrt_build import TensorRtSettings
from sensitivity.timing.explain import ADVICE, WORDS

DOC = (Path(__file__).parent.parent / "docs" / "runtimes.md").read_text()


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    chain(tmp_path / "runs" / "demo" / "model.partial.onnx", {1, 2})
    monkeypatch.chdir(tmp_path)
    ran: dict[str, object] = {}
    exec(code, ran)  # the example as a reader would paste it
    assert len(ran["times"]) == 100  # type: ignore[arg-type]
    assert ran["steps"]


def test_every_runtime_and_every_setting_is_documented() -> None:
    for name in FAMILIES["runtimes"]:
        assert f"`{name}`" in DOC
        assert load("runtimes", name)().name == name
    for field in dataclasses.fields(TensorRtSettings):
        assert f"| `{field.name}` |" in DOC


def test_it_says_plainly_that_nothing_was_run_on_tensorrt() -> None:
    assert "**Nothing in this project has been run on TensorRT.**" in DOC
    assert DOC.count("**never run**") == 3


def test_every_cause_has_words_and_advice() -> None:
    assert WORDS.keys() == ADVICE.keys()
