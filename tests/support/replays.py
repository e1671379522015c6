"""The expected result of a replay: the bits of the model whose quantizers are switched one set at a
time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from sensitivity.quantizers.torch.modelopt import ModelOptModel
from sensitivity.simulators.compare import same
from sensitivity.simulators.toggle import ToggleSimulator
from sensitivity.simulators.torch.replay import ReplaySimulator

Variants = list[frozenset[str]]


def copied(results: Iterator[tuple[int, Any]]) -> dict[int, Any]:
    """Outputs are valid until the next ones are asked for, so keep copies, and overwrite the
    originals."""
    kept = {}
    for index, outputs in results:
        leaves, spec = torch.utils._pytree.tree_flatten(outputs)
        kept[index] = torch.utils._pytree.tree_unflatten([leaf.clone() for leaf in leaves], spec)
        for leaf in leaves:
            leaf.fill_(float("nan"))
    return kept


def check(
    source: ModelOptModel, simulator: ReplaySimulator, inputs: Any, variants: Variants
) -> None:
    ours = copied(simulator.outputs(inputs, variants))
    assert sorted(ours) == list(range(len(variants)))
    for index, theirs in ToggleSimulator(source).outputs(inputs, variants):
        assert same(ours[index], theirs), variants[index]
