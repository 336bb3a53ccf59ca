"""The pairs of protocol E of `accuracy.py`: two flights, one geometry.

The second flight shows the same ground as the first, with objects added or moved, bent by a known displacement:

    d(x) = shift + scale * sum of 12 vectors v_i cos(2 pi / wavelength * u_i x + phase_i)

where u_i are random unit vectors, v_i normally distributed vectors, and the scale makes the 99.9th percentile of the
length of the sum, over the pixels of the scene, the amplitude. What the first flight shows at pixel x, the second one
shows at x + d(x). The second flight is interpolated by cubic splines at exact positions from a larger piece of the
scene, so it has no empty border; then it is made 5 % brighter and gets noise of 2 gray levels.

The truth is where an object is on the ground, which is where the first flight shows that ground.
"""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from affine import Affine
from protocols import PLACE, Case, Raster
from scipy import ndimage
from scipy.interpolate import RectBivariateSpline

from geosiam.imagery.resampling import interpolated
from geosiam.synthesis.insertion import insert_anomalies, nuisance
from geosiam.synthesis.light import Flight
from geosiam.synthesis.pairs import SyntheticConfig, make_pair

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from geosiam.synthesis.materials import LandscapeName

SCENES = (
    "scenes/drone/fotomap_small.tif",
    "scenes/aerial/5b90f92da0d7280005fab355_4310.tif",
    "scenes/aerial/5dded5bc0140b80006d2e565_23.tif",
    "train/drone/oam_1_1277168_1083840.jpg",
    "train/drone/oam_2_1238448_1046528.jpg",
    "train/drone/oam_5_1263512_1056200.jpg",
)
RESOLUTION_M = 0.1  # of scenes without a georeference
MAX_SIDE = 1800  # px
MARGIN = 104  # px that a displacement may reach beyond a scene; no object is nearer to the border of a scene
OBJECTS = 60
SIZE_PX = (8, 40)
SECOND_FLIGHT = {"gain": 1.05, "offset": 0.0, "shift_px": (0.0, 0.0), "noise_sigma": 2.0}
TEXTURE_PERCENTILE = 30  # of the ground; where the gradients are weaker, the error of a field is not measured
TEXTURE_SIGMA_PX = 8.0
TEXTURE_LEAST = 0.5  # gray levels per pixel, root mean square; nor where they are weaker than that

THINGS = {
    "fences": (5, (200, 200), (4, 4), (4, 4)),
    "containers": (6, (120, 120), (25, 25), (5, 5)),
    "cars": (12, (45, 45), (20, 20), (20, 20)),
    "boxes": (17, (15, 40), (15, 40), (4, 20)),
}
"""Things that move: count, and least and greatest length, width and distance in pixels."""

GAP_PX = 8.0  # between things
CORRIDOR_SHARE = 0.6  # of the shorter side of a small scene, at most
EDGE_PX = 15.0  # by which the edges of a corridor differ
INSET_PX = 45.0  # of objects from the edges, more than the displacement of a corridor
WATER = (35.0, 55.0, 60.0)  # mean color

_OF_A_KIND = 100  # numbers of objects of one kind
_TRIES = 100
_WAVES = 12
_LATTICE_PX = 4  # distance of the nodes between which an inverse displacement is interpolated
_MAX_STEPS = 50
_STEP_PX = 1e-4
_PAD = 3  # nodes beyond the margin of a field that cubic convolution may use


