"""Procedural scenes with ground truth: the pictures that edgeseg ships, and the endless supply that its model was trained on.

A scene has a sky, rolling ground, often water, and buildings, trees and balls in it. No class is told by its colour: water
mirrors sky and buildings, walls have the colours of soils, balls those of everything, and the sun is a disc that belongs to
the sky. Texture, shape and place tell. Light, haze, blur and sensor noise vary.

The same seed gives the same picture; numpy alone draws it, in a few milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeseg.errors import DataError, OutputError

__all__ = ["CLASSES", "HEIGHT", "IGNORE", "PALETTE", "SPLITS", "WIDTH", "render", "write_set"]

HEIGHT, WIDTH = 128, 160
IGNORE = 255
CLASSES = ("sky", "ground", "water", "building", "tree", "ball")
PALETTE = ((135, 190, 235), (196, 164, 104), (38, 98, 178), (150, 70, 60), (44, 128, 62), (245, 196, 40))
SPLITS = {"train": 0, "calibration": 1_000_000_000, "val": 2_000_000_000}
"""First seed of each split: a split may hold a thousand million scenes before it touches the next."""

SKY, GROUND, WATER, BUILDING, TREE, BALL = range(len(CLASSES))

Float = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]
UInt8 = npt.NDArray[np.uint8]
Color = tuple[float, float, float]

_Y, _X = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)

# zenith, horizon
_SKIES: tuple[tuple[Color, Color], ...] = (
    ((0.25, 0.48, 0.85), (0.74, 0.86, 0.96)),
    ((0.16, 0.36, 0.72), (0.60, 0.77, 0.92)),
    ((0.62, 0.66, 0.72), (0.82, 0.84, 0.86)),
    ((0.34, 0.36, 0.62), (0.96, 0.66, 0.44)),
    ((0.50, 0.40, 0.58), (0.98, 0.80, 0.62)),
    ((0.30, 0.56, 0.60), (0.86, 0.90, 0.78)),
)
_SOILS: tuple[Color, ...] = (
    (0.34, 0.50, 0.20),
    (0.48, 0.54, 0.24),
    (0.78, 0.68, 0.48),
    (0.50, 0.37, 0.26),
    (0.46, 0.46, 0.48),
    (0.84, 0.87, 0.91),
    (0.66, 0.42, 0.30),
)
_WALLS: tuple[Color, ...] = (*_SOILS[2:], (0.72, 0.36, 0.28), (0.88, 0.82, 0.70), (0.56, 0.66, 0.74), (0.44, 0.52, 0.40))
_LEAVES: tuple[Color, ...] = (
    (0.20, 0.40, 0.14),
    (0.30, 0.46, 0.16),
    (0.14, 0.30, 0.18),
    (0.72, 0.44, 0.16),
    (0.60, 0.24, 0.14),
    (0.52, 0.52, 0.22),
)
_PAINTS: tuple[Color, ...] = (*_SOILS, *_LEAVES, (0.86, 0.20, 0.18), (0.20, 0.40, 0.82), (0.95, 0.80, 0.20), (0.74, 0.86, 0.96))


@lru_cache(maxsize=64)
def _interpolation(size: int, cells: int) -> Float:
    """(size, cells + 1): rows of smoothstep weights that stretch ``cells + 1`` values over ``size`` pixels."""
    position = np.linspace(0, cells, size, endpoint=False)
    left = position.astype(int)
    t = position - left
    t = t * t * (3 - 2 * t)
    weights = np.zeros((size, cells + 1), np.float32)
    weights[np.arange(size), left] = 1 - t
    weights[np.arange(size), left + 1] = t
    return weights


class _Painter:
    """The picture so far (H, W, 3 in 0..1), its mask and the one source of randomness."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.color: Float = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        self.mask: UInt8 = np.zeros((HEIGHT, WIDTH), np.uint8)

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def pick(self, colors: tuple[Color, ...]) -> Float:
        """One of ``colors``, changed a little."""
        chosen = np.array(colors[int(self.rng.integers(len(colors)))], np.float32)
        return chosen * np.float32(self.uniform(0.85, 1.15)) + self.rng.normal(0, 0.025, 3).astype(np.float32)

    def noise(self, rows: int, columns: int, octaves: int = 1) -> Float:
        """Value noise of about -1..1; each octave has twice the cells and half the height."""
        total = np.zeros((HEIGHT, WIDTH), np.float32)
        for octave in range(octaves):
            down, across = rows << octave, columns << octave
            grid = self.rng.uniform(-1, 1, (down + 1, across + 1)).astype(np.float32)
            total += _interpolation(HEIGHT, down) @ grid @ _interpolation(WIDTH, across).T / 2**octave
        return total

    def paint(self, where: Bool, color: Float, label: int, box: tuple[slice, slice] = (slice(None), slice(None))) -> None:
        """Put ``color`` (of the box's shape, or one colour) where ``where`` (of the box's shape) says."""
        self.color[box][where] = color[where] if color.ndim == 3 else color
        self.mask[box][where] = label


