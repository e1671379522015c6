"""Finds equal exported files: a plan that leaves nothing out is the fully quantized model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sensitivity.onnx_graph.digest import digest
from sensitivity.timing.protocol import Variant

ORDER: tuple[Variant, ...] = ("float", "int8", "partial")


def same_files(files: Mapping[Variant, Path]) -> dict[Variant, Variant]:
    """Return each of the float, INT8 and partial files -> the first one that computes the same with
    the same numbers."""
    first: dict[str, Variant] = {}
    return {
        variant: first.setdefault(digest(files[variant]), variant)
        for variant in ORDER
        if variant in files
    }