@dataclass(frozen=True)
class Displacement:
    """A displacement: a shift and plane waves of one length; lengths in pixels, x to the right and y down.

    Parameters
    ----------
    shift
        float64 (2,): x and y for all.
    vectors
        float64 (waves, 2): x and y of each wave's amplitude.
    frequencies
        float64 (waves, 2): radians per pixel in x and y.
    phases
        float64 (waves,).
    """

    shift: NDArray[np.float64]
    vectors: NDArray[np.float64]
    frequencies: NDArray[np.float64]
    phases: NDArray[np.float64]

    @classmethod
    def random(
        cls, amplitude: float, wavelength: float, shift: float, size: tuple[int, int], rng: np.random.Generator
    ) -> Displacement:
        """Return a displacement of a scene of ``size`` (rows, cols) pixels; see the head of this module."""
        turn = rng.uniform(0, 2 * np.pi)
        directions = rng.uniform(0, 2 * np.pi, _WAVES)
        frequencies = 2 * np.pi / wavelength * np.column_stack([np.cos(directions), np.sin(directions)])
        waves = cls(np.zeros(2), rng.normal(size=(_WAVES, 2)), frequencies, rng.uniform(0, 2 * np.pi, _WAVES))
        longest = np.percentile(np.hypot(*waves.on_grid(np.arange(size[0]), np.arange(size[1]))), 99.9)
        return cls(
            shift * np.array([np.cos(turn), np.sin(turn)]),
            amplitude / longest * waves.vectors,
            frequencies,
            waves.phases,
        )

    @classmethod
    def none(cls) -> Displacement:
        """Return the displacement of a scene that stays in place."""
        return cls(np.zeros(2), np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))

    @property
    def is_nil(self) -> bool:
        """True if nothing is displaced."""
        return not self.vectors.any() and not self.shift.any()

    def on_grid(self, y: NDArray[np.integer], x: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return the displacement, float64 (2, rows, cols), x first, at rows ``y`` and columns ``x``."""
        down = np.exp(1j * (np.multiply.outer(self.frequencies[:, 1], y) + self.phases[:, None]))
        right = np.exp(1j * np.multiply.outer(self.frequencies[:, 0], x))
        waves = [np.einsum("w,wy,wx->yx", part, down, right, optimize=True).real for part in self.vectors.T]
        return np.stack(waves) + self.shift[:, None, None]

    def at(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the displacement at points; both float64 (n, 2), x first."""
        return self.shift + np.cos(points @ self.frequencies.T + self.phases) @ self.vectors

    def sources(self, rows: int, cols: int) -> NDArray[np.float64]:
        """Return what each pixel of the second flight shows: float64 (2, rows, cols), x and y in the first flight.

        The fixed point x of x + d(x) = target, on a lattice; between its nodes by cubic splines, which is exact to a
        thousandth of a pixel for waves of 100 pixels and more.
        """
        y, x = (np.arange(-2 * _LATTICE_PX, side + 3 * _LATTICE_PX, _LATTICE_PX) for side in (rows, cols))
        targets = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.float64)
        points = targets - self.shift
        for _ in range(_MAX_STEPS):
            moved = targets - self.at(points)
            largest = np.abs(moved - points).max()
            points = moved
            if largest < _STEP_PX:
                break
        else:
            raise ValueError("the displacement folds: it is too large for its wavelength")
        offsets = (points - targets).reshape(len(y), len(x), 2)
        smooth = [RectBivariateSpline(y, x, offsets[..., i])(np.arange(rows), np.arange(cols)) for i in (0, 1)]
        return np.stack(smooth) + np.stack(np.meshgrid(np.arange(cols), np.arange(rows)))


