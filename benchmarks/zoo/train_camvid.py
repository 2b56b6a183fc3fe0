"""Train LR-ASPP MobileNetV3 from scratch on CamVid train; export .pt2 and its edgeseg.toml.

    python benchmarks/zoo/train_camvid.py --minutes 28 --output DIR

CamVid (Brostow et al. 2009, academic use) is looked for in ``$EDGESEG_DATA/data/camvid``, by default ``../shared`` beside the
repository. Nothing that this writes belongs in the repository. Minutes of training make a model that drift can be measured on,
not a good one.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from models.lraspp_mnv3 import build
from PIL import Image
from torch import Tensor, nn
from training import Batch, Schedule, calibrate_batch_norm, class_iou, export, fit

NAMES = ("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist")
VOID = 11
CROP = (224, 288)
ROWS, COLUMNS = 384, 480  # 360 rows padded at the bottom, so that every stride divides
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def read_split(folder: Path) -> tuple[Tensor, Tensor]:
    """uint8 images (N, 3, H, W) and masks (N, H, W) of one split, ordered by name."""
    names = sorted(path.name for path in (folder / "images").glob("*.png"))
    if not names:
        raise SystemExit(f"No CamVid images in {folder / 'images'}. Set EDGESEG_DATA to the folder that holds data/camvid.")
    images = np.stack([np.asarray(Image.open(folder / "images" / name).convert("RGB")) for name in names])
    masks = np.stack([np.asarray(Image.open(folder / "masks" / name)) for name in names])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(masks)


def normalise(images: Tensor) -> Tensor:
    return (images.float() / 255 - MEAN) / STD


def augmented(image: Tensor, mask: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """One CROP of an image scaled by 0.65-1.6, mirrored half the time, with its brightness and contrast changed."""
    scale = float(rng.uniform(0.65, 1.6))
    rows, columns = round(CROP[0] / scale), round(CROP[1] / scale)
    rows, columns = min(rows, image.shape[-2]), min(columns, image.shape[-1])
    top, left = int(rng.integers(image.shape[-2] - rows + 1)), int(rng.integers(image.shape[-1] - columns + 1))
    window = (slice(top, top + rows), slice(left, left + columns))
    crop = nn.functional.interpolate(image[:, *window][None].float(), size=CROP, mode="bilinear", antialias=scale < 1)[0]
    labels = nn.functional.interpolate(mask[window][None, None].float(), size=CROP, mode="nearest")[0, 0].long()
    if rng.random() < 0.5:
        crop, labels = crop.flip(-1), labels.flip(-1)
    crop = ((crop - 110) * float(rng.uniform(0.75, 1.25)) + 110 + float(rng.uniform(-25, 25))).clamp(0, 255)
    return crop, labels


def class_weights(masks: Tensor) -> Tensor:
    """``1 / ln(1.1 + share)`` (Paszke et al. 2016, arXiv:1606.02147, section 5.1), scaled to mean 1."""
    share = torch.bincount(masks.flatten().long(), minlength=VOID + 1)[:VOID].float()
    weights = 1 / torch.log(1.1 + share / share.sum())
    return weights / weights.mean()


def padded(images: Tensor, masks: Tensor) -> Iterator[Batch]:
    for image, mask in zip(images, masks, strict=True):
        extra = ROWS - image.shape[-2]
        yield (
            nn.functional.pad(normalise(image[None]), (0, 0, 0, extra)),
            nn.functional.pad(mask[None], (0, 0, 0, extra), value=VOID),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=28)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--size", choices=("large", "small"), default="large")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="folder for lraspp_mnv3_camvid.pt2 and .toml")
    options = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    repository = Path(__file__).resolve().parents[2]
    camvid = Path(os.environ.get("EDGESEG_DATA", repository / "../shared")) / "data/camvid"
    images, masks = read_split(camvid / "train")
    model = build(len(NAMES), options.size)
    rng = np.random.default_rng(options.seed)

    def draw(_step: int) -> Batch:
        picks = rng.choice(len(images), options.batch, replace=False)
        pairs = [augmented(images[i], masks[i], rng) for i in picks]
        return normalise(torch.stack([crop for crop, _ in pairs])), torch.stack([labels for _, labels in pairs])

    loss = nn.CrossEntropyLoss(class_weights(masks), ignore_index=VOID)
    steps = fit(model, draw, loss, Schedule(options.minutes, options.steps, options.lr))
    calibrate_batch_norm(model, (normalise(images[start : start + 4]) for start in range(0, len(images) - 3, 12)))

    name = "lraspp_mnv3_camvid" if options.size == "large" else "lraspp_mnv3small_camvid"
    export(model, (1, 3, ROWS, COLUMNS), options.output / f"{name}.pt2")
    shutil.copyfile(repository / "benchmarks/specs/lraspp_mnv3_camvid.toml", options.output / f"{name}.toml")
    iou = class_iou(model, padded(*read_split(camvid / "val")), len(NAMES))
    for label, value in zip(NAMES, iou, strict=True):
        print(f"{label:12s} {100 * value:6.2f}")
    print(f"val mIoU {100 * np.nanmean(iou):.2f} after {steps} steps", flush=True)


if __name__ == "__main__":
    main()
