"""Command lines of trtexec, which differ by version.

From TensorRT 11 on, CUDA graph, spin wait and no data transfers are its defaults. On 8.6 and 10
they must be requested, or the numbers do not compare. `--int8` and `--fp16` go only to weakly typed
builds of 8.6 and 10, since 11 fails on them. Tests check every flag against the lists of 8.6, 10.0,
10.12, 10.16, 11.0 and 11.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from sensitivity.errors import RuntimeUnavailable
from sensitivity.runtimes.file_types import FileTypes
from sensitivity.runtimes.tensorrt_build import TensorRtSettings

Version = tuple[int, int]


def version_from_banner(text: str) -> Version:
    """Return the version in "TensorRT v8601" (8.6.1), "v101600" (10.16.0) or "v11.1.0.106".

    Raises RuntimeUnavailable if there is none.

    >>> version_from_banner("&&&& RUNNING TensorRT.trtexec [TensorRT v8601] # trtexec --help")
    (8, 6)
    """
    match = re.search(r"TensorRT v([\d.]+)", text)
    if not match:
        raise RuntimeUnavailable(
            f"Expected trtexec to print its TensorRT version, got {text[:80]!r}; give its full "
            "path."
        )
    if "." in match[1]:
        first, second, *_ = match[1].split(".")
        return int(first), int(second)
    number = int(match[1])
    step = 10_000 if number >= 100_000 else 1_000  # 8.6.1 is 8601, 10.16.0 is 101600
    return number // step, number % step // 100


def is_strong(version: Version, settings: TensorRtSettings) -> bool:
    """Return whether the network takes its types from the file.

    Raises RuntimeUnavailable if this version cannot do what the settings ask for.
    """
    asked = settings.strongly_typed
    if asked is None:
        return version >= (10, 0)
    if asked and version < (10, 0):
        raise RuntimeUnavailable(
            f"Expected TensorRT 10 or later for a strongly typed network, got {_dotted(version)}."
        )
    if not asked and version >= (11, 0):
        raise RuntimeUnavailable(
            f"Expected TensorRT 10 or earlier for a weakly typed network, got {_dotted(version)}."
        )
    return asked


def build_flags(
    version: Version, file: Path, engine: Path, types: FileTypes, settings: TensorRtSettings
) -> list[str]:
    """Return the arguments to build `engine` from `file` without running it.

    types: of the file's values.
    """
    flags = [
        f"--onnx={file}",
        f"--saveEngine={engine}",
        "--skipInference",
        "--profilingVerbosity=detailed",
    ]
    if is_strong(version, settings):
        flags += ["--stronglyTyped"] if version < (11, 0) else []
    else:
        flags += [f"--{name.lower()}" for name in types.builder_flags(settings.float_type)]
    if settings.workspace_mib is not None:
        flags.append(f"--memPoolSize=workspace:{settings.workspace_mib}")
    if settings.timing_cache is not None:
        flags.append(f"--timingCacheFile={settings.timing_cache}")
    for index, flag in enumerate(("--minShapes", "--optShapes", "--maxShapes")):
        if settings.shapes:
            shapes = {name: triple[index] for name, triple in settings.shapes.items()}
            flags.append(f"{flag}={shapes_text(shapes)}")
    return flags


def time_flags(
    version: Version, engine: Path, times: Path, repeats: int, settings: TensorRtSettings
) -> list[str]:
    """Return the arguments to time an engine and write the times to a JSON file.

    With `--duration=0`, the number of iterations decides. Warm-up is in milliseconds.
    """
    flags = [f"--loadEngine={engine}", f"--exportTimes={times}"]
    flags += [f"--iterations={repeats}", "--duration=0", f"--warmUp={settings.warm_up_ms}"]
    if version >= (11, 0):
        return flags if settings.cuda_graph else [*flags, "--noCudaGraph"]
    flags += ["--useSpinWait", "--noDataTransfers"]
    return [*flags, "--useCudaGraph"] if settings.cuda_graph else flags


def profile_flags(engine: Path, layers: Path, profile: Path, repeats: int) -> list[str]:
    """Return the arguments to run an engine `repeats` times and write the layers' times to JSON
    files."""
    return [
        f"--loadEngine={engine}",
        f"--exportLayerInfo={layers}",
        f"--exportProfile={profile}",
        "--profilingVerbosity=detailed",
        "--separateProfileRun",
        f"--iterations={repeats}",
        "--duration=0",
    ]


def run_flags(version: Version, engine: Path, outputs: Path) -> list[str]:
    """Return the arguments to run an engine once and write its outputs to a JSON file."""
    flags = [
        f"--loadEngine={engine}",
        f"--exportOutput={outputs}",
        "--iterations=1",
        "--duration=0",
        "--warmUp=0",
    ]
    return flags if version < (11, 0) else [*flags, "--includeDataTransfers"]


def input_flags(
    files: Mapping[str, Path], shapes: Mapping[str, tuple[int, ...]], settings: TensorRtSettings
) -> list[str]:
    """Return the arguments that load input values from raw files.

    They include the shapes if the engine is dynamic; a static one refuses them.
    """
    flags = []
    if files:
        loaded = [f"{_quoted(name)}:{file}" for name, file in files.items()]
        flags.append(f"--loadInputs={','.join(loaded)}")
    if settings.shapes:
        flags.append(f"--shapes={shapes_text(shapes)}")
    return flags


def shapes_text(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return shapes in trtexec's spelling; a name with a colon is quoted.

    >>> shapes_text({"x": (1, 3, 224, 224), "images:0": (1, 3, 8, 8)})
    "x:1x3x224x224,'images:0':1x3x8x8"
    """
    words = []
    for name, shape in shapes.items():
        sides = "x".join(map(str, shape))
        words.append(f"{_quoted(name)}:{sides}")
    return ",".join(words)


def _quoted(name: str) -> str:
    if ":" in name:
        return f"'{name}'"
    return name


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))