@dataclass(frozen=True)
class _Land:
    """What the scene stands on. ``horizon``: first ground row of each column; ``light``: -1 from the left, 1 from the right."""

    horizon: Float
    haze: Float
    light: float


def _box(top: float, bottom: float, left: float, right: float) -> tuple[slice, slice]:
    return (
        slice(max(0, int(top)), min(HEIGHT, max(0, int(bottom) + 1))),
        slice(max(0, int(left)), min(WIDTH, max(0, int(right) + 1))),
    )


def _sky(p: _Painter) -> Float:
    """Gradient, clouds and at times the sun; returns the colour at the horizon."""
    zenith, horizon = (np.array(c, np.float32) for c in _SKIES[int(p.rng.integers(len(_SKIES)))])
    t = np.clip(_Y / (0.5 * HEIGHT), 0, 1)[..., None]
    color = zenith * (1 - t) + horizon * t
    if p.chance(0.35):
        away = np.hypot(_Y - p.uniform(5, 45), _X - p.uniform(0, WIDTH))
        radius = p.uniform(4, 9)
        glow = np.exp(-away / (3 * radius))[..., None] * 0.5 + (away < radius)[..., None]
        color = color + np.clip(glow, 0, 1) * (np.array((1.0, 0.96, 0.80), np.float32) - color)
    cover = np.clip((p.noise(5, 3, 4) + p.uniform(-0.7, 0.3)) * 1.4, 0, 1)[..., None] * p.uniform(0.4, 0.9)
    cloud = np.float32(0.45) * (horizon + 1) * (1 + 0.12 * p.noise(8, 6)[..., None])
    p.color[:] = color + cover * (cloud - color)
    return horizon


