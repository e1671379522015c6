"""Builds one ONNX file with TensorRT for RTX, in a process of its own that the builder may end.

It is run by its path, with a file, a compute capability and the path of the answer. It imports
nothing of `sensitivity`, so that it starts fast. The answer is written after each stage, so the
last stage is known if the builder ends the process.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

ERRORS_KEPT = 3


def main(file: str, sm: str, answer_path: str) -> None:
    """Write JSON with version, stage, parser errors, builder errors and the list of the engine's
    layers.

    stage: the last one that was begun: "parse", "build" or "done".
    """
    trt = importlib.import_module("tensorrt_rtx")
    known = [name for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    answer: dict[str, Any] = {"version": trt.__version__, "known": known, "stage": "parse"}
    _write(answer_path, answer)
    if f"SM{sm}" not in known:
        return
    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(file):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        parser_errors = [
            (error.node_name(), error.node_operator(), error.desc()) for error in errors
        ]
        _write(answer_path, answer | {"parser_errors": parser_errors, "errors": logger.errors})
        return
    answer["stage"] = "build"
    _write(answer_path, answer)
    config = builder.create_builder_config()
    # With this verbosity, the log lists the engine's layers.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.__members__[f"SM{sm}"], 0)
    _take_one_sample(builder, network, config)
    if builder.build_serialized_network(network, config) is not None:
        answer |= {"stage": "done", "layers": logger.layers}
    _write(answer_path, answer | {"errors": logger.errors})


def _take_one_sample(builder: Any, network: Any, config: Any) -> None:
    """Give inputs with a free first axis one sample.

    Nothing says what another free axis should be, so the builder refuses it.
    """
    dynamic = {}
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(tensor.shape)
        if -1 in shape[1:]:
            return
        if -1 in shape:
            dynamic[tensor.name] = (1, *shape[1:])
    if not dynamic:
        return
    profile = builder.create_optimization_profile()
    for name, shape in dynamic.items():
        profile.set_shape(name, shape, shape, shape)
    config.add_optimization_profile(profile)


def _logger(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.layers = ""

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors = [*self.errors, msg][-ERRORS_KEPT:]
            elif msg.startswith("Layers:"):
                self.layers = msg

    return Log()


def _write(path: str, answer: dict[str, Any]) -> None:
    """Write the answer whole or not at all, since the builder may end this process at any time."""
    beside = Path(f"{path}.new")
    beside.write_text(json.dumps(answer))
    beside.replace(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
