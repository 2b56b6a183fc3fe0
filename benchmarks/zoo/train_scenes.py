"""Train the embedded model on procedural scenes and export scenes.pt2, ready to ship in edgeseg/data/embedded.

    python benchmarks/zoo/train_scenes.py --steps 1600 --output edgeseg/data/embedded

Each training scene is drawn once (seeds of the split "train"), so there is nothing to overfit. Needs torch only. The file that
ships came from the defaults: 119,166 parameters, mIoU 94.08 on the first 200 val scenes, 93.99 on the 24 that ship.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from models.scene_net import build
from torch import Tensor, nn
from training import Batch, Schedule, calibrate_batch_norm, class_iou, export, fit

from edgeseg.data.scenes import CLASSES, HEIGHT, IGNORE, SPLITS, WIDTH, render

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def scenes(first: int, count: int) -> Batch:
    """Normalised images (count, 3, H, W) and labels (count, H, W) of the seeds from ``first`` on."""
    images, masks = zip(*(render(first + i) for i in range(count)), strict=True)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    return (pixels / 255 - MEAN) / STD, torch.from_numpy(np.stack(masks)).long()


class WeightedCrossEntropy(nn.Module):
    """Cross-entropy with the share of each class raised to -0.5 as its weight."""

    def __init__(self, labels: Tensor) -> None:
        super().__init__()
        counts = torch.bincount(labels[labels != IGNORE].flatten(), minlength=len(CLASSES)).float()
        weights = (counts / counts.sum()) ** -0.5
        self.loss = nn.CrossEntropyLoss(weights / weights.mean(), ignore_index=IGNORE)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.loss(logits, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="stop after this time even where steps are left")
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="folder for scenes.pt2")
    options = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    model = build(len(CLASSES))
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)

    def draw(step: int) -> Batch:
        return scenes(SPLITS["train"] + step * options.batch, options.batch)

    loss = WeightedCrossEntropy(scenes(SPLITS["train"], 60)[1])
    steps = fit(model, draw, loss, Schedule(options.minutes, options.steps, options.lr))
    calibrate_batch_norm(model, (draw(steps + i)[0] for i in range(20)))
    export(model, (1, 3, HEIGHT, WIDTH), options.output / "scenes.pt2")

    iou = class_iou(model, (scenes(SPLITS["val"] + i, 20) for i in range(0, 200, 20)), len(CLASSES))
    for label, value in zip(CLASSES, iou, strict=True):
        print(f"{label:10s} {100 * value:6.2f}")
    print(f"mIoU {100 * np.nanmean(iou):.2f} on the first 200 val scenes after {steps} steps", flush=True)


if __name__ == "__main__":
    main()
