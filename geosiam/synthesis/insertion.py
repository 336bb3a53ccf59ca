"""Anomalies inserted into real scenes, and nuisance that is not anomalous, for controlled experiments.

The seed paper's figure 6 counts blue rectangles of 5 to 15 pixels; its protocol is ``insert_anomalies(scene)`` with
the defaults. Other shapes and fills make it harder: a texture of the same scene differs from its surroundings only in
that it comes from elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import shapely
from scipy import ndimage
from skimage.draw import polygon2mask

from geosiam.errors import OptionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Shape = Literal["rectangle", "ellipse", "polygon", "mixed"]
Fill = Literal["blue", "flat", "texture", "self-texture"]

BLUE = (0, 0, 255)
_SHAPES: tuple[Shape, ...] = ("rectangle", "ellipse", "polygon", "mixed")
_FILLS: tuple[Fill, ...] = ("blue", "flat", "texture", "self-texture")
_TRIES = 200  # positions tried per object before the scene counts as full
_RGB = 3
_VISIBLE = 4  # a change is visible above this many gray levels


@dataclass(frozen=True)
class Insertion:
    """One inserted object.

    Parameters
    ----------
    id
        Value of the object in the mask, from 1.
    shape, fill
        Shape and fill of the object, as for :func:`insert_anomalies`.
    geometry
        Outline in pixel coordinates (x to the right, y down, from the outer corner of the first pixel).
    """

    id: int
    shape: str
    fill: str
    geometry: shapely.Polygon


@dataclass(frozen=True)
class InsertedScene:
    """A scene with inserted anomalies, and their truth.

    Parameters
    ----------
    image
        The scene with the objects, uint8 (3, rows, cols).
    truth
        The objects, by id.
    mask
        int32 (rows, cols): id of the object that covers the pixel, 0 = none.
    """

    image: NDArray[np.uint8]
    truth: list[Insertion]
    mask: NDArray[np.int32]


def insert_anomalies(
    image: NDArray[np.uint8],
    *,
    count: int = 100,
    size_px: tuple[int, int] = (5, 15),
    shape: Shape = "rectangle",
    fill: Fill = "blue",
    seed: int = 0,
    min_gap_px: int = 8,
    donor: NDArray[np.uint8] | None = None,
) -> InsertedScene:
    """Return the scene with objects painted over it.

    Objects that cannot be seen, such as pure blue on pure blue, are left out.

    Parameters
    ----------
    image
        uint8 (3, rows, cols); it is not changed.
    count
        Number of objects. A scene without room for them gets as many as fit, minus those that cannot be seen.
    size_px
        Shortest and longest side in pixels, both included.
    shape
        Outline; ``"mixed"`` draws one of the other three for each object.
    fill
        ``"blue"`` is pure (0, 0, 255); ``"flat"`` one random color per object; ``"texture"`` a piece of ``donor``, or
        noise around a random color if there is none; ``"self-texture"`` a piece of the same scene from elsewhere.
    seed
        Seed of all random numbers.
    min_gap_px
        Free pixels between the bounding boxes of any two objects.
    donor
        uint8 (3, rows, cols), another scene to take textures from.

    Raises
    ------
    OptionError
        The scene is not such an array, or a value is invalid.
    """
    _check(image, size_px, shape, fill)
    rng = np.random.default_rng(seed)
    result = image.copy()
    mask = np.zeros(image.shape[1:], np.int32)
    truth: list[Insertion] = []
    for row, col, rows, cols in _places(mask.shape, rng, count, size_px, min_gap_px):
        kind = _SHAPES[int(rng.integers(3))] if shape == "mixed" else shape
        inside, geometry = _outline(kind, rows, cols, rng)
        where = (slice(row, row + rows), slice(col, col + cols))
        painted = _filling(image, fill, (row, col, rows, cols), rng, donor)[:, inside]
        if not _is_visible(image[(slice(None), *where)][:, inside], painted):
            continue
        number = len(truth) + 1
        mask[where][inside] = number
        result[(slice(None), *where)][:, inside] = painted
        truth.append(Insertion(number, kind, fill, shapely.affinity.translate(geometry, col, row)))
    return InsertedScene(result, truth, mask)


def _check(image: NDArray[np.uint8], size_px: tuple[int, int], shape: str, fill: str) -> None:
    if image.ndim != _RGB or image.shape[0] != _RGB or image.dtype != np.uint8:
        raise OptionError("`image`", f"is {image.dtype} {image.shape}", "give uint8 of shape (3, rows, cols)")
    if not 1 <= size_px[0] <= size_px[1]:
        raise OptionError(f"`size_px={size_px}`", "is not a range", "give (shortest, longest) side, from 1 pixel")
    if shape not in _SHAPES:
        raise OptionError(f"`shape={shape}`", "is not known", f"choose from {', '.join(_SHAPES)}")
    if fill not in _FILLS:
        raise OptionError(f"`fill={fill}`", "is not known", f"choose from {', '.join(_FILLS)}")


def _places(
    shape: tuple[int, ...], rng: np.random.Generator, count: int, size_px: tuple[int, int], gap: int
) -> list[tuple[int, int, int, int]]:
    """Return (row, col, rows, cols) of boxes that are at least ``gap`` pixels apart."""
    boxes = np.zeros((0, 4), np.int64)
    for _ in range(count * _TRIES):
        if len(boxes) == count:
            break
        rows, cols = rng.integers(size_px[0], size_px[1] + 1, 2)
        if rows > shape[0] or cols > shape[1]:
            continue
        row, col = rng.integers(0, shape[0] - rows + 1), rng.integers(0, shape[1] - cols + 1)
        near_rows = (row < boxes[:, 0] + boxes[:, 2] + gap) & (boxes[:, 0] < row + rows + gap)
        near_cols = (col < boxes[:, 1] + boxes[:, 3] + gap) & (boxes[:, 1] < col + cols + gap)
        if not (near_rows & near_cols).any():
            boxes = np.vstack([boxes, [row, col, rows, cols]])
    return [(int(a), int(b), int(c), int(d)) for a, b, c, d in boxes]


def _is_visible(ground: NDArray[np.uint8], painted: NDArray[np.uint8]) -> bool:
    """Return whether half of the pixels, (3, n) each, change by more than a few gray levels in some channel."""
    change = np.abs(ground.astype(np.int16) - painted).max(axis=0)
    return bool((change > _VISIBLE).mean() > 0.5)  # noqa: PLR2004 - half


def _outline(kind: str, rows: int, cols: int, rng: np.random.Generator) -> tuple[NDArray[np.bool_], shapely.Polygon]:
    """Return the pixels of a shape that fills a box, and its outline in pixels from the box's corner."""
    if kind == "rectangle":
        return np.ones((rows, cols), bool), shapely.box(0, 0, cols, rows)
    if kind == "ellipse":
        turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        radius = np.ones_like(turn)
    else:
        turn = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(5, 9))))
        # Corners in every third of the circle keep the polygon from shrinking to a sliver.
        turn = np.sort(np.concatenate([turn, np.arange(3) * 2 * np.pi / 3]))
        radius = rng.uniform(0.75, 1, len(turn))
    x, y = cols / 2 * (1 + radius * np.cos(turn)), rows / 2 * (1 + radius * np.sin(turn))
    # polygon2mask asks for pixel centers at whole numbers.
    inside: NDArray[np.bool_] = polygon2mask((rows, cols), np.column_stack([y - 0.5, x - 0.5]))  # type: ignore[no-untyped-call]
    inside[rows // 2, cols // 2] = True
    return inside, shapely.Polygon(np.column_stack([x, y]))


def _filling(
    image: NDArray[np.uint8],
    fill: Fill,
    box: tuple[int, int, int, int],
    rng: np.random.Generator,
    donor: NDArray[np.uint8] | None,
) -> NDArray[np.uint8]:
    """Return the pixels that a box is painted with, uint8 (3, rows, cols)."""
    row, col, rows, cols = box
    if fill == "blue":
        return np.broadcast_to(np.array(BLUE, np.uint8)[:, None, None], (3, rows, cols))
    if fill == "self-texture" or (fill == "texture" and donor is not None):
        source = image if fill == "self-texture" or donor is None else donor
        h, w = source.shape[1:]
        # The piece comes from at least a quarter of the scene away, so that it does not fit its surroundings by chance.
        top = (row + int(rng.integers(h // 4, max(h // 4 + 1, 3 * h // 4)))) % max(1, h - rows + 1)
        left = (col + int(rng.integers(w // 4, max(w // 4 + 1, 3 * w // 4)))) % max(1, w - cols + 1)
        piece = source[:, top : top + rows, left : left + cols]
        return np.pad(piece, ((0, 0), (0, rows - piece.shape[1]), (0, cols - piece.shape[2])), mode="edge")
    color = rng.integers(0, 256, 3).astype(np.float32)[:, None, None]
    if fill == "flat":
        return np.broadcast_to(color.astype(np.uint8), (3, rows, cols))
    grain = ndimage.gaussian_filter(rng.normal(0, 1, (3, rows, cols)), (0, 0.8, 0.8)) * float(rng.uniform(30, 90))
    return np.clip(color + grain, 0, 255).astype(np.uint8)


def nuisance(
    image: NDArray[np.uint8],
    *,
    gain: float = 1.15,
    offset: float = 8.0,
    gamma: float = 1.0,
    shift_px: tuple[float, float] = (1.0, 1.0),
    noise_sigma: float = 4.0,
    blur_px: float = 0.0,
    seed: int = 0,
) -> NDArray[np.uint8]:
    """Return the scene as another flight might have recorded it, without any anomaly.

    Parameters
    ----------
    image
        uint8 (3, rows, cols).
    gain, offset, gamma
        Gray values become ``gain * 255 * (value / 255) ** gamma + offset``.
    shift_px
        Columns and rows by which the content moves right and down; edges are repeated.
    noise_sigma
        Standard deviation of white noise in gray values.
    blur_px
        Standard deviation of a Gaussian blur in pixels.
    seed
        Seed of the noise.

    Returns
    -------
    uint8 (3, rows, cols)
    """
    value: NDArray[np.floating[Any]] = image.astype(np.float32)
    if shift_px != (0.0, 0.0):
        # Linear, because a cubic spline would ring around small objects.
        value = ndimage.shift(value, (0, shift_px[1], shift_px[0]), order=1, mode="nearest")
    if blur_px > 0:
        value = ndimage.gaussian_filter(value, (0, blur_px, blur_px), mode="nearest")
    if gamma != 1:
        value = 255 * (value / 255) ** np.float32(gamma)
    value = gain * value + offset
    if noise_sigma > 0:
        value = value + np.random.default_rng(seed).normal(0, noise_sigma, value.shape)
    return np.clip(np.rint(value), 0, 255).astype(np.uint8)