@dataclass(frozen=True)
class Site:
    """A piece of a real scene with :data:`MARGIN` more pixels on every side than a flight shows.

    Parameters
    ----------
    scene
        What the flights show, uint8 (3, rows, cols).
    pixels
        uint8 (3, rows + 2 MARGIN, cols + 2 MARGIN).
    donor
        Another scene to take textures from, uint8 (3, rows, cols).
    """

    scene: Raster
    pixels: NDArray[np.uint8]
    donor: NDArray[np.uint8]

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of what the flights show."""
        return self.scene.pixels.shape[1], self.scene.pixels.shape[2]


def interior(array: NDArray, margin: int = MARGIN) -> NDArray:
    """Return a view of an array (..., rows, cols) without a margin."""
    return array[..., margin : array.shape[-2] - margin, margin : array.shape[-1] - margin]


def sites(data: Path, max_side: int = MAX_SIDE) -> Iterator[Site]:
    """Yield the middle of each scene."""
    pieces = [_middle(data / path, max_side) for path in SCENES]
    for index, (scene, pixels) in enumerate(pieces):
        yield Site(scene, pixels, pieces[(index + 1) % len(pieces)][1])


def _middle(path: Path, max_side: int) -> tuple[Raster, NDArray[np.uint8]]:
    """Return the middle of a scene, and the same with a margin."""
    with warnings.catch_warnings(action="ignore"), rasterio.open(path) as file:  # a JPEG has no georeference
        sides = [min(max_side + 2 * MARGIN, side) for side in (file.height, file.width)]
        top, left = (file.height - sides[0]) // 2, (file.width - sides[1]) // 2
        window = ((top, top + sides[0]), (left, left + sides[1]))
        pixels = file.read([1, 2, 3], window=window)
        place = PLACE[0], Affine(RESOLUTION_M, 0, PLACE[1].c, 0, -RESOLUTION_M, PLACE[1].f)
        crs, transform = (file.crs, file.transform) if file.crs else place
    transform = transform @ Affine.translation(left + MARGIN, top + MARGIN)
    return Raster(path.stem, np.ascontiguousarray(interior(pixels)), crs, transform), pixels


def second_flight(pixels: NDArray[np.uint8], displacement: Displacement, seed: int) -> NDArray[np.uint8]:
    """Return what a second flight records of ground with a margin, uint8 (3, rows, cols) without the margin."""
    return nuisance(displaced(pixels, displacement), seed=seed, **SECOND_FLIGHT)


def displaced(pixels: NDArray[np.uint8], displacement: Displacement) -> NDArray[np.uint8]:
    """Return ground with a margin, uint8 (bands, rows, cols), as a displaced flight shows it, without the margin."""
    inside = interior(pixels)
    if displacement.is_nil:
        return inside.copy()
    x, y = displacement.sources(*inside.shape[1:]) + MARGIN
    bands = [ndimage.map_coordinates(band.astype(np.float32), [y, x], order=3, mode="mirror") for band in pixels]
    return np.clip(np.rint(bands), 0, 255).astype(np.uint8)


def matchable(image: NDArray[np.uint8], ground: NDArray[np.bool_], field: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return where the error of a field is measured: bool (rows, cols).

    That is valid ground that both flights show and where the energy of the gradients (of the gray values after a blur
    of 1 px, averaged by a Gaussian of :data:`TEXTURE_SIGMA_PX`) exceeds the :data:`TEXTURE_PERCENTILE` of the ground
    and the square of :data:`TEXTURE_LEAST`. Gradients at the border of the ground do not count.

    Parameters
    ----------
    image
        The first flight, uint8 (3, rows, cols).
    ground
        bool (rows, cols): ground that stays as it is, with data in both flights.
    field
        True displacement, float (2, rows, cols).
    """
    gray = ndimage.gaussian_filter(image.mean(axis=0, dtype=np.float32), 1)
    inner = ndimage.binary_erosion(ground, iterations=4, border_value=1).astype(np.float32)
    energy = sum(np.square(part) for part in np.gradient(gray))
    total, share = (ndimage.gaussian_filter(values, TEXTURE_SIGMA_PX) for values in (energy * inner, inner))
    energy = total / np.maximum(share, 1e-3)
    rows, cols = ground.shape
    x, y = field + np.stack(np.meshgrid(np.arange(cols), np.arange(rows)))
    is_inside = (x >= 0) & (x <= cols - 1) & (y >= 0) & (y <= rows - 1)
    least = max(TEXTURE_LEAST**2, np.percentile(energy[ground], TEXTURE_PERCENTILE))
    return ground & is_inside & (energy > least)


@dataclass(frozen=True)
class Ground:
    """What two flights see before the second one is displaced.

    Parameters
    ----------
    before, after
        uint8 (3, rows, cols) with a margin of :data:`MARGIN`.
    truth
        int32 (rows, cols) without the margin: number of the changed object, 0 = none.
    steady
        bool (rows, cols) without the margin: ground that is the same in both flights. None: all of it.
    covered
        bool (2, rows, cols) without the margin: what each flight has data for. None: everything.
    """

    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    truth: NDArray[np.int32]
    steady: NDArray[np.bool_] | None = None
    covered: NDArray[np.bool_] | None = None


