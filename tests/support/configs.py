"""Exported models, plans for them, and other tools that apply the settings written from a plan."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from sensitivity.exporters.configs.base import Config, NamedPlan
from sensitivity.exporters.configs.operations import operations_of, quantized_inputs
from sensitivity.exporters.torch_model import export_files
from sensitivity.quantizers.base import layers
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from support import models


@dataclass(frozen=True)
class Exported:
    """A ModelOpt model and its float file, with an input of that."""

    source: ModelOptModel
    plan: NamedPlan
    file: Path
    inputs: np.ndarray

    def without(self, skip: Collection[str]) -> NamedPlan:
        """Another plan for the same model. skip: names of layers, each that of its operation."""
        operations = tuple(
            replace(each, plan=frozenset() if each.name in skip else each.int8)
            for each in self.plan.operations
        )
        quantizers = self.source.quantizers
        left_out = frozenset(each.name for each in quantizers if each.layer in skip)
        return NamedPlan(operations, quantizers, left_out)


def exported(
    folder: Path, build: Callable[[], Any], inputs: torch.Tensor, skip: Collection[str] = ()
) -> Exported:
    """A seeded model, quantized by ModelOpt and exported with these layers left out."""
    source = ModelOptModel(models.quantized(models.seeded(build), inputs))
    files = export_files(
        source, inputs, layers(source.quantizers), list(skip), folder, fingerprint="test"
    )
    left_out = frozenset(each.name for each in source.quantizers if each.layer in skip)
    plan = NamedPlan(operations_of(files), source.quantizers, left_out)
    return Exported(source, plan, files["float"], inputs.numpy())


def in_int8(file: Path, plan: NamedPlan) -> set[str]:
    """The operations of which a tool's file quantizes all inputs that the INT8 file does."""
    found: Mapping[str, frozenset[int]] = quantized_inputs(file)
    return {
        each.name
        for each in plan.operations
        if each.int8 and each.int8 <= found.get(each.name, frozenset())
    }


class Reader:
    """Calibration data for ONNX Runtime: one batch."""

    def __init__(self, file: Path, inputs: np.ndarray) -> None:
        self.batches = iter([{onnx.load(file).graph.input[0].name: inputs}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def apply_ort(file: Path, inputs: np.ndarray, config: Config, out: Path) -> Path:
    """What ONNX Runtime makes of the float file with these settings."""
    from onnxruntime.quantization import quantize_static

    quantize_static(file, out, Reader(file, inputs), **json.loads(config.text))
    return out
