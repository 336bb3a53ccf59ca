"""Synthetic pairs with known truth: a place that does not exist, photographed on two dates.

    pair = make_pair(SyntheticConfig(seed=3))
    write_pair(pair, Path("demo"))

The same configuration always gives the same bytes. Scenes too large for memory are written with
:func:`write_pair_tiles`, which holds one tile at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import geopandas
import numpy as np
import rasterio
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.features import rasterize
from scipy import ndimage
from scipy.special import ndtri

from geosiam.errors import OptionError
from geosiam.files import close_database, plain_path
from geosiam.imagery.grid import Grid, Window
from geosiam.synthesis import noise
from geosiam.synthesis.light import Flight
from geosiam.synthesis.materials import LANDSCAPES, LandscapeName
from geosiam.synthesis.scene import TILE, SyntheticScene
from geosiam.synthesis.things import leaning_outline, outline

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from geosiam.synthesis.changes import Change

_CORNER = (389_460.0, 5_819_250.0)  # UTM 33N, some flat country
_FILE_TILE = 512
_FRAME_SPACING_PX = (150, 800)  # of frames that overlap by four fifths, and by less


@dataclass(frozen=True)
class SyntheticConfig:
    """Configuration of a synthetic pair.

    Parameters
    ----------
    height, width
        Size in pixels.
    seed
        Seed of the place, of the things in it and of the changes.
    gsd
        Ground sample distance in meters per pixel.
    objects
        Number of changes, added plus removed; a scene without room gets fewer.
    shift_px
        Misregistration: columns and rows by which the second date is too far right and down, in pixels.
    landscape
        Landscape, or ``"any"`` to let the seed choose.
    before, after
        Conditions of the two flights.
    changes
        The changes themselves; None: as many as `objects` says are chosen.

    Raises
    ------
    OptionError
        A value is out of range or unknown.
    """

    height: int = 1024
    width: int = 1024
    seed: int = 0
    gsd: float = 0.1
    objects: int = 24
    shift_px: tuple[float, float] = (1.3, -0.8)
    landscape: LandscapeName | Literal["any"] = "village"
    before: Flight = field(default_factory=Flight)
    after: Flight = field(
        default_factory=lambda: Flight(
            sun_azimuth=212.0, sun_elevation=44.0, gain=1.08, cast=(1.04, 1.0, 0.95), haze=0.05, season=0.22, noise=2.5,
            blur_px=0.65, jpeg_quality=88,
        )
    )  # fmt: skip
    changes: tuple[Change, ...] | None = None

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise OptionError("`height` and `width`", f"are {self.height} x {self.width} pixels", "give positive sizes")
        if not self.gsd > 0:
            raise OptionError(f"`gsd={self.gsd}`", "is not a width of pixels in meters", "give a positive number")
        if self.objects < 0:
            raise OptionError(f"`objects={self.objects}`", "is negative", "give 0 or more")
        if self.landscape != "any" and self.landscape not in LANDSCAPES:
            raise OptionError(f"`landscape={self.landscape}`", "is not known", f"choose from {', '.join(LANDSCAPES)}")

    @property
    def grid(self) -> Grid:
        """The grid of both dates."""
        transform = Affine.translation(*_CORNER) @ Affine.scale(self.gsd, -self.gsd)
        return Grid(CRS.from_epsg(32633), transform, self.width, self.height)


@dataclass(frozen=True)
class SyntheticPair:
    """Two dates of one place and the changes between them.

    Parameters
    ----------
    before, after
        uint8 (3, height, width), red, green, blue.
    grid
        Nominal grid of both; the content of ``after`` is off by ``shift_px``.
    truth
        One polygon per changed object (without shadows) in the CRS of the grid, at the position on the first date;
        columns ``kind`` ("added", "removed") and ``what`` ("car", "tarp", ...). If the flight that shows the object
        leans, the polygon covers all that is seen of it, from its footprint to its displaced top.
    truth_mask
        bool (height, width): pixels whose center lies in a truth polygon.
    """

    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    grid: Grid
    truth: geopandas.GeoDataFrame
    truth_mask: NDArray[np.bool_]


@dataclass(frozen=True)
class SyntheticPaths:
    """Files of a synthetic pair: two GeoTIFFs and a GeoPackage."""

    before: Path
    after: Path
    truth: Path


def varied_config(
    seed: int, height: int = 1024, width: int = 1024, *, objects: int = 24, max_weathering: float = 0.0,
    max_off_nadir: float = 0.0,
) -> SyntheticConfig:  # fmt: skip
    """Return a configuration whose landscape, ground sample distance, light and season all vary with the seed.

    For training: many seeds show widely different landscapes under widely different conditions.

    Parameters
    ----------
    seed
        Seed of all random choices.
    height, width, objects
        As in :class:`SyntheticConfig`.
    max_weathering
        Largest weathering at the second date; see :class:`Flight`.
    max_off_nadir
        Largest off-nadir angle of both flights in degrees. Each has a view of its own, the same all over or different
        from frame to frame. All else is drawn as without.
    """
    rng = np.random.default_rng([seed, 9])

    def flight() -> Flight:
        return Flight(
            sun_azimuth=float(rng.uniform(90, 270)),
            sun_elevation=float(rng.uniform(34, 68)),
            gain=float(rng.uniform(0.82, 1.2)),
            cast=(float(rng.uniform(0.93, 1.07)), 1.0, float(rng.uniform(0.9, 1.1))),
            haze=float(rng.uniform(0, 0.12)),
            season=float(rng.uniform(-0.15, 0.5)),
            noise=float(rng.uniform(0.5, 5)),
            blur_px=float(rng.uniform(0.4, 0.95)),
            jpeg_quality=int(rng.integers(70, 97)),
        )

    shift = rng.uniform(-2, 2, 2)
    config = SyntheticConfig(
        height=height, width=width, seed=seed, objects=objects, landscape="any", before=flight(), after=flight(),
        gsd=float(np.exp(rng.uniform(np.log(0.05), np.log(0.6)))), shift_px=(float(shift[0]), float(shift[1])),
    )  # fmt: skip
    weathering = float(rng.uniform(0, max_weathering))
    flights = [config.before, replace(config.after, weathering=weathering)]
    if max_off_nadir:
        flights = [_leaning(flight, config.gsd, max_off_nadir, rng) for flight in flights]
    return replace(config, before=flights[0], after=flights[1])


def _leaning(flight: Flight, gsd: float, max_off_nadir: float, rng: np.random.Generator) -> Flight:
    """Return a flight that leans one way all over, or frame by frame, at even odds."""
    spacing = gsd * float(rng.uniform(*_FRAME_SPACING_PX)) if rng.random() < 0.5 else None  # noqa: PLR2004
    angle, azimuth = float(rng.uniform(0, max_off_nadir)), float(rng.uniform(0, 360))
    return replace(flight, off_nadir=angle, view_azimuth=azimuth, frame_spacing=spacing)


def make_pair(config: SyntheticConfig | None = None) -> SyntheticPair:
    """Return a synthetic pair in memory.

    Parameters
    ----------
    config
        Configuration; by default a village of 1024 x 1024 pixels of 10 cm.
    """
    config = config or SyntheticConfig()
    scene = _scene(config)
    before, after = scene.render(Window(0, config.height, 0, config.width))
    truth = _truth(scene, config.grid)
    return SyntheticPair(before, after, config.grid, truth, _mask(truth, config.grid))


def write_pair(pair: SyntheticPair, folder: Path) -> SyntheticPaths:
    """Write a pair as ``before.tif``, ``after.tif`` and ``truth.gpkg``.

    Parameters
    ----------
    pair
        The pair.
    folder
        Folder of the files; created if it does not exist.

    Returns
    -------
    paths of the three files
    """
    paths = _paths(folder)
    for path, image in ((paths.before, pair.before), (paths.after, pair.after)):
        with rasterio.open(path, "w", **_profile(pair.grid)) as target:
            target.write(image)
    _write_truth(pair.truth, paths.truth)
    return paths


def write_pair_tiles(
    config: SyntheticConfig, folder: Path, progress: Callable[[int, int], None] | None = None
) -> SyntheticPaths:
    """Generate and write a pair tile by tile: the same files as :func:`write_pair`, in bounded memory.

    Parameters
    ----------
    config
        Configuration.
    folder
        Folder of the files; created if it does not exist.
    progress
        Called with (tiles done, total tiles).

    Returns
    -------
    paths of the three files
    """
    scene, paths = _scene(config), _paths(folder)
    whole = Window(0, config.height, 0, config.width)
    corners = [(r, c) for r in range(0, config.height, TILE) for c in range(0, config.width, TILE)]
    profile = _profile(config.grid)
    with rasterio.open(paths.before, "w", **profile) as before, rasterio.open(paths.after, "w", **profile) as after:
        for done, (row, col) in enumerate(corners, 1):
            tile = Window(row, row + TILE, col, col + TILE).intersection(whole)
            assert tile is not None
            window = rasterio.windows.Window.from_slices(*tile.slices)
            for target, image in zip((before, after), scene.render(tile), strict=True):
                target.write(image, window=window)
            if progress is not None:
                progress(done, len(corners))
    _write_truth(_truth(scene, config.grid), paths.truth)
    return paths


def _scene(config: SyntheticConfig) -> SyntheticScene:
    landscape = config.landscape
    if landscape == "any":
        landscape = list(LANDSCAPES)[int(np.random.default_rng([config.seed, 8]).integers(len(LANDSCAPES)))]
    return SyntheticScene(
        seed=config.seed, landscape=landscape, gsd=config.gsd, shape=(config.height, config.width),
        flights=(config.before, config.after), objects=config.objects, shift=(config.shift_px[1], config.shift_px[0]),
        changes=config.changes,
    )  # fmt: skip


def _truth(scene: SyntheticScene, grid: Grid) -> geopandas.GeoDataFrame:
    """Return the outlines of the changed objects in the CRS of the grid."""
    polygons = []
    for change in scene.changes:
        flight = scene.flights[change.kind == "added"]
        lean = flight.lean(np.float64(change.thing.x), np.float64(change.thing.y))
        vertices = leaning_outline(change.thing, lean) if flight.off_nadir else outline(change.thing)
        cols, rows = (vertices / scene.gsd).T
        polygons.append(shapely.Polygon(np.column_stack(grid.transform @ (cols, rows))))
    columns = {"kind": [c.kind for c in scene.changes], "what": [c.what for c in scene.changes]}
    return geopandas.GeoDataFrame(columns, geometry=polygons, crs=grid.crs)


def _mask(truth: geopandas.GeoDataFrame, grid: Grid) -> NDArray[np.bool_]:
    if truth.empty:
        return np.zeros(grid.shape, bool)
    return np.asarray(rasterize(truth.geometry, out_shape=grid.shape, transform=grid.transform), bool)


def _paths(folder: Path) -> SyntheticPaths:
    folder.mkdir(parents=True, exist_ok=True)
    return SyntheticPaths(folder / "before.tif", folder / "after.tif", folder / "truth.gpkg")


def _profile(grid: Grid) -> dict[str, object]:
    return {
        "driver": "GTiff", "count": 3, "dtype": "uint8", "width": grid.width, "height": grid.height, "crs": grid.crs,
        "transform": grid.transform, "tiled": True, "blockxsize": _FILE_TILE, "blockysize": _FILE_TILE,
        "compress": "deflate", "predictor": 2, "photometric": "rgb", "interleave": "pixel", "bigtiff": "if_safer",
    }  # fmt: skip


def _write_truth(truth: geopandas.GeoDataFrame, path: Path) -> None:
    close_database(path)
    path.unlink(missing_ok=True)
    with plain_path(path) as plain:
        truth.to_file(plain, layer="truth", driver="GPKG", engine="pyogrio")


@dataclass(frozen=True)
class SurfaceErrors:
    """Errors of a digital surface model (DSM) made by photogrammetry from overlapping pictures.

    Parameters
    ----------
    smoothing_px
        Standard deviation in pixels by which dense matching smooths edges.
    noise_m
        Standard deviation in meters of the noise on level ground, correlated over 3 px; on slopes it is larger by the
        tangent of the slope.
    bulge_m, bulge_length_m
        Standard deviation of the bulges that an imperfect camera model leaves, and their length, in meters.
    holes
        Fraction without heights, in patches of about 5 px.
    bias_m
        Height that is added everywhere.
    tilt_m
        Height that is added from the left to the right side and from the top to the bottom.
    shift_m
        How far the surface lies too far right and down, in meters.
    seed
        Seed of noise, bulges and holes.
    """

    smoothing_px: float = 1.0
    noise_m: float = 0.03
    bulge_m: float = 0.02
    bulge_length_m: float = 40.0
    holes: float = 0.01
    bias_m: float = 0.0
    tilt_m: tuple[float, float] = (0.0, 0.0)
    shift_m: tuple[float, float] = (0.0, 0.0)
    seed: int = 0


@dataclass(frozen=True)
class SyntheticSurfaces:
    """Surface models of both dates of a synthetic pair, exact and as photogrammetry would give them.

    Parameters
    ----------
    exact
        float32 (2, rows, cols): heights of both dates in meters, means over the pixels.
    before, after
        float32 (rows, cols) in meters, NaN = hole.
    grid
        Grid of all of them.
    """

    exact: NDArray[np.float32]
    before: NDArray[np.float32]
    after: NDArray[np.float32]
    grid: Grid

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write ``before_dsm.tif`` and ``after_dsm.tif``, and return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / "before_dsm.tif", folder / "after_dsm.tif"
        profile = _profile(self.grid) | {"count": 1, "dtype": "float32", "predictor": 3, "nodata": np.nan}
        del profile["photometric"]
        for path, heights in zip(paths, (self.before, self.after), strict=True):
            with rasterio.open(path, "w", **profile) as target:
                target.write(heights, 1)
        return paths


def make_surfaces(
    config: SyntheticConfig,
    errors: tuple[SurfaceErrors, SurfaceErrors] = (
        SurfaceErrors(seed=1),
        SurfaceErrors(bias_m=0.05, tilt_m=(0.1, -0.06), seed=2),
    ),
    *,
    pixels: int = 2,
    relief_m: float = 4.0,
) -> SyntheticSurfaces:
    """Return the surface models of a synthetic pair in memory.

    Parameters
    ----------
    config
        Configuration of the pair; its scene shows the same things.
    errors
        Errors of the first and of the second surface model.
    pixels
        Pixels of the scene along the side of a pixel of the surface models.
    relief_m
        Standard deviation of the height of the ground in meters; it is the same on both dates.
    """
    reach = max(max(map(abs, error.shift_m)) / config.gsd + 8 * error.smoothing_px * pixels for error in errors)
    margin = pixels * int(np.ceil(reach / pixels) + 1)
    rows, cols = (size // pixels * pixels for size in (config.height, config.width))
    window = Window(-margin, rows + margin, -margin, cols + margin)
    ground = relief_m * noise.smooth(window, max(2, round(60 / config.gsd)), config.seed + 31)
    ground += relief_m / 8 * noise.smooth(window, max(2, round(12 / config.gsd)), config.seed + 32)
    heights = [ground + height for height in _scene(config).heights(window)]
    inner = slice(margin, -margin), slice(margin, -margin)
    exact = np.stack([_means(height[inner], pixels) for height in heights])
    surfaces = [_with_errors(heights[i], errors[i], config.gsd, pixels, margin) for i in (0, 1)]
    transform = config.grid.transform @ Affine.scale(pixels)
    grid = Grid(config.grid.crs, transform, cols // pixels, rows // pixels)
    return SyntheticSurfaces(exact, surfaces[0], surfaces[1], grid)


def _means(image: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    rows, cols = image.shape
    return np.asarray(image.reshape(rows // side, side, cols // side, side).mean(axis=(1, 3)), np.float32)


def _with_errors(
    height: NDArray[np.float32], error: SurfaceErrors, gsd: float, pixels: int, margin: int
) -> NDArray[np.float32]:
    """Return a surface model of exact heights, float32 without their margin, NaN = hole."""
    right, down = (shift / gsd for shift in error.shift_m)
    smoothed = ndimage.gaussian_filter(ndimage.shift(height, (down, right), order=1), error.smoothing_px * pixels)
    surface = _means(smoothed[margin:-margin, margin:-margin], pixels)
    side, window = gsd * pixels, Window(0, surface.shape[0], 0, surface.shape[1])
    slope = np.hypot(*np.gradient(surface, side))
    surface += error.noise_m * (1 + slope) * noise.smooth(window, 3, 101 * error.seed + 41)
    pitch = max(2, round(error.bulge_length_m / side))
    surface += error.bulge_m * noise.smooth(window, pitch, 101 * error.seed + 42) + np.float32(error.bias_m)
    across, along = (np.linspace(-0.5, 0.5, size, dtype=np.float32) for size in (surface.shape[1], surface.shape[0]))
    surface += error.tilt_m[0] * across[None, :] + error.tilt_m[1] * along[:, None]
    if error.holes:
        is_hole = noise.smooth(window, 5, 101 * error.seed + 43) > ndtri(1 - error.holes)
        surface[is_hole] = np.nan
    return surface.astype(np.float32)