def pair(site: Site, seed: int, group: str) -> Case:
    """Return the pair of a group."""
    make, bend = GROUPS[group]
    ground, displacement = make(site, seed), random_bend(site, seed, bend)
    before, after = interior(ground.before), second_flight(ground.after, displacement, seed)
    nodata = None
    where = before.any(axis=0) if ground.steady is None else ground.steady
    if ground.covered is not None:
        nodata = 0.0
        before, after = (
            np.where(has_data, np.maximum(pixels, 1), 0).astype(np.uint8)
            for has_data, pixels in zip(ground.covered, (before, after), strict=True)
        )
        where = where & ground.covered.all(axis=0)
    rows, cols = site.size
    field = displacement.on_grid(np.arange(rows), np.arange(cols)).astype(np.float32)
    first, second = (
        Raster(site.scene.name, np.ascontiguousarray(pixels), site.scene.crs, site.scene.transform, nodata)
        for pixels in (before, after)
    )
    kinds = {name: range(i * _OF_A_KIND + 1, (i + 1) * _OF_A_KIND + 1) for i, name in enumerate(THINGS)}
    kinds = kinds if make is moved_things else {}
    is_matchable = matchable(first.pixels, where, field)
    return Case(group, site.scene.name, seed, first, second, ground.truth, field, is_matchable, kinds)


def random_bend(site: Site, seed: int, bend: tuple[float, float, float]) -> Displacement:
    """Return a random displacement of (amplitude, wavelength, shift) in pixels; nil if all are 0."""
    if not any(bend):
        return Displacement.none()
    name = int.from_bytes(site.scene.name.encode()[-8:], "little")
    rng = np.random.default_rng((seed, name, *(round(value) for value in bend)))
    return Displacement.random(*bend, site.size, rng)


def added_objects(site: Site, seed: int, where: NDArray[np.bool_] | None = None) -> Ground:
    """Return ground to which the second flight adds objects, in one half of flat colors and in the other of textures.

    Which half gets which depends on the seed. No object reaches beyond ``where``, bool (rows, cols).
    """
    after, truth = site.pixels.copy(), np.zeros(site.size, np.int32)
    shown, numbers, allowed = interior(after, 2 * MARGIN), interior(truth), None if where is None else interior(where)
    half = numbers.shape[1] // 2
    for number, part in enumerate((slice(0, half), slice(half + SIZE_PX[0], None))):
        share = 1.0 if allowed is None else max(0.05, allowed[:, part].mean())
        inserted = insert_anomalies(
            shown[:, :, part],
            count=round(OBJECTS / 2 / share),
            size_px=SIZE_PX,
            shape="mixed",
            fill=("flat", "texture")[(number + seed) % 2],
            seed=2 * seed + number,
            donor=site.donor,
        )
        mask = inserted.mask
        if allowed is not None:
            mask = np.where(np.isin(mask, mask[~allowed[:, part]]), 0, mask)
        shown[:, :, part] = np.where(mask > 0, inserted.image, shown[:, :, part])
        numbers[:, part] = np.where(mask > 0, mask + number * _OF_A_KIND, 0)
    return Ground(site.pixels, after, truth)


def moved_things(site: Site, seed: int) -> Ground:
    """Return ground on which things stand in both flights, a little apart; the truth is where either shows one.

    Long things move across their length, others in any direction.
    """
    rng = np.random.default_rng((seed, *site.size))
    before, after = site.pixels.copy(), site.pixels.copy()
    truth = np.zeros(site.size, np.int32)
    for number, (count, length, width, move) in enumerate(THINGS.values()):
        for index in range(count):
            thing = Thing.random(rng, rng.uniform(*length), rng.uniform(*width))
            distance, across = rng.uniform(*move), thing.turn + np.pi / 2
            heading = across if length[0] > 2 * width[1] else rng.uniform(0, 2 * np.pi)
            step = distance * np.array([np.cos(heading), np.sin(heading)])
            place = _free_place(truth, thing, step, rng)
            if place is not None:
                for image, center in ((before, place), (after, place + step)):
                    inside = thing.paint(image, center + MARGIN)
                    truth[interior(inside)] = number * _OF_A_KIND + index + 1
    return Ground(before, after, truth)


