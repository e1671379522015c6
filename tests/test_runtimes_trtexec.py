"""The subprocess runtime with a script in place of trtexec that writes what it is told to: nothing
ran on TensorRT."""

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from support.qdq_chain import chain, inputs

from sensitivity.errors import OnnxFileError, RuntimeUnavailable
from sensitivity.runtimes.tensorrt_build import TensorRtSettings
from sensitivity.runtimes.trtexec import TrtExec

SCRIPT = """#!{python}
import json, sys
from pathlib import Path
print("&&&& RUNNING TensorRT.trtexec [TensorRT v{version}] # trtexec")
flags = dict(word.partition("=")[::2] for word in sys.argv[1:])
with open({log!r}, "a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
if {fails!r} and "--onnx" in flags:
    print("[11/20/2026-12:00:00] [E] Error Code 4: no implementation for node conv")
    sys.exit(1)
answers = json.loads({answers!r})
for flag, answer in answers.items():
    if flag in flags:
        Path(flags[flag]).write_text(answer)
if "--loadInputs" in flags:
    assert Path(flags["--loadInputs"].split(":")[1]).stat().st_size == 4 * 3 * 16 * 16
"""

ANSWERS = {
    "--saveEngine": "an engine",
    "--exportOutput": json.dumps([{"name": "y", "dimensions": "1x2", "values": [0.5, -1]}]),
    "--exportTimes": json.dumps([{"computeMs": value} for value in (9, 1, 2, 3)]),
    "--exportLayerInfo": json.dumps({"Layers": ["layer0/Conv"]}),
    "--exportProfile": json.dumps([{"count": 1}, {"name": "layer0/Conv", "medianMs": 0.25}]),
}


@pytest.fixture
def tool(tmp_path: Path) -> "Tool":
    return Tool(tmp_path)


class Tool:
    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        self.file = chain(folder / "model.onnx")

    def runtime(
        self,
        version: str = "101600",
        settings: TensorRtSettings | None = None,
        *,
        fails: bool = False,
    ) -> TrtExec:
        script = self.folder / "trtexec"
        python = os.path.realpath(os.sys.executable)  # type: ignore[attr-defined]
        script.write_text(
            SCRIPT.format(
                python=python,
                version=version,
                log=str(self.log),
                answers=json.dumps(ANSWERS),
                fails=fails,
            )
        )
        script.chmod(0o755)
        return TrtExec(settings, command=str(script))

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def test_an_engine_is_built_once_and_every_call_loads_it(tool: Tool) -> None:
    with tool.runtime().build(tool.file) as engine:
        outputs = engine.run(inputs())
        assert engine.time_ms(inputs(), 3).tolist() == [1, 2, 3]
        (layer,) = engine.profile(inputs(), 2)
        folder = Path(engine._folder.name)
    np.testing.assert_array_equal(outputs["y"], np.array([[0.5, -1]], np.float32))
    assert (layer.onnx, layer.ms) == (("layer0/Conv",), 0.25)
    version, build, *others = tool.calls()
    assert version == ["--help"]
    assert f"--onnx={tool.file}" in build
    assert all(any(flag.startswith("--loadEngine=") for flag in call) for call in others)
    assert not folder.exists()


def test_the_version_decides_the_flags(tool: Tool) -> None:
    file = chain(tool.folder / "int8.onnx", {0, 1, 2})
    for version, precision, expected in (
        ("8601", "fp16", {"--int8", "--fp16"}),
        ("110100", "fp32", set()),
    ):
        with tool.runtime(version).build(file) as engine:
            assert engine.precision == precision
        assert {"--int8", "--fp16", "--stronglyTyped"} & set(tool.calls()[-1]) == expected


def test_the_float_baseline_gets_no_precision_flags(tool: Tool) -> None:
    with tool.runtime("8601").build(tool.file) as engine:
        assert engine.precision == "fp32"
    assert not {"--int8", "--fp16"} & set(tool.calls()[-1])


def test_a_failed_build_gives_the_tools_own_words_and_leaves_no_folder(
    tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tool.folder / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    kept: list[object] = []  # a folder that nobody holds would be removed by the garbage collector
    made = tempfile.TemporaryDirectory
    monkeypatch.setattr("tempfile.TemporaryDirectory", lambda: kept.append(made()) or kept[-1])
    with pytest.raises(
        RuntimeUnavailable,
        match=r"to succeed, got: .*Error Code 4: no implementation for node conv",
    ):
        tool.runtime(fails=True).build(tool.file)
    assert list(scratch.iterdir()) == []


def test_shapes_are_given_to_a_dynamic_engine_only(tool: Tool) -> None:
    shapes = TensorRtSettings(shapes={"x": ((1, 3, 16, 16), (1, 3, 16, 16), (8, 3, 16, 16))})
    for settings, expected in ((None, []), (shapes, ["--shapes=x:1x3x16x16"])):
        with tool.runtime(settings=settings).build(tool.file) as engine:
            engine.time_ms(inputs(), 1)
        assert [flag for flag in tool.calls()[-1] if flag.startswith("--shapes")] == expected


def test_inputs_are_written_in_the_type_of_the_file_or_refused(tool: Tool) -> None:
    with tool.runtime().build(tool.file) as engine:
        # the script checks the size of the file
        engine.run({"x": inputs()["x"].astype(np.float64)})
        with pytest.raises(OnnxFileError, match="Expected inputs named x, got image"):
            engine.run({"image": inputs()["x"]})


def test_a_missing_tool_says_where_it_comes_from(tmp_path: Path) -> None:
    runtime = TrtExec(command=str(tmp_path / "trtexec"))
    with pytest.raises(
        RuntimeUnavailable, match="it comes with NVIDIA's TensorRT containers and archives"
    ):
        runtime.build(tmp_path / "any.onnx")
