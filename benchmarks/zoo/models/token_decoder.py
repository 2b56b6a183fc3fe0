"""A small vision transformer with a convolutional stem and a linear decoder, in the manner of Segmenter (Strudel et al. 2021,
arXiv:2105.05633): LayerNorm, exact GELU, attention, learned positions, reshapes between maps and tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INPUT = (1, 3, 96, 128)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.before, self.attend = nn.LayerNorm(width), Attention(width, heads)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.before(x))
        return x + self.mlp(x)


class TokenDecoder(nn.Module):
    """Logits at a quarter of the input's size: stride 4."""

    def __init__(self, classes: int, width: int = 64, blocks: int = 3, heads: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 24, 3, 2, 1), nn.BatchNorm2d(24), nn.GELU(), nn.Conv2d(24, width, 3, 2, 1), nn.BatchNorm2d(width)
        )
        self.patch = nn.Conv2d(width, width, 2, 2)
        self.place = nn.Parameter(torch.randn(1, INPUT[2] // 8 * (INPUT[3] // 8), width) * 0.3)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)), nn.LayerNorm(width))
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.stem(x)
        coarse = self.patch(F.gelu(fine))
        tokens = self.blocks(coarse.flatten(2).transpose(1, 2) + self.place)
        deep = tokens.transpose(1, 2).reshape(coarse.shape)
        deep = F.interpolate(deep, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return self.classify(deep + fine)


def build(classes: int = 6) -> nn.Module:
    return TokenDecoder(classes)