@dataclass(frozen=True)
class Thing:
    """A rectangle of ``length`` x ``width`` pixels, turned by radians, with a texture: float64 (3, rows, cols)."""

    length: float
    width: float
    turn: float
    colors: NDArray[np.float64]

    @classmethod
    def random(cls, rng: np.random.Generator, length: float, width: float) -> Thing:
        """Return a thing with a texture that contrasts with itself: bright and dark parts, and grain."""
        shape = (3, int(np.ceil(width)) + 3, int(np.ceil(length)) + 3)
        parts = ndimage.gaussian_filter(rng.normal(size=shape[1:]), 3) * 10
        grain = ndimage.gaussian_filter(rng.normal(size=shape), (0, 1, 1)) * 30
        color = rng.choice([40.0, 215.0], 3) + rng.uniform(-30, 30, 3)
        return cls(length, width, rng.uniform(0, np.pi), color[:, None, None] + 30 * np.sign(parts) + grain)

    def covers(
        self, center: NDArray[np.float64], shape: tuple[int, int]
    ) -> tuple[tuple[slice, slice], NDArray, NDArray]:
        """Return the box that holds the thing, and the positions along and across it of the pixels in the box."""
        reach = np.hypot(self.length, self.width) / 2 + 1
        box = tuple(
            slice(max(0, int(middle - reach)), min(side, int(middle + reach) + 2))
            for middle, side in zip(center[::-1], shape, strict=True)
        )
        y, x = np.mgrid[box]
        dx, dy = x - center[0], y - center[1]
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        return box, cos * dx + sin * dy, cos * dy - sin * dx

    def mask(self, center: NDArray[np.float64], shape: tuple[int, int], gap: float = 0.0) -> NDArray[np.bool_]:
        """Return which pixels are less than ``gap`` from the thing: bool (rows, cols)."""
        result = np.zeros(shape, bool)
        box, along, across = Thing(self.length + 2 * gap, self.width + 2 * gap, self.turn, self.colors).covers(
            center, shape
        )
        result[box] = (np.abs(along) <= self.length / 2 + gap) & (np.abs(across) <= self.width / 2 + gap)
        return result

    def paint(self, image: NDArray[np.uint8], center: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Paint the thing into an image and return its pixels."""
        box, along, across = self.covers(center, image.shape[1:])
        at = [across + self.colors.shape[1] / 2 - 0.5, along + self.colors.shape[2] / 2 - 0.5]
        painted = [ndimage.map_coordinates(band, at, order=1, mode="nearest") for band in self.colors]
        inside = self.mask(center, image.shape[1:])
        image[(slice(None), *box)] = np.where(
            inside[box], np.clip(np.rint(painted), 0, 255).astype(np.uint8), image[(slice(None), *box)]
        )
        return inside


def _free_place(
    truth: NDArray[np.int32], thing: Thing, step: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64] | None:
    """Return a center at which neither position of a thing comes near another one; None if none was found."""
    rows, cols = truth.shape
    inset = MARGIN + np.hypot(thing.length, thing.width) / 2
    for _ in range(_TRIES):
        center = np.array([rng.uniform(inset, side - inset) for side in (cols, rows)])
        if not any(truth[thing.mask(center + move, truth.shape, GAP_PX)].any() for move in (0 * step, step)):
            return center
    return None


def corridor(site: Site, seed: int) -> Ground:
    """Return ground with data in a band across the frame only; each flight has its own edges."""
    rng = np.random.default_rng((seed, 1, *site.size))
    rows, cols = site.size
    turn = rng.uniform(np.pi / 9, np.pi / 3) * rng.choice([-1, 1])
    y, x = np.mgrid[:rows, :cols]
    apart = np.cos(turn) * (y - rows / 2) - np.sin(turn) * (x - cols / 2)
    half = min(rng.uniform(150, 300), CORRIDOR_SHARE / 2 * min(rows, cols))
    edges = half + rng.uniform(-EDGE_PX, EDGE_PX, (2, 2))
    covered = np.stack([(apart > -low) & (apart < high) for low, high in edges])
    ground = added_objects(site, seed, np.abs(apart) < half - EDGE_PX - INSET_PX)
    return Ground(ground.before, ground.after, ground.truth, covered=covered)


def water(site: Site, seed: int) -> Ground:
    """Return ground of which a quarter to a half is water, whose ripples differ between the flights."""
    rng = np.random.default_rng((seed, 2, *site.size))
    shape = site.pixels.shape[1:]
    coarse = ndimage.gaussian_filter(rng.normal(size=[side // 16 + 2 for side in shape]), min(shape) / 200)
    height = ndimage.zoom(coarse, 16, order=1)[: shape[0], : shape[1]]
    level = np.quantile(interior(height), rng.uniform(0.25, 0.5))
    depth = ndimage.gaussian_filter((height < level).astype(float), 1)  # a soft shore
    before, after = (
        np.clip(np.rint(site.pixels * (1 - depth) + _ripples(rng, shape) * depth), 0, 255).astype(np.uint8)
        for _ in range(2)
    )
    ground = added_objects(replace(site, pixels=after), seed)
    return Ground(before, ground.after, ground.truth, steady=interior(depth) == 0)


def _ripples(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return water, float64 (3, rows, cols)."""
    waves = [ndimage.gaussian_filter(rng.normal(size=shape), sigma) for sigma in ((1.5, 6), (20, 20))]
    return np.array(WATER)[:, None, None] + sum(3 * wave / wave.std() for wave in waves)


def repetition(site: Site, seed: int) -> Ground:
    """Return ground of which half is a periodic texture: rows if the seed is even, tiles if it is odd."""
    rng = np.random.default_rng((seed, 3, *site.size))
    shape = site.pixels.shape[1:]
    y, x = np.indices(shape)
    turn, cut = rng.uniform(0, 2 * np.pi, 2)
    frequency = 2 * np.pi / rng.uniform(8, 16)
    pattern = np.sin(frequency * (np.cos(turn) * x + np.sin(turn) * y))
    if seed % 2:
        pattern = pattern * np.sin(frequency / 1.3 * (np.cos(turn) * y - np.sin(turn) * x))
    uneven = ndimage.gaussian_filter(rng.normal(size=shape), 6)
    strength = 30 * (1 + 0.25 * uneven / uneven.std()) * pattern
    color = site.pixels.mean(axis=(1, 2)).clip(60, 190)[:, None, None]
    texture = color + strength + rng.normal(0, 2, site.pixels.shape)
    part = np.cos(cut) * (x - shape[1] / 2) + np.sin(cut) * (y - shape[0] / 2) > 0
    pixels = np.where(part, np.clip(np.rint(texture), 0, 255), site.pixels).astype(np.uint8)
    return added_objects(replace(site, pixels=pixels), seed)


def read_displacement(path: Path, scene: Raster) -> NDArray[np.float32]:
    """Return the displacement in a file of ``geosiam detect --displacement`` at the pixels of a scene.

    Parameters
    ----------
    path
        Raster with the bands ``dx_px`` and ``dy_px`` at nodes that are farther apart than the pixels.
    scene
        The first flight.

    Returns
    -------
    float32 (2, rows, cols): pixels to the right and down, between the nodes by cubic convolution as geosiam reads a
    scene through the field; NaN where one of the nodes around a pixel is not known
    """
    with rasterio.open(path) as file:
        nodes = file.read([file.descriptions.index(name) + 1 for name in ("dx_px", "dy_px")])
        to_nodes = ~file.transform @ scene.transform
        if file.nodata is not None:
            nodes[nodes == file.nodata] = np.nan
    rows, cols = (np.arange(side) + 0.5 for side in scene.pixels.shape[1:])
    return _between_nodes(nodes, to_nodes.e * rows + to_nodes.f - 0.5, to_nodes.a * cols + to_nodes.c - 0.5)


def _between_nodes(
    nodes: NDArray[np.float32], rows: NDArray[np.float64], cols: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return vectors at positions along both axes from those at nodes, (2, rows, cols) each; NaN = not known."""
    unknown = np.isnan(nodes).any(axis=0)
    if unknown.all():
        return np.full((2, len(rows), len(cols)), np.nan, np.float32)
    nearest = ndimage.distance_transform_edt(unknown, return_distances=False, return_indices=True)
    filled = np.pad(nodes[:, *nearest].astype(np.float64), ((0, 0), (_PAD, _PAD), (_PAD, _PAD)), "edge")
    inside = [at.clip(-1, size) for at, size in zip((rows, cols), unknown.shape, strict=True)]
    vectors = interpolated(interpolated(filled, 1, inside[0] + _PAD), 2, inside[1] + _PAD)
    around = ndimage.map_coordinates(
        unknown.astype(np.float32), np.meshgrid(*inside, indexing="ij"), order=1, mode="nearest"
    )
    return np.where(around > 0, np.nan, vectors).astype(np.float32)


def displacement_errors(case: Case, estimate: NDArray[np.floating]) -> dict[str, float]:
    """Return the errors of an estimated displacement, float (2, rows, cols), where it can be matched.

    Returns
    -------
    median and 95th percentile of the distance from the true displacement in pixels, where there is an estimate; the
    share of the ground that can be matched where there is one
    """
    errors = np.hypot(*(estimate - case.displacement))[case.matchable]
    errors = errors[~np.isnan(errors)]
    share = errors.size / max(1, int(case.matchable.sum()))
    median, high = np.percentile(errors, [50, 95]) if errors.size else (np.nan, np.nan)
    return {"error px": float(median), "error px, 95 %": float(high), "known": share}


BENDS = {
    "not displaced": (0.0, 0.0, 0.0),
    "4/400": (4.0, 400.0, 0.0),
    "8/400": (8.0, 400.0, 0.0),
    "8/150": (8.0, 150.0, 0.0),
    "16/600 + 25 px": (16.0, 600.0, 25.0),
    "30/800 + 60 px": (30.0, 800.0, 60.0),
}
"""Amplitude, wavelength and shift of each displacement in pixels."""

GROUPS: dict[str, tuple[Callable[[Site, int], Ground], tuple[float, float, float]]] = {
    **{f"E {name}": (added_objects, bend) for name, bend in BENDS.items()},
    **{f"E moved things, {name}": (moved_things, BENDS[name]) for name in ("not displaced", "8/400")},
    **{f"E corridor, {name}": (corridor, BENDS[name]) for name in ("8/400", "16/600 + 25 px")},
    "E water, 8/400": (water, BENDS["8/400"]),
    "E repetition, 8/400": (repetition, BENDS["8/400"]),
}
"""The ground and the displacement of each group."""


LEANS = {
    "E lean, 10 degrees": ({}, {"off_nadir": 10.0, "view_azimuth": 90.0}),
    "E lean, 5 and 10 degrees": (
        {"off_nadir": 5.0, "view_azimuth": 270.0},
        {"off_nadir": 10.0, "view_azimuth": 90.0},
    ),
}
"""Viewing angles of the first and the second flight."""

LEANING: tuple[LandscapeName, ...] = ("village", "urban")


def leaning(group: str, landscape: LandscapeName, seed: int, before: dict[str, float], after: dict[str, float]) -> Case:
    """Return two flights over a generated survey that did not change, seen under different angles."""
    config = SyntheticConfig(
        height=MAX_SIDE,
        width=MAX_SIDE,
        seed=seed,
        gsd=RESOLUTION_M,
        objects=0,
        shift_px=(0.0, 0.0),
        landscape=landscape,
        before=Flight(**before),
        after=Flight(**after),
    )
    made = make_pair(config)
    first, second = (Raster(landscape, pixels, *PLACE) for pixels in (made.before, made.after))
    return Case(group, landscape, seed, first, second, np.zeros((MAX_SIDE, MAX_SIDE), np.int32))


def two_flights(data: Path, seeds: range, part: str = "") -> Iterator[Case]:
    """Yield the pairs of protocol E, of the groups with ``part`` in their name."""
    groups = [group for group in GROUPS if part in group]
    for group, site, seed in itertools.product(groups, list(sites(data)), seeds):
        yield pair(site, seed, group)
    for (group, (before, after)), landscape, seed in itertools.product(LEANS.items(), LEANING, seeds):
        if part in group:
            yield leaning(group, landscape, seed, before, after)
