"""A small vision transformer on handwritten digits, with attention of Linear layers, as timm and
Hugging Face write it.

    sensitivity run examples/12_transformer/task.py:task --max-drop 1pt
"""

from __future__ import annotations

from pathlib import Path

import modelopt.torch.quantization as mtq
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from sensitivity.tasks.classification import classification_task, from_arrays

WEIGHTS = Path("runs/vit.pt")
"""Trained once, in the folder where the command is given."""
WIDTH, HEADS, BLOCKS = 64, 4, 4


class Block(nn.Module):
    """[n, tokens, WIDTH] -> the same."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        n, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(n, tokens, 3, HEADS, width // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(mixed.transpose(1, 2).reshape(n, tokens, width))
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))


class Vit(nn.Module):
    """[n, 1, 8, 8] -> [n, 10]; patches of two by two pixels."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, 2, 2)
        self.places = nn.Parameter(torch.zeros(1, 16, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.places
        return self.head(self.norm(self.blocks(tokens)).mean(1))


def digits():
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    x = (found.images[order, None] / 16).astype(np.float32)
    return x, found.target[order]


def train(x, y):
    torch.manual_seed(0)
    model = Vit()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    for _ in range(25):
        for at in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[at]), y[at]).backward()
            optimizer.step()
    return model


def task():
    x, y = digits()
    if not WEIGHTS.exists():
        WEIGHTS.parent.mkdir(exist_ok=True)
        torch.save(train(x[:700], y[:700]).state_dict(), WEIGHTS)
    model = Vit().eval()
    model.load_state_dict(torch.load(WEIGHTS))
    sizes = {"calib": 97, "rank": 300, "confirm": 400, "holdout": 300}
    splits = from_arrays(x[700:], y[700:], sizes=sizes)

    def calibrate(model):
        for inputs, _ in splits["calib"]:
            model(inputs)

    return classification_task(mtq.quantize(model, mtq.INT8_DEFAULT_CFG, calibrate), splits)
