"""What both recipes share: time-limited training with a poly learning rate, batch-norm calibration, mIoU, export.

One thread and fixed seeds; a time limit makes the number of steps, and so the weights, depend on the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Schedule:
    """``minutes`` of wall clock or ``steps``, whichever ends first.

    ``lr`` falls as ``(1 - progress) ** power`` (the poly rule of DeepLab, arXiv:1606.00915, section 4.1).
    """

    minutes: float
    steps: int
    lr: float
    warmup: int = 30
    power: float = 0.9
    weight_decay: float = 1e-4
    report_every: int = 50


def fit(model: nn.Module, draw: Callable[[int], Batch], loss: nn.Module, plan: Schedule) -> int:
    """Train; ``draw(step)`` gives images (N, 3, H, W) and labels (N, H, W). Returns the steps done."""
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": plan.weight_decay}, {"params": plain, "weight_decay": 0.0}], lr=plan.lr
    )
    model.train()
    start, total, since = time.monotonic(), 0.0, 0
    step = 0
    while True:
        progress = max((time.monotonic() - start) / (60 * plan.minutes), step / plan.steps)
        if progress >= 1:
            return step
        for group in optimizer.param_groups:
            group["lr"] = plan.lr * (1 - progress) ** plan.power * min(1.0, (step + 1) / plan.warmup)
        images, labels = draw(step)
        value = loss(model(images), labels)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        total, since, step = total + value.item(), since + 1, step + 1
        if since == plan.report_every:
            print(f"step {step}  {time.monotonic() - start:.0f} s  loss {total / since:.4f}", flush=True)
            total, since = 0.0, 0


@torch.no_grad()
def calibrate_batch_norm(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace running statistics by the plain average over ``batches``: the weights of the last steps differ from those that
    the moving average saw."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    kept = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    for images in batches:
        model(images)
    model.eval()
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum


@torch.no_grad()
def class_iou(model: nn.Module, pairs: Iterable[Batch], classes: int) -> npt.NDArray[np.float64]:
    """IoU of each class from one confusion matrix over all pairs; labels >= ``classes`` do not count; NaN where absent."""
    model.eval()
    counts = np.zeros((classes, classes), np.int64)
    for images, labels in pairs:
        truth = labels.numpy().ravel()
        guess = model(images).argmax(1).numpy().ravel()
        valid = truth < classes
        counts += np.bincount(truth[valid] * classes + guess[valid], minlength=classes**2).reshape(classes, classes)
    union = counts.sum(0) + counts.sum(1) - np.diag(counts)
    return np.divide(np.diag(counts), union, out=np.full(classes, np.nan), where=union > 0)


def export(model: nn.Module, shape: tuple[int, int, int, int], path: Path) -> None:
    """Write ``model`` in eval mode as a torch.export file with this fixed input shape; the file is complete or absent.

    Stack traces are left out: they hold the paths of this machine. The example input is one stored zero, seen in full size.
    """
    model.eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        program = torch.export.export(model, (torch.zeros(shape),))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    program.example_inputs = ((torch.zeros(1, 1, 1, 1).expand(shape),), {})
    with TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / path.name
        torch.export.save(program, part)
        part.replace(path)
