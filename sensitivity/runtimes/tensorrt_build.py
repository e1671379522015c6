"""Builds serialized TensorRT engines from ONNX files, in one way for TensorRT 8.6, 10, 11 and
TensorRT for RTX.

`trt` is the imported module throughout. Names that some version lacks are read with getattr. Tests
check every other name, and every keyword, against the API lists of 8.6, 10.0, 10.16 and 11.1.
Variables are named after the classes that they hold (builder, network, parser, config, profile,
cache, tensor), so that those tests know what to look up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sensitivity.errors import OnnxFileError, RuntimeUnavailable
from sensitivity.runtimes.file_types import file_types

Shapes = Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]


@dataclass(frozen=True)
class TensorRtSettings:
    """How engines are built and launched.

    strongly_typed: whether types come from the ONNX file alone, as always in 11; None takes them
        from it if the version can (10 and later).
    float_type: of the layers that a quantized file leaves in float, in a weakly typed network only.
        A file without Q/DQ is built in the types that it has.
    workspace_mib: limit of scratch memory in MiB; None leaves TensorRT's own.
    timing_cache: file that is read before a build and updated after it; None for no cache.
    engines: folder where engines are kept and found again; None keeps none.
    shapes: name -> smallest, best and largest shape of each input with a dynamic dimension. An
        input with only a free first axis may be left out; it is then built for one sample.
    cuda_graph: whether to launch through a CUDA graph, the default of trtexec from 11 on.
    warm_up_ms: duration of launches before the first timed one, which raise the GPU's clocks; 200
        as in trtexec.
    """

    strongly_typed: bool | None = None
    float_type: Literal["fp16", "fp32"] = "fp16"
    workspace_mib: int | None = None
    timing_cache: Path | None = None
    engines: Path | None = None
    shapes: Shapes = field(default_factory=dict)
    cuda_graph: bool = True
    warm_up_ms: int = 200


def strongly_typed(trt: Any, settings: TensorRtSettings) -> bool:
    """Return whether the network is strongly typed.

    Raises RuntimeUnavailable if this version cannot do what the settings ask for.
    """
    if settings.strongly_typed is False and trt.__name__ == "tensorrt_rtx":
        raise RuntimeUnavailable(
            f"Expected strongly typed networks with TensorRT-RTX {trt.__version__}, which has no "
            "others, got strongly_typed=False; leave it out, and export with --for tensorrt for "
            "FP16 outside INT8."
        )
    can = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    must = not hasattr(trt.BuilderFlag, "INT8")
    if settings.strongly_typed and not can:
        raise RuntimeUnavailable(
            f"Expected TensorRT 10 or later for a strongly typed network, got {trt.__version__}; "
            "build the canonical file weakly typed."
        )
    if settings.strongly_typed is False and must:
        raise RuntimeUnavailable(
            f"Expected TensorRT 10 or earlier for a weakly typed network, got {trt.__version__}; "
            "export with --for tensorrt, which puts the types into the file."
        )
    return can if settings.strongly_typed is None else settings.strongly_typed


def build_plan(trt: Any, logger: Any, file: Path, settings: TensorRtSettings) -> bytes:
    """Return the serialized engine.

    Raises OnnxFileError if the parser refuses the file, RuntimeUnavailable if the build fails. Both
    quote TensorRT.
    """
    strong = strongly_typed(trt, settings)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt, strong))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(file)):
        raise OnnxFileError(
            f"Expected {file.name} to be a model that TensorRT can parse, got: "
            f"{_parser_errors(parser)}."
        )
    config = builder.create_builder_config()
    # Layers are mapped back to the model's by name, which needs this verbosity.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if settings.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib << 20)
    if not strong:
        _set_weak_types(trt, config, file_types(file).builder_flags(settings.float_type))
    _add_profile(builder, network, config, settings.shapes)
    _read_timing_cache(config, settings.timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeUnavailable(
            f"Expected TensorRT to build {file.name}, got: {last_error(logger)}."
        )
    _write_timing_cache(config, settings.timing_cache)
    return bytes(plan)


def _network_flags(trt: Any, strong: bool) -> int:
    flags = 0
    batch = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    if batch is not None:
        flags |= 1 << int(batch)  # needed by 8.6, accepted by 10, gone in 11
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    if strong and typed is not None:
        flags |= 1 << int(typed)  # 8.6 lacks it, 11 ignores it
    return flags


def _set_weak_types(trt: Any, config: Any, wanted: Collection[str]) -> None:
    if "INT8" in wanted:
        config.set_flag(getattr(trt.BuilderFlag, "INT8", None))
    if "FP16" in wanted:
        config.set_flag(getattr(trt.BuilderFlag, "FP16", None))


def _add_profile(builder: Any, network: Any, config: Any, shapes: Shapes) -> None:
    """Add one optimization profile for all inputs with a dynamic dimension.

    An input whose first axis alone is free gets one sample. Raises RuntimeUnavailable for another
    input without shapes.
    """
    profile = builder.create_optimization_profile()
    dynamic = []
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(tensor.shape)
        if -1 not in shape:
            continue
        if tensor.name not in shapes and -1 in shape[1:]:
            raise RuntimeUnavailable(
                f"Expected smallest, best and largest shape of input {tensor.name}, whose shape "
                f"{shape} is dynamic; give them as shapes={{{tensor.name!r}: (smallest, best, "
                f"largest)}}."
            )
        smallest, best, largest = shapes.get(tensor.name, ((1, *shape[1:]),) * 3)
        profile.set_shape(tensor.name, smallest, best, largest)
        dynamic.append(tensor.name)
    if dynamic:
        config.add_optimization_profile(profile)


def _read_timing_cache(config: Any, file: Path | None) -> None:
    """Set the timing cache of the build.

    TensorRT ignores a cache of another version or device, and the build replaces it.
    """
    if file is None:
        return
    content = file.read_bytes() if file.exists() else b""
    config.set_timing_cache(config.create_timing_cache(content), False)


def _write_timing_cache(config: Any, file: Path | None) -> None:
    if file is None:
        return
    cache = config.get_timing_cache()
    if cache is not None:
        replace_file(file, bytes(cache.serialize()))


def _parser_errors(parser: Any) -> str:
    errors = [parser.get_error(index) for index in range(min(parser.num_errors, 3))]
    return "; ".join(map(_parser_error, errors)) or "no reason given"


def _parser_error(error: Any) -> str:
    """Return an error in words, with the operator and name of the node, which 8.6 does not give."""
    words = []
    for name in ("node_operator", "node_name"):
        read = getattr(error, name, str)
        words.append(read())
    where = " ".join(filter(None, words))
    message = str(error.desc())
    return f"{where}: {message}" if where else message


def plan_file(trt: Any, file: Path, settings: TensorRtSettings, device: str) -> Path | None:
    """Return the path where the engine of this very file, version, device and settings is kept.

    Returns None if engines are not kept.
    """
    if settings.engines is None:
        return None
    key = hashlib.sha256(file.read_bytes())
    # These files hold weights outside the model's file, such as model.onnx.data.
    for extra in sorted(file.parent.glob(f"{file.name}.*")):
        key.update(f"{extra.name} {extra.stat().st_size} {extra.stat().st_mtime_ns}".encode())
    what = (
        trt.__name__,
        trt.__version__,
        device,
        strongly_typed(trt, settings),
        settings.float_type,
    )
    key.update(repr((*what, settings.workspace_mib, sorted(settings.shapes.items()))).encode())
    return settings.engines / f"{file.stem}-{key.hexdigest()[:16]}.engine"


def replace_file(file: Path, data: bytes) -> None:
    """Write beside the file, then rename, so that a reader never sees half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f"{file.name}.new")
    beside.write_bytes(data)
    beside.replace(file)


def make_logger(trt: Any) -> Any:
    """Return a logger that keeps TensorRT's errors, so that our errors can quote them."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(msg)

    return Log()


def last_error(logger: Any) -> str:
    """Return the last error that TensorRT logged."""
    if not logger.errors:
        return "no reason given"
    return str(logger.errors[-1])
