"""Facts about layers that a model's modules show: detection heads, RepVGG blocks, and quantizers
held in several places."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Any

HEAD = re.compile(r"detect|(?<!multi)head", re.IGNORECASE)
"""Matches the name of the class or attribute of a detection head, such as Detect, YoloHead or
bbox_head, but not of the heads of an attention."""

LARGEST_HEAD = 0.6
"""The largest fraction of all layers that a head may have. A "DetectionModel" as a whole is no
head."""

REPVGG = re.compile(r"rep_?(vgg|conv)|mobileone", re.IGNORECASE)
REPARAMETERISED = ("rbr_reparam", "reparam_conv", "reparam")
"""Attributes that hold the only convolution of a merged block, as RepVGG and YOLOv6, timm, and
others name them."""


def head_parts(model: Any, layers: Collection[str]) -> tuple[tuple[str, ...], ...]:
    """Return the layers of each part of the model's detection heads, such as the box and the class
    branch of YOLOv8's `Detect`.

    A head is an outermost module whose class or attribute has the name of a head, and which holds
    at least two layers but not most of them. Its parts are its children.
    """
    found: list[tuple[str, ...]] = []
    heads: tuple[str, ...] = ()
    for name, module in model.named_modules():
        attribute = name.rpartition(".")[2]
        called_head = HEAD.search(f"{type(module).__name__} {attribute}")
        is_in_head = name.startswith(heads)
        inside = _inside(name, layers)
        holds_some_layers = 2 <= len(inside) <= LARGEST_HEAD * len(layers)
        if name and called_head and holds_some_layers and not is_in_head:
            heads += (f"{name}.",)
            found += _parts(name, inside)
    return tuple(found)


def merged_blocks(model: Any, layers: Collection[str]) -> tuple[str, ...]:
    """Return the layers that are the only convolution of a re-parameterised RepVGG block."""
    blocks = set()
    for name, module in model.named_modules():
        if REPVGG.search(type(module).__name__):
            blocks.add(name)

    def is_merged(layer: str) -> bool:
        holder, _, attribute = layer.rpartition(".")
        if attribute in REPARAMETERISED or layer in blocks:
            return True
        return holder in blocks and len(_inside(holder, layers)) == 1

    return tuple(filter(is_merged, layers))


def shared_objects(model: Any, quantizers: Collection[str]) -> tuple[tuple[str, ...], ...]:
    """Return, for each quantizer object that several modules hold, the names of these modules.

    quantizers: the names under which the quantizer objects are listed.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    # Id of a quantizer -> id of a module that holds it -> the first name of that module. A module
    # under two names is one layer.
    holders: dict[int, dict[int, str]] = {id(modules[name]): {} for name in quantizers}
    for name, module in modules.items():
        holder = name.rpartition(".")[0]
        if id(module) in holders:
            holders[id(module)].setdefault(id(modules[holder]), holder)
    return tuple(tuple(names.values()) for names in holders.values() if len(names) > 1)


def class_names(module: Any) -> list[str]:
    """Return the names of a module's class and of all its base classes, its own first.

    A class is recognised by its name where its package need not be imported.
    """
    return [kind.__name__ for kind in type(module).__mro__]


def named_modules(model: Any) -> dict[str, Any]:
    """Return every module of a torch model by its name; empty for any other model."""
    return dict(model.named_modules()) if hasattr(model, "named_modules") else {}


def _inside(name: str, layers: Collection[str]) -> list[str]:
    return [layer for layer in layers if layer.startswith(f"{name}.")]


def _parts(head: str, layers: list[str]) -> Iterator[tuple[str, ...]]:
    """Return the layers of a head, grouped by the child of the head that holds them."""
    parts: defaultdict[str, list[str]] = defaultdict(list)
    for layer in layers:
        inside_head = layer.removeprefix(f"{head}.")
        child = inside_head.partition(".")[0]
        parts[child].append(layer)
    return map(tuple, parts.values())
