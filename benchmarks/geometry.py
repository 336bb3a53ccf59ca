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
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from affine import Affine
from protocols import PLACE, Case, Raster
from scipy import ndimage
from scipy.interpolate import RectBivariateSpline

from geosiam.synthesis.insertion import insert_anomalies, nuisance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

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

_WAVES = 12
_LATTICE_PX = 4  # distance of the nodes between which an inverse displacement is interpolated
_MAX_STEPS = 50
_STEP_PX = 1e-4


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
    of 1 px, averaged by a Gaussian of :data:`TEXTURE_SIGMA_PX`) exceeds the :data:`TEXTURE_PERCENTILE` of the ground.

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
    energy = ndimage.gaussian_filter(sum(np.square(part) for part in np.gradient(gray)), TEXTURE_SIGMA_PX)
    rows, cols = ground.shape
    x, y = field + np.stack(np.meshgrid(np.arange(cols), np.arange(rows)))
    seen = (x >= 0) & (x <= cols - 1) & (y >= 0) & (y <= rows - 1)
    return ground & seen & (energy > np.percentile(energy[ground], TEXTURE_PERCENTILE))


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
    seen
        bool (2, rows, cols) without the margin: what each flight has data for. None: everything.
    """

    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    truth: NDArray[np.int32]
    steady: NDArray[np.bool_] | None = None
    seen: NDArray[np.bool_] | None = None


def pair(site: Site, seed: int, group: str) -> Case:
    """Return the pair of a group."""
    make, bend = GROUPS[group]
    ground, displacement = make(site, seed), random_bend(site, seed, bend)
    before, after = interior(ground.before), second_flight(ground.after, displacement, seed)
    nodata = None
    where = before.any(axis=0) if ground.steady is None else ground.steady
    if ground.seen is not None:
        nodata = 0.0
        before, after = (
            np.where(seen, np.maximum(pixels, 1), 0).astype(np.uint8)
            for seen, pixels in zip(ground.seen, (before, after), strict=True)
        )
        where = where & ground.seen.all(axis=0)
    rows, cols = site.size
    field = displacement.on_grid(np.arange(rows), np.arange(cols)).astype(np.float32)
    first, second = (
        Raster(site.scene.name, np.ascontiguousarray(pixels), site.scene.crs, site.scene.transform, nodata)
        for pixels in (before, after)
    )
    return Case(group, site.scene.name, seed, first, second, ground.truth, field, matchable(first.pixels, where, field))


def random_bend(site: Site, seed: int, bend: tuple[float, float, float]) -> Displacement:
    """Return a random displacement of (amplitude, wavelength, shift) in pixels; nil if all are 0."""
    if not any(bend):
        return Displacement.none()
    name = int.from_bytes(site.scene.name.encode()[-8:], "little")
    rng = np.random.default_rng((seed, name, *(round(value) for value in bend)))
    return Displacement.random(*bend, site.size, rng)


def added_objects(site: Site, seed: int) -> Ground:
    """Return ground to which the second flight adds objects, in one half of flat colors and in the other of textures.

    Which half gets which depends on the seed.
    """
    after, truth = site.pixels.copy(), np.zeros(site.size, np.int32)
    shown, numbers = interior(after, 2 * MARGIN), interior(truth)
    half = numbers.shape[1] // 2
    for number, part in enumerate((slice(0, half), slice(half + SIZE_PX[0], None))):
        inserted = insert_anomalies(
            shown[:, :, part],
            count=OBJECTS // 2,
            size_px=SIZE_PX,
            shape="mixed",
            fill=("flat", "texture")[(number + seed) % 2],
            seed=2 * seed + number,
            donor=site.donor,
        )
        shown[:, :, part] = inserted.image
        numbers[:, part] = np.where(inserted.mask > 0, inserted.mask + number * OBJECTS, 0)
    return Ground(site.pixels, after, truth)


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
    float32 (2, rows, cols): pixels to the right and down, bilinear between the nodes; NaN where it is not known
    """
    with rasterio.open(path) as file:
        nodes = file.read([file.descriptions.index(name) + 1 for name in ("dx_px", "dy_px")])
        to_nodes = ~file.transform @ scene.transform
        if file.nodata is not None:
            nodes[nodes == file.nodata] = np.nan
    rows, cols = scene.pixels.shape[1:]
    x, y = np.meshgrid(np.arange(cols) + 0.5, np.arange(rows) + 0.5)
    at = [to_nodes.d * x + to_nodes.e * y + to_nodes.f - 0.5, to_nodes.a * x + to_nodes.b * y + to_nodes.c - 0.5]
    return np.stack([ndimage.map_coordinates(band, at, order=1, mode="nearest") for band in nodes]).astype(np.float32)


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
}
"""The ground and the displacement of each group."""


def two_flights(data: Path, seeds: range, part: str = "") -> Iterator[Case]:
    """Yield the pairs of protocol E, of the groups with ``part`` in their name."""
    groups = [group for group in GROUPS if part in group]
    for group, site, seed in itertools.product(groups, list(sites(data)), seeds):
        yield pair(site, seed, group)
