"""What a model's modules say about its layers: detection heads, RepVGG blocks, quantizers held in
several places."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

HEAD = re.compile(r"detect|(?<!multi)head", re.IGNORECASE)
"""Of a class or attribute name: Detect, YoloHead, bbox_head, ...; an attention's heads are
something else."""

LARGEST_HEAD = 0.6
"""Part of all layers: the whole of a "DetectionModel" is no head."""

REPVGG = re.compile(r"rep_?(vgg|conv)|mobileone", re.IGNORECASE)
REPARAMETERISED = ("rbr_reparam", "reparam_conv", "reparam")
"""Attributes that hold the one convolution of a merged block: of RepVGG and YOLOv6, timm, and
others."""


def head_parts(model: Any, layers: Collection[str]) -> tuple[tuple[str, ...], ...]:
    """Layers of each part of the model's detection heads, such as the box and the class branch of
    YOLOv8's `Detect`.

    A head is an outermost module, by the name of its class or attribute, that holds two or more
    layers but not most of them; its parts are its children.
    """
    found: list[tuple[str, ...]] = []
    taken: list[str] = []
    for name, module in model.named_modules():
        inside = _inside(name, layers)
        is_head = HEAD.search(type(module).__name__) or HEAD.search(name.rpartition(".")[2])
        if not name or not is_head or not 2 <= len(inside) <= LARGEST_HEAD * len(layers):
            continue
        if not any(name.startswith(f"{other}.") for other in taken):
            taken.append(name)
            found += _parts(name, inside)
    return tuple(found)


def merged_blocks(model: Any, layers: Collection[str]) -> tuple[str, ...]:
    """Layers that are the one convolution of a re-parameterised RepVGG block."""
    modules = dict(model.named_modules())
    blocks = {name for name in modules if REPVGG.search(type(modules[name]).__name__)}

    def is_merged(layer: str) -> bool:
        holder, _, attribute = layer.rpartition(".")
        if attribute in REPARAMETERISED or layer in blocks:
            return True
        return holder in blocks and len(_inside(holder, layers)) == 1

    return tuple(layer for layer in layers if is_merged(layer))


def shared_objects(model: Any, quantizers: Collection[str]) -> tuple[tuple[str, ...], ...]:
    """Modules that hold the same quantizer object, two or more for each; quantizers: the names they
    are listed under."""
    modules = dict(model.named_modules(remove_duplicate=False))
    holders: dict[int, dict[str, None]] = {id(modules[name]): {} for name in quantizers}
    seen: set[tuple[int, int]] = set()
    for name, module in modules.items():
        holder = name.rpartition(".")[0]
        # A whole module under two names is one layer.
        place = (id(module), id(modules[holder]))
        if id(module) in holders and place not in seen:
            seen.add(place)
            holders[id(module)][holder] = None
    return tuple(tuple(names) for names in holders.values() if len(names) > 1)


def _inside(name: str, layers: Collection[str]) -> list[str]:
    return [layer for layer in layers if layer.startswith(f"{name}.")]


def _parts(head: str, layers: list[str]) -> Iterator[tuple[str, ...]]:
    parts: dict[str, list[str]] = {}
    for layer in layers:
        parts.setdefault(layer.removeprefix(f"{head}.").partition(".")[0], []).append(layer)
    return map(tuple, parts.values())
