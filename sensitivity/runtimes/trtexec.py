"""TensorRT through its command line tool, for machines without its Python module.

Nothing here has been run on TensorRT; docs/runtimes.md says what was checked instead.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import RuntimeUnavailable
from sensitivity.runtimes.base import Closing, LayerRun, Tensors, existing, fitted
from sensitivity.runtimes.engine_json import compute_times, engine_layers, layer_times, read_json
from sensitivity.runtimes.file_types import file_types
from sensitivity.runtimes.onnx_names import input_types, onnx_names
from sensitivity.runtimes.tensorrt_build import TensorRtSettings
from sensitivity.runtimes.trtexec_flags import (
    Version,
    build_flags,
    input_flags,
    is_strong,
    profile_flags,
    run_flags,
    time_flags,
    version_from_banner,
)


class TrtExec:
    """TensorRT through trtexec.

    command: the tool's name or path. It comes with NVIDIA's containers and archives, not with the
        pip package.
    """

    name = "trtexec"
    per_turn = 200  # inferences per turn of a bench: a turn starts a process and loads the engine

    def __init__(
        self, settings: TensorRtSettings | None = None, *, command: str = "trtexec"
    ) -> None:
        self.settings = settings or TensorRtSettings()
        self.command = command

    def unavailable(self) -> str | None:
        if shutil.which(self.command) is None:
            return (
                f"{self.command} is not on the PATH; it comes with NVIDIA's TensorRT containers "
                "and archives, not with the pip package"
            )
        return None

    def version(self) -> str:
        return ".".join(map(str, self._version()))

    def _version(self) -> Version:
        return version_from_banner(_answer([self.command, "--help"]))

    @property
    def lowering(self) -> str | None:
        """The runtime whose lowered files it takes.

        This is "tensorrt" for strongly typed networks, and None (canonical files) for the others,
        as in `TensorRt`.
        """
        return "tensorrt" if is_strong(self._version(), self.settings) else None

    def build(self, file: Path, *, threads: int | None = None) -> TrtExecEngine:
        """Build an engine from a file.

        threads: has no meaning on a GPU; it is a parameter because every runtime has it.
        """
        if problem := self.unavailable():
            raise RuntimeUnavailable(problem)
        return TrtExecEngine(self.command, self._version(), existing(file), self.settings)


class TrtExecEngine(Closing):
    """An engine in a temporary folder; every call starts the tool on it."""

    def __init__(
        self, command: str, version: Version, file: Path, settings: TensorRtSettings
    ) -> None:
        self._command, self._version, self._file, self._settings = command, version, file, settings
        self._types = input_types(file)
        types = file_types(file)
        self.precision = types.precision(settings.float_type, strong=is_strong(version, settings))
        self._folder = tempfile.TemporaryDirectory()
        self._plan = self._path("model.engine")
        try:
            self._call(build_flags(version, file, self._plan, types, settings))
        except BaseException:
            self.close()
            raise

    def run(self, inputs: Tensors) -> dict[str, NDArray[np.generic]]:
        """Return every output by its name, as float32.

        The values come from trtexec's JSON, which holds about six digits.
        """
        outputs = self._path("outputs.json")
        self._call(run_flags(self._version, self._plan, outputs) + self._inputs(inputs))
        arrays: dict[str, NDArray[np.generic]] = {}
        for item in read_json(outputs):
            shape = [int(side) for side in str(item["dimensions"]).split("x")]
            arrays[str(item["name"])] = np.array(item["values"], np.float32).reshape(shape)
        return arrays

    def time_ms(self, inputs: Tensors, repeats: int) -> NDArray[np.float64]:
        """Return the GPU time of the last `repeats` inferences; trtexec may run more."""
        times = self._path("times.json")
        self._call(
            time_flags(self._version, self._plan, times, repeats, self._settings)
            + self._inputs(inputs)
        )
        return compute_times(read_json(times))[-repeats:]

    def profile(self, inputs: Tensors, repeats: int) -> tuple[LayerRun, ...]:
        layers, profile = self._path("layers.json"), self._path("profile.json")
        self._call(profile_flags(self._plan, layers, profile, repeats) + self._inputs(inputs))
        return engine_layers(
            read_json(layers), layer_times(read_json(profile)), onnx_names(self._file)
        )

    def close(self) -> None:
        self._folder.cleanup()

    def _path(self, name: str) -> Path:
        return Path(self._folder.name) / name

    def _inputs(self, inputs: Tensors) -> list[str]:
        files = {}
        for index, (name, array) in enumerate(fitted(inputs, self._types).items()):
            files[name] = self._path(f"input{index}.bin")
            files[name].write_bytes(array.tobytes())
        return input_flags(
            files, {name: array.shape for name, array in inputs.items()}, self._settings
        )

    def _call(self, flags: Sequence[str]) -> None:
        _answer([self._command, *flags], check=True)


def _answer(command: Sequence[str], *, check: bool = False) -> str:
    """Return what the tool printed.

    check: whether to raise RuntimeUnavailable, with the last error line, if the tool fails.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  the user named the tool
    text = done.stdout + done.stderr
    if check and done.returncode:
        lines = text.splitlines() or ["nothing"]
        errors = [line for line in lines if "[E]" in line]
        last = (errors or lines)[-1]
        raise RuntimeUnavailable(
            f"Expected '{' '.join(command)[:200]}' to succeed, got: {last.strip()[:300]}."
        )
    return text
