"""all-MiniLM-L6-v2 in torch, with the names of its weights, and its tokens."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

LAYERS, WIDTH, HEADS, TOKENS = 6, 384, 12, 32
WORD = re.compile(r"\w+|[^\w\s]")


class SelfAttention(nn.Module):
    """[n, TOKENS, WIDTH] -> the same. mask: bool[n, 1, 1, TOKENS], where there are tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        shape = (x.shape[0], TOKENS, HEADS, WIDTH // HEADS)
        q, k, v = (part(x).reshape(shape) for part in (self.query, self.key, self.value))
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return mixed.transpose(1, 2).reshape(x.shape)


class AddNorm(nn.Module):
    """A projection, added to what was there before, and normalized."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(inputs, WIDTH), nn.LayerNorm(WIDTH, 1e-12)

    def forward(self, x: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.dense(x) + before)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": SelfAttention(), "output": AddNorm(WIDTH)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(WIDTH, 4 * WIDTH)})
        self.output = AddNorm(4 * WIDTH)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.attention["output"](self.attention["self"](x, mask), x)
        return self.output(functional.gelu(self.intermediate["dense"](x)), x)


class Embeddings(nn.Module):
    """int64[n, TOKENS] -> [n, TOKENS, WIDTH]."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(words, WIDTH)
        self.position_embeddings = nn.Embedding(512, WIDTH)
        self.token_type_embeddings = nn.Embedding(2, WIDTH)
        self.LayerNorm = nn.LayerNorm(WIDTH, 1e-12)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        places = self.position_embeddings.weight[:TOKENS] + self.token_type_embeddings.weight[0]
        return self.LayerNorm(self.word_embeddings(tokens) + places)


class Encoder(nn.Module):
    """Tokens int64[n, TOKENS], 0 where there is none -> embeddings float[n, WIDTH] of length 1."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.embeddings = Embeddings(words)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer() for _ in range(LAYERS))})

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        is_token = tokens != 0
        x = self.embeddings(tokens)
        for layer in self.encoder["layer"]:
            x = layer(x, is_token[:, None, None])
        weights = is_token[..., None].to(x.dtype)
        mean = (x * weights).sum(1) / weights.sum(1)
        return functional.normalize(mean, dim=1)


class Tokenizer:
    """BERT's word pieces in lower case: the longest piece of the vocabulary first."""

    def __init__(self, vocabulary: Path) -> None:
        lines = vocabulary.read_text(encoding="utf-8").splitlines()
        self.numbers = {piece: number for number, piece in enumerate(lines)}

    def __call__(self, text: str) -> list[int]:
        """TOKENS numbers; a longer text is cut off, and 0 fills up a shorter one."""
        pieces = ["[CLS]"]
        for word in WORD.findall(text.lower()):
            pieces += self.pieces(word)
        pieces = [*pieces[: TOKENS - 1], "[SEP]"]
        numbers = [self.numbers[piece] for piece in pieces]
        return numbers + [0] * (TOKENS - len(numbers))

    def pieces(self, word: str) -> list[str]:
        found, rest = list[str](), word
        while rest:
            prefix = "##" if found else ""
            ends = range(len(rest), 0, -1)
            end = next((end for end in ends if prefix + rest[:end] in self.numbers), 0)
            if not end:
                return ["[UNK]"]
            found.append(prefix + rest[:end])
            rest = rest[end:]
        return found