def _perspective(p: _Painter, horizon: Float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows and columns in a 64x64 tile of a plane that runs away to the horizon."""
    near = np.maximum(_Y - horizon + 4, 4)
    u = (_X - WIDTH / 2 + p.uniform(-40, 40)) * (90 / near)
    return (2600 / near).astype(np.intp) % 64, u.astype(np.intp) % 64


def _ground(p: _Painter, haze: Float) -> _Land:
    level = p.uniform(0.30, 0.55) * HEIGHT
    x = np.arange(WIDTH, dtype=np.float32) / WIDTH
    waves = sum(p.uniform(0, 5) / k * np.sin(2 * np.pi * (k * x * 0.8 + p.uniform(0, 1))) for k in (1, 2, 4))
    horizon = np.asarray(level + waves, np.float32)
    tile = p.rng.normal(0, 1, (64, 64)).astype(np.float32)
    tile = (tile + np.roll(tile, 1, 0) + np.roll(tile, 1, 1)) / 1.7
    if p.chance(0.35):  # furrows, planks, lane marks: lines that meet at the horizon
        tile += 1.2 * np.sign(np.sin(np.arange(64) * 2 * np.pi / float(p.rng.choice((8, 16, 32)))))[None].astype(np.float32)
    grain = tile[_perspective(p, horizon)] * p.uniform(0.03, 0.09)
    one, two = p.pick(_SOILS), p.pick(_SOILS)
    patches = np.clip(p.noise(10, 3, 2) * 3 + p.uniform(-2, 1), 0, 1)[..., None]
    color = (one + patches * (two - one)) * (1 + grain + 0.10 * p.noise(12, 8, 2))[..., None]
    far = np.exp(-(_Y - horizon) / p.uniform(4, 18))[..., None] * p.uniform(0.2, 0.7)
    p.paint(horizon <= _Y, color + np.clip(far, 0, 1) * (haze - color), GROUND)
    return _Land(horizon, haze, p.uniform(-1, 1))


def _building(p: _Painter, land: _Land) -> None:
    width, height = p.uniform(12, 42), p.uniform(16, 62)
    left = p.uniform(-8, WIDTH - 12)
    foot = float(land.horizon[int(np.clip(left + width / 2, 0, WIDTH - 1))]) + p.uniform(2, 18)
    peak = p.uniform(5, 14) if p.chance(0.45) else 0.0
    box = _box(foot - height - peak, foot, left, left + width)
    y, x = _Y[box], _X[box]
    wall, roof = p.pick(_WALLS), p.pick(_WALLS) * np.float32(0.6)
    shade = 1 + 0.04 * np.sin(y * p.uniform(1.0, 2.2)) + 0.05 * p.noise(16, 16, 2)[box]
    color = wall * shade[..., None]
    step_x, step_y = int(p.rng.integers(5, 10)), int(p.rng.integers(6, 12))
    column, row = (x - left).astype(int), (y - foot + height).astype(int)
    glass = (column % step_x >= 2) & (column % step_x < step_x - 1) & (row % step_y >= 2) & (row % step_y < step_y - 2)
    glass &= (y < foot - 4) & (y > foot - height + 1) & (x < left + width - 2)
    lit = p.rng.random((64, 64)) < p.uniform(0, 0.5)
    bright = lit[row // step_y % 64, column // step_x % 64]
    panes = np.where(bright[..., None], p.pick(((0.98, 0.86, 0.52), (0.80, 0.90, 0.98))), wall * np.float32(0.35))
    color = np.where(glass[..., None], panes, color)
    side = (x - left > width * p.uniform(0.55, 0.85)) if land.light < 0 else (x - left < width * p.uniform(0.15, 0.45))
    color = np.where(side[..., None], color * np.float32(0.66), color)
    above = y < foot - height
    color = np.where(above[..., None], roof * shade[..., None], color)
    inside = ~above | (np.abs(x - left - width / 2) < width / 2 * (y - foot + height + peak) / max(peak, 1))
    mist = np.float32(p.uniform(0, 0.35))
    p.paint(inside, np.asarray(color + mist * (land.haze - color), np.float32), BUILDING, box)


def _tree(p: _Painter, land: _Land) -> None:
    size, center = p.uniform(8, 26), p.uniform(0, WIDTH)
    foot = float(land.horizon[int(np.clip(center, 0, WIDTH - 1))]) + p.uniform(1, 10) + size * p.uniform(0.1, 0.9)
    top = foot - size * 2.3
    box = _box(top - 3, foot, center - size * 1.2, center + size * 1.2)
    y, x = _Y[box], _X[box]
    rough = p.noise(32, 40, 2)[box]
    trunk = (np.abs(x - center) < max(1.0, size * 0.08)) & (y > foot - size)
    if p.chance(0.35):  # conifer: layered triangle
        t = (y - top) / (size * 1.9)
        crown = np.abs(x - center) < size * 0.6 * t * (0.75 + 0.35 * (t * 5 % 1)) + rough
        crown &= (t > 0) & (t < 1)
    else:
        crown = np.zeros(y.shape, bool)
        for _ in range(7):
            cy, cx = foot - size * p.uniform(1.1, 1.8), center + size * p.uniform(-0.45, 0.45)
            crown |= np.hypot((y - cy) * 1.1, x - cx) + rough * 1.5 < size * p.uniform(0.3, 0.55)
    bark = p.pick(((0.32, 0.22, 0.16), (0.40, 0.34, 0.30))) * np.ones((*y.shape, 1), np.float32)
    p.paint(trunk, np.asarray(bark * (1 + 0.2 * rough)[..., None], np.float32), TREE, box)
    sun = (x - center) / size * land.light * 0.25 - (y - foot + size * 1.3) / size * 0.22
    leaf = p.pick(_LEAVES) * (1 + 0.38 * rough + sun + p.rng.normal(0, 0.14, y.shape))[..., None]
    mist = np.float32(p.uniform(0, 0.2))
    p.paint(crown, np.asarray(leaf + mist * (land.haze - leaf), np.float32), TREE, box)


def _water(p: _Painter, land: _Land) -> None:
    """A shore across the picture or a lake; it mirrors what stands behind it, broken by ripples."""
    x = np.arange(WIDTH, dtype=np.float32)
    shore = float(land.horizon.max()) + p.uniform(6, 34) + p.uniform(1, 5) * np.sin(x / p.uniform(12, 30) + p.uniform(0, 6))
    where = shore < _Y
    if p.chance(0.4):
        where &= np.hypot((_Y - shore) / p.uniform(14, 34), (_X - p.uniform(20, WIDTH - 20)) / p.uniform(40, 90)) < 1
    near = np.maximum(_Y - land.horizon + 4, 4)
    ripple = np.sin(900 / near * p.uniform(0.8, 1.6) + 1.6 * p.noise(24, 8, 2)) * p.uniform(0.4, 1.0)
    depth = _Y - shore
    rows = np.clip(shore - depth * 0.9 + ripple * (1 + depth * 0.06), 0, HEIGHT - 1).astype(np.intp)
    columns = np.clip(_X + ripple * 1.5, 0, WIDTH - 1).astype(np.intp)
    tint = p.pick(((0.18, 0.36, 0.48), (0.30, 0.44, 0.42), (0.14, 0.24, 0.40), (0.42, 0.40, 0.34))) * 0.5 + land.haze * 0.3
    color = tint + np.float32(p.uniform(0.35, 0.7)) * (p.color[rows, columns] - tint)
    p.paint(where, np.asarray(color * (1 + 0.13 * ripple)[..., None], np.float32), WATER)


def _ball(p: _Painter, land: _Land) -> None:
    """A sphere: on the ground or the water with its shadow, or afloat in the air."""
    radius = p.uniform(4, 15)
    cx = p.uniform(0, WIDTH)
    flies = p.chance(0.35)
    cy = p.uniform(6, 60) if flies else p.uniform(float(land.horizon.mean()) + 4, HEIGHT - radius * 0.6)
    if not flies:
        under = np.hypot((_Y - cy - radius * 0.9) / (radius * 0.3), (_X - cx + land.light * radius * 0.5) / (radius * 1.2)) < 1
        p.color[under] *= np.float32(0.6)
    box = _box(cy - radius, cy + radius, cx - radius, cx + radius)
    y, x = (_Y[box] - cy) / radius, (_X[box] - cx) / radius
    inside = np.hypot(y, x) < 1
    z = np.sqrt(np.clip(1 - x * x - y * y, 0, 1))
    facing = np.clip(0.55 * land.light * x - 0.55 * y + 0.6 * z, 0, None)
    one, two = p.pick(_PAINTS), p.pick(_PAINTS)
    turn, bands = p.uniform(0, np.pi), p.uniform(2, 6)
    striped = np.sin(bands * (x * np.cos(turn) + y * np.sin(turn)) + p.uniform(0, 6)) > (0 if p.chance(0.6) else -2)
    base = np.where(striped[..., None], one, two) * (0.35 + 0.85 * facing)[..., None]
    gloss = np.clip(facing - 0.86, 0, 1)[..., None] * p.uniform(0, 4)
    p.paint(inside, np.asarray(base + gloss, np.float32), BALL, box)


def _shift(a: Float, step: int, axis: int) -> Float:
    """``a`` moved by one pixel along ``axis``, its edge repeated."""
    lines = np.clip(np.arange(a.shape[axis]) + step, 0, a.shape[axis] - 1)
    return np.take(a, lines, axis)


def _camera(p: _Painter) -> UInt8:
    """Light, vignette, white balance, exposure, lens blur, sensor noise, 6 bits a channel (so that a PNG stays small)."""
    light = 1 + 0.18 * p.noise(2, 2) - p.uniform(0, 0.3) * ((_Y / HEIGHT - 0.5) ** 2 + (_X / WIDTH - 0.5) ** 2)
    color = p.color * (light * p.uniform(0.65, 1.2))[..., None] * p.rng.uniform(0.9, 1.1, 3).astype(np.float32)
    color = np.clip(color, 0, 1.2) ** np.float32(p.uniform(0.8, 1.25))
    spread = np.float32(p.uniform(0.06, 0.25))
    for axis in (0, 1):
        color = color * (1 - 2 * spread) + spread * (_shift(color, 1, axis) + _shift(color, -1, axis))
    grain = p.uniform(0.004, 0.020) * p.rng.standard_normal(color.shape, np.float32)
    levels: Float = np.rint(np.clip(color + grain, 0, 1) * 63)
    return (levels * (255 / 63)).astype(np.uint8)


def _with_ignored_edges(mask: UInt8) -> UInt8:
    """The pixels on both sides of an edge of a tree or of water do not count: nobody could label them surely."""
    edge = np.zeros(mask.shape, bool)
    for one, two in (((slice(1, None),), (slice(None, -1),)), ((slice(None), slice(1, None)), (slice(None), slice(None, -1)))):
        a, b = mask[one], mask[two]
        unsure = (a != b) & ((a == TREE) | (b == TREE) | (a == WATER) | (b == WATER))
        edge[one] |= unsure
        edge[two] |= unsure
    return np.where(edge, np.uint8(IGNORE), mask)


def render(seed: int) -> tuple[UInt8, UInt8]:
    """Draw one scene.

    Args:
        seed: at least 0; ``SPLITS[split] + i`` is scene ``i`` of a split.

    Returns:
        image uint8 (128, 160, 3), RGB; mask uint8 (128, 160), indices of ``CLASSES`` or ``IGNORE``.

    >>> image, mask = render(7)
    >>> image.shape, mask.shape, str(image.dtype), str(mask.dtype)
    ((128, 160, 3), (128, 160), 'uint8', 'uint8')
    """
    p = _Painter(seed)
    land = _ground(p, _sky(p))
    for _ in range(int(p.rng.integers(1, 5))):
        _building(p, land)
    for _ in range(int(p.rng.integers(1, 5))):
        _tree(p, land)
    if p.chance(0.7):
        _water(p, land)
    for _ in range(int(p.rng.integers(0, 2))):
        _tree(p, land)
    for _ in range(int(p.rng.integers(1, 4))):
        _ball(p, land)
    return _camera(p), _with_ignored_edges(p.mask)


def write_set(folder: Path, split: str, count: int) -> Path:
    """Write ``count`` scenes as ``folder/split/images/NNNN.png`` and ``folder/split/masks/NNNN.png`` (class indices).

    Returns ``folder/split``.

    Raises:
        DataError: ``split`` is none of ``SPLITS``.
        OutputError: a file cannot be written.
    """
    from PIL import Image

    if split not in SPLITS:
        raise DataError(f"There is no split '{split}'.", hint=f"Choose one of: {', '.join(SPLITS)}.")
    target = folder / split
    try:
        for kind in ("images", "masks"):
            (target / kind).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            image, mask = render(SPLITS[split] + index)
            Image.fromarray(image).save(target / "images" / f"{index:04d}.png", optimize=True)
            Image.fromarray(mask).save(target / "masks" / f"{index:04d}.png", optimize=True)
    except OSError as error:
        raise OutputError(
            f"Scenes cannot be written to '{target}': {error.strerror or error}.",
            hint="Choose a folder with room that you may write to.",
        ) from error
    return target
