"""Finds the RepVGG blocks of a model from any repository, and merges each into the single
convolution used in inference.

The blocks are merged before quantization. Otherwise each branch would have a quantizer, their sum
would mix INT8 and float, none of the block's speed would remain, and the measured model would not
be the deployed one.
"""

from __future__ import annotations

from typing import Any

from sensitivity import optional
from sensitivity.errors import ModelError

METHODS = ("switch_to_deploy", "fuse_repvgg_block", "fuse_convs", "reparameterize")
"""Methods that merge a block in RepVGG and YOLOv6, YOLOv7, ultralytics and MobileOne."""

BRANCHES = ("rbr_dense", "rbr_1x1", "conv1", "conv2", "rbr_conv")
"""Attributes that a block has before it is merged and not afterwards."""

TOLERANCE = 1e-3
"""Largest difference of the outputs, as a fraction of the largest output. It is not 0, since sums
are taken in another order."""


def branched(model: Any) -> tuple[str, ...]:
    """Return the names of the blocks that have branches to merge, whatever repository they come
    from."""
    return tuple(name for name, module in model.named_modules() if _has_branches(module))


def _has_branches(module: Any) -> bool:
    """Return whether a module has branches, and a method that merges them."""
    can_merge = any(callable(getattr(module, method, None)) for method in METHODS)
    return can_merge and any(getattr(module, name, None) is not None for name in BRANCHES)


def reparameterised(model: Any, example: Any) -> tuple[str, ...]:
    """Merge all RepVGG blocks of a float model in place, in eval mode, and return their names.

    example: inputs with which the result is checked.
    Raises ModelError if the outputs change, as they do in training mode.
    """
    names = branched(model)
    if not names:
        return ()
    with optional.torch.no_grad():
        before = _first(model(example)).clone()
        for name in names:
            block = model.get_submodule(name)
            next(getattr(block, method) for method in METHODS if hasattr(block, method))()
            # ultralytics leaves it to its own model to call the merged forward.
            if hasattr(block, "forward_fuse") and hasattr(block, "conv"):
                block.forward = block.forward_fuse
        after = _first(model(example))
    change = float((after - before).abs().max()) / max(float(before.abs().max()), 1e-12)
    if not change <= TOLERANCE:
        raise ModelError(
            f"Expected merging the branches of {len(names)} RepVGG blocks to leave the outputs as "
            f"they are, got a change of {change:.2g} of the largest output; call model.eval() "
            "before, and merge them with the repository's own code."
        )
    return names


def _first(outputs: Any) -> Any:
    return outputs[0] if isinstance(outputs, (tuple, list)) else outputs
