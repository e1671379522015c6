"""The training loop that the examples with models of ultralytics share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def fit(
    model: Any,
    optimizer: torch.optim.Optimizer,
    batch: Callable[[Tensor], dict[str, Tensor]],
    *,
    images: int,
    size: int,
    epochs: int,
    rising: float,
) -> Any:
    """Train a model with its own loss and one cycle of the rate; return it in eval mode.

    optimizer: its rate is the highest one of the cycle.
    batch: indices of images -> the batch as the loss of ultralytics takes it.
    images: number of training images.
    size: images in a batch; what is left over of an epoch is not used.
    rising: fraction of the steps in which the rate rises.
    """
    rate, per_epoch = optimizer.param_groups[0]["lr"], images // size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=epochs * per_epoch, pct_start=rising
    )
    model.train()
    start = time.monotonic()
    for epoch in range(epochs):
        total = 0.0
        for some in torch.randperm(images)[: per_epoch * size].reshape(-1, size):
            loss = model.loss(batch(some))[0].sum() / size
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(
            f"epoch {epoch + 1} of {epochs}: loss {total / per_epoch:.2f}, "
            f"{time.monotonic() - start:.0f} s",
            flush=True,
        )
    del model.criterion, model.args
    return model.eval()
